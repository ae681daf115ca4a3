//! One request out, one answer back: time limits, redirects, error mapping.
//!
//! Every outbound request of the program is made by [`Sender::send`], behind
//! [`Egress::check`]. Only what is named here leaves: no client header does.
//! Nothing is sent to an origin that is left alone, nor what upstream's rate
//! limit would only refuse.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, PROXY_AUTHORIZATION, RANGE, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;
use url::Url;

use super::breaker::{Breaker, Leave, PATIENT, Pass, Probe, QUICK};
use super::connect::{Born, Connector};
use super::egress::{Egress, Purpose};
use super::error::{Error, Obstacle, Result};
use super::limits::Sort;
use super::traffic::Traffic;
use super::tunnel;
use crate::registry::{Origin, OutboundProxy, Registry, Scheme, Timeouts};

const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A question that finds out whether an origin answers gets no longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// When to ask again where nothing is known.
const SOON: Duration = Duration::from_secs(1);
const MAX_REDIRECTS: usize = 5;
const AGENT: &str = concat!("transship/", env!("CARGO_PKG_VERSION"));

/// A transfer's read buffer: fewer, larger reads are what makes a fill fast.
const TRANSFER_BUFFER: usize = 1 << 20;
/// What is read of the words that come with a 429, and how long is waited for them.
const MAX_WORDS: (usize, Duration) = (8 * 1024, Duration::from_secs(1));

/// Sends the requests of one registry.
pub(super) struct Sender {
    pub(super) traffic: Arc<Traffic>,
    pub(super) egress: Egress,
    timeouts: Timeouts,
    proxy: Option<Arc<OutboundProxy>>,
    /// Tokens, manifests, lists: small answers.
    control: Client<Connector, Full<Bytes>>,
    /// Blobs.
    transfer: Client<Connector, Full<Bytes>>,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) accept: Option<HeaderValue>,
    pub(super) range: Option<HeaderValue>,
    pub(super) authorization: Option<HeaderValue>,
    /// A form to POST.
    pub(super) form: Option<Bytes>,
    /// What a provider's sign-in wants to see besides.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// What it is to a rate limit; a transfer uses the connections with large
    /// buffers.
    pub(super) sort: Sort,
    /// It only makes a running transfer faster: what becomes of it says nothing
    /// about the registry.
    pub(super) helps: bool,
}

impl Ask {
    /// A POST of a form with these fields.
    pub(super) fn form(pairs: &[(&str, &str)]) -> Ask {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        Ask { method: Method::POST, form: Some(Bytes::from(form.finish())), ..Ask::default() }
    }
}

/// An answer, and where it came from in the end.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) origin: Origin,
    /// The answer came from elsewhere than the registry.
    pub(super) redirected: bool,
}

impl Sender {
    pub(super) fn new(registry: &Registry, egress: Egress, connector: Connector) -> Sender {
        let outbound = &registry.egress.outbound;
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(registry.egress.max_connections)
            .http1_max_headers(100);
        let control = builder.clone().http1_max_buf_size(256 * 1024).build(connector.clone());
        // Little at a time where little is wanted, so that all transfers go on.
        let share =
            outbound.max_bandwidth.map_or(TRANSFER_BUFFER, |rate| usize::try_from(rate / 16).unwrap_or(usize::MAX));
        let transfer = builder.http1_read_buf_exact_size(share.clamp(16 * 1024, TRANSFER_BUFFER)).build(connector);
        let is_only = registry.endpoints.is_empty();
        let own = registry.origins().map(|origin| (origin, if is_only { PATIENT } else { QUICK }));
        let realms = registry.known_realms.iter().chain(&registry.egress.token_realms);
        let mut breakers: Vec<Arc<Breaker>> = Vec::new();
        for (origin, threshold) in own.chain(realms.map(|realm| (realm, PATIENT))) {
            if !breakers.iter().any(|breaker| breaker.origin() == origin) {
                breakers.push(Breaker::new(origin.clone(), threshold));
            }
        }
        Sender {
            traffic: Arc::new(Traffic::watching(breakers)),
            egress,
            timeouts: outbound.timeouts.clone(),
            proxy: outbound.proxy.clone(),
            control,
            transfer,
        }
    }

