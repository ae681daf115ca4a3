//! Questions about manifests, and what is remembered of the answers.
//!
//! A question is asked once for all who want to know, goes on without them,
//! and keeps what it brought: bytes, the link, the tag. A HEAD renews a link
//! that there was; only bytes make a new one.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method};
use tracing::debug;

use super::error::Error;
use super::flight::Flights;
use super::freshness::{Asked, Failed, Setbacks, lost};
use super::manifest::{Manifest, ManifestHead, bytes_of};
use super::tag::{Record, Tags};
use crate::access::{Generation, Link, LinkKey, Links};
use crate::cache::Cache;
use crate::oci::{Digest, MediaType, Reference, Repository, Tag, check_manifest};
use crate::registry::Registry;
use crate::upstream::{ManifestAnswer, Upstream};

/// What HEAD told, as far as it told it.
pub(super) type Told = Option<ManifestHead>;

/// Everything that an answer about manifests may change.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) cache: Cache,
    pub(super) links: Arc<Links>,
    pub(super) tags: Arc<Tags>,
    pub(super) setbacks: Setbacks,
    heads: Flights<Result<Told, Failed>>,
    gets: Flights<Result<Arc<Manifest>, Failed>>,
    /// Tags that were seen to name a digest: some registries give a manifest by
    /// its tag alone.
    named: moka::sync::Cache<String, Tag>,
    /// What clients got that take only some types.
    odd: moka::sync::Cache<String, Odd>,
}

/// What some clients get, for as long as the tag is fresh and nothing was
/// revoked.
#[derive(Clone)]
struct Odd {
    manifest: Arc<Manifest>,
    asked: Instant,
    generation: Generation,
}

/// Digests whose tags are remembered.
const MAX_NAMED: u64 = 10_000;

/// Bytes of manifests that are remembered for some clients only.
const MAX_ODD: u64 = 8 << 20;

/// What a question is about.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) upstream: Arc<Upstream>,
    pub(super) repository: Repository,
    pub(super) reference: Reference,
}

impl Subject {
    fn registry(&self) -> &Registry {
        self.upstream.registry()
    }

    fn key(&self) -> String {
        format!("{} {} {}", self.registry().owner(), self.repository, self.reference)
    }
}

impl Asker {
    pub(super) fn new(cache: Cache, links: Arc<Links>, tags: Tags, setbacks: Setbacks) -> Asker {
        let weigh = |key: &String, odd: &Odd| u32::try_from(key.len() + odd.manifest.bytes.len()).unwrap_or(u32::MAX);
        let odd = moka::sync::Cache::builder().max_capacity(MAX_ODD).weigher(weigh).build();
        let named = moka::sync::Cache::new(MAX_NAMED);
        let (heads, gets) = (Flights::default(), Flights::default());
        Asker { cache, links, tags: Arc::new(tags), setbacks, heads, gets, named, odd }
    }

    /// The manifest from the cache, if `link` is the permission to serve it.
    pub(super) async fn stored(&self, digest: &Digest, link: Option<Link>) -> Option<Manifest> {
        let media_type = link?.media_type?;
        let blob = self.cache.get(digest).await.ok()??;
        let bytes = bytes_of(&self.cache, digest, &blob).await?;
        Some(Manifest { digest: *digest, media_type, bytes, stale: None })
    }

    /// Asks by HEAD; `None` where that does not tell enough.
    pub(super) async fn head(&self, subject: &Subject) -> Result<Told, Failed> {
        let begin = || {
            let (asker, subject) = (self.clone(), subject.clone());
            async move { asker.ask_head(&subject).await }
        };
        self.heads.join(subject.key(), begin).await.unwrap_or_else(|| Err(lost()))
    }

