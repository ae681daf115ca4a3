//! Responses of the distribution API: the one place where an error becomes a
//! status.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LINK,
    RETRY_AFTER, WARNING, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::body::{Body, Transport};
use super::multipart;
use crate::oci::{ByteRange, Digest, ErrorCode, MediaType};
use crate::pull::{self, BlobBody, BlobReply, ListReply, Part, Stale};
use crate::registry::Registry;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Builds a response; header values that cannot be one are left out, so that
/// building never fails.
struct Builder(Response<Body>);

impl Builder {
    fn new(status: u16, body: Body) -> Builder {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        Builder(response)
    }

    fn set(mut self, name: HeaderName, value: &str) -> Builder {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    /// Says which content it is.
    fn named(mut self, digest: &Digest) -> Builder {
        // The digest stands in its own entity tag: one text for both.
        let tag = Bytes::from(etag(digest));
        let text = tag.slice(1..tag.len() - 1);
        let headers = self.0.headers_mut();
        for (name, value) in [(CONTENT_DIGEST, text), (ETAG, tag)] {
            if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                headers.insert(name, value);
            }
        }
        self
    }

    fn done(self) -> Response<Body> {
        self.0
    }
}

/// An error document.
pub(super) fn error(status: u16, code: ErrorCode, message: &str) -> Response<Body> {
    Builder::new(status, Body::full(code.document(message))).set(CONTENT_TYPE, "application/json").done()
}

/// Nobody answers for this name, or not to this client: the same bytes.
pub(super) fn name_unknown() -> Response<Body> {
    error(404, ErrorCode::NameUnknown, "no registry here answers for this name")
}

/// Show who you are, as `challenge` says. It may name what the client itself
/// has sent: nobody else may be given it.
pub(super) fn unauthorized(challenge: &str) -> Response<Body> {
    let response = error(401, ErrorCode::Unauthorized, "authentication required");
    with(with(response, WWW_AUTHENTICATE, challenge), CACHE_CONTROL, "no-store")
}

/// A document for whoever asked, and for nobody else.
pub(super) fn private_json(document: String) -> Response<Body> {
    let builder = Builder::new(200, Body::full(document)).set(CONTENT_TYPE, "application/json");
    builder.set(CACHE_CONTROL, "no-store").done()
}

/// Too many logins from there, or under that name, were wrong.
pub(super) fn too_many_logins(retry_after: Duration) -> Response<Body> {
    let response = error(429, ErrorCode::TooManyRequests, "too many wrong logins: wait before the next one");
    with(response, RETRY_AFTER, &retry_after.as_secs().saturating_add(1).to_string())
}

/// Reading is all that is possible.
pub(super) fn read_only() -> Response<Body> {
    let response = error(405, ErrorCode::Unsupported, "this is a pull-through proxy: push to the registry itself");
    close(with(response, ALLOW, "GET, HEAD"))
}

/// The connection ends after this response: what follows on it cannot be
/// trusted to be a request.
pub(super) fn close(response: Response<Body>) -> Response<Body> {
    with(response, CONNECTION, "close")
}

fn with(response: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    Builder(response).set(name, value).done()
}

/// The API is here.
pub(super) fn ping() -> Response<Body> {
    Builder::new(200, Body::full("{}")).set(CONTENT_TYPE, "application/json").done()
}

/// A manifest, or with a [`Body::Head`] its description.
pub(super) fn manifest(digest: &Digest, media_type: &MediaType, body: Body) -> Response<Body> {
    let length = http_body::Body::size_hint(&body).exact().unwrap_or_default();
    Builder::new(200, body)
        .set(CONTENT_TYPE, media_type.as_str())
        .set(CONTENT_LENGTH, &length.to_string())
        .named(digest)
        .done()
}

