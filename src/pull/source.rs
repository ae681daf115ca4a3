//! A blob of an upstream, as the cache's fills see it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::error::Result;
use super::passthrough::Passthrough;
use super::permission::{Shown, place};
use super::shares::Share;
use crate::access::{Generation, Links};
use crate::cache::{Opened, Owner, Retry, Source, SourceError, Turn};
use crate::oci::{Digest, Repository};
use crate::upstream::{self, Upstream};

/// A blob of an upstream, as a source of a fill. That the whole of it comes and
/// is right is the proof that the registry's credential may read it.
pub(super) struct UpstreamBlob {
    pub(super) links: Arc<Links>,
    pub(super) shown: Shown,
    /// When it was asked for.
    pub(super) asked: Generation,
    pub(super) upstream: Arc<Upstream>,
    pub(super) repository: Repository,
    pub(super) digest: Digest,
}

impl UpstreamBlob {
    /// All of it, past the cache.
    pub(super) async fn pass_through(&self) -> Result<Passthrough> {
        let answer = self
            .upstream
            .blob(&self.repository, &self.digest, (0, None), upstream::Turn::Wait { size: None, share: None })
            .await?;
        Ok(Passthrough::new(answer, self.digest))
    }
}

impl UpstreamBlob {
    /// The size, where it was seen before.
    fn expected_size(&self) -> Option<u64> {
        self.links.get(self.upstream.registry(), &self.repository, &self.digest)?.size
    }

    async fn open_at(
        &self,
        offset: u64,
        until: Option<u64>,
        turn: Turn,
        share: Option<&Share>,
    ) -> std::result::Result<Opened, SourceError> {
        let share = share.map(Share::connections);
        let turn = match turn {
            Turn::Wait if offset > 0 => upstream::Turn::Wait { size: Some(u64::MAX), share },
            Turn::Wait => upstream::Turn::Wait { size: self.expected_size(), share },
            Turn::IfFree => upstream::Turn::IfFree { share },
        };
        let answer = match self.upstream.blob(&self.repository, &self.digest, (offset, until), turn).await {
            // There is nothing yet that would be worth waiting for.
            Err(error @ upstream::Error::CircuitOpen { .. }) if offset == 0 => {
                return Err(SourceError::new(error, Retry::Never));
            }
            answer => answer.map_err(source_error)?,
        };
        let body = answer.body.map(|frame| frame.map_err(source_error));
        Ok(Opened { total: answer.total, start: answer.start, body: Box::pin(body) })
    }
}

impl Source for UpstreamBlob {
    fn open(&self, offset: u64, until: Option<u64>, turn: Turn) -> Opening<'_> {
        Box::pin(self.open_at(offset, until, turn, None))
    }

    fn owner(&self) -> Owner {
        Owner::of(self.upstream.registry().owner())
    }

    fn quota(&self) -> Option<u64> {
        self.upstream.registry().quota
    }

    fn proved(&self, len: u64) {
        let registry = self.upstream.registry();
        self.links.put_since(self.asked, (registry, &self.repository, &self.digest), None, Some(len));
        self.shown.insert(place(registry, &self.digest), ());
    }
}

/// The source of a fill that counts as its client's until it ends.
pub(super) struct Begun {
    pub(super) blob: Arc<UpstreamBlob>,
    pub(super) share: Option<Share>,
}

impl Source for Begun {
    fn open(&self, offset: u64, until: Option<u64>, turn: Turn) -> Opening<'_> {
        Box::pin(self.blob.open_at(offset, until, turn, self.share.as_ref()))
    }

    fn owner(&self) -> Owner {
        self.blob.owner()
    }

    fn quota(&self) -> Option<u64> {
        self.blob.quota()
    }

    fn proved(&self, len: u64) {
        self.blob.proved(len);
    }
}

type Opening<'a> = Pin<Box<dyn Future<Output = std::result::Result<Opened, SourceError>> + Send + 'a>>;

/// Transient trouble is worth another try; so is a refused redirect, which may
/// only have expired: the registry is asked for a new one.
fn source_error(error: upstream::Error) -> SourceError {
    let expired = matches!(&error, upstream::Error::Status { status: 400 | 401 | 403 | 410, .. });
    if matches!(&error, upstream::Error::Status { status: 416, .. }) {
        return SourceError::new(error, Retry::FromStart);
    }
    if matches!(error, upstream::Error::NoPlace) {
        return SourceError::new(error, Retry::NotNow);
    }
    let retry = if error.is_transient() || expired {
        Retry::After(error.retry_after().unwrap_or(Duration::ZERO))
    } else {
        Retry::Never
    };
    SourceError::new(error, retry)
}