    async fn ask_head(&self, subject: &Subject) -> Result<Told, Failed> {
        let Subject { upstream, repository, reference } = subject;
        let (slot, asked) = (self.slot(subject), self.links.generation());
        let answer = match upstream.manifest(Method::HEAD, repository, reference, None).await {
            // Nothing is remembered of it: GET is asked, and its answer counts.
            Err(error) if error.may_be_of_head_alone() => return Ok(None),
            answer => answer.map_err(|error| self.failed(subject, Some(slot), error.into()))?,
        };
        self.setbacks.recovered(subject.registry(), repository);
        let ManifestAnswer { digest, media_type, length, .. } = answer;
        // What describes a web page, or nothing, is not a manifest's.
        let media_type = media_type.filter(|said| !said.is_generic());
        let length = length.filter(|length| *length > 0);
        // A digest that contradicts the question is for GET to refuse.
        let Some(digest) = digest.filter(|said| !matches!(reference, Reference::Digest(asked) if asked != said)) else {
            return Ok(None);
        };
        let link = self.links.last(subject.registry(), repository, &digest);
        if let Some(Link { media_type: Some(media_type), size: Some(length), .. }) = link {
            // What was checked against the bytes counts, not what is said now.
            self.links.put_since(asked, (subject.registry(), repository, &digest), Some(&media_type), Some(length));
            if let Reference::Tag(tag) = reference {
                self.record(subject, tag, (digest, &media_type, length), true);
            }
            return Ok(Some(ManifestHead { digest, media_type, length, stale: None }));
        }
        let (Some(media_type), Some(length)) = (media_type, length) else { return Ok(None) };
        if let Reference::Tag(tag) = reference {
            // An answer whose bytes are here is not given up for one whose are
            // not: it may be needed when upstream is in trouble.
            let kept = self.tags.get(subject.registry(), repository, tag).is_some_and(|record| record.linked);
            if !kept && !media_type.is_schema1() {
                self.record(subject, tag, (digest, &media_type, length), false);
            }
        }
        Ok(Some(ManifestHead { digest, media_type, length, stale: None }))
    }

    /// Asks by GET. `accept` is the client's own where it wants what nobody
    /// else does.
    pub(super) async fn get(&self, subject: &Subject, accept: Option<String>) -> Result<Manifest, Failed> {
        let key = match &accept {
            Some(accept) => format!("{} {accept}", subject.key()),
            None => subject.key(),
        };
        let begin = || {
            let (asker, subject) = (self.clone(), subject.clone());
            async move { asker.ask_get(&subject, accept).await.map(Arc::new) }
        };
        // What one list of types gets is remembered as the tag is.
        let is_odd = key != subject.key();
        if is_odd
            && let Some(Odd { manifest, asked, generation }) = self.odd.get(&key)
            && asked.elapsed() < subject.registry().tag_ttl
            && generation == self.links.generation()
        {
            return Ok(Manifest::clone(&manifest));
        }
        let generation = self.links.generation();
        let manifest = self.gets.join(key.clone(), begin).await.unwrap_or_else(|| Err(lost()))?;
        if is_odd {
            self.odd.insert(key, Odd { manifest: Arc::clone(&manifest), asked: Instant::now(), generation });
        }
        Ok(Manifest::clone(&manifest))
    }

    async fn ask_get(&self, subject: &Subject, accept: Option<String>) -> Result<Manifest, Failed> {
        let Subject { upstream, repository, reference } = subject;
        let registry = upstream.registry();
        // What a client's own list does not find may be there for another.
        let slot = accept.is_none().then(|| self.slot(subject));
        let (is_for_all, asked) = (accept.is_none(), self.links.generation());
        let accept = accept.and_then(|accept| HeaderValue::from_str(&accept).ok());
        let held = if is_for_all { self.held(subject).await } else { None };
        let answer = match &held {
            Some(held) => upstream.manifest_unless(repository, reference, &held.digest).await,
            None => upstream.manifest(Method::GET, repository, reference, accept).await.map(Some),
        };
        let answer = answer.map_err(|error| self.failed(subject, slot, error.into()))?;
        self.setbacks.recovered(registry, repository);
        let changed = answer.map(|answer| check(reference, answer)).transpose()?;
        let manifest = changed.or(held).ok_or_else(lost)?;
        if !manifest.media_type.is_schema1() {
            let length = manifest.bytes.len() as u64;
            self.cache.put(&manifest.digest, manifest.bytes.clone());
            self.links.put_since(
                asked,
                (registry, repository, &manifest.digest),
                Some(&manifest.media_type),
                Some(length),
            );
            if let (Reference::Tag(tag), true) = (reference, is_for_all) {
                self.record(subject, tag, (manifest.digest, &manifest.media_type, length), true);
            }
        }
        Ok(manifest)
    }

