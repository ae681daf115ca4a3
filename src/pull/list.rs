//! Tags and referrers: lists that change, so they are kept for a short time,
//! each for its registry, repository and query alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::Puller;
use super::error::{Error, Result};
use super::flight::Flights;
use super::freshness::{Asked, Failed, Stale, lost};
use crate::oci::{Digest, MediaType, Reference, Repository};
use crate::registry::Registry;
use crate::upstream::{self, Upstream};

/// The query of a list request, parsed: known names checked, the rest (what an
/// upstream's own `Link` carried) kept as pairs.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Decoded name and value pairs, in order.
    pub pairs: Vec<(String, String)>,
}

impl ListQuery {
    fn encode(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.pairs);
        query.finish()
    }
}

/// A list, ready to be sent.
#[derive(Debug)]
pub struct ListReply {
    /// The JSON document.
    pub bytes: Bytes,
    /// The query of the next page, where there is one.
    pub next: Option<String>,
    /// Upstream has applied the `artifactType` filter.
    pub filtered: bool,
    /// Upstream did not confirm that this is the list now.
    pub stale: Option<Stale>,
}

/// How long a page of tags is kept, and one of referrers; never longer than
/// the registry's tags are.
const TAGS_TTL: Duration = Duration::from_secs(30);
const REFERRERS_TTL: Duration = Duration::from_secs(60);
/// Bytes of pages that are kept, and of the largest of them.
const MAX_KEPT: u64 = 32 << 20;
const MAX_PAGE: usize = 1 << 20;

/// A page as upstream sent it.
#[derive(Debug, Clone)]
struct Page {
    bytes: Bytes,
    next: Option<String>,
    filtered: bool,
    asked: Instant,
}

/// The pages of this process.
pub(super) struct Lists {
    kept: moka::sync::Cache<String, Page>,
    questions: Flights<std::result::Result<Page, Failed>>,
}

impl Default for Lists {
    fn default() -> Self {
        let weight = |key: &String, page: &Page| {
            let next = page.next.as_ref().map_or(0, String::len);
            u32::try_from(key.len() + page.bytes.len() + next).unwrap_or(u32::MAX)
        };
        let kept = moka::sync::Cache::builder().max_capacity(MAX_KEPT).weigher(weight).build();
        Lists { kept, questions: Flights::default() }
    }
}

impl Lists {
    /// Forgets the lists of `registry`.
    pub(super) fn forget(&self, registry: &Registry) {
        let prefix = format!("{} ", registry.owner());
        for (key, _) in &self.kept {
            if key.starts_with(&prefix) {
                self.kept.invalidate(&*key);
            }
        }
    }
}

/// Whose list it is.
struct Whose<'a> {
    registry: &'a Registry,
    repository: &'a Repository,
    /// What tells it from the other lists of the repository.
    what: String,
    ttl: Duration,
}

#[derive(Deserialize)]
struct UpstreamTags {
    /// `null` from some registries, and in some a tag is.
    tags: Option<Vec<Option<String>>>,
}

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: Vec<String>,
}

const EMPTY_INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

