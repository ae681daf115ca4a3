//! One upstream registry: authorised requests for manifests, tags, referrers.
//!
//! A request carries what worked before: a registry that once challenged is
//! shown a token at once. After a refusal there is one more try with a fresh
//! token and no third.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, IF_NONE_MATCH, LINK, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

use super::challenge::Challenge;
use super::connect::Connector;
use super::egress::{Egress, Purpose};
use super::error::{Error, Result};
use super::limits::Sort;
use super::link;
use super::places::Places;
use super::send::{Answer, Ask, Sender, collect};
use super::speed::Bandwidth;
use super::tls::TlsError;
use super::token::{Scheme, Tokens};
use super::traffic::Traffic;
use crate::oci::{Digest, MediaType, Reference, Repository};
use crate::registry::{Credential, Kind, Origin, Registry};

/// Largest manifest that is taken (distribution-spec: at least 4 MB).
pub(super) const MAX_MANIFEST: usize = 4 << 20;

/// Largest page of a list that is taken: a quarter of a million tags and more.
const MAX_LIST: usize = 16 << 20;

/// As much of an error's body as is looked at.
const MAX_ERROR: usize = 64 * 1024;

/// One registry's upstream side.
pub struct Upstream {
    registry: Arc<Registry>,
    sender: Sender,
    tokens: Tokens,
    scheme: RwLock<Option<Scheme>>,
    egress: Egress,
    /// HEAD on blobs tells nothing here: a byte of each is asked for instead.
    heads_are_refused: AtomicBool,
    /// Transfers at a time.
    pub(super) places: Arc<Places>,
    /// Questions that bring little: manifests, permissions and lists.
    questions: Semaphore,
    /// How fast they may be together.
    pub(super) bandwidth: Option<Arc<Bandwidth>>,
}

/// A manifest as upstream gave it.
#[derive(Debug)]
pub struct ManifestAnswer {
    /// The bytes; empty for HEAD.
    pub bytes: Bytes,
    /// `Content-Type`.
    pub media_type: Option<MediaType>,
    /// `Docker-Content-Digest`, where it is one.
    pub digest: Option<Digest>,
    /// `Content-Length`.
    pub length: Option<u64>,
    /// Who sent it.
    pub origin: Origin,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The JSON document.
    pub bytes: Bytes,
    /// The query of the next page, where there is one.
    pub next: Option<String>,
    /// `OCI-Filters-Applied`, where it says `artifactType`.
    pub filtered: bool,
    /// Who sent it.
    pub origin: Origin,
}

/// Questions that are open at a time, at least.
const QUESTIONS: usize = 64;

