//! One request out, one answer back: time limits, redirects, error mapping.
//!
//! Every outbound request of the program is made by [`Sender::send`], behind
//! [`Egress::check`]. Only what is named here leaves: no client header does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RANGE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;
use url::Url;

use super::connect::Connector;
use super::egress::{Egress, Purpose};
use super::error::{Error, Result};
use super::traffic::Traffic;
use crate::registry::{Origin, Registry};

const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;
const AGENT: &str = concat!("transship/", env!("CARGO_PKG_VERSION"));

/// A transfer's read buffer: fewer, larger reads are what makes a fill fast.
const TRANSFER_BUFFER: usize = 1 << 20;

/// Sends the requests of one registry.
pub(super) struct Sender {
    pub(super) traffic: Arc<Traffic>,
    egress: Egress,
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
    /// The answer is a blob: use the connections with large buffers.
    pub(super) is_transfer: bool,
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
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(registry.egress.max_connections)
            .http1_max_headers(100);
        let control = builder.clone().http1_max_buf_size(256 * 1024).build(connector.clone());
        let transfer = builder.http1_read_buf_exact_size(TRANSFER_BUFFER).build(connector);
        Sender { traffic: Arc::default(), egress, control, transfer }
    }

    /// Sends one request; redirects are given back as they are.
    pub(super) async fn send(&self, purpose: Purpose, url: &Url, ask: &Ask) -> Result<(Response<Incoming>, Origin)> {
        let origin = self.egress.check(purpose, url)?;
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
        let client = if ask.is_transfer { &self.transfer } else { &self.control };
        let answer = timeout(FIRST_BYTE_TIMEOUT, client.request(request)).await;
        let status =
            answer.as_ref().ok().and_then(|answer| answer.as_ref().ok()).map(|answer| answer.status().as_u16());
        self.traffic.answered(purpose, status);
        match answer {
            Err(_) => Err(Error::Timeout { origin, limit: FIRST_BYTE_TIMEOUT }),
            Ok(Err(error)) => {
                Err(own_error(&error).unwrap_or_else(|| Error::Unreachable { cause: root_cause(&error), origin }))
            }
            Ok(Ok(response)) => Ok((response, origin)),
        }
    }

    /// Sends a request to the registry and follows where it leads, without any
    /// credential once it leads elsewhere.
    pub(super) async fn follow(&self, url: &Url, ask: &Ask) -> Result<Answer> {
        let (mut response, own_origin) = self.send(Purpose::Registry, url, ask).await?;
        let (mut url, mut origin) = (url.clone(), own_origin.clone());
        for _ in 0..MAX_REDIRECTS {
            if !is_redirect(response.status()) {
                return Ok(Answer { response, redirected: origin != own_origin, origin });
            }
            let protocol = |what: &str| Error::Protocol { origin: origin.clone(), what: what.to_owned() };
            let location = response.headers().get(LOCATION).ok_or_else(|| protocol("a redirect without a target"))?;
            let location = location.to_str().map_err(|_| protocol("a redirect to no URL"))?;
            url = url.join(location).map_err(|_| protocol("a redirect to no URL"))?;
            url.set_fragment(None);
            let same = Origin::of(&url).is_ok_and(|target| target == own_origin);
            let purpose = if same { Purpose::Registry } else { Purpose::Redirect };
            (response, origin) = self.send(purpose, &url, ask).await?;
        }
        if is_redirect(response.status()) {
            return Err(Error::Protocol { origin, what: format!("more than {MAX_REDIRECTS} redirects") });
        }
        Ok(Answer { response, redirected: origin != own_origin, origin })
    }
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
        Ok(Err(error)) => Err(Error::Unreachable { origin: origin.clone(), cause: root_cause(&*error) }),
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
