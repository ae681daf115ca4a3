//! One request, start to end: parse, identify, resolve, check, pull, answer.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Response, Version};
use tracing::{debug, info, warn};

use super::body::{Body, Counted, Transport};
use super::forwarded;
use super::login::{self, Reached, TokenFault};
use super::path::{self, Endpoint, Target};
use super::permit::Permit;
use super::{pages, query, response};
use crate::access::{CertificateNames, Evidence, Gate, Identity, Principal, Rejected, Shown, TrustedProxies};
use crate::oci::{Accept, Digest, ErrorCode, RangeSpec, Repository, TooManyRanges, parse_ranges};
use crate::pull::{self, BlobQuestion, Puller};
use crate::registry::{AccessMode, Address, AddressHint, Directory, Door, HostPort, Registry, Resolved};
use crate::telemetry::{Audit, Event, Lines, Metrics, RequestLabels};

/// The data listener's API.
pub struct Api {
    directory: Arc<ArcSwap<Directory>>,
    gate: Arc<Gate>,
    puller: Arc<Puller>,
    ping: PingMode,
    reached: Reached,
    /// What clients know the proxy by.
    public_host: Option<HostPort>,
    /// Who is believed when it says for whom it asks.
    trusted_proxies: TrustedProxies,
    max_uri_bytes: usize,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    lines: Lines,
}

/// Who asks, as far as the connection tells, and how it wants its bytes.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address of the client.
    pub address: Option<IpAddr>,
    /// Names in its certificate, where TLS has accepted one.
    pub certificate: Option<Arc<CertificateNames>>,
    /// Which listener it came by.
    pub door: Door,
    /// How its connection wants bytes.
    pub transport: Transport,
}

/// What `/v2/` answers to a client without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PingMode {
    /// A challenge as soon as any registry asks for grants: some clients learn
    /// from `/v2/` alone whether to log in, and where.
    #[default]
    Auto,
    /// Never a challenge.
    Open,
    /// Always a challenge.
    Challenge,
}

/// An answer that ends a request early.
type Refusal = Box<Response<Body>>;

impl Api {
    /// The API over `directory`, guarded by `gate`.
    pub fn new(
        directory: Arc<ArcSwap<Directory>>,
        gate: Arc<Gate>,
        puller: Arc<Puller>,
        (ping, reached): (PingMode, Reached),
        max_uri_bytes: usize,
        metrics: Arc<Metrics>,
        audit: Arc<Audit>,
    ) -> Api {
        let lines = Lines::default();
        let trusted_proxies = TrustedProxies::default();
        Api {
            directory,
            gate,
            puller,
            ping,
            reached,
            public_host: None,
            trusted_proxies,
            max_uri_bytes,
            metrics,
            audit,
            lines,
        }
    }

    /// The same, of a proxy that clients know by the name `host`.
    #[must_use]
    pub fn known_as(self, host: Option<HostPort>) -> Api {
        Api { public_host: host, ..self }
    }

    /// The same, behind proxies that say for whom they ask.
    #[must_use]
    pub fn behind(self, proxies: TrustedProxies) -> Api {
        Api { trusted_proxies: proxies, ..self }
    }