impl Upstream {
    /// The upstream of `registry`.
    ///
    /// # Errors
    /// When its own certificate authorities cannot be used.
    pub fn new(registry: &Registry) -> std::result::Result<Upstream, TlsError> {
        // It outlasts its credential.
        let credential = registry.credential.clone();
        let registry = Arc::new(registry.without_secrets());
        let outbound = &registry.egress.outbound;
        let egress = Egress::new(Arc::clone(&registry));
        let ca = registry.egress.ca_pem.as_deref();
        let connector = Connector::new(egress.clone(), ca, registry.origins().cloned(), outbound)?;
        Ok(Upstream {
            sender: Sender::new(&registry, egress.clone(), connector),
            egress,
            heads_are_refused: AtomicBool::new(false),
            tokens: Tokens::new(registry.name.clone(), credential),
            scheme: RwLock::new(None),
            places: Places::new(registry.egress.max_connections),
            questions: Semaphore::new(QUESTIONS.max(4 * registry.egress.max_connections)),
            bandwidth: outbound.max_bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))),
            registry,
        })
    }

    /// The registry this is the upstream of; without its secrets.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Shows upstream another credential from now on. Running transfers go on;
    /// those of them that have to ask again ask with the new one.
    pub fn replace_credential(&self, credential: Credential) {
        self.egress.follow_credential(&credential);
        self.tokens.replace_credential(credential);
        self.traffic().limits.forget();
        // What a registry challenges with may depend on who asks.
        *self.scheme.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What was asked of it and what came back.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.sender.traffic
    }

    /// Whether a tag that can be answered from cache should be, even if it is a
    /// little old: of the pulls that this credential has, only the reserve
    /// (`rate_limit_reserve`) is left, or none. To be asked before GET of a
    /// manifest by tag whose digest is cached within `stale_if_error`; what is
    /// not cached is asked for all the same, and HEAD is not counted.
    pub fn should_spare(&self) -> bool {
        self.traffic().should_spare(self.registry.egress.outbound.rate_limit_reserve)
    }

    /// Asks for a manifest. `accept` is the client's own where it wants what
    /// nobody else does; otherwise every known type is asked for.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn manifest(
        &self,
        method: Method,
        repository: &Repository,
        reference: &Reference,
        accept: Option<HeaderValue>,
    ) -> Result<ManifestAnswer> {
        let is_head = method == Method::HEAD;
        let accept = accept.unwrap_or(HeaderValue::from_static(MediaType::ACCEPT));
        let sort = if is_head { Sort::Question } else { Sort::Pull };
        let ask = Ask { method, accept: Some(accept), sort, ..Ask::default() };
        let _turn = self.turn().await;
        self.read_manifest(self.ask_manifest(repository, reference, ask).await?, is_head).await
    }

    /// Asks for a manifest unless it still is the one called `held`; `None`: it
    /// is. An upstream that knows no conditions gives it again.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn manifest_unless(
        &self,
        repository: &Repository,
        reference: &Reference,
        held: &Digest,
    ) -> Result<Option<ManifestAnswer>> {
        let headers = HeaderValue::try_from(format!("\"{held}\"")).map(|tag| vec![(IF_NONE_MATCH, tag)]);
        let ask = Ask {
            accept: Some(HeaderValue::from_static(MediaType::ACCEPT)),
            sort: Sort::Pull,
            headers: headers.unwrap_or_default(),
            ..Ask::default()
        };
        let _turn = self.turn().await;
        let answer = self.ask_manifest(repository, reference, ask).await?;
        if answer.response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        self.read_manifest(answer, false).await.map(Some)
    }

    /// A turn to ask: so many questions are open at a time, whoever asks them.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.questions.acquire().await.ok()
    }

    async fn ask_manifest(&self, repository: &Repository, reference: &Reference, ask: Ask) -> Result<Answer> {
        self.ask(&format!("/v2/{repository}/manifests/{reference}"), repository, "pull", ask).await
    }

    async fn read_manifest(&self, answer: Answer, is_head: bool) -> Result<ManifestAnswer> {
        expect(&answer, StatusCode::OK)?;
        let headers = answer.response.headers();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let media_type = header(CONTENT_TYPE.as_str()).and_then(MediaType::parse);
        let digest = header("docker-content-digest").and_then(|text| text.parse().ok());
        let length = header(CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
        let origin = answer.origin;
        let bytes = if is_head { Bytes::new() } else { collect(answer.response, &origin, MAX_MANIFEST).await? };
        self.traffic().received(bytes.len());
        Ok(ManifestAnswer { bytes, media_type, digest, length, origin })
    }

    /// Whether this registry's credential may read a blob in `repository`;
    /// gives its size where upstream says it. A redirect is a yes: its target
    /// is not contacted.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn may_read_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
        let _turn = self.turn().await;
        let path = format!("/v2/{repository}/blobs/{digest}");
        let one_byte = || Ask { range: Some(HeaderValue::from_static("bytes=0-0")), ..Ask::default() };
        let Answer { response, origin, .. } = if self.heads_are_refused.load(Ordering::Relaxed) {
            self.ask_unfollowed(&path, repository, one_byte()).await?
        } else {
            match self.ask_unfollowed(&path, repository, Ask { method: Method::HEAD, ..Ask::default() }).await {
                // Registries without HEAD on blobs, where it is refused to
                // everybody, or that know them by GET alone: one byte tells.
                Err(refused) if refused.may_be_of_head_alone() => {
                    let answer = self.ask_unfollowed(&path, repository, one_byte()).await?;
                    if matches!(refused, Error::Status { status: 405 | 501, .. } | Error::Denied { status: 401 }) {
                        self.heads_are_refused.store(true, Ordering::Relaxed);
                    }
                    answer
                }
                other => other?,
            }
        };
        let status = response.status();
        if status.is_success() {
            let is_whole = status == StatusCode::OK;
            let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            return Ok(length.filter(|_| is_whole));
        }
        if status.is_redirection() { Ok(None) } else { Err(Error::Status { origin, status: status.as_u16() }) }
    }

    /// One page of the tag list; `query` is `n`, `last` and whatever an
    /// earlier page's `next` said.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn tags(&self, repository: &Repository, query: &str) -> Result<Page> {
        // ACR lists tags under another action than pulling.
        let action = if self.registry.kind == Kind::Azure { "pull,metadata_read" } else { "pull" };
        self.page(repository, action, &format!("/v2/{repository}/tags/list"), query).await
    }

    /// One page of the referrers of `digest`.
    ///
    /// # Errors
    /// As [`Error`] says; [`Error::NotFound`] where the API does not exist.
    pub async fn referrers(&self, repository: &Repository, digest: &Digest, query: &str) -> Result<Page> {
        self.page(repository, "pull", &format!("/v2/{repository}/referrers/{digest}"), query).await
    }

    async fn page(&self, repository: &Repository, action: &str, path: &str, query: &str) -> Result<Page> {
        let _turn = self.turn().await;
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let answer = self.ask(&target, repository, action, Ask::default()).await?;
        expect(&answer, StatusCode::OK)?;
        let headers = answer.response.headers();
        let next = link::next_query(headers.get_all(LINK).iter().filter_map(|line| line.to_str().ok()));
        let filtered = headers.get("oci-filters-applied").is_some_and(|value| {
            value.to_str().is_ok_and(|filters| filters.split(',').any(|filter| filter.trim() == "artifactType"))
        });
        let origin = answer.origin;
        let bytes = collect(answer.response, &origin, MAX_LIST).await?;
        self.traffic().received(bytes.len());
        Ok(Page { bytes, next, filtered, origin })
    }

    /// Asks at `url`, once, with what authorises it.
    pub(super) async fn ask_authorised(
        &self,
        url: &Url,
        repository: &Repository,
        action: &str,
        mut ask: Ask,
        follow: bool,
    ) -> Result<Answer> {
        let scope = format!("repository:{repository}:{action}");
        let base = url.join("/v2/").map_err(|_| Error::Denied { status: 401 })?;
        let known = self.scheme.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(scheme) = &known {
            ask.authorization = self.authorise(scheme, &scope, repository, &base).await?;
        }
        let first = self.exchange(url, &ask, follow).await?;
        match first.response.status() {
            StatusCode::UNAUTHORIZED => {}
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if !first.redirected && ask.authorization.is_some() => {
                let status = first.response.status();
                let Answer { response, origin, .. } = first;
                let body = collect(response, &origin, MAX_ERROR).await?;
                let refused = ask.authorization.take().filter(|_| says_expired(&body));
                let (Some(scheme), Some(refused)) = (known, refused) else {
                    return Err(match status {
                        StatusCode::FORBIDDEN => Error::Denied { status: 403 },
                        status => Error::Status { origin, status: status.as_u16() },
                    });
                };
                self.tokens.refused(&self.sender, &scheme, &scope, &base, &refused).await?;
                ask.authorization = self.authorise(&scheme, &scope, repository, &base).await?;
                return outcome(self.exchange(url, &ask, follow).await?);
            }
            _ => return outcome(first),
        }
        if first.redirected {
            // Whoever is behind a redirect gets no credential and no say.
            return Err(Error::Protocol {
                origin: first.origin,
                what: "a redirect target that wants to authenticate".to_owned(),
            });
        }
        let scheme = match (known, ask.authorization.take()) {
            // What a registry says after refusing a token is not to be learned
            // from: several answer with another challenge, or with none.
            (Some(scheme), Some(refused)) => {
                self.tokens.refused(&self.sender, &scheme, &scope, &base, &refused).await?;
                scheme
            }
            _ => self.learn(url, first.response.headers()).await?,
        };
        ask.authorization = self.authorise(&scheme, &scope, repository, &base).await?;
        if ask.authorization.is_none() {
            return Err(Error::Denied { status: 401 });
        }
        outcome(self.exchange(url, &ask, follow).await?)
    }

    /// The header for `scope`. A scheme that cannot work is learned anew by the
    /// next request: one bad challenge must not outlive its answer.
    async fn authorise(
        &self,
        scheme: &Scheme,
        scope: &str,
        repository: &Repository,
        base: &Url,
    ) -> Result<Option<HeaderValue>> {
        let authorization = self.tokens.authorization(&self.sender, scheme, scope, base).await;
        match &authorization {
            Ok(Some(_)) => self.tokens.used_for(repository),
            Ok(None) | Err(Error::NoLogin { .. } | Error::Denied { .. }) => {}
            // Once for each rejection: while the credential is left alone,
            // nothing need be asked.
            Err(Error::CredentialRejected { .. }) if !self.tokens.was_rejected() => {}
            Err(error) if error.is_transient() => {}
            Err(_) => *self.scheme.write().unwrap_or_else(PoisonError::into_inner) = None,
        }
        authorization
    }

    /// Asks whether the API is there, without a login.
    pub(super) async fn ask_ping(&self) -> Result<http::Response<hyper::body::Incoming>> {
        let base = super::question::url(&self.registry.origin, "/v2/")?;
        let (response, _) = self.sender.send(Purpose::Registry, &base, &Ask::default()).await?;
        Ok(response)
    }

    /// Shows the login to whoever the challenge in `headers`, which came from
    /// `/v2/`, names; says who took it.
    pub(super) async fn sign_in(&self, headers: &HeaderMap) -> Result<String> {
        let base = super::question::url(&self.registry.origin, "/v2/")?;
        let scheme = self.learn(&base, headers).await?;
        self.tokens.check(&self.sender, &scheme, &base).await?;
        Ok(match scheme {
            Scheme::Bearer { realm, .. } => {
                let host = realm.host_str().unwrap_or_default();
                format!("the token service {host} takes the login")
            }
            Scheme::Basic => "the registry takes the login".to_owned(),
        })
    }

    async fn exchange(&self, url: &Url, ask: &Ask, follow: bool) -> Result<Answer> {
        if follow {
            return self.sender.follow(url, ask).await;
        }
        let (response, origin) = self.sender.send(Purpose::Registry, url, ask).await?;
        Ok(Answer { response, origin, redirected: false })
    }

    /// Learns from a 401 how this registry authorises; where the resource says
    /// nothing, from its `/v2/`.
    async fn learn(&self, url: &Url, headers: &HeaderMap) -> Result<Scheme> {
        let parse =
            |headers: &HeaderMap| Challenge::parse(headers.get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes));
        let challenge = match parse(headers) {
            Some(challenge) => Some(challenge),
            None => {
                let base = url.join("/v2/").map_err(|_| Error::Denied { status: 401 })?;
                let (response, _) = self.sender.send(Purpose::Registry, &base, &Ask::default()).await?;
                // Its scope is about no resource: never used.
                parse(response.headers()).map(|challenge| match challenge {
                    Challenge::Bearer { realm, service, .. } => Challenge::Bearer { realm, service, scope: None },
                    Challenge::Basic => Challenge::Basic,
                })
            }
        };
        let scheme = Scheme::of(challenge.ok_or(Error::Denied { status: 401 })?, url)?;
        *self.scheme.write().unwrap_or_else(PoisonError::into_inner) = Some(scheme.clone());
        Ok(scheme)
    }
}

