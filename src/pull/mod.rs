//! The use cases: pull a manifest, a blob, tags, referrers.
//!
//! The one place where permission (`access`), bytes (`cache`) and the outside
//! (`upstream`) meet. Callers have already been told who may pull what; what
//! is decided here is whether *upstream* lets the registry's credential read
//! it, and whether to ask again.

mod ask;
mod blob;
mod counts;
mod delivery;
mod error;
mod flight;
mod freshness;
mod holdings;
mod list;
mod manifest;
mod outage;
mod passthrough;
mod permission;
mod pin;
mod quota;
mod repeat;
mod shares;
mod source;
mod tag;
mod upstreams;

pub use blob::{BlobBody, BlobHead, BlobQuestion, BlobReply, Part};
pub use counts::{BlobCounts, TagCounts};
pub use delivery::Delivery;
pub use error::{Cause, Error, Result};
pub use freshness::{Freshness, Stale};
pub use holdings::Holding;
pub use list::{ListQuery, ListReply};
pub use manifest::{Manifest, ManifestHead};
pub use passthrough::Passthrough;
pub use pin::{ImageName, InvalidImage, Pin, Unpinned};
pub use tag::Tags;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use self::freshness::{Asked, Failed, Setbacks};
use crate::access::{Link, Links};
use crate::cache::Cache;
use crate::oci::{Digest, Reference, Repository};
use crate::registry::Registry;
use crate::upstream::{TlsError, Traffic, Upstream};

/// What is on its way to the disk when transfers have to end gets so long.
const GRACE: Duration = Duration::from_millis(1200);
/// Forgetting who began a fill costs a question to upstream, nothing else.
const FILLER_REMEMBERED: Duration = Duration::from_secs(3600);

/// Pulls through the configured registries, over one cache.
pub struct Puller {
    cache: Cache,
    links: Arc<Links>,
    /// Through which registry and repository a running fill was begun.
    fillers: moka::sync::Cache<Digest, (String, Repository)>,
    /// What registries have shown that they have.
    shown: permission::Shown,
    upstreams: upstreams::Upstreams,
    asker: ask::Asker,
    lookups: flight::Flights<std::result::Result<(Manifest, counts::TagFrom), Failed>>,
    lists: list::Lists,
    pins: pin::Pins,
    counts: BlobCounts,
    repeats: Arc<repeat::Repeats>,
    tag_counts: TagCounts,
    shares: Arc<shares::Shares>,
    permissions: flight::Flights<std::result::Result<Option<u64>, Failed>>,
    patience: outage::Patience,
    revalidate_timeout: Duration,
    offline: AtomicBool,
}

/// Whether what `link` allowed may be given out while upstream has such trouble.
fn may_stand_in(link: &Link, registry: &Registry, trouble: Stale) -> bool {
    trouble != Stale::RateLimited || link.outlasts_a_rate_limit(registry)
}

impl Puller {
    /// A puller for `registries`; `links` and `tags` are what is remembered of
    /// their upstreams, `pinned` the images of the configuration that stay in
    /// the cache.
    ///
    /// # Errors
    /// When a registry's certificate authorities cannot be used; the error
    /// names the registry.
    pub fn new(
        registries: &[Arc<Registry>],
        cache: Cache,
        links: Links,
        tags: Tags,
        freshness: &Freshness,
        pinned: &[(Arc<Registry>, Repository, Reference)],
    ) -> std::result::Result<Puller, (String, TlsError)> {
        let upstreams = upstreams::Upstreams::new(registries)?;
        let pinned =
            pinned.iter().map(|(registry, repository, reference)| pin::Key::of(registry, repository, reference));
        let links = Arc::new(links);
        let setbacks = Setbacks::new(freshness.not_found_ttl);
        Ok(Puller {
            counts: BlobCounts::default(),
            tag_counts: TagCounts::default(),
            shares: shares::Shares::new(cache.max_fills_per_client()),
            repeats: Arc::new(repeat::Repeats::new()),
            pins: pin::Pins::open(&cache, pinned.collect()),
            asker: ask::Asker::new(cache.clone(), Arc::clone(&links), tags, setbacks),
            lookups: flight::Flights::default(),
            lists: list::Lists::default(),
            cache,
            links,
            fillers: moka::sync::Cache::builder().max_capacity(10_000).time_to_live(FILLER_REMEMBERED).build(),
            shown: moka::sync::Cache::new(100_000),
            upstreams,
            permissions: flight::Flights::default(),
            patience: outage::Patience::new(freshness.outage_patience),
            revalidate_timeout: freshness.revalidate_timeout,
            offline: AtomicBool::new(freshness.offline),
        })
    }

    /// The cache behind it.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// How blobs were answered.
    pub fn blob_counts(&self) -> &BlobCounts {
        &self.counts
    }

    /// How tags were answered.
    pub fn tag_counts(&self) -> &TagCounts {
        &self.tag_counts
    }

    /// How many tags are remembered.
    pub fn tags_known(&self) -> u64 {
        self.asker.tags.count()
    }

    /// Whether all registries are offline, whatever they say for themselves.
    pub fn all_offline(&self) -> bool {
        self.offline.load(Ordering::Relaxed)
    }

