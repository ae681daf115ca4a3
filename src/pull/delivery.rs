//! The bytes of a blob on their way to one client, whatever the disk does.
//!
//! They come from the cache. When the disk cannot give what comes next, the
//! blob is replaced: a new fill takes over what could still be read and asks
//! upstream for the rest, and the same response goes on from it (the digest is
//! the same, and so are the bytes). When the disk cannot take them either, they
//! are read from upstream again, verified as they pass. The client sees none of
//! it.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::{TryFutureExt as _, stream};
use tracing::warn;

use super::error::{Error, Result};
use super::passthrough::Passthrough;
use super::repeat::{Repeats, Verification};
use super::source::UpstreamBlob;
use crate::cache::{Cache, Content, Entry, FillError, Method, ReadError, Reader, Source, Verdict};
use crate::kernel::{self, Mapping};
use crate::oci::ByteRange;

/// A blob, or a part of it, for one client.
pub struct Delivery {
    from: From,
    position: u64,
    /// Behind the last byte, where that is known.
    end: Option<u64>,
    spare: Arc<Spare>,
    /// The last window waits for this.
    verification: Option<Verification>,
    /// Who is told when everything has been delivered, and to whom it was.
    noting: Option<(Arc<Repeats>, IpAddr)>,
}

enum From {
    /// The cache, where it was found.
    Cache(Reader),
    /// What has replaced it.
    Replacement(Reader),
    /// Upstream, past the cache, from the first byte on.
    Upstream { passthrough: Box<Passthrough>, position: u64 },
}

impl Delivery {
    pub(super) fn new(reader: Reader, spare: &Arc<Spare>) -> Delivery {
        let (position, remaining) = (reader.position(), reader.remaining());
        let end = remaining.map(|remaining| position + remaining);
        Delivery::at(From::Cache(reader), position, end, Arc::clone(spare))
    }

    fn at(from: From, position: u64, end: Option<u64>, spare: Arc<Spare>) -> Delivery {
        Delivery { from, position, end, spare, verification: None, noting: None }
    }

    /// The end is not given out before the blob has been found sound.
    pub(super) fn wait_for(&mut self, verification: Verification) {
        self.verification = Some(verification);
    }

    /// Tells `repeats` when all of it has been given out to `peer`.
    pub(super) fn note_end(&mut self, repeats: &Arc<Repeats>, peer: IpAddr) {
        self.noting = Some((Arc::clone(repeats), peer));
    }

    /// What is being read, where that is the cache's.
    pub fn content(&self) -> Option<&Content> {
        match &self.from {
            From::Cache(reader) | From::Replacement(reader) => Some(reader.content()),
            From::Upstream { .. } => None,
        }
    }

    /// What stands in for slices of its mapping that have been handed out.
    pub fn spare(&self) -> Arc<dyn kernel::Spare> {
        Arc::clone(&self.spare) as Arc<dyn kernel::Spare>
    }