    /// Answers one request. Never fails: every trouble has its response.
    pub async fn handle(&self, request: &Parts, peer: &Peer) -> Response<Counted> {
        let response = match self.client_behind(peer, &request.headers) {
            Ok(client) => self.answer(request, peer, client.as_deref().unwrap_or(peer)).await,
            Err(refusal) => Err(refusal),
        };
        let response = response.unwrap_or_else(|refusal| *refusal);
        let method = match request.method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            _ => "other",
        };
        let status = response.status().as_u16();
        self.metrics.requests.get_or_create(&RequestLabels { method, status }).inc();
        debug!(peer = ?peer.address, method, path = request.uri.path(), status, "request");
        response.map(|body| Counted::new(body, self.metrics.sent.clone()))
    }

    /// The client that a proxy in front asks for; `None`: `peer` is one itself.
    fn client_behind(&self, peer: &Peer, headers: &HeaderMap) -> Result<Option<Box<Peer>>, Refusal> {
        let Some(address) = peer.address.filter(|address| self.trusted_proxies.contains(*address)) else {
            return Ok(None);
        };
        match forwarded::client(headers, address, &self.trusted_proxies) {
            Ok(client) => Ok(Some(Box::new(Peer { address: Some(client), ..peer.clone() }))),
            Err(unclear) => Err(Box::new(response::error(400, ErrorCode::Unsupported, unclear.message()))),
        }
    }

    /// Answers `peer`, to which the connection `hop` belongs or which is behind
    /// it.
    async fn answer(&self, request: &Parts, hop: &Peer, peer: &Peer) -> Result<Response<Body>, Refusal> {
        // Of the connection itself: a web page could write the headers.
        let host = self.check_shape(request, hop)?;
        let raw_path = request.uri.path();
        if raw_path == login::PATH {
            return self.token(request, host.as_ref(), peer).await;
        }
        let target = path::parse(raw_path)
            .map_err(|error| Box::new(response::error(error.status, error.code, error.message)))?;
        let query = query::parse(request.uri.query().unwrap_or_default())
            .map_err(|error| Box::new(response::error(400, error.code, error.message)))?;
        let Target { before_v2, endpoint } = target;
        let ns = query::namespace(query.ns, &request.headers)
            .map_err(|error| Box::new(response::error(400, error.code, error.message)))?;
        let hint = AddressHint { before_v2, ns: ns.clone(), host, door: peer.door };
        let (host, name) = (hint.host.clone(), endpoint.name());
        let identity = self.identify(&request.headers, peer).await.map_err(|rejected| {
            let fault = (rejected == Rejected::Ended).then_some(TokenFault::Invalid);
            Box::new(refused(rejected, &self.reached.challenge(host.as_ref(), name, fault)))
        })?;
        let principal = &identity.principal;
        let (name, unknown) = match &endpoint {
            Endpoint::Ping => return self.ping(&hint, &identity),
            Endpoint::Manifest { name, .. } => (name, ErrorCode::ManifestUnknown),
            Endpoint::Blob { name, .. } => (name, ErrorCode::BlobUnknown),
            Endpoint::Tags { name } => (name, ErrorCode::NameUnknown),
            Endpoint::Referrers { name, .. } => (name, ErrorCode::ManifestUnknown),
        };
        let is_root = hint.before_v2.is_none() && hint.ns.is_none() && hint.door == Door::Main;
        let resolved = self.resolve(name, hint, &identity, peer)?;
        let pulled = self.pull(request, (peer, principal), &endpoint, &resolved, &query.list).await;
        let answer = pulled.unwrap_or_else(|error| {
            let Resolved { registry, repository, .. } = &resolved;
            match &error {
                pull::Error::NotFound | pull::Error::RangeNotSatisfiable { .. } | pull::Error::Offline => {}
                error => self.tell_of(error, registry, repository, peer),
            }
            match is_root.then(|| self.near(name, registry, principal)).flatten() {
                Some(near) => response::failure_near(&error, unknown, registry, &near),
                None => response::failure(&error, unknown, registry),
            }
        });
        match &ns {
            Some(ns) if resolved.by_ns => Ok(response::with_namespace(answer, &ns.to_string())),
            _ => Ok(answer),
        }
    }

    /// Says once in a while why pulls fail.
    fn tell_of(&self, error: &pull::Error, registry: &Registry, repository: &Repository, peer: &Peer) {
        let what = (registry.name.slug(), repository.as_str(), std::mem::discriminant(error));
        let Some(left_out) = self.lines.admit(what, peer.address) else { return };
        let left_out = (left_out > 0).then_some(left_out);
        match error {
            pull::Error::Denied => info!(registry = %registry.name, %repository, left_out, "upstream denied access"),
            error => warn!(registry = %registry.name, %repository, %error, left_out, "pull failed"),
        }
    }

    /// Refuses what is no plain GET or HEAD, before anything of it is used;
    /// gives the host it is for.
    fn check_shape(&self, request: &Parts, peer: &Peer) -> Result<Option<HostPort>, Refusal> {
        let refuse = |response| Err(Box::new(response::close(response)));
        let bad = |message| refuse(response::error(400, ErrorCode::Unsupported, message));
        if request.method == Method::CONNECT {
            return refuse(response::read_only());
        }
        if request.uri.path_and_query().map_or(0, |target| target.as_str().len()) > self.max_uri_bytes {
            return refuse(response::error(414, ErrorCode::NameInvalid, "the request target is too long"));
        }
        // HTTP/2 carries the host in the target, HTTP/1.1 in a header.
        let mut host = None;
        if request.version < Version::HTTP_2 {
            if request.uri.authority().is_some() {
                let message = "this is no forward proxy: ask for a path";
                return refuse(response::error(421, ErrorCode::Unsupported, message));
            }
            let mut hosts = request.headers.get_all(HOST).iter();
            let sound = match (hosts.next(), hosts.next()) {
                (None, _) => request.version < Version::HTTP_11,
                (Some(only), None) => only.to_str().is_ok_and(|text| {
                    host = text.parse().ok();
                    text.is_empty() || host.is_some()
                }),
                (Some(_), Some(_)) => false,
            };
            if !sound {
                return bad("one valid Host header is required");
            }
        } else if let Some(authority) = request.uri.authority() {
            host = authority.as_str().parse().ok();
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            if request.uri.path() == login::PATH {
                return refuse(login::by_get_only());
            }
            let known = path::is_api(request.uri.path());
            return refuse(if known {
                response::read_only()
            } else {
                response::error(405, ErrorCode::Unsupported, "GET and HEAD only")
            });
        }
        if pages::asks_across_sites(&request.headers) {
            return refuse(response::error(403, ErrorCode::Denied, "images are not given to web pages"));
        }
        if let Some(host) = &host
            && peer.address.is_some_and(|address| address.is_loopback())
            && !pages::is_own_name(host, self.public_host.as_ref(), &self.directory.load())
        {
            let message = "the proxy is not known by this name: use an address or `localhost`, or set `public_url`";
            return refuse(response::error(403, ErrorCode::Denied, message));
        }
        let has_body = request.headers.contains_key(TRANSFER_ENCODING)
            || request.headers.get_all(CONTENT_LENGTH).iter().any(|value| value.as_bytes() != b"0")
            || request.headers.contains_key(EXPECT);
        if has_body { bad("a request of this API has no body") } else { Ok(host) }
    }

    async fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<Identity, Rejected> {
        let evidence = Evidence {
            authorization: headers.get_all(AUTHORIZATION).iter().map(http::HeaderValue::as_bytes).collect(),
            peer: peer.address,
            certificate: peer.certificate.as_deref(),
        };
        self.gate.identify(evidence).await
    }

    /// The token service.
    async fn token(&self, request: &Parts, host: Option<&HostPort>, peer: &Peer) -> Result<Response<Body>, Refusal> {
        let wrong = |rejected| Box::new(refused(rejected, login::BASIC));
        let identity = self.identify(&request.headers, peer).await.map_err(wrong)?;
        let scope = login::scope(request.uri.query().unwrap_or_default());
        match identity.shown {
            // A token is had by a login alone: else it would last for ever.
            Shown::Token(_) => return Err(wrong(Rejected::Wrong)),
            // Whoever asks for nothing but to be logged in has to be told
            // that there is no such login here.
            Shown::Ignored if scope.is_empty() => return Err(wrong(Rejected::Wrong)),
            Shown::Ignored | Shown::Login | Shown::Nothing => {}
        }
        debug!(principal = ?identity.principal.name(), host = ?host.map(ToString::to_string), "token asked for");
        match self.gate.issue(&identity.principal, &scope) {
            Some(issued) => Ok(login::granted(&issued)),
            None => Err(Box::new(response::error(503, ErrorCode::Unavailable, "no token can be made at the moment"))),
        }
    }

    fn ping(&self, hint: &AddressHint, identity: &Identity) -> Result<Response<Body>, Refusal> {
        let directory = self.directory.load();
        let Ok(addressed) = directory.resolve_ping(hint) else {
            return Err(Box::new(self.refusal(None, hint.host.as_ref(), identity)));
        };
        let asks = |registry: &Arc<Registry>| registry.access == AccessMode::Grants;
        let challenge = match self.ping {
            PingMode::Open => false,
            PingMode::Challenge => true,
            // A request that names a registry is about that one; a login is
            // for all of them.
            PingMode::Auto if hint.before_v2.is_some() || hint.ns.is_some() => addressed.as_ref().is_some_and(asks),
            PingMode::Auto => directory.registries().iter().any(asks),
        };
        // A token shows that the token service was found.
        if challenge && identity.principal.is_anonymous() && !matches!(identity.shown, Shown::Token(_)) {
            Err(Box::new(response::unauthorized(&self.reached.challenge(hint.host.as_ref(), None, None))))
        } else {
            Ok(response::ping())
        }
    }

    /// The registry and repository that are meant, if this principal may pull
    /// them. What is unknown and what is forbidden look the same.
    fn resolve(
        &self,
        name: &Repository,
        hint: AddressHint,
        identity: &Identity,
        peer: &Peer,
    ) -> Result<Resolved, Refusal> {
        let (principal, host) = (&identity.principal, hint.host.clone());
        let address = Address { name: name.clone(), hint };
        let granted =
            |registry: &Registry, repository: &Repository| self.gate.may_pull(principal, registry, repository);
        // A token is good for what it was asked for, and for what is open to
        // anybody.
        let within = |registry: &Registry| registry.access == AccessMode::Anyone || !lacks_scope(identity, name);
        match self.directory.load().resolve(&address, granted) {
            Ok(found) if within(&found.registry) && granted(&found.registry, &found.repository) => Ok(found),
            found => {
                // What is unknown is noted as what is forbidden is: the time that
                // it takes would tell them apart.
                if !self.may_still_log_in(principal) {
                    let found = found.ok();
                    self.audit.client(&Event {
                        event: "pull",
                        outcome: "denied",
                        principal: principal.name(),
                        peer: peer.address,
                        registry: found.as_ref().map(|found| found.registry.name.display()),
                        repository: Some(found.as_ref().map_or(name.as_str(), |found| found.repository.as_str())),
                        ..Event::default()
                    });
                }
                Err(Box::new(self.refusal(Some(name), host.as_ref(), identity)))
            }
        }
    }

    /// The registry whose name may have been meant by the first part of `name`,
    /// if that went to the default one and `principal` may know of it.
    fn near(&self, name: &Repository, went_to: &Registry, principal: &Principal) -> Option<String> {
        let known = |registry: &Registry| self.gate.may_know(principal, registry);
        let directory = self.directory.load();
        let by_name = name.components().next().is_some_and(|first| directory.by_name(first).is_some());
        let near = directory.near(name, known).filter(|near| went_to.is_default && !by_name && !near.is_default);
        near.map(|near| near.name.address().to_owned())
    }

    fn may_still_log_in(&self, principal: &Principal) -> bool {
        principal.is_anonymous() && self.gate.knows_clients()
    }

    /// Somebody who could still show who it is, or ask for another token, is
    /// asked to; to everybody else the name is unknown.
    fn refusal(&self, name: Option<&Repository>, host: Option<&HostPort>, identity: &Identity) -> Response<Body> {
        let lacking = name.is_some_and(|name| lacks_scope(identity, name));
        if lacking || self.may_still_log_in(&identity.principal) {
            let fault = matches!(identity.shown, Shown::Token(_)).then_some(TokenFault::Scope);
            response::unauthorized(&self.reached.challenge(host, name, fault))
        } else {
            response::name_unknown()
        }
    }

    async fn pull(
        &self,
        request: &Parts,
        (peer, principal): (&Peer, &Principal),
        endpoint: &Endpoint,
        resolved: &Resolved,
        query: &pull::ListQuery,
    ) -> pull::Result<Response<Body>> {
        let Resolved { registry, repository, .. } = resolved;
        let (headers, is_head) = (&request.headers, request.method == Method::HEAD);
        let path = request.uri.path();
        match endpoint {
            Endpoint::Ping => Ok(response::ping()),
            Endpoint::Manifest { reference, .. } => {
                let accept = || Accept::parse(headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()));
                if is_head {
                    let head = self.puller.manifest_head(registry, repository, reference, accept).await?;
                    let answer = response::manifest(&head.digest, &head.media_type, Body::Head(head.length));
                    return Ok(response::with_warning(answer, head.stale));
                }
                let found = self.puller.manifest(registry, repository, reference, accept).await?;
                let answer = if has_already(headers, &found.digest) {
                    response::not_modified(&found.digest)
                } else {
                    response::manifest(&found.digest, &found.media_type, Body::full(found.bytes))
                };
                Ok(response::with_warning(answer, found.stale))
            }
            Endpoint::Blob { digest, .. } if is_head => {
                let head = self.puller.blob_head(registry, repository, digest).await?;
                Ok(response::blob_head(digest, head.total))
            }
            Endpoint::Blob { digest, .. } => {
                let ranges = match ranges_of(headers, digest) {
                    Ok(ranges) => ranges,
                    Err(error) => return Ok(response::error(400, ErrorCode::RangeInvalid, &error.to_string())),
                };
                let method = peer.transport.method;
                if headers.contains_key(IF_NONE_MATCH) && has_already(headers, digest) {
                    // Whether it is there at all still has to be known.
                    self.puller.blob_head(registry, repository, digest).await?;
                    return Ok(response::not_modified(digest));
                }
                let client = client_of(principal, peer);
                let question = BlobQuestion { ranges: &ranges, method, client: &client, peer: peer.address };
                let reply = self.puller.blob(registry, repository, digest, question).await?;
                let answer = response::blob(digest, reply, &peer.transport);
                Ok(if self.gate.cuts_on_revoke() {
                    let permit = Permit {
                        gate: Arc::clone(&self.gate),
                        directory: Arc::clone(&self.directory),
                        audit: Arc::clone(&self.audit),
                        principal: principal.clone(),
                        peer: peer.address,
                        registry: registry.name.slug().to_owned(),
                        repository: repository.clone(),
                    };
                    answer.map(|body| body.under(permit))
                } else {
                    answer
                })
            }
            Endpoint::Tags { name } => {
                let reply = self.puller.tags(registry, repository, name, query).await?;
                Ok(response::list(reply, "application/json", path, request.uri.query()))
            }
            Endpoint::Referrers { digest, .. } => {
                let reply = self.puller.referrers(registry, repository, digest, query).await?;
                Ok(response::list(reply, "application/vnd.oci.image.index.v1+json", path, request.uri.query()))
            }
        }
    }
}

