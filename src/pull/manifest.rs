//! Manifests: by digest from the cache, by tag from whoever may know better.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method};
use tracing::warn;

use super::error::{Error, Result};
use super::{NoLongerThanTheQuestion, Puller};
use crate::cache::{Blob, Cache, Method as ReadMethod};
use crate::oci::{Accept, ByteRange, Digest, MediaType, Reference, Repository, check_manifest};
use crate::registry::Registry;
use crate::upstream::{self, ManifestAnswer};

/// A manifest: what it is called, what it is, and its exact bytes.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its digest, checked against the bytes.
    pub digest: Digest,
    /// The type to serve it with.
    pub media_type: MediaType,
    /// The bytes as upstream has them.
    pub bytes: Bytes,
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
}

impl From<&Manifest> for ManifestHead {
    fn from(manifest: &Manifest) -> Self {
        ManifestHead {
            digest: manifest.digest,
            media_type: manifest.media_type.clone(),
            length: manifest.bytes.len() as u64,
        }
    }
}

/// Questions under way: registry, repository, reference, own `Accept`.
type FlightKey = (String, Repository, String, Option<String>);
pub(super) type Flights = moka::future::Cache<FlightKey, Arc<Manifest>>;

pub(super) fn flights() -> Flights {
    moka::future::Cache::builder().max_capacity(10_000).expire_after(NoLongerThanTheQuestion).build()
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
        if let Reference::Digest(digest) = reference
            && let Some(cached) = self.cached_manifest(registry, repository, digest).await
        {
            self.pins.passed(registry, repository, reference, &cached.digest);
            return Ok(cached);
        }
        let manifest = self.fetch_manifest(registry, repository, reference, None).await?;
        self.pins.passed(registry, repository, reference, &manifest.digest);
        let accept = accept();
        if accept.allows(&manifest.media_type) {
            return Ok(manifest);
        }
        // A client of old that lists its types may be given another
        // representation by upstream; that one is for it alone.
        match accept_header(&accept) {
            Some(own) => self.fetch_manifest(registry, repository, reference, Some(own)).await,
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
        if let Reference::Digest(digest) = reference
            && let Some(cached) = self.cached_manifest(registry, repository, digest).await
        {
            return Ok(ManifestHead::from(&cached));
        }
        let upstream = self.upstream(registry)?;
        let answer = match upstream.manifest(Method::HEAD, repository, reference, None).await {
            Err(upstream::Error::Status { status: 405, .. }) => None,
            answer => Some(answer?),
        };
        let head = answer.and_then(|ManifestAnswer { digest, media_type, length, .. }| {
            Some(ManifestHead { digest: digest?, media_type: media_type?, length: length? })
        });
        match head {
            // A digest that contradicts the question is for GET to refuse.
            Some(head) if accept().allows(&head.media_type) && !contradicts(reference, &head.digest) => Ok(head),
            _ => Ok(ManifestHead::from(&self.manifest(registry, repository, reference, accept).await?)),
        }
    }

    /// The manifest in the cache, if upstream was shown to allow it and it
    /// needs not be asked.
    async fn cached_manifest(&self, registry: &Registry, repository: &Repository, digest: &Digest) -> Option<Manifest> {
        let media_type = self.links.get(registry, repository, digest)?.media_type?;
        let blob = self.cache.get(digest).await.ok()??;
        let bytes = bytes_of(&self.cache, digest, &blob).await?;
        Some(Manifest { digest: *digest, media_type, bytes })
    }

    /// Asks upstream; whoever asks the same meanwhile shares the answer.
    async fn fetch_manifest(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        reference: &Reference,
        accept: Option<String>,
    ) -> Result<Manifest> {
        let key = (registry.name.slug().to_owned(), repository.clone(), reference.to_string(), accept.clone());
        let flight = self.manifests.try_get_with(key, async {
            let upstream = self.upstream(registry)?;
            let accept = accept.and_then(|accept| HeaderValue::from_str(&accept).ok());
            let answer = upstream.manifest(Method::GET, repository, reference, accept).await?;
            let manifest = check(reference, answer)?;
            if !manifest.media_type.is_schema1() {
                self.cache.put(&manifest.digest, manifest.bytes.clone());
                let size = Some(manifest.bytes.len() as u64);
                self.links.put(registry, repository, &manifest.digest, Some(&manifest.media_type), size);
            }
            Ok::<_, Error>(Arc::new(manifest))
        });
        match flight.await {
            Ok(manifest) => Ok(Manifest::clone(&manifest)),
            Err(error) => Err(Error::clone(&error)),
        }
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

/// Believes an answer only if it hashes to what it says, is what it says, and
/// is what was asked for.
fn check(reference: &Reference, answer: ManifestAnswer) -> Result<Manifest> {
    let ManifestAnswer { bytes, media_type, digest: claimed, origin, .. } = answer;
    let refuse = |what: String| {
        warn!(%origin, %reference, what, "a manifest was refused");
        Err(Error::BadUpstream(what))
    };
    let media_type = match check_manifest(media_type.as_ref(), &bytes) {
        Ok(media_type) => media_type,
        Err(error) => return refuse(error.to_string()),
    };
    // The digest that was asked for counts; else the one upstream names, which
    // may be of another algorithm than ours.
    let digest = match (reference, claimed) {
        (Reference::Digest(asked), _) => *asked,
        (Reference::Tag(_), Some(claimed)) => claimed,
        (Reference::Tag(_), None) => Digest::sha256_of(&bytes),
    };
    // Schema 1 is hashed without its signatures: nothing to compare with.
    if !media_type.is_schema1() && !digest.matches(&bytes) {
        return refuse("the manifest does not have the digest it should".to_owned());
    }
    if claimed.is_some_and(|claimed| claimed.algorithm() == digest.algorithm() && claimed != digest) {
        return refuse("the manifest's digest header contradicts its bytes".to_owned());
    }
    Ok(Manifest { digest, media_type, bytes })
}

fn contradicts(reference: &Reference, digest: &Digest) -> bool {
    matches!(reference, Reference::Digest(asked) if asked != digest)
}

/// The client's list, rebuilt from parsed parts and bounded.
fn accept_header(accept: &Accept) -> Option<String> {
    let Accept::Only(types) = accept else { return None };
    let types: Vec<&str> = types.iter().filter_map(|text| MediaType::parse(text).map(|_| text.as_str())).collect();
    let mut line = types.join(", ");
    line.truncate(4096);
    Some(line).filter(|line| !line.is_empty())
}