/// A blob or a part of it.
pub(super) fn blob(digest: &Digest, reply: BlobReply, transport: &Transport) -> Response<Body> {
    let BlobReply { total, part, body } = reply;
    let (media_type, body) = match body {
        BlobBody::Cached(delivery) => (None, Body::delivery(delivery, transport)),
        BlobBody::Direct(passthrough) => (None, Body::direct(passthrough, total)),
        BlobBody::Parts(parts) => {
            let (media_type, body) = multipart::body(parts, total.unwrap_or_default(), transport);
            (Some(media_type), body)
        }
    };
    let status = if part == Part::Whole { 200 } else { 206 };
    let length = http_body::Body::size_hint(&body).exact();
    let mut builder = blob_headers(Builder::new(status, body), digest, length);
    if let (Part::Range(range), Some(total)) = (part, total) {
        builder = builder.set(CONTENT_RANGE, &content_range(range, total));
    }
    match media_type {
        Some(media_type) => builder.set(CONTENT_TYPE, &media_type).done(),
        None => builder.done(),
    }
}

/// Where a part lies (RFC 9110 §14.4).
pub(super) fn content_range(ByteRange { start, end }: ByteRange, total: u64) -> String {
    format!("bytes {start}-{}/{total}", end.saturating_sub(1))
}

/// What a HEAD tells of a blob.
pub(super) fn blob_head(digest: &Digest, total: Option<u64>) -> Response<Body> {
    blob_headers(Builder::new(200, total.map_or(Body::Empty, Body::Head)), digest, total).done()
}

fn blob_headers(builder: Builder, digest: &Digest, length: Option<u64>) -> Builder {
    let builder = builder
        .set(CONTENT_TYPE, "application/octet-stream")
        .set(ACCEPT_RANGES, "bytes")
        .named(digest)
        .set(CACHE_CONTROL, "private, max-age=31536000, immutable");
    match length {
        Some(length) => builder.set(CONTENT_LENGTH, &length.to_string()),
        None => builder,
    }
}

/// The client has it already.
pub(super) fn not_modified(digest: &Digest) -> Response<Body> {
    Builder::new(304, Body::Empty).named(digest).done()
}

/// The entity tag of content is its digest.
pub(super) fn etag(digest: &Digest) -> String {
    let algorithm = digest.algorithm();
    let length = algorithm.name().len() + 1 + algorithm.hex_len();
    // It is made for each answer: in one piece, of just its size.
    let mut tag = String::with_capacity(length + 2);
    // Writing to a string does not fail.
    let _ = write!(tag, "\"{digest}\"");
    tag
}

/// A list; `path` is where the client asked, and `query` how, for the link to
/// the next page: with `ns`, that is a page of the same registry only with it.
pub(super) fn list(reply: ListReply, media_type: &str, path: &str, query: Option<&str>) -> Response<Body> {
    let mut builder = Builder::new(200, Body::full(reply.bytes)).set(CONTENT_TYPE, media_type);
    if let Some(next) = reply.next {
        let namespace = query.unwrap_or_default().split('&').find(|pair| pair.starts_with("ns="));
        let namespace = namespace.map_or_else(String::new, |pair| format!("&{pair}"));
        builder = builder.set(LINK, &format!("<{path}?{next}{namespace}>; rel=\"next\""));
    }
    if reply.filtered {
        builder = builder.set(FILTERS_APPLIED, "artifactType");
    }
    with_warning(builder.done(), reply.stale)
}

/// As [`failure`], where a registry's name may have been mistyped: whoever is
/// told may pull through that one.
pub(super) fn failure_near(error: &pull::Error, unknown: ErrorCode, registry: &Registry, near: &str) -> Response<Body> {
    let meant = |message: &str| format!("{message}; did you mean registry `{near}`, as {near}/…?");
    match error {
        pull::Error::NotFound => self::error(404, unknown, &meant("upstream does not have it")),
        pull::Error::Denied => self::error(403, ErrorCode::Denied, &meant("upstream does not let it be read")),
        other => failure(other, unknown, registry),
    }
}