/// Whether who asks shows a client's token that was asked for other names.
fn lacks_scope(identity: &Identity, name: &Repository) -> bool {
    matches!(&identity.shown, Shown::Token(scope) if !identity.principal.is_anonymous() && !scope.covers(name))
}

fn refused(rejected: Rejected, challenge: &str) -> Response<Body> {
    match rejected {
        Rejected::Wrong | Rejected::Ended => response::unauthorized(challenge),
        Rejected::TooMany { retry_after } => response::too_many_logins(retry_after),
    }
}

/// For whom a share of the transfers is kept: a client by its name, anybody
/// else by the address.
fn client_of(principal: &Principal, peer: &Peer) -> String {
    match (principal, peer.address) {
        (Principal::Client(client), _) => format!("client {}", client.name),
        (Principal::Anonymous, Some(address)) => address.to_string(),
        (Principal::Anonymous, None) => String::new(),
    }
}

/// The ranges to answer with, if the conditions for them hold.
fn ranges_of(headers: &HeaderMap, digest: &Digest) -> Result<Vec<RangeSpec>, TooManyRanges> {
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(Ok(line)), None) = (lines.next().map(HeaderValue::to_str), lines.next()) else { return Ok(Vec::new()) };
    let unchanged = headers.get(IF_RANGE).is_none_or(|tag| tag.as_bytes() == response::etag(digest).as_bytes());
    if unchanged { parse_ranges(line) } else { Ok(Vec::new()) }
}

/// Whether `If-None-Match` names the content, quoted or not.
fn has_already(headers: &HeaderMap, digest: &Digest) -> bool {
    let wanted = digest.to_string();
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).any(
        |tag| {
            let tag = tag.trim();
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag == "*" || tag.trim_matches('"') == wanted
        },
    )
}
