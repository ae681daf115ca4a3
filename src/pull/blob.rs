//! Blobs: permission first, then bytes from the cache, a fill, or straight
//! from upstream.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::Puller;
use super::counts::From;
use super::delivery::{Delivery, Spare};
use super::error::{Error, Result};
use super::freshness::Asked as AskedFor;
use super::passthrough::Passthrough;
use super::source::{Begun, UpstreamBlob};
use crate::cache::{Blob, Entry, FillError, Follower, HELD_BACK, Method, Source, Verdict};
use crate::oci::{ByteRange, Digest, RangeSpec, Repository, resolve_ranges};
use crate::registry::Registry;

/// A status line never waits longer for the bytes of a small blob: containerd
/// gives up after 30 s without one.
const SMALL_PATIENCE: Duration = Duration::from_secs(5);

/// A blob, or the asked part of it.
pub struct BlobReply {
    /// Length of the whole blob, where it is known.
    pub total: Option<u64>,
    /// What of it follows.
    pub part: Part,
    /// Its bytes.
    pub body: BlobBody,
}

/// What of a blob a reply brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// One part.
    Range(ByteRange),
    /// The parts that the [body](BlobBody::Parts) names.
    Several,
}

/// Where a reply's bytes come from.
pub enum BlobBody {
    /// The cache, or a fill into it.
    Cached(Delivery),
    /// Several parts, in the order in which they were asked for.
    Parts(Vec<(ByteRange, Delivery)>),
    /// Upstream, past the cache.
    Direct(Box<Passthrough>),
}

/// How a blob is asked for, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct BlobQuestion<'a> {
    /// The asked parts; none: all of it.
    pub ranges: &'a [RangeSpec],
    /// How its bytes are to come from the cache.
    pub method: Method,
    /// Whose a fill is that this begins.
    pub client: &'a str,
    /// Where the client is.
    pub peer: Option<IpAddr>,
}

/// What a HEAD tells of a blob.
#[derive(Debug, Clone, Copy)]
pub struct BlobHead {
    /// Length in bytes, where upstream says it.
    pub total: Option<u64>,
}

