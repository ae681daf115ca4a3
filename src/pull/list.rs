//! Tags and referrers: lists that change, so upstream is asked each time.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::Puller;
use super::error::{Error, Result};
use crate::oci::{Digest, MediaType, Reference, Repository};
use crate::registry::Registry;
use crate::upstream;

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
}

#[derive(Deserialize)]
struct UpstreamTags {
    /// `null` from some registries.
    tags: Option<Vec<String>>,
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
        let page = self.upstream(registry)?.tags(repository, &query.encode()).await?;
        let parsed: UpstreamTags = serde_json::from_slice(&page.bytes)
            .map_err(|_| Error::BadUpstream(format!("{} sent a tag list that is no tag list", page.origin)))?;
        let tags = Tags { name: shown_as.as_str(), tags: parsed.tags.unwrap_or_default() };
        let bytes = serde_json::to_vec(&tags).map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(ListReply { bytes: bytes.into(), next: page.next, filtered: false })
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
        let upstream = self.upstream(registry)?;
        match upstream.referrers(repository, digest, &query.encode()).await {
            Ok(page) => {
                check_index(&page.bytes)?;
                Ok(ListReply { bytes: page.bytes, next: page.next, filtered: page.filtered })
            }
            Err(upstream::Error::NotFound | upstream::Error::Status { status: 400 | 405 | 501, .. }) => {
                let tag = digest.referrers_tag().parse().map_err(|_| Error::NotFound)?;
                let bytes = match upstream.manifest(Method::GET, repository, &Reference::Tag(tag), None).await {
                    Ok(answer) => {
                        check_index(&answer.bytes)?;
                        answer.bytes
                    }
                    Err(upstream::Error::NotFound) => Bytes::from_static(EMPTY_INDEX.as_bytes()),
                    Err(error) => return Err(error.into()),
                };
                Ok(ListReply { bytes, next: None, filtered: false })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A list of referrers is an index and nothing else.
fn check_index(bytes: &[u8]) -> Result<()> {
    let index = MediaType::parse("application/vnd.oci.image.index.v1+json");
    match crate::oci::check_manifest(index.as_ref(), bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::BadUpstream(format!("a list of referrers that is no index: {error}"))),
    }
}
