//! Quotas: how much of the cache may be one registry's.
//!
//! Transfers that run keep to the quota as they take room. The whole is looked
//! at now and then, never on the way of a pull: a registry that has more than
//! its quota loses what upstream was asked about longest ago: first
//! the links, and with the last link of any registry the bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Puller;
use crate::cache::Owner;
use crate::oci::{Digest, Repository};

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A registry over its quota goes down to so many hundredths of it.
const DOWN_TO: u64 = 95;

/// One registry's claim to a stored blob.
struct Claim {
    owner: String,
    repository: Repository,
    seen_at: u64,
}

impl Puller {
    /// Keeps the quotas until `stopping`.
    pub async fn keep_quotas(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if self.upstreams.all().iter().all(|served| served.registry.quota.is_none()) {
                continue;
            }
            let puller = Arc::clone(&self);
            let Ok(orphans) = tokio::task::spawn_blocking(move || puller.drop_links_over_quota()).await else { return };
            for digest in orphans {
                if let Err(error) = self.cache.remove(&digest).await {
                    warn!(%digest, %error, "a blob over its registry's quota could not be removed");
                }
            }
        }
    }

    /// Gives the blobs that nobody has a link to any more.
    fn drop_links_over_quota(&self) -> Vec<Digest> {
        let sizes: HashMap<Digest, u64> = self.cache.list().into_iter().collect();
        let mut claims: HashMap<Digest, Vec<Claim>> = HashMap::new();
        self.links.for_each(|owner, repository, digest, link| {
            if let (true, Ok(repository)) = (sizes.contains_key(digest), repository.parse()) {
                let claim = Claim { owner: owner.to_owned(), repository, seen_at: link.seen_at() };
                claims.entry(*digest).or_default().push(claim);
            }
        });
        let mut orphans = Vec::new();
        for served in self.upstreams.all() {
            let registry = served.registry;
            let Some(quota) = registry.quota else { continue };
            let mut own: Vec<(u64, Digest)> = claims
                .iter()
                .filter_map(|(digest, claims)| {
                    let mine = claims.iter().filter(|claim| claim.owner == registry.owner());
                    Some((mine.map(|claim| claim.seen_at).max()?, *digest))
                })
                .collect();
            let size = |digest: &Digest| sizes.get(digest).copied().unwrap_or_default();
            let stored: u64 = own.iter().map(|(_, digest)| size(digest)).sum();
            // What transfers left goes before what is whole.
            let unfinished = self.cache.unfinished(Owner::of(registry.owner()), quota.saturating_sub(stored));
            let mut bytes = stored + unfinished;
            if bytes <= quota {
                continue;
            }
            own.sort_unstable();
            let before = bytes;
            for (_, digest) in own {
                if bytes <= quota / 100 * DOWN_TO {
                    break;
                }
                if self.cache.is_pinned(&digest) {
                    continue;
                }
                bytes -= size(&digest);
                let Some(claims) = claims.get_mut(&digest) else { continue };
                claims.retain(|claim| {
                    let others = claim.owner != registry.owner();
                    if !others {
                        self.links.remove(&registry, &claim.repository, &digest);
                    }
                    others
                });
                if claims.is_empty() {
                    orphans.push(digest);
                }
            }
            info!(registry = %registry.name, quota, before, after = bytes, "a registry was over its quota");
        }
        orphans
    }
}
