//! Pins: images that stay in the cache whatever else has to go.
//!
//! A pin names an image by registry, repository and reference. What it keeps is
//! the manifest, its configuration and layers, and for an index its children,
//! and theirs as far as their manifests are cached. That is found out anew
//! whenever a manifest passes that may change it; blobs that are not cached yet
//! are kept once they come. Nothing is pulled for a pin but its manifest, and a
//! pin gives nobody permission: it only stops eviction.
//!
//! * `image`: how an operator writes an image
//! * `pins`: the pins, and what each keeps
//! * `file`: their file in the cache directory

mod file;
mod image;
mod pins;

pub use image::{ImageName, InvalidImage};
pub use pins::Unpinned;

pub(super) use pins::{Key, Pins};

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Puller;
use super::error::{Error, Result};
use crate::oci::{Accept, Digest, Reference, Repository};
use crate::registry::Registry;

/// An image of the configuration that could not be looked up is tried again
/// after this long, then after twice as long, …
const FIRST_RETRY: Duration = Duration::from_secs(30);
/// … but at least this often.
const LAST_RETRY: Duration = Duration::from_secs(3600);

/// A pinned image.
#[derive(Debug, Clone)]
pub struct Pin {
    /// The image as an operator writes it.
    pub image: ImageName,
    /// The configuration says so.
    pub configured: bool,
    /// What the reference meant when it was last seen.
    pub digest: Option<Digest>,
    /// Blobs that it keeps, as far as they are known.
    pub blobs: usize,
    /// Those of them that are stored.
    pub stored_blobs: usize,
    /// Their bytes.
    pub stored_bytes: u64,
}

impl Puller {
    /// All pins.
    pub fn pins(&self) -> Vec<Pin> {
        self.pins.list().into_iter().map(|entry| self.described(&entry)).collect()
    }

    fn described(&self, entry: &pins::Entry) -> Pin {
        let Key { registry, repository, reference } = &entry.key;
        let image = match self.upstreams.get(registry.as_str()) {
            Some(served) => {
                let registry = served.registry;
                // As it can be written again: a name with blanks cannot.
                let display = registry.name.display();
                let name = if registry.name.matches(display) { display } else { registry.name.slug() };
                let repository = registry.relative(repository);
                ImageName { registry: name.to_owned(), repository, reference: reference.clone() }
            }
            // It was configured when this was pinned.
            None => {
                let (registry, repository) = (registry.clone(), repository.clone());
                ImageName { registry, repository, reference: reference.clone() }
            }
        };
        let stored = entry.keeps.iter().filter_map(|digest| self.cache.size(digest));
        let (stored_blobs, stored_bytes) = stored.fold((0, 0), |(blobs, bytes), size| (blobs + 1, bytes + size));
        Pin {
            image,
            configured: entry.configured,
            digest: entry.root,
            blobs: entry.keeps.len(),
            stored_blobs,
            stored_bytes,
        }
    }

    /// Pins the image that `reference` names in `repository` (its full upstream
    /// name); asks upstream for its manifest.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is pinned then.
    pub async fn pin(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Pin>> {
        let manifest = self.manifest(registry, repository, reference, || Accept::Anything).await?;
        let key = Key::of(registry, repository, reference);
        let written = self.pins.put(key.clone(), manifest.digest).await;
        written.map_err(|error| Error::Unavailable(format!("the pins cannot be written: {error}")))?;
        Ok(self.pins.list().iter().find(|entry| entry.key == key).map(|entry| self.described(entry)))
    }

    /// Unpins an image. `registry` is the address form of its name: it may be
    /// configured no longer.
    ///
    /// # Errors
    /// When the change cannot be written.
    pub async fn unpin(&self, registry: &str, repository: &Repository, reference: &Reference) -> Result<Unpinned> {
        let (repository, reference) = (repository.clone(), reference.clone());
        let key = Key { registry: registry.to_owned(), repository, reference };
        self.pins.remove(&key).await.map_err(|error| Error::Unavailable(format!("the pins cannot be written: {error}")))
    }

    /// Looks up the pinned images of the configuration, each until that has
    /// succeeded once.
    pub async fn look_up_pins(&self, stopping: CancellationToken) {
        let entries = self.pins.list();
        let mut waiting: Vec<Key> =
            entries.into_iter().filter(|entry| entry.configured).map(|entry| entry.key).collect();
        let mut pause = FIRST_RETRY;
        loop {
            let mut failed = Vec::new();
            for key in waiting {
                let Some(served) = self.upstreams.get(key.registry.as_str()) else { continue };
                let registry = served.registry;
                let asked = self.manifest(&registry, &key.repository, &key.reference, || Accept::Anything);
                let answer = tokio::select! {
                    () = stopping.cancelled() => return,
                    answer = asked => answer,
                };
                if let Err(error) = answer {
                    let Key { repository, reference, .. } = &key;
                    warn!(registry = %registry.name, %repository, %reference, %error, "a pinned image could not be looked up");
                    failed.push(key);
                }
            }
            if failed.is_empty() {
                return;
            }
            waiting = failed;
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_RETRY),
            }
        }
    }
}
