//! The use cases: pull a manifest, a blob, tags, referrers.
//!
//! The one place where permission (`access`), bytes (`cache`) and the outside
//! (`upstream`) meet. Callers have already been told who may pull what; what
//! is decided here is whether *upstream* lets the registry's credential read
//! it, and whether to ask again.

mod blob;
mod counts;
mod delivery;
mod error;
mod holdings;
mod list;
mod manifest;
mod passthrough;
mod pin;
mod quota;
mod repeat;

pub use blob::{BlobBody, BlobHead, BlobReply};
pub use counts::BlobCounts;
pub use delivery::Delivery;
pub use error::{Error, Result};
pub use holdings::Holding;
pub use list::{ListQuery, ListReply};
pub use manifest::{Manifest, ManifestHead};
pub use passthrough::Passthrough;
pub use pin::{ImageName, InvalidImage, Pin, Unpinned};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::Links;
use crate::cache::Cache;
use crate::oci::{Digest, Reference, Repository};
use crate::registry::Registry;
use crate::upstream::{TlsError, Traffic, Upstream};

/// Forgetting who began a fill costs a question to upstream, nothing else.
const FILLER_REMEMBERED: Duration = Duration::from_secs(3600);

/// Pulls through the configured registries, over one cache.
pub struct Puller {
    cache: Cache,
    links: Arc<Links>,
    /// Through which registry and repository a running fill was begun.
    fillers: moka::sync::Cache<Digest, (String, Repository)>,
    upstreams: HashMap<String, Arc<Upstream>>,
    manifests: manifest::Flights,
    pins: pin::Pins,
    counts: BlobCounts,
    repeats: Arc<repeat::Repeats>,
    permissions: moka::future::Cache<(String, Repository, Digest), Option<u64>>,
}

/// Entries live while they are being made: whoever asks meanwhile shares the
/// answer, whoever asks later asks again.
pub(crate) struct NoLongerThanTheQuestion;

impl<K, V> moka::Expiry<K, V> for NoLongerThanTheQuestion {
    fn expire_after_create(&self, _: &K, _: &V, _: Instant) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Puller {
    /// A puller for `registries`; `pinned` are the images of the configuration
    /// that stay in the cache.
    ///
    /// # Errors
    /// When a registry's certificate authorities cannot be used; the error
    /// names the registry.
    pub fn new(
        registries: &[Arc<Registry>],
        cache: Cache,
        links: Links,
        pinned: &[(Arc<Registry>, Repository, Reference)],
    ) -> std::result::Result<Puller, (String, TlsError)> {
        let mut upstreams = HashMap::new();
        for registry in registries {
            let upstream = Upstream::new(Arc::clone(registry)).map_err(|error| (registry.name.to_string(), error))?;
            upstreams.insert(registry.name.slug().to_owned(), Arc::new(upstream));
        }
        let pinned =
            pinned.iter().map(|(registry, repository, reference)| pin::Key::of(registry, repository, reference));
        Ok(Puller {
            counts: BlobCounts::default(),
            repeats: Arc::new(repeat::Repeats::new()),
            pins: pin::Pins::open(&cache, pinned.collect()),
            cache,
            links: Arc::new(links),
            fillers: moka::sync::Cache::builder().max_capacity(10_000).time_to_live(FILLER_REMEMBERED).build(),
            upstreams,
            manifests: manifest::flights(),
            permissions: moka::future::Cache::builder()
                .max_capacity(10_000)
                .expire_after(NoLongerThanTheQuestion)
                .build(),
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

    /// What was asked of each registry's upstream and what came back, in no
    /// order.
    pub fn traffic(&self) -> impl Iterator<Item = (&Arc<Registry>, &Arc<Traffic>)> {
        self.upstreams.values().map(|upstream| (upstream.registry(), upstream.traffic()))
    }

    /// Finishes what is on its way to disk.
    pub async fn close(&self) {
        self.pins.close().await;
        self.cache.close().await;
        self.links.close();
    }

    fn upstream(&self, registry: &Registry) -> Result<&Arc<Upstream>> {
        self.upstreams.get(registry.name.slug()).ok_or(Error::NotFound)
    }
}
