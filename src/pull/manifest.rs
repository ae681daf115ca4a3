//! Manifests: by digest from the cache, by tag from whoever may know better
//! ([`tag`](super::tag)).

use std::sync::Arc;

use bytes::Bytes;

use super::Puller;
use super::ask::Subject;
use super::error::{Error, Result};
use super::freshness::{Asked, Failed, Stale};
use super::may_stand_in;
use crate::cache::{Blob, Cache, Method as ReadMethod};
use crate::oci::{Accept, ByteRange, Digest, MediaType, Reference, Repository};
use crate::registry::Registry;

/// A manifest: what it is called, what it is, and its exact bytes.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its digest, checked against the bytes.
    pub digest: Digest,
    /// The type to serve it with.
    pub media_type: MediaType,
    /// The bytes as upstream has them.
    pub bytes: Bytes,
    /// Upstream did not confirm that this is what the tag names now.
    pub stale: Option<Stale>,
}

/// What a HEAD tells of a manifest.
#[derive(Debug, Clone)]
pub struct ManifestHead {
    /// Its digest.
    pub digest: Digest,
    /// Its type.
    pub media_type: MediaType,
    /// Its length in bytes.
    pub length: u64,
    /// Upstream did not confirm that this is what the tag names now.
    pub stale: Option<Stale>,
}

impl From<&Manifest> for ManifestHead {
    fn from(manifest: &Manifest) -> Self {
        ManifestHead {
            digest: manifest.digest,
            media_type: manifest.media_type.clone(),
            length: manifest.bytes.len() as u64,
            stale: manifest.stale,
        }
    }
}