/// What a failed pull of `registry` tells its client, who may pull from it.
/// `unknown` is the code for "not found" of what was asked for.
pub(super) fn failure(error: &pull::Error, unknown: ErrorCode, registry: &Registry) -> Response<Body> {
    let trouble = |status, cause: &pull::Cause, otherwise: &str| {
        let what = cause.told().unwrap_or(otherwise);
        let message = format!("registry `{}`: {what}; the log of the proxy says more", registry.name);
        self::error(status, ErrorCode::Unavailable, &message)
    };
    match error {
        pull::Error::NotFound => self::error(404, unknown, "upstream does not have it"),
        pull::Error::Denied if !registry.is_known_upstream() => {
            let message =
                format!("{} asks for a login, and none is stored for registry `{}`", registry.origin, registry.name);
            self::error(403, ErrorCode::Denied, &message)
        }
        pull::Error::Denied => {
            let message = format!("{} does not let the login of registry `{}` read it", registry.origin, registry.name);
            self::error(403, ErrorCode::Denied, &message)
        }
        // Payment and law are reasons not to give it; the others say that there is
        // nothing to give.
        pull::Error::Refused { status: status @ (402 | 451) } => {
            let message = format!("upstream refuses it with status {status}");
            self::error(403, ErrorCode::Denied, &message)
        }
        pull::Error::Refused { status } => {
            self::error(404, unknown, &format!("upstream refuses it with status {status}"))
        }
        pull::Error::RangeNotSatisfiable { total } => {
            let response = self::error(416, ErrorCode::RangeInvalid, "the range lies outside the content");
            with(response, CONTENT_RANGE, &format!("bytes */{total}"))
        }
        pull::Error::TooManyRequests { retry_after } => {
            let response = self::error(429, ErrorCode::TooManyRequests, "the rate limit of upstream is reached");
            with(response, RETRY_AFTER, &seconds(retry_after.unwrap_or(Duration::from_secs(10))))
        }
        pull::Error::TooManyFills => {
            let message = "you have begun as many downloads as one client may: wait for one to end";
            with(self::error(429, ErrorCode::TooManyRequests, message), RETRY_AFTER, "1")
        }
        pull::Error::Later { retry_after, cause } => {
            let response = trouble(503, cause, "upstream is in trouble");
            with(response, RETRY_AFTER, &seconds(*retry_after))
        }
        pull::Error::BadUpstream(cause) | pull::Error::Trouble(cause) => {
            trouble(502, cause, "upstream gave no usable answer")
        }
        pull::Error::Credential { registry, .. } => {
            let message = format!(
                "the credential that this proxy holds for registry `{registry}` does not work; its log says more"
            );
            self::error(502, ErrorCode::Unavailable, &message)
        }
        pull::Error::Timeout(cause) => trouble(504, cause, "upstream did not answer in time"),
        pull::Error::Offline => self::error(
            504,
            ErrorCode::Unavailable,
            "the proxy does not have it, and is set not to ask upstream (offline)",
        ),
        pull::Error::Unavailable(_) => {
            let response = self::error(503, ErrorCode::Unavailable, "the proxy cannot serve this now");
            with(response, RETRY_AFTER, "1")
        }
    }
}

/// Marks an answer that upstream did not confirm, as the distribution
/// specification has it: clients show this text.
pub(super) fn with_warning(response: Response<Body>, stale: Option<Stale>) -> Response<Body> {
    let text = match stale {
        None => return response,
        Some(Stale::Unreachable) => "299 - \"stale: upstream cannot be reached\"",
        Some(Stale::Timeout) => "299 - \"stale: upstream does not answer\"",
        Some(Stale::RateLimited) => "299 - \"stale: the rate limit of upstream is reached\"",
        Some(Stale::ServerError) => "299 - \"stale: upstream is failing\"",
        Some(Stale::Offline) => "299 - \"stale: upstream is not asked (offline)\"",
    };
    with(response, WARNING, text)
}

/// Whole seconds, at least one: whoever waits so long does not come too early.
fn seconds(wait: Duration) -> String {
    wait.as_millis().div_ceil(1000).max(1).to_string()
}

/// Marks an answer that was found by `ns`.
pub(super) fn with_namespace(response: Response<Body>, ns: &str) -> Response<Body> {
    with(response, HeaderName::from_static("oci-namespace"), ns)
}