impl Puller {
    /// The blob `digest` of `repository` (its full upstream name), or the
    /// asked part of it.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn blob(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        digest: &Digest,
        question: BlobQuestion<'_>,
    ) -> Result<BlobReply> {
        // Parts are asked for again and again as a matter of course.
        let question = BlobQuestion { peer: question.peer.filter(|_| question.ranges.is_empty()), ..question };
        let mut outage = self.patience.begin();
        let mut reply = loop {
            let found = outage.within(self.find_blob(registry, repository, digest, question)).await;
            if let Some(done) = outage.settle(found).await {
                break done?;
            }
        };
        if let (Some(peer), BlobBody::Cached(delivery)) = (question.peer, &mut reply.body) {
            delivery.note_end(&self.repeats, peer);
        }
        Ok(reply)
    }

    async fn find_blob(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        digest: &Digest,
        question: BlobQuestion<'_>,
    ) -> Result<BlobReply> {
        let upstream = &self.upstream(registry)?;
        let link = self.links.get(registry, repository, digest);
        let mut linked = link.is_some();
        let BlobQuestion { ranges, method, client, peer } = question;
        let source = Arc::new(UpstreamBlob {
            upstream: Arc::clone(upstream),
            repository: repository.clone(),
            digest: *digest,
            links: Arc::clone(&self.links),
            shown: self.shown.clone(),
            asked: self.links.generation(),
        });
        let spare = || Arc::new(Spare::new(&self.cache, &source));
        if self.is_offline(registry) {
            // A transfer that has begun may end, whatever it takes.
            let blob = self.stored_offline(registry, repository, digest).await?;
            let reply = self.of_blob(&blob, ranges, method, &spare())?;
            self.counts.count(From::Hit);
            return Ok(reply);
        }
        if !linked {
            self.not_refused(registry, repository, AskedFor::Blob, &digest.to_string())?;
            // Whether another registry has brought it must not show: not in what
            // upstream is asked first, and not in the time of its no.
            if !self.has_shown(registry, repository, digest) && self.upstreams.has_private_besides(registry) {
                self.permission(upstream, repository, digest).await?;
            }
        }
        // Another registry's fill may fail for a reason that is not ours, and a
        // stored blob may turn out to be damaged.
        for _ in 0..3 {
            let entry = match self.find(digest, &source, client).await {
                Ok(entry) => entry,
                Err(FindError::Busy) => return Err(Error::TooManyFills),
                Err(FindError::Disk(error)) => {
                    warn!(%digest, %error, "the cache cannot be used, passing through");
                    return self.pass_through(&source).await;
                }
            };
            match entry {
                Entry::Blob(blob) => {
                    if !linked {
                        self.possession(upstream, repository, digest, &blob).await?;
                    }
                    let has_other_size =
                        link.as_ref().and_then(|link| link.size).is_some_and(|size| size != blob.len());
                    if has_other_size {
                        if !matches!(self.cache.verify(digest).await, Ok(Verdict::Sound)) {
                            continue;
                        }
                        // Upstream told a wrong one: to look once is enough.
                        self.links.correct_size(registry, repository, digest, blob.len());
                    }
                    let mut verification = peer.and_then(|peer| self.repeats.check(&self.cache, peer, digest));
                    if blob.len() <= HELD_BACK
                        && let Some(verification) = verification.take()
                        && verification.await == Ok(Verdict::Damaged)
                    {
                        continue;
                    }
                    let mut reply = self.of_blob(&blob, ranges, method, &spare())?;
                    if let (Some(verification), BlobBody::Cached(delivery)) = (verification, &mut reply.body) {
                        delivery.wait_for(verification);
                    }
                    self.counts.count(From::Hit);
                    return Ok(reply);
                }
                Entry::Fill { mut follower, own } => {
                    if !own && !linked && !self.may_follow(upstream, repository, digest, &mut follower).await? {
                        // Another registry's bytes are not this one's before they
                        // are whole.
                        return self.pass_through(&source).await;
                    } else {
                        linked = true;
                    }
                    match self.follow(follower, ranges, method, &spare()).await {
                        Ok(reply) => {
                            self.counts.count(if own { From::Fill } else { From::Join });
                            return Ok(reply);
                        }
                        Err(FollowError::Fill(FillError::Disk(error))) => {
                            warn!(%digest, %error, "the cache cannot be written, passing through");
                            return self.pass_through(&source).await;
                        }
                        Err(FollowError::Fill(FillError::DoesNotFit)) => return self.pass_through(&source).await,
                        Err(FollowError::Fill(error)) if own => {
                            let error = error.into();
                            self.blob_refused(registry, repository, digest, &error);
                            return Err(error);
                        }
                        Err(FollowError::Fill(error)) => {
                            debug!(%digest, %error, "another's fill failed, trying our own")
                        }
                        Err(FollowError::Range { total }) => return Err(Error::RangeNotSatisfiable { total }),
                    }
                }
            }
        }
        Err(Error::Unavailable("the transfer failed".to_owned()))
    }

    /// Whether the blob is there for this registry, and how long it is.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn blob_head(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<BlobHead> {
        let mut outage = self.patience.begin();
        loop {
            let found = outage.within(self.find_blob_head(registry, repository, digest)).await;
            if let Some(done) = outage.settle(found).await {
                return done;
            }
        }
    }

    async fn find_blob_head(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<BlobHead> {
        let upstream = &self.upstream(registry)?;
        let linked = self.links.get(registry, repository, digest).is_some();
        if self.is_offline(registry) {
            let blob = self.stored_offline(registry, repository, digest).await?;
            return Ok(BlobHead { total: Some(blob.len()) });
        }
        let said = if linked { None } else { self.permission(upstream, repository, digest).await? };
        // What another registry has brought says nothing about this one's.
        let is_ours = linked || self.has_shown(registry, repository, digest);
        if is_ours && let Ok(Some(blob)) = self.cache.get(digest).await {
            return Ok(BlobHead { total: Some(blob.len()) });
        }
        if is_ours
            && let Some(mut follower) = self.cache.running(digest)
            && let Ok(Some(total)) = follower.started().await
        {
            return Ok(BlobHead { total: Some(total) });
        }
        let total = match said {
            Some(total) => Some(total),
            None => upstream.blob_size(repository, digest).await?,
        };
        Ok(BlobHead { total })
    }

    async fn stored_offline(&self, registry: &Registry, repository: &Repository, digest: &Digest) -> Result<Blob> {
        self.spare_link(registry, repository, digest).ok_or(Error::Offline)?;
        self.cache.get(digest).await.ok().flatten().ok_or(Error::Offline)
    }

    /// Remembers `error` if upstream has refused the blob.
    fn blob_refused(&self, registry: &Registry, repository: &Repository, digest: &Digest, error: &Error) {
        if error.is_refusal() {
            self.links.remove(registry, repository, digest);
            let setbacks = &self.asker.setbacks;
            setbacks.refused(setbacks.slot(registry, repository, AskedFor::Blob, &digest.to_string()), error);
        }
    }

    async fn find(
        &self,
        digest: &Digest,
        source: &Arc<UpstreamBlob>,
        client: &str,
    ) -> std::result::Result<Entry, FindError> {
        if !self.cache.is_writer() {
            return match self.cache.get(digest).await? {
                Some(blob) => Ok(Entry::Blob(blob)),
                None => Err(std::io::Error::other("nothing may be added to the cache directory").into()),
            };
        }
        let registry = source.upstream.registry();
        let (slug, connections) = (registry.name.slug(), registry.egress.max_connections);
        let mut share = self.shares.take(client, slug, connections);
        if share.is_none() && self.cache.running(digest).is_none() && self.cache.get(digest).await?.is_none() {
            share = self.shares.wait(client, slug, connections).await;
            if share.is_none() {
                return Err(FindError::Busy);
            }
        }
        let begun = || -> Arc<dyn Source> {
            // Before anybody can follow it.
            self.fillers.insert(*digest, (registry.owner().to_owned(), source.repository.clone()));
            Arc::new(Begun { blob: Arc::clone(source), share })
        };
        Ok(self.cache.join(digest, begun).await?)
    }

    async fn follow(
        &self,
        mut follower: Follower,
        ranges: &[RangeSpec],
        method: Method,
        spare: &Arc<Spare>,
    ) -> std::result::Result<BlobReply, FollowError> {
        let total = follower.started().await.map_err(FollowError::Fill)?;
        verdict_on_small(&mut follower, total).await.map_err(FollowError::Fill)?;
        let read = |range| {
            let reader = follower.clone().reader(range, method).ok_or(FollowError::Fill(FillError::Stopped))?;
            Ok(Delivery::new(reader, spare))
        };
        // Ranges of what may have any length cannot be resolved.
        let ranges = if total.is_some() { ranges } else { &[] };
        let total_or_none = total.unwrap_or_default();
        let (part, body) = match asked(ranges, total_or_none).map_err(|total| FollowError::Range { total })? {
            Asked::Whole => (Part::Whole, BlobBody::Cached(read(None)?)),
            Asked::Range(range) => (Part::Range(range), BlobBody::Cached(read(Some(range))?)),
            Asked::Several(parts) => {
                let parts = parts.into_iter().map(|part| Ok((part, read(Some(part))?)));
                (Part::Several, BlobBody::Parts(parts.collect::<std::result::Result<_, FollowError>>()?))
            }
        };
        Ok(BlobReply { total, part, body })
    }

    fn of_blob(&self, blob: &Blob, ranges: &[RangeSpec], method: Method, spare: &Arc<Spare>) -> Result<BlobReply> {
        let total = blob.len();
        let read = |part| Delivery::new(self.cache.read(blob, part, method), spare);
        let (part, body) = match asked(ranges, total).map_err(|total| Error::RangeNotSatisfiable { total })? {
            Asked::Whole => (Part::Whole, BlobBody::Cached(read(ByteRange { start: 0, end: total }))),
            Asked::Range(range) => (Part::Range(range), BlobBody::Cached(read(range))),
            Asked::Several(parts) => {
                (Part::Several, BlobBody::Parts(parts.into_iter().map(|part| (part, read(part))).collect()))
            }
        };
        Ok(BlobReply { total: Some(total), part, body })
    }

    /// The whole blob, past the cache. Ranges are ignored, as they may be.
    async fn pass_through(&self, source: &UpstreamBlob) -> Result<BlobReply> {
        let passthrough = source.pass_through().await?;
        self.counts.count(From::PassThrough);
        Ok(BlobReply { total: passthrough.total(), part: Part::Whole, body: BlobBody::Direct(Box::new(passthrough)) })
    }
}