impl Puller {
    /// The manifest that `reference` names in `repository` (its full upstream
    /// name). `accept` is what the client will take.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn manifest(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        reference: &Reference,
        accept: impl Fn() -> Accept + Send + Sync,
    ) -> Result<Manifest> {
        let mut outage = self.patience.begin();
        loop {
            let found = outage.within(self.find_manifest(registry, repository, reference, &accept)).await;
            if let Some(done) = outage.settle(found).await {
                return done;
            }
        }
    }

    async fn find_manifest(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        reference: &Reference,
        accept: &(impl Fn() -> Accept + Send + Sync),
    ) -> Result<Manifest> {
        if let Reference::Digest(digest) = reference
            && let Some(cached) = self.cached_manifest(registry, repository, digest).await
        {
            self.pins.passed(registry, repository, reference, &cached.digest);
            return Ok(cached);
        }
        let manifest = match reference {
            Reference::Tag(tag) => self.manifest_by_tag(registry, repository, tag).await?,
            Reference::Digest(digest) => self.manifest_by_digest(registry, repository, digest).await?,
        };
        self.pins.passed(registry, repository, reference, &manifest.digest);
        let accept = accept();
        if accept.allows(&manifest.media_type) || self.is_offline(registry) {
            return Ok(manifest);
        }
        // A client of old that lists its types may be given another
        // representation by upstream; that one is for it alone.
        match accept_header(&accept) {
            Some(own) => {
                let subject = self.subject(registry, repository, reference)?;
                self.asker.get(&subject, Some(own)).await.map_err(|failed| failed.error)
            }
            None => Ok(manifest),
        }
    }

    /// What HEAD says of the manifest: asked of upstream by HEAD too, which no
    /// rate limit counts.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn manifest_head(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        reference: &Reference,
        accept: impl Fn() -> Accept + Send + Sync,
    ) -> Result<ManifestHead> {
        let mut outage = self.patience.begin();
        loop {
            let found = outage.within(self.find_manifest_head(registry, repository, reference, &accept)).await;
            if let Some(done) = outage.settle(found).await {
                return done;
            }
        }
    }

    async fn find_manifest_head(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        reference: &Reference,
        accept: &(impl Fn() -> Accept + Send + Sync),
    ) -> Result<ManifestHead> {
        let head = match reference {
            Reference::Tag(tag) => self.head_by_tag(registry, repository, tag, &accept()).await?,
            Reference::Digest(digest) => {
                if let Some(cached) = self.cached_manifest(registry, repository, digest).await {
                    return Ok(ManifestHead::from(&cached));
                }
                let is_here = self.links.last(registry, repository, digest).is_some()
                    && matches!(self.cache.get(digest).await, Ok(Some(_)));
                if is_here || self.is_offline(registry) {
                    // As GET would, which may do without upstream.
                    None
                } else {
                    self.not_refused(registry, repository, Asked::Manifest, &digest.to_string())?;
                    let told = self.asker.head(&self.subject(registry, repository, reference)?).await;
                    told.map_err(|failed| failed.error)?.filter(|head| accept().allows(&head.media_type))
                }
            }
        };
        match head {
            Some(head) => Ok(head),
            None => Ok(ManifestHead::from(&self.find_manifest(registry, repository, reference, accept).await?)),
        }
    }

    /// The manifest in the cache, if upstream was shown to allow it and it
    /// needs not be asked.
    async fn cached_manifest(&self, registry: &Registry, repository: &Repository, digest: &Digest) -> Option<Manifest> {
        self.asker.stored(digest, self.links.get(registry, repository, digest)).await
    }

    /// The manifest where upstream has to be asked: for its bytes, or by HEAD
    /// whether it may still be read.
    async fn manifest_by_digest(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Manifest> {
        let is_offline = self.is_offline(registry);
        let link = self.spare_link(registry, repository, digest);
        let spare = self.asker.stored(digest, link.clone()).await.zip(link);
        if is_offline {
            return spare.map(|(spare, _)| spare).ok_or(Error::Offline);
        }
        self.not_refused(registry, repository, Asked::Manifest, &digest.to_string())?;
        let subject = self.subject(registry, repository, &Reference::Digest(*digest))?;
        let known = self.asker.stored(digest, self.links.last(registry, repository, digest)).await;
        let Some(known) = known else {
            return self.get_by_digest(&subject, digest).await.map_err(|failed| failed.error);
        };
        let asked = async {
            match self.asker.head(&subject).await? {
                Some(_) => Ok(known),
                None => self.get_by_digest(&subject, digest).await,
            }
        };
        let Some((spare, link)) = spare else { return asked.await.map_err(|failed: Failed| failed.error) };
        match self.within_patience(registry, repository, asked).await {
            Ok(manifest) => Ok(manifest),
            // The bytes are what they always were: nothing to warn of.
            Err(Failed { trouble: Some(stale), .. }) if may_stand_in(&link, registry, stale) => {
                self.stale(stale);
                Ok(spare)
            }
            Err(Failed { error, .. }) => Err(error),
        }
    }

    /// Asks by digest, and where upstream knows none such by the tag that named
    /// it.
    async fn get_by_digest(&self, subject: &Subject, digest: &Digest) -> std::result::Result<Manifest, Failed> {
        match self.asker.get(subject, None).await {
            Err(failed) if matches!(failed.error, Error::NotFound) => {
                self.asker.get_by_its_tag(subject, digest).await.ok_or(failed)
            }
            answer => answer,
        }
    }

    fn subject(&self, registry: &Registry, repository: &Repository, reference: &Reference) -> Result<Subject> {
        let (upstream, repository, reference) = (self.upstream(registry)?, repository.clone(), reference.clone());
        Ok(Subject { upstream, repository, reference })
    }
}

/// All bytes of a manifest's blob.
pub(super) async fn bytes_of(cache: &Cache, digest: &Digest, blob: &Blob) -> Option<Bytes> {
    if let Some(bytes) = blob.in_memory() {
        return Some(bytes.clone());
    }
    let bytes = read_all(cache, blob).await;
    if bytes.is_none() {
        // Whoever could not read it fetches it: it is out of the way then.
        let _ = cache.verify(digest).await;
    }
    bytes
}

async fn read_all(cache: &Cache, blob: &Blob) -> Option<Bytes> {
    let range = ByteRange { start: 0, end: blob.len() };
    let mut reader = cache.read(blob, range, ReadMethod::Read);
    let first = reader.next_window().await?.ok()?;
    if reader.remaining() == Some(0) {
        return Some(first);
    }
    let mut all = first.to_vec();
    while let Some(window) = reader.next_window().await {
        all.extend_from_slice(&window.ok()?);
    }
    Some(all.into())
}

/// What of the client's list manifests can be, in one order: what it says
/// besides makes no other question, so there are few.
fn accept_header(accept: &Accept) -> Option<String> {
    let Accept::Only(types) = accept else { return None };
    let is_known = |text: &&String| MediaType::parse(text).is_some_and(|parsed| parsed.is_of_manifests());
    let mut types: Vec<&str> = types.iter().filter(is_known).map(String::as_str).collect();
    types.sort_unstable();
    types.dedup();
    Some(types.join(", ")).filter(|line| !line.is_empty())
}