impl Puller {
    /// One page of the tags of `repository`; `shown_as` is the name the client
    /// knows it by.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn tags(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        shown_as: &Repository,
        query: &ListQuery,
    ) -> Result<ListReply> {
        let query = query.encode();
        let whose = Whose { registry, repository, what: format!("tags {query}"), ttl: TAGS_TTL };
        let upstream = &self.upstream(registry)?;
        let (asked_of, own) = (Arc::clone(upstream), repository.clone());
        let ask = async move {
            let page = asked_of.tags(&own, &query).await?;
            parse_tags(&page.bytes).map_err(|()| {
                Error::BadUpstream(format!("{} sent a tag list that is no tag list", page.origin).into())
            })?;
            Ok(Page { bytes: page.bytes, next: page.next, filtered: false, asked: Instant::now() })
        };
        let (page, stale) = self.list(&whose, upstream, ask).await?;
        let tags = parse_tags(&page.bytes).unwrap_or_default();
        let bytes = serde_json::to_vec(&Tags { name: shown_as.as_str(), tags })
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(ListReply { bytes: bytes.into(), next: page.next, filtered: false, stale })
    }

    /// The referrers of `digest`: from the API, or from the tag that stands in
    /// for it where upstream has no such API.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn referrers(
        &self,
        registry: &Arc<Registry>,
        repository: &Repository,
        digest: &Digest,
        query: &ListQuery,
    ) -> Result<ListReply> {
        let query = query.encode();
        let whose = Whose { registry, repository, what: format!("referrers {digest} {query}"), ttl: REFERRERS_TTL };
        let upstream = &self.upstream(registry)?;
        let (asked_of, own, digest) = (Arc::clone(upstream), repository.clone(), *digest);
        let ask = async move { ask_referrers(&asked_of, &own, &digest, &query).await };
        let (page, stale) = self.list(&whose, upstream, ask).await?;
        Ok(ListReply { bytes: page.bytes, next: page.next, filtered: page.filtered, stale })
    }

    /// The list from memory, or what comes of `ask`, which is asked once for
    /// everybody.
    async fn list(
        &self,
        whose: &Whose<'_>,
        upstream: &Arc<Upstream>,
        ask: impl Future<Output = std::result::Result<Page, Failed>> + Send + 'static,
    ) -> Result<(Page, Option<Stale>)> {
        let Whose { registry, repository, what, ttl } = whose;
        let key = format!("{} {repository} {what}", registry.owner());
        let kept = self.lists.kept.get(&key);
        if let Some(page) = kept.as_ref().filter(|page| page.asked.elapsed() < registry.tag_ttl.min(*ttl)) {
            return Ok((page.clone(), None));
        }
        if self.is_offline(registry) {
            return kept.map(|page| (page, Some(self.stale(Stale::Offline)))).ok_or(Error::Offline);
        }
        self.not_refused(registry, repository, Asked::List, what)?;
        let slot = self.asker.setbacks.slot(registry, repository, Asked::List, what);
        let begin = || {
            let (kept, setbacks, key) = (self.lists.kept.clone(), self.asker.setbacks.clone(), key.clone());
            let (upstream, repository) = (Arc::clone(upstream), (*repository).clone());
            async move {
                let asked = ask.await;
                match &asked {
                    Ok(page) if page.bytes.len() <= MAX_PAGE => kept.insert(key, page.clone()),
                    Err(Failed { trouble: Some(trouble), retry_after, .. }) => {
                        setbacks.troubled(upstream.registry(), &repository, *trouble, *retry_after);
                    }
                    Ok(_) => kept.invalidate(&key),
                    Err(Failed { error, .. }) => {
                        if matches!(error, Error::NotFound | Error::Denied) {
                            kept.invalidate(&key);
                        }
                        setbacks.refused(slot, error);
                    }
                }
                if asked.is_ok() {
                    setbacks.recovered(upstream.registry(), &repository);
                }
                asked
            }
        };
        let asked = async { self.lists.questions.join(key.clone(), begin).await.unwrap_or_else(|| Err(lost())) };
        let window = registry.stale_if_error.saturating_add(registry.tag_ttl.min(*ttl));
        let spare = kept.filter(|page| !registry.stale_if_error.is_zero() && page.asked.elapsed() < window);
        let Some(spare) = spare else { return Ok((asked.await.map_err(|failed| failed.error)?, None)) };
        match self.within_patience(registry, repository, asked).await {
            Ok(page) => Ok((page, None)),
            Err(Failed { trouble: Some(stale), .. }) => Ok((spare, Some(self.stale(stale)))),
            Err(Failed { error, .. }) => Err(error),
        }
    }
}

fn parse_tags(bytes: &[u8]) -> std::result::Result<Vec<String>, ()> {
    let parsed: UpstreamTags = serde_json::from_slice(bytes).map_err(|_| ())?;
    Ok(parsed.tags.unwrap_or_default().into_iter().flatten().collect())
}

async fn ask_referrers(
    upstream: &Upstream,
    repository: &Repository,
    digest: &Digest,
    query: &str,
) -> std::result::Result<Page, Failed> {
    let asked = Instant::now();
    let referrers = upstream.referrers(repository, digest, query).await;
    let is_denied = matches!(referrers, Err(upstream::Error::Denied { .. }));
    match referrers {
        Ok(page) if check_index(&page.bytes).is_ok() => {
            Ok(Page { bytes: page.bytes, next: page.next, filtered: page.filtered, asked })
        }
        // A registry without this API says so in many ways: with a web page,
        // with nothing, with a refusal, with the way to its sign-in.
        Err(error) if !says_no(&error) => Err(error.into()),
        Ok(_) | Err(_) => {
            let tag = digest.referrers_tag().parse().map_err(|_| Error::NotFound)?;
            let bytes = match upstream.manifest(Method::GET, repository, &Reference::Tag(tag), None).await {
                Ok(answer) => {
                    check_index(&answer.bytes)?;
                    answer.bytes
                }
                // Who is denied both is denied the repository.
                Err(error @ upstream::Error::Denied { .. }) if is_denied => return Err(error.into()),
                Err(error) if says_no(&error) => Bytes::from_static(EMPTY_INDEX.as_bytes()),
                Err(error) => return Err(error.into()),
            };
            Ok(Page { bytes, next: None, filtered: false, asked })
        }
    }
}

/// Whether it is an answer, if not the one that was asked for.
fn says_no(error: &upstream::Error) -> bool {
    error.may_be_of_head_alone()
}

/// A list of referrers is an index and nothing else.
fn check_index(bytes: &[u8]) -> Result<()> {
    let index = MediaType::parse("application/vnd.oci.image.index.v1+json");
    match crate::oci::check_manifest(index.as_ref(), bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::BadUpstream(format!("a list of referrers that is no index: {error}").into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn the_lists_of_one_registry_are_forgotten_and_those_of_others_kept() {
        let of = |name: &str| format!("[[registry]]\nname = \"{name}\"\nkind = \"ghcr\"\n");
        let text = of("one") + &of("one-more");
        let registries = Settings::parse("t.toml", &text, &std::collections::BTreeMap::new()).unwrap().registries;
        let lists = Lists::default();
        let [one, more] = [0, 1].map(|at: usize| format!("{} app tags ", registries[at].owner()));
        for key in [&one, &more] {
            let page = Page { bytes: Bytes::from_static(b"{}"), next: None, filtered: false, asked: Instant::now() };
            lists.kept.insert(key.clone(), page);
        }
        lists.forget(&registries[0]);
        assert!(lists.kept.get(&one).is_none() && lists.kept.get(&more).is_some());
    }
}