    /// Bytes still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.position))
    }

    /// The next window; `None` behind the last one.
    ///
    /// # Errors
    /// When neither the cache nor upstream can give it.
    pub async fn next_window(&mut self) -> Option<Result<Bytes>> {
        if self.remaining() == Some(0) {
            return None;
        }
        loop {
            let failed = match &mut self.from {
                From::Upstream { passthrough, position } => {
                    return match next_after(passthrough, position, self.position).await? {
                        Ok(bytes) => Some(Ok(self.passed(bytes))),
                        Err(error) => Some(Err(error)),
                    };
                }
                From::Cache(reader) | From::Replacement(reader) => match reader.next_window().await? {
                    Ok(bytes) => {
                        let bytes = self.passed(bytes);
                        return Some(self.unless_damaged(bytes).await);
                    }
                    Err(error) => error,
                },
            };
            if let Err(error) = self.carry_on(failed).await {
                return Some(Err(error));
            }
        }
    }

    /// Counts `bytes`, which come next; gives those of them that were asked for.
    fn passed(&mut self, mut bytes: Bytes) -> Bytes {
        if let Some(left) = self.remaining() {
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.position += bytes.len() as u64;
        if self.remaining() == Some(0)
            && let Some((repeats, peer)) = self.noting.take()
        {
            repeats.delivered(peer, &self.spare.source.digest);
        }
        bytes
    }

    /// Gives `bytes`; the last ones not if the blob turns out to be damaged:
    /// its client would rather be cut than given it again.
    async fn unless_damaged(&mut self, bytes: Bytes) -> Result<Bytes> {
        if self.remaining() == Some(0)
            && let Some(verification) = self.verification.take()
            && verification.await == Ok(Verdict::Damaged)
        {
            return Err(Error::Unavailable("the stored blob is damaged".to_owned()));
        }
        Ok(bytes)
    }

    /// Finds another way to the byte at the position.
    async fn carry_on(&mut self, failed: ReadError) -> Result<()> {
        warn!(digest = %self.spare.source.digest, position = self.position, error = %failed, "the cache failed in the middle of a response, which goes on without");
        if let (From::Cache(reader), ReadError::Disk(_), Some(end)) = (&self.from, &failed, self.end)
            && let Some(file) = reader.content().file()
            && let Some(reader) = self.spare.replace(file, ByteRange { start: self.position, end }).await
        {
            self.from = From::Replacement(reader);
            return Ok(());
        }
        match failed {
            ReadError::Disk(_) | ReadError::Fill(FillError::Disk(_) | FillError::DoesNotFit) => {
                let passthrough = Box::new(self.spare.source.pass_through().await?);
                self.from = From::Upstream { passthrough, position: 0 };
                Ok(())
            }
            ReadError::Fill(error) => Err(error.into()),
        }
    }
}

/// The next bytes from `wanted` on.
async fn next_after(passthrough: &mut Passthrough, position: &mut u64, wanted: u64) -> Option<Result<Bytes>> {
    loop {
        let mut bytes = match passthrough.next().await? {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(error)),
        };
        let skipped = wanted.saturating_sub(*position).min(bytes.len() as u64);
        *position += bytes.len() as u64;
        bytes.advance(usize::try_from(skipped).unwrap_or_default());
        if !bytes.is_empty() {
            return Some(Ok(bytes));
        }
    }
}

/// Where the bytes of a blob come from when its file fails.
pub(super) struct Spare {
    cache: Cache,
    source: Arc<UpstreamBlob>,
}

impl Spare {
    pub(super) fn new(cache: &Cache, source: &Arc<UpstreamBlob>) -> Spare {
        Spare { cache: cache.clone(), source: Arc::clone(source) }
    }

    /// A reader of `range` of what replaces `failed`, which could not give the
    /// first byte of it.
    async fn replace(&self, failed: &Arc<File>, range: ByteRange) -> Option<Reader> {
        let source = || Arc::clone(&self.source) as Arc<dyn Source>;
        // From memory: what failed once is not mapped again.
        match self.cache.replace(&self.source.digest, failed, range.start, source).await.ok()? {
            Entry::Blob(blob) => Some(self.cache.read(&blob, range, Method::Read)),
            Entry::Fill { mut follower, .. } => {
                follower.started().await.ok()?;
                follower.reader(Some(range), Method::Read)
            }
        }
    }
}

impl kernel::Spare for Spare {
    fn windows(self: Arc<Self>, failed: &Arc<Mapping>, start: u64, end: u64) -> kernel::Windows {
        let failed = Arc::clone(failed);
        let begun = async move {
            let digest = self.source.digest;
            warn!(%digest, position = start, "the file of a blob failed while it was being sent, which goes on without it");
            let from = match self.replace(failed.file(), ByteRange { start, end }).await {
                Some(reader) => From::Replacement(reader),
                None => {
                    let passthrough = self.source.pass_through().await.map_err(io::Error::other)?;
                    From::Upstream { passthrough: Box::new(passthrough), position: 0 }
                }
            };
            let delivery = Delivery::at(from, start, Some(end), self);
            Ok(stream::unfold(delivery, |mut delivery| async move {
                let window = delivery.next_window().await?;
                Some((window.map_err(io::Error::other), delivery))
            }))
        };
        Box::pin(begun.try_flatten_stream())
    }
}
