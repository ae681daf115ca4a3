//! What the cache holds and through whom it can be read: the stock as an
//! operator looks at it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Puller;
use crate::access::Revocation;
use crate::oci::{Digest, Repository};
use crate::registry::{Registry, slug_of_owner};

/// A stored blob.
#[derive(Debug, Clone)]
pub struct Holding {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// It stays, whatever comes.
    pub pinned: bool,
    /// The registries and repositories (full upstream names) through which it
    /// may be pulled without asking upstream.
    pub links: Vec<(Arc<Registry>, Repository)>,
}

impl Puller {
    /// All stored blobs, the largest first. Reads the whole index of links:
    /// not for a thread of the runtime.
    pub fn holdings(&self) -> Vec<Holding> {
        let mut holdings: Vec<Holding> = self
            .cache
            .list()
            .into_iter()
            .map(|(digest, size)| Holding { digest, size, pinned: self.cache.is_pinned(&digest), links: Vec::new() })
            .collect();
        holdings.sort_unstable_by_key(|holding| (std::cmp::Reverse(holding.size), holding.digest));
        let places: HashMap<Digest, usize> =
            holdings.iter().enumerate().map(|(place, holding)| (holding.digest, place)).collect();
        self.links.for_each(|owner, repository, digest, link| {
            let Some(holding) = places.get(digest).and_then(|place| holdings.get_mut(*place)) else { return };
            let Some(served) = slug_of_owner(owner).and_then(|slug| self.upstreams.get(slug)) else { return };
            let Ok(repository) = repository.parse() else { return };
            if served.registry.owner() == owner && link.holds_for(&served.registry) {
                holding.links.push((served.registry, repository));
            }
        });
        for holding in &mut holdings {
            holding.links.sort_unstable_by(|(a, x), (b, y)| (a.name.slug(), x).cmp(&(b.name.slug(), y)));
        }
        holdings
    }

    /// Forgets what upstream allowed `registry`, or one repository of it (its
    /// full upstream name): upstream is asked before anything cached is served
    /// through it again.
    pub fn revoke_links(&self, registry: &Registry, repository: Option<&Repository>) -> Revocation {
        self.forget(registry);
        self.links.revoke(registry, repository)
    }

    /// How many links there are.
    pub fn links(&self) -> u64 {
        self.links.count()
    }
}