    /// Sends one request; redirects are given back as they are.
    pub(super) async fn send(&self, purpose: Purpose, url: &Url, ask: &Ask) -> Result<(Response<Incoming>, Origin)> {
        let origin = self.egress.check(purpose, url)?;
        let is_login = matches!(purpose, Purpose::Token | Purpose::SignIn);
        let sort = if is_login { Sort::Token } else { ask.sort };
        let is_own = purpose != Purpose::Redirect;
        let cooling =
            if is_own { self.traffic.limits.cooling(sort) } else { self.traffic.limits.cooling_elsewhere(&origin) };
        if let Some(left) = cooling {
            return Err(Error::TooManyRequests { retry_after: Some(left) });
        }
        let pass = self.pass(purpose, &origin).await?;
        let protocol = |what: &str| Error::Protocol { origin: origin.clone(), what: what.to_owned() };
        let uri: Uri = url.as_str().parse().map_err(|_| protocol("a URL that cannot be requested"))?;
        let mut request = Request::new(Full::new(ask.form.clone().unwrap_or_default()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // Digests are over the bytes as stored; nothing may be transcoded.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut set = |name: HeaderName, value: &Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        };
        set(ACCEPT, &ask.accept);
        set(RANGE, &ask.range);
        if purpose != Purpose::Redirect {
            set(AUTHORIZATION, &ask.authorization);
        }
        if ask.form.is_some() {
            set(CONTENT_TYPE, &Some(HeaderValue::from_static("application/x-www-form-urlencoded")));
        }
        for (name, value) in &ask.headers {
            headers.insert(name, value.clone());
        }
        self.introduce(&origin, headers);
        let client = if ask.sort == Sort::Transfer { &self.transfer } else { &self.control };
        let connection = capture_connection(&mut request);
        let limit = self.timeouts.first_byte;
        let answer = timeout(limit, client.request(request)).await;
        let status =
            answer.as_ref().ok().and_then(|answer| answer.as_ref().ok()).map(|answer| answer.status().as_u16());
        self.traffic.answered(purpose, status);
        match (pass, status) {
            (Some(pass), Some(..=499)) => pass.succeeded(),
            (Some(pass), status) if !ask.helps => {
                let subject = status.filter(|_| purpose == Purpose::Registry).map(|_| subject_of(url));
                if let Some(probe) = pass.failed(subject) {
                    self.find_out(probe, &origin).await;
                }
            }
            _ => {}
        }
        let response = match answer {
            Err(_) => return Err(Error::Timeout { origin, limit }),
            Ok(Err(error)) => {
                return Err(own_error(&error).unwrap_or_else(|| Error::Unreachable {
                    obstacle: Obstacle::Broken,
                    cause: root_cause(&error),
                    origin,
                }));
            }
            Ok(Ok(response)) => response,
        };
        self.retire(&connection);
        if purpose == Purpose::Registry {
            self.traffic.limits.read(response.headers());
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            let headers = response.headers().clone();
            let words = Limited::new(response.into_body(), MAX_WORDS.0).collect();
            let words = timeout(MAX_WORDS.1, words).await.ok().and_then(|body| Some(body.ok()?.to_bytes()));
            let wait = super::registry::retry_after(&headers);
            if ask.helps {
                return Err(Error::TooManyRequests { retry_after: wait });
            }
            // What somebody elsewhere says is nothing that the registry said.
            let pause = if is_own {
                self.traffic.limits.reached(sort, &headers, &words.unwrap_or_default(), wait)
            } else {
                self.traffic.limits.reached_elsewhere(&origin, wait)
            };
            return Err(Error::TooManyRequests { retry_after: Some(wait.unwrap_or(pause)) });
        }
        Ok((response, origin))
    }

    /// Leave to ask `origin`, where it is one that is watched.
    async fn pass(&self, purpose: Purpose, origin: &Origin) -> Result<Option<Pass>> {
        let Some(breaker) = self.traffic.breaker(origin).filter(|_| purpose != Purpose::Redirect) else {
            return Ok(None);
        };
        let open = |retry_after| Error::CircuitOpen { origin: origin.clone(), retry_after };
        match breaker.pass().map_err(open)? {
            Leave::Go(pass) => Ok(Some(pass)),
            Leave::AskFirst(probe) => match self.find_out(probe, origin).await {
                Some(pass) => Ok(Some(pass)),
                None => Err(breaker.pass().err().map_or_else(|| open(SOON), open)),
            },
        }
    }

    /// Asks `origin` a question of our own; leave for another if it answers.
    async fn find_out(&self, probe: Probe, origin: &Origin) -> Option<Pass> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = format!("{origin}/v2/").parse().ok()?;
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        self.introduce(origin, request.headers_mut());
        let answer = timeout(self.timeouts.first_byte.min(PROBE_TIMEOUT), self.control.request(request)).await;
        if answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().as_u16() < 500)) {
            return Some(probe.answered());
        }
        probe.failed();
        None
    }

    /// Says to an outbound proxy that is spoken to in clear who asks.
    fn introduce(&self, origin: &Origin, headers: &mut HeaderMap) {
        if origin.scheme() == Scheme::Http
            && let Some(proxy) = self.proxy.as_ref().filter(|proxy| proxy.serves(origin))
        {
            headers.extend(tunnel::authorization(proxy).map(|value| (PROXY_AUTHORIZATION, value)));
        }
    }

    /// A connection of a certain age answers what it was asked and no more: the
    /// next one goes where the name then leads.
    fn retire(&self, connection: &CaptureConnection) {
        let metadata = connection.connection_metadata();
        let Some(connected) = metadata.as_ref() else { return };
        let mut extras = http::Extensions::new();
        connected.get_extras(&mut extras);
        if extras.get::<Born>().is_some_and(|born| born.0.elapsed() > self.timeouts.connection_age) {
            connected.poison();
        }
    }

    /// Sends a request to the registry and follows where it leads, without any
    /// credential once it leads elsewhere.
    pub(super) async fn follow(&self, url: &Url, ask: &Ask) -> Result<Answer> {
        let (mut response, own_origin) = self.send(Purpose::Registry, url, ask).await?;
        let (mut url, mut origin) = (url.clone(), own_origin.clone());
        let mut purpose = Purpose::Registry;
        for _ in 0..MAX_REDIRECTS {
            if !is_redirect(response.status()) {
                return Ok(Answer { response, redirected: origin != own_origin, origin });
            }
            let protocol = |what: &str| Error::Protocol { origin: origin.clone(), what: what.to_owned() };
            let location = response.headers().get(LOCATION).ok_or_else(|| protocol("a redirect without a target"))?;
            let location = location.to_str().map_err(|_| protocol("a redirect to no URL"))?;
            url = url.join(location).map_err(|_| protocol("a redirect to no URL"))?;
            url.set_fragment(None);
            // Once elsewhere, it is somebody else who says where to go: not back
            // with the credential.
            if Origin::of(&url).is_ok_and(|target| target != own_origin) {
                purpose = Purpose::Redirect;
            }
            (response, origin) = self.send(purpose, &url, ask).await?;
            if purpose == Purpose::Redirect
                && let Some(token) = self.anonymous_token(&response, &origin).await
            {
                // For this one: where it leads from here has not asked.
                let mut with_token = ask.clone();
                with_token.headers.push((AUTHORIZATION, token));
                (response, origin) = self.send(purpose, &url, &with_token).await?;
            }
        }
        if is_redirect(response.status()) {
            return Err(Error::Protocol { origin, what: format!("more than {MAX_REDIRECTS} redirects") });
        }
        Ok(Answer { response, redirected: origin != own_origin, origin })
    }
}

/// The repository that a request is about, as a number.
fn subject_of(url: &Url) -> u64 {
    let path = url.path();
    let end = ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().filter_map(|part| path.rfind(part)).max();
    let mut hasher = DefaultHasher::new();
    path.get(..end.unwrap_or(path.len())).unwrap_or(path).hash(&mut hasher);
    hasher.finish()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The whole body, if it is not longer than `limit` bytes.
pub(super) async fn collect(response: Response<Incoming>, origin: &Origin, limit: usize) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), limit).collect();
    match timeout(BODY_TIMEOUT, body).await {
        Err(_) => Err(Error::Timeout { origin: origin.clone(), limit: BODY_TIMEOUT }),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Error::Protocol { origin: origin.clone(), what: format!("a body of more than {limit} bytes") })
        }
        Ok(Err(error)) => {
            Err(Error::Unreachable { obstacle: Obstacle::Broken, origin: origin.clone(), cause: root_cause(&*error) })
        }
    }
}

/// Our own error from inside the connector, if that is where it failed.
fn own_error(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own.clone());
        }
        next = error.source();
    }
    None
}

/// The innermost cause; the outer ones say only "client error".
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
