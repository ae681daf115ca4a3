//! Tags: answered from the record while that is fresh; else upstream is asked,
//! by HEAD as long as nothing has changed, and when it is in trouble the last
//! answer stands in for it for a while.

mod store;

pub use store::Tags;

pub(super) use store::Record;

use std::sync::Arc;

use super::Puller;
use super::ask::{Asker, Subject};
use super::counts::TagFrom;
use super::error::{Error, Result};
use super::freshness::{Asked, Failed, Stale, lost};
use super::manifest::{Manifest, ManifestHead};
use super::may_stand_in;
use crate::access::Link;
use crate::oci::{Accept, Reference, Repository, Tag};
use crate::registry::Registry;

impl Puller {
    /// The manifest that `tag` names, whatever its type.
    pub(super) async fn manifest_by_tag(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Manifest> {
        let record = self.asker.tags.get(registry, repository, tag);
        if let Some(record) = record.as_ref().filter(|record| record.is_fresh(registry, tag)) {
            let link = self.links.get_by_key(registry, &record.link);
            if let Some(manifest) = self.asker.stored(&record.digest, link).await {
                self.tag_counts.count(TagFrom::Cache);
                return Ok(manifest);
            }
        }
        let is_offline = self.is_offline(registry);
        let spare = match &record {
            Some(record) if is_offline || record.may_stand_in(registry, tag) => {
                let link = self.spare_link(registry, repository, &record.digest);
                let manifest = self.asker.stored(&record.digest, link.clone()).await;
                manifest.zip(link)
            }
            _ => None,
        };
        let stand_in = |manifest: Manifest, stale| Ok(Manifest { stale: Some(self.stale(stale)), ..manifest });
        if is_offline {
            return spare.map_or(Err(Error::Offline), |(spare, _)| stand_in(spare, Stale::Offline));
        }
        self.not_refused(registry, repository, Asked::Manifest, tag.as_str())?;
        let subject = Subject {
            upstream: self.upstream(registry)?,
            repository: repository.clone(),
            reference: Reference::Tag(tag.clone()),
        };
        let asked = self.ask_about(&subject, tag);
        let Some((spare, link)) = spare else {
            let (manifest, from) = asked.await.map_err(|failed| failed.error)?;
            self.tag_counts.count(from);
            return Ok(manifest);
        };
        match self.within_patience(registry, repository, asked).await {
            Ok((manifest, from)) => {
                self.tag_counts.count(from);
                Ok(manifest)
            }
            Err(Failed { trouble: Some(stale), .. }) if may_stand_in(&link, registry, stale) => stand_in(spare, stale),
            Err(Failed { error, .. }) => Err(error),
        }
    }

    /// Asks, once for everybody: by HEAD where the bytes may be here, by GET
    /// where they are not.
    async fn ask_about(&self, subject: &Subject, tag: &Tag) -> std::result::Result<(Manifest, TagFrom), Failed> {
        let begin = || {
            let (asker, subject, tag) = (self.asker.clone(), subject.clone(), tag.clone());
            async move { look_up(&asker, &subject, &tag).await }
        };
        let key = store::key(subject.upstream.registry(), &subject.repository, tag);
        self.lookups.join(key, begin).await.unwrap_or_else(|| Err(lost()))
    }

    /// What HEAD tells of `tag`; `None` where only GET can.
    pub(super) async fn head_by_tag(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        tag: &Tag,
        accept: &Accept,
    ) -> Result<Option<ManifestHead>> {
        let record = self.asker.tags.get(registry, repository, tag);
        let known = |record: &Record, link: Option<Link>| {
            let permitted = !record.linked || link.is_some();
            permitted.then(|| ManifestHead {
                digest: record.digest,
                media_type: record.media_type.clone(),
                length: record.length,
                stale: None,
            })
        };
        if let Some(record) = record.as_ref().filter(|record| record.is_fresh(registry, tag))
            && let Some(head) = known(record, self.links.get_by_key(registry, &record.link))
        {
            self.tag_counts.count(TagFrom::Cache);
            if !record.linked {
                // The client asks for the digest next, and the bytes are not here.
                self.asker.saw(registry, repository, tag, &record.digest);
            }
            return Ok(Some(head).filter(|head| accept.allows(&head.media_type)));
        }
        let is_offline = self.is_offline(registry);
        let spare =
            record.as_ref().filter(|record| is_offline || record.may_stand_in(registry, tag)).and_then(|record| {
                let link = self.spare_link(registry, repository, &record.digest);
                Some((known(record, link.clone())?, link))
            });
        let stand_in = |head: ManifestHead, stale| Ok(Some(ManifestHead { stale: Some(self.stale(stale)), ..head }));
        if is_offline {
            return spare.map_or(Err(Error::Offline), |(spare, _)| stand_in(spare, Stale::Offline));
        }
        self.not_refused(registry, repository, Asked::Manifest, tag.as_str())?;
        let subject = Subject {
            upstream: self.upstream(registry)?,
            repository: repository.clone(),
            reference: Reference::Tag(tag.clone()),
        };
        let asked = self.asker.head(&subject);
        let told = match spare {
            None => asked.await.map_err(|failed| failed.error)?,
            Some((spare, link)) => match self.within_patience(registry, repository, asked).await {
                Ok(told) => told,
                Err(Failed { trouble: Some(stale), .. })
                    if link.is_none_or(|link| may_stand_in(&link, registry, stale)) =>
                {
                    return stand_in(spare, stale);
                }
                Err(Failed { error, .. }) => return Err(error),
            },
        };
        let told = told.filter(|head| accept.allows(&head.media_type));
        if told.is_some() {
            self.tag_counts.count(TagFrom::Head);
        }
        Ok(told)
    }
}

/// One look-up of a tag, from start to end.
async fn look_up(asker: &Asker, subject: &Subject, tag: &Tag) -> std::result::Result<(Manifest, TagFrom), Failed> {
    let (registry, repository) = (subject.upstream.registry(), &subject.repository);
    if let Some(record) = asker.tags.get(registry, repository, tag) {
        // The look-up before this one may have ended just now.
        if record.is_fresh(registry, tag)
            && let Some(manifest) = asker.stored(&record.digest, asker.links.get_by_key(registry, &record.link)).await
        {
            return Ok((manifest, TagFrom::Cache));
        }
        if asker.links.last(registry, repository, &record.digest).is_some()
            && matches!(asker.cache.get(&record.digest).await, Ok(Some(_)))
            && let Some(head) = asker.head(subject).await?
            && let Some(manifest) =
                asker.stored(&head.digest, asker.links.last(registry, repository, &head.digest)).await
        {
            return Ok((manifest, TagFrom::Head));
        }
        // The last pulls of a limit are kept for what is not cached at all.
        if subject.upstream.should_spare()
            && record.may_stand_in(registry, tag)
            && let link = asker.links.last(registry, repository, &record.digest)
            && let link = link.filter(|link| link.may_stand_in_for(registry))
            && asker.stored(&record.digest, link).await.is_some()
        {
            let error = Error::TooManyRequests { retry_after: None };
            return Err(Failed { error, trouble: Some(Stale::RateLimited), retry_after: None });
        }
    }
    Ok((asker.get(subject, None).await?, TagFrom::Get))
}
