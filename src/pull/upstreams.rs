//! The upstreams of the registries in force, replaced as a whole.
//!
//! Whoever has an upstream keeps it: a transfer that runs when its registry
//! changes or goes, ends as it began. An upstream whose registry stays as it is
//! stays too, with its connections and tokens; a new secret of the same account
//! takes effect within it, for running transfers as well.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::registry::Registry;
use crate::upstream::{TlsError, Upstream};

/// A registry in force, and its upstream.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) registry: Arc<Registry>,
    pub(super) upstream: Arc<Upstream>,
}

/// All of them, by the address form of their registries' names.
pub(super) struct Upstreams(ArcSwap<HashMap<String, Served>>);

/// A registry that is not what it was.
pub(super) struct Changed {
    /// As it was.
    pub(super) before: Arc<Registry>,
    /// Whether what upstream allowed it still counts.
    pub(super) keeps_links: bool,
}

impl Upstreams {
    pub(super) fn new(registries: &[Arc<Registry>]) -> Result<Upstreams, (String, TlsError)> {
        let upstreams = Upstreams(ArcSwap::default());
        upstreams.replace(registries)?;
        Ok(upstreams)
    }

    pub(super) fn get(&self, slug: &str) -> Option<Served> {
        self.0.load().get(slug).cloned()
    }

    pub(super) fn all(&self) -> Vec<Served> {
        self.0.load().values().cloned().collect()
    }

    /// Whether another registry than this one has content that not everybody may
    /// read.
    pub(super) fn has_private_besides(&self, registry: &Registry) -> bool {
        let current = self.0.load();
        current.values().any(|other| other.registry.owner() != registry.owner() && other.registry.is_known_upstream())
    }

    /// From now on these are in force; gives those of before that are not, or
    /// not as they were. After an error nothing has changed.
    pub(super) fn replace(&self, registries: &[Arc<Registry>]) -> Result<Vec<Changed>, (String, TlsError)> {
        let current = self.0.load_full();
        let mut next = HashMap::with_capacity(registries.len());
        let (mut changed, mut credentials) = (Vec::new(), Vec::new());
        for registry in registries {
            let slug = registry.name.slug().to_owned();
            let earlier = current.get(&slug);
            let upstream = match earlier {
                // Another account is somebody else, whose answers are not this
                // one's.
                Some(Served { registry: before, upstream })
                    if before.differs_in_credential_only(registry) && before.owner() == registry.owner() =>
                {
                    if before.credential != registry.credential {
                        credentials.push((Arc::clone(upstream), registry.credential.clone()));
                    }
                    Arc::clone(upstream)
                }
                _ => {
                    let upstream = Upstream::new(registry);
                    Arc::new(upstream.map_err(|error| (registry.name.to_string(), error))?)
                }
            };
            if let Some(Served { registry: before, upstream: old }) = earlier
                && (!Arc::ptr_eq(old, &upstream) || before.credential != registry.credential)
            {
                changed.push(Changed { before: Arc::clone(before), keeps_links: before.reads_what(registry) });
            }
            next.insert(slug, Served { registry: Arc::clone(registry), upstream });
        }
        for (slug, served) in current.iter() {
            if !next.contains_key(slug) {
                changed.push(Changed { before: Arc::clone(&served.registry), keeps_links: false });
            }
        }
        self.0.store(Arc::new(next));
        for (upstream, credential) in credentials {
            upstream.replace_credential(credential);
        }
        Ok(changed)
    }
}