    /// Takes all registries offline, or back to what they say for themselves.
    /// Transfers under way go on.
    pub fn set_all_offline(&self, offline: bool) {
        self.offline.store(offline, Ordering::Relaxed);
    }

    /// Forgets what upstream said to `registry`'s credential: refusals and
    /// lists at once, and every tag is asked for again. To be called when the
    /// credential changes; links, which are permissions, are not touched.
    pub fn forget(&self, registry: &Registry) {
        self.asker.setbacks.forget(registry);
        self.asker.tags.forget(registry);
        self.lists.forget(registry);
    }

    /// From now on `registries` are in force. Running transfers go on. What an
    /// upstream allowed to a registry that is gone, or that now asks as
    /// somebody else, is forgotten. Not for the way of a pull: the index of
    /// links is read through.
    ///
    /// # Errors
    /// As [`new`](Self::new); nothing has changed then.
    pub fn replace_registries(&self, registries: &[Arc<Registry>]) -> std::result::Result<(), (String, TlsError)> {
        for changed in self.upstreams.replace(registries)? {
            self.forget(&changed.before);
            self.fillers.invalidate_all();
            if !changed.keeps_links {
                self.links.revoke(&changed.before, None);
            }
        }
        Ok(())
    }

    /// What was asked of each registry's upstream and what came back, in no
    /// order.
    pub fn traffic(&self) -> Vec<(Arc<Registry>, Arc<Traffic>)> {
        let all = self.upstreams.all().into_iter();
        all.map(|served| (served.registry, Arc::clone(served.upstream.traffic()))).collect()
    }

    /// From now on what is remembered of upstreams, and which images stay, is
    /// kept in the cache's directory, which another process used before or
    /// which was made again.
    ///
    /// # Errors
    /// When the list of pins cannot be written.
    pub async fn keep_in(self: Arc<Self>, links: PathBuf, tags: PathBuf) -> std::io::Result<()> {
        let own = Arc::clone(&self);
        tokio::task::spawn_blocking(move || {
            own.links.keep_in(&links);
            own.asker.tags.keep_in(&tags);
        })
        .await?;
        self.pins.keep().await
    }

    /// Finishes what is on its way to disk. Transfers may go on until
    /// `deadline`; a disk that hangs is not waited for much longer.
    pub async fn close(&self, deadline: Instant) {
        let (links, tags) = (Arc::clone(&self.links), Arc::clone(&self.asker.tags));
        let all = async {
            self.pins.close().await;
            self.cache.close(deadline).await;
            let stores = tokio::task::spawn_blocking(move || {
                links.close();
                tags.close();
            });
            if stores.await.is_err() {
                warn!("the stores of links and tags were not closed in order");
            }
        };
        if tokio::time::timeout_at(deadline.max(Instant::now()) + GRACE, all).await.is_err() {
            warn!("the disk did not take in time what was on its way to it");
        }
    }

    fn is_offline(&self, registry: &Registry) -> bool {
        registry.offline || self.all_offline()
    }

    /// The link that may stand in for an answer of upstream: one that held a
    /// moment ago; offline, one that ever did.
    fn spare_link(&self, registry: &Registry, repository: &Repository, digest: &Digest) -> Option<Link> {
        let link = self.links.last(registry, repository, digest)?;
        (self.is_offline(registry) || link.may_stand_in_for(registry)).then_some(link)
    }

    /// An error if upstream has just refused the same question.
    fn not_refused(&self, registry: &Registry, repository: &Repository, asked: Asked, what: &str) -> Result<()> {
        let setbacks = &self.asker.setbacks;
        match setbacks.refusal(&setbacks.slot(registry, repository, asked, what)) {
            Some(error) => {
                self.tag_counts.refused();
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// The outcome of `asked`, which goes on without us, if it comes in time;
    /// where there was trouble a moment ago, that is the outcome.
    async fn within_patience<T>(
        &self,
        registry: &Registry,
        repository: &Repository,
        asked: impl Future<Output = std::result::Result<T, Failed>>,
    ) -> std::result::Result<T, Failed> {
        let setbacks = &self.asker.setbacks;
        let too_late = |stale: Stale| Failed {
            error: match stale {
                Stale::RateLimited => Error::TooManyRequests { retry_after: None },
                _ => Error::Timeout("upstream takes its time".into()),
            },
            trouble: Some(stale),
            retry_after: None,
        };
        if let Some(stale) = setbacks.trouble(registry, repository) {
            return Err(too_late(stale));
        }
        match tokio::time::timeout(self.revalidate_timeout, asked).await {
            Ok(outcome) => outcome,
            Err(_) => {
                setbacks.troubled(registry, repository, Stale::Timeout, None);
                Err(too_late(Stale::Timeout))
            }
        }
    }

    /// Counts an answer that upstream did not confirm.
    fn stale(&self, why: Stale) -> Stale {
        self.tag_counts.stale(why);
        why
    }

    fn upstream(&self, registry: &Registry) -> Result<Arc<Upstream>> {
        let served = self.upstreams.get(registry.name.slug()).ok_or(Error::NotFound)?;
        // The registry may have become another since the request was resolved:
        // what was granted there is not granted here.
        let same = std::ptr::eq(&*served.registry, registry)
            || served.registry.reads_what(registry) && served.registry.prefix == registry.prefix;
        if same { Ok(served.upstream) } else { Err(Error::NotFound) }
    }
}