    /// What the tag in question named when upstream was asked before, where
    /// the bytes are here and there was a link to them.
    async fn held(&self, subject: &Subject) -> Option<Manifest> {
        let Reference::Tag(tag) = &subject.reference else { return None };
        let (registry, repository) = (subject.registry(), &subject.repository);
        let record = self.tags.get(registry, repository, tag).filter(|record| record.linked)?;
        self.stored(&record.digest, self.links.last(registry, repository, &record.digest)).await
    }

    /// Remembers what a tag was seen to name.
    pub(super) fn saw(&self, registry: &Registry, repository: &Repository, tag: &Tag, digest: &Digest) {
        self.named.insert(name(registry, repository, digest), tag.clone());
    }

    /// The manifest `digest` by a tag that was seen to name it, for registries
    /// that have no other way to it.
    pub(super) async fn get_by_its_tag(&self, subject: &Subject, digest: &Digest) -> Option<Manifest> {
        let tag = self.named.get(&name(subject.registry(), &subject.repository, digest))?;
        let subject = Subject { reference: Reference::Tag(tag), ..subject.clone() };
        let found = self.get(&subject, None).await.ok()?;
        (found.digest == *digest).then_some(found)
    }

    fn slot(&self, subject: &Subject) -> super::freshness::Slot {
        let reference = subject.reference.to_string();
        self.setbacks.slot(subject.registry(), &subject.repository, Asked::Manifest, &reference)
    }

    fn record(&self, subject: &Subject, tag: &Tag, named: (Digest, &MediaType, u64), linked: bool) {
        let (registry, repository, (digest, media_type, length)) = (subject.registry(), &subject.repository, named);
        let link = LinkKey::new(registry, repository, &digest);
        self.saw(registry, repository, tag, &digest);
        self.tags.put(registry, repository, tag, Record::new(digest, link, media_type.clone(), length, linked));
    }

    /// Remembers a failure; what is refused now was not to be had by what was
    /// known before either. `slot` is absent where one client's own question
    /// says nothing about anybody else's.
    fn failed(&self, subject: &Subject, slot: Option<super::freshness::Slot>, failed: Failed) -> Failed {
        let (registry, repository) = (subject.registry(), &subject.repository);
        if let Some(trouble) = failed.trouble {
            self.setbacks.troubled(registry, repository, trouble, failed.retry_after);
        }
        if let Some(slot) = slot
            && failed.error.is_refusal()
        {
            let digest = match &subject.reference {
                Reference::Digest(digest) => Some(*digest),
                Reference::Tag(tag) => {
                    let record = self.tags.get(registry, repository, tag);
                    self.tags.remove(registry, repository, tag);
                    // A tag that is gone says nothing about what it named.
                    record.filter(|_| !matches!(failed.error, Error::NotFound)).map(|record| record.digest)
                }
            };
            if let Some(digest) = digest {
                self.links.remove(registry, repository, &digest);
            }
            self.setbacks.refused(slot, &failed.error);
        }
        failed
    }
}

/// What is remembered of tags, by what they name.
fn name(registry: &Registry, repository: &Repository, digest: &Digest) -> String {
    format!("{} {repository} {digest}", registry.owner())
}

/// Believes an answer only if it hashes to what it says, is what it says, and
/// is what was asked for.
fn check(reference: &Reference, answer: ManifestAnswer) -> Result<Manifest, Failed> {
    let ManifestAnswer { bytes, media_type, digest: claimed, origin, .. } = answer;
    let refuse = |what: String| {
        // The pull that fails of it tells the operator.
        debug!(%origin, %reference, what, "a manifest was refused");
        Err(Error::BadUpstream(what.into()).into())
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
    Ok(Manifest { digest, media_type, bytes, stale: None })
}