/// What `ranges` ask for of content of `total` bytes; the error is `total`.
fn asked(ranges: &[RangeSpec], total: u64) -> std::result::Result<Asked, u64> {
    // RFC 9110 lets an empty range of an empty blob be ignored.
    if ranges.is_empty() || total == 0 {
        return Ok(Asked::Whole);
    }
    let parts = resolve_ranges(ranges, total);
    match (ranges, &parts[..]) {
        (_, []) => Err(total),
        ([_], [part]) => Ok(Asked::Range(*part)),
        // One part is told in the form that several were asked in.
        _ => Ok(Asked::Several(parts)),
    }
}

enum Asked {
    Whole,
    Range(ByteRange),
    Several(Vec<ByteRange>),
}

/// All of a small blob is held back until it is verified: to wait for that
/// before the status line costs its client nothing, and a wrong one gets an
/// error in place of a body that breaks off. The empty blob has no byte whose
/// absence could tell.
async fn verdict_on_small(follower: &mut Follower, total: Option<u64>) -> std::result::Result<(), FillError> {
    match total {
        Some(0) => follower.verified().await,
        Some(total) if total <= HELD_BACK => {
            tokio::time::timeout(SMALL_PATIENCE, follower.verified()).await.unwrap_or(Ok(()))
        }
        _ => Ok(()),
    }
}

enum FindError {
    /// The cache cannot be used.
    Disk(std::io::Error),
    /// The client has begun as many fills as it may.
    Busy,
}

impl std::convert::From<std::io::Error> for FindError {
    fn from(error: std::io::Error) -> Self {
        FindError::Disk(error)
    }
}

enum FollowError {
    Fill(FillError),
    Range { total: u64 },
}