/// Turns statuses that mean an error into it.
fn outcome(answer: Answer) -> Result<Answer> {
    let headers = answer.response.headers();
    match answer.response.status().as_u16() {
        // Whatever is said of an encoding: nothing but `identity` was asked for, and
        // the digest decides.
        200..400 => Ok(answer),
        404 => Err(Error::NotFound),
        // A signed redirect that is refused has expired or is not for us: the
        // registry has to be asked again.
        status @ (400 | 401 | 403 | 410) if answer.redirected => Err(Error::Status { origin: answer.origin, status }),
        status @ (401 | 403) => Err(Error::Denied { status }),
        status @ 503 => Err(match retry_after(headers) {
            Some(retry_after) => Error::Busy { origin: answer.origin, status, retry_after },
            None => Error::Status { origin: answer.origin, status },
        }),
        status => Err(Error::Status { origin: answer.origin, status }),
    }
}

/// Whether a refusal is about a login that has ended. ECR says so with 403 or
/// 400: "Your authorization token has expired", "… Token is invalid".
fn says_expired(body: &[u8]) -> bool {
    let words = String::from_utf8_lossy(body).to_ascii_lowercase();
    words.contains("expired") || words.contains("token") && words.contains("invalid")
}

fn expect(answer: &Answer, status: StatusCode) -> Result<()> {
    let found = answer.response.status();
    if found == status { Ok(()) } else { Err(Error::Status { origin: answer.origin.clone(), status: found.as_u16() }) }
}

/// `Retry-After`, in seconds or as a date; more than an hour is an hour.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let when = httpdate::parse_http_date(text).ok()?;
            when.duration_since(std::time::SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(Duration::from_secs(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("99999999999"), Some(Duration::from_secs(3600)));
        assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}
