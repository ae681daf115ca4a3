//! Who may have bytes that are here already.
//!
//! A digest in the cache is somebody's. Another registry may have it from here
//! when its own upstream lets its credential read it *and* shows that it has the
//! bytes, at places that it cannot know beforehand: that an upstream says yes is
//! no proof, because a tenant may run one. What a registry has brought itself,
//! whole and right, it has shown; from then on upstream is only asked, by HEAD,
//! whether it may still be read.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tracing::warn;

use super::Puller;
use super::error::{Error, Result};
use super::freshness::{Asked, Failed, Setbacks, lost};
use crate::access::Links;
use crate::cache::{Blob, Cache, Follower, Method};
use crate::oci::{ByteRange, Digest, Hasher, Repository};
use crate::registry::Registry;
use crate::upstream::{self, Upstream};

/// Content up to this size is compared as a whole.
const WHOLE: u64 = 64 * 1024;
/// Bytes that are asked for at each of two places of what is larger.
const SAMPLE: u64 = 4096;

impl Puller {
    /// Whether this registry's credential reads the digest in this repository,
    /// and how long upstream says it is. Where upstream is in trouble, a link
    /// that held a moment ago is as good.
    pub(super) async fn permission(
        &self,
        upstream: &Arc<Upstream>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>> {
        let registry = upstream.registry();
        self.not_refused(registry, repository, Asked::Blob, &digest.to_string())?;
        let asked = self.ask_permission(upstream, repository, digest);
        let Some(spare) = self.spare_link(registry, repository, digest) else {
            return asked.await.map_err(|failed| failed.error);
        };
        match self.within_patience(registry, repository, asked).await {
            Ok(size) => Ok(size),
            Err(Failed { trouble: Some(stale), .. }) if super::may_stand_in(&spare, registry, stale) => {
                self.stale(stale);
                Ok(spare.size)
            }
            Err(Failed { error, .. }) => Err(error),
        }
    }

    /// Asks upstream; one question for all who wait for the answer.
    async fn ask_permission(
        &self,
        upstream: &Arc<Upstream>,
        repository: &Repository,
        digest: &Digest,
    ) -> std::result::Result<Option<u64>, Failed> {
        let registry = upstream.registry();
        let key = format!("{} {repository} {digest}", registry.owner());
        let begin = || {
            let (upstream, repository, digest) = (Arc::clone(upstream), repository.clone(), *digest);
            let (links, setbacks) = (Arc::clone(&self.links), self.asker.setbacks.clone());
            let asked = links.generation();
            let may_link = self.has_shown(registry, &repository, &digest);
            async move {
                let registry = upstream.registry();
                let slot = setbacks.slot(registry, &repository, Asked::Blob, &digest.to_string());
                match upstream.may_read_blob(&repository, &digest).await {
                    Ok(total) => {
                        if may_link {
                            links.put_since(asked, (registry, &repository, &digest), None, total);
                        }
                        setbacks.recovered(registry, &repository);
                        Ok(total)
                    }
                    Err(error) => {
                        let failed = Failed::from(error);
                        if let Some(trouble) = failed.trouble {
                            setbacks.troubled(registry, &repository, trouble, failed.retry_after);
                        } else if failed.error.is_refusal() {
                            links.remove(registry, &repository, &digest);
                            setbacks.refused(slot, &failed.error);
                        }
                        Err(failed)
                    }
                }
            }
        };
        self.permissions.join(key, begin).await.unwrap_or_else(|| Err(lost()))
    }

    /// Whether a fill may be followed that was begun before. One that was begun
    /// for the same repository shows by itself, as soon as upstream answers it,
    /// that this credential may read the blob; for another one of the registry
    /// upstream is asked. One of another registry shows nothing.
    pub(super) async fn may_follow(
        &self,
        upstream: &Arc<Upstream>,
        repository: &Repository,
        digest: &Digest,
        follower: &mut Follower,
    ) -> Result<bool> {
        let registry = upstream.registry();
        match self.fillers.get(digest) {
            Some((owner, other)) if owner == registry.owner() => {
                if other != *repository || follower.started().await.is_err() {
                    self.permission(upstream, repository, digest).await?;
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether this registry's upstream has shown that it has these bytes.
    pub(super) fn has_shown(&self, registry: &Registry, repository: &Repository, digest: &Digest) -> bool {
        self.shown.contains_key(&place(registry, digest)) || self.links.last(registry, repository, digest).is_some()
    }

    /// Whether a stored blob may be given out that this registry has no link to:
    /// when its upstream says so, and has shown that it has the bytes.
    pub(super) async fn possession(
        &self,
        upstream: &Arc<Upstream>,
        repository: &Repository,
        digest: &Digest,
        blob: &Blob,
    ) -> Result<()> {
        let registry = upstream.registry();
        if self.has_shown(registry, repository, digest) || blob.is_empty() {
            return self.permission(upstream, repository, digest).await.map(|_| ());
        }
        self.not_refused(registry, repository, Asked::Blob, &digest.to_string())?;
        let key = format!("{} {repository} {digest} bytes", registry.owner());
        let begin = || {
            let (puller, upstream, blob) = (self.proof(), Arc::clone(upstream), blob.clone());
            let (repository, digest) = (repository.clone(), *digest);
            async move { puller.demand(&upstream, &repository, &digest, &blob).await }
        };
        let shown = self.permissions.join(key, begin).await.unwrap_or_else(|| Err(lost()));
        shown.map(|_| ()).map_err(|failed| failed.error)
    }

    fn proof(&self) -> Proof {
        let (cache, links, shown) = (self.cache.clone(), Arc::clone(&self.links), self.shown.clone());
        Proof { cache, links, shown, setbacks: self.asker.setbacks.clone() }
    }
}

/// What a registry has shown that it has, by its address: pointed elsewhere, it
/// has to show it again.
pub(super) type Shown = moka::sync::Cache<(String, Digest), ()>;

pub(super) fn place(registry: &Registry, digest: &Digest) -> (String, Digest) {
    (registry.owner().to_owned(), *digest)
}

/// Asks an upstream for bytes that it can only know if it has them.
struct Proof {
    cache: Cache,
    links: Arc<Links>,
    shown: Shown,
    setbacks: Setbacks,
}

impl Proof {
    async fn demand(
        &self,
        upstream: &Arc<Upstream>,
        repository: &Repository,
        digest: &Digest,
        blob: &Blob,
    ) -> std::result::Result<Option<u64>, Failed> {
        let (registry, asked) = (upstream.registry(), self.links.generation());
        for range in samples(blob.len()) {
            let shown = self.shows(upstream, repository, digest, blob, range).await;
            let failed = match shown {
                Ok(Sample::Part) => continue,
                Ok(Sample::Whole) => break,
                Ok(Sample::Other) => {
                    warn!(registry = %registry.name, %repository, %digest, "upstream does not have the bytes that it is asked for");
                    Failed::from(Error::NotFound)
                }
                Err(failed) => failed,
            };
            if failed.error.is_refusal() {
                let slot = self.setbacks.slot(registry, repository, Asked::Blob, &digest.to_string());
                self.setbacks.refused(slot, &failed.error);
            }
            return Err(failed);
        }
        self.links.put_since(asked, (registry, repository, digest), None, Some(blob.len()));
        self.shown.insert(place(registry, digest), ());
        Ok(Some(blob.len()))
    }

    /// Compares what upstream has in `range` with what is stored.
    async fn shows(
        &self,
        upstream: &Arc<Upstream>,
        repository: &Repository,
        digest: &Digest,
        blob: &Blob,
        range: ByteRange,
    ) -> std::result::Result<Sample, Failed> {
        let turn = upstream::Turn::Wait { size: Some(0), share: None };
        let mut answer = upstream.blob(repository, digest, (range.start, Some(range.end)), turn).await?;
        if answer.total.is_some_and(|total| total != blob.len()) {
            return Ok(Sample::Other);
        }
        let is_whole = answer.start != range.start || answer.total.is_none();
        let mut hasher = Hasher::new(digest.algorithm());
        let (mut bytes, mut length) = (Vec::new(), 0);
        let wanted = if is_whole { blob.len() } else { range.end - range.start };
        while length < wanted {
            let Some(frame) = answer.body.next().await.transpose()? else { break };
            length += frame.len() as u64;
            if is_whole {
                hasher.update(&frame);
            } else {
                bytes.extend_from_slice(&frame);
            }
        }
        if is_whole {
            return Ok(if length == wanted && hasher.finish() == *digest { Sample::Whole } else { Sample::Other });
        }
        let mut reader = self.cache.read(blob, range, Method::Read);
        let mut stored = Vec::new();
        while let Some(window) = reader.next_window().await {
            stored.extend_from_slice(&window.map_err(|error| Failed::from(Error::Unavailable(error.to_string())))?);
        }
        Ok(if stored == bytes { Sample::Part } else { Sample::Other })
    }
}

/// What came of one question for bytes.
enum Sample {
    /// They are the stored ones.
    Part,
    /// The whole came, and is right.
    Whole,
    /// They are not.
    Other,
}

/// Where to look: all of what is small, else two places that nobody can know
/// beforehand.
fn samples(len: u64) -> Vec<ByteRange> {
    if len <= WHOLE {
        return vec![ByteRange { start: 0, end: len }];
    }
    let place = || {
        let mut random = [0; 8];
        // Without chance there is the whole.
        aws_lc_rs::rand::fill(&mut random).ok()?;
        let start = u64::from_be_bytes(random) % (len - SAMPLE + 1);
        Some(ByteRange { start, end: start + SAMPLE })
    };
    match (place(), place()) {
        (Some(one), Some(other)) => vec![one, other],
        _ => vec![ByteRange { start: 0, end: len }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn samples_lie_within_the_content(len in 1_u64..1 << 40) {
            for range in samples(len) {
                prop_assert!(range.start < range.end && range.end <= len);
            }
            prop_assert_eq!(samples(len).len(), if len <= WHOLE { 1 } else { 2 });
        }
    }
}
