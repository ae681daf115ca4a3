//! The sample registry's API and its token service.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Json, Response};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::json;

use super::{Shared, token};
use crate::cli::demo::sample::MANIFEST_TYPE;
use crate::oci::Digest;

const SERVICE: &str = "sample-registry";

/// Answers one request.
pub(super) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
    }
    let shown = authorization(request.headers());
    let path = request.uri().path();
    if path == "/token" {
        return give_token(&shared, shown, request.uri().query().unwrap_or_default());
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return error(StatusCode::NOT_FOUND, "NAME_UNKNOWN") };
    let (is_blob, found) = match rest.rsplit_once("/blobs/") {
        None => (false, rest.rsplit_once("/manifests/")),
        found => (true, found),
    };
    // Tokens are for repositories: for the bare address there is none.
    let Some((repository, reference)) = found else { return challenge(&shared, None) };
    if !shared.tokens.admit(shown, repository) {
        return challenge(&shared, Some(repository));
    }
    let method = request.method();
    if is_blob { blob(&shared, method, reference) } else { manifest(&shared, method, repository, reference) }
}

/// The header as text; what is no text is as good as none.
pub(super) fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

fn challenge(shared: &Shared, repository: Option<&str>) -> Response {
    shared.counters.count(|seen| seen.refused += 1);
    let mut challenge = format!(r#"Bearer realm="http://{}/token",service="{SERVICE}""#, shared.api);
    if let Some(repository) = repository {
        challenge.push_str(&format!(r#",scope="repository:{repository}:pull""#));
    }
    ([(header::WWW_AUTHENTICATE, challenge)], error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED")).into_response()
}

fn give_token(shared: &Shared, shown: Option<&str>, query: &str) -> Response {
    let asked = |name: &str| url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
    let scope = match (asked("service"), asked("scope")) {
        (Some((_, service)), Some((_, scope))) if service == SERVICE => scope,
        _ => return error(StatusCode::BAD_REQUEST, "UNSUPPORTED"),
    };
    match shared.tokens.give(shown, &scope) {
        Ok(Some(token)) => {
            shared.counters.count(|seen| seen.tokens += 1);
            Json(json!({ "token": token, "expires_in": token::LIFETIME.as_secs() })).into_response()
        }
        Ok(None) => {
            shared.counters.count(|seen| seen.refused += 1);
            error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
        }
        Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    }
}

fn manifest(shared: &Shared, method: &Method, repository: &str, reference: &str) -> Response {
    let image = shared.images.iter().find(|image| {
        image.repository == repository && (image.tag == reference || image.manifest.digest.to_string() == reference)
    });
    let Some(image) = image else { return error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN") };
    let content = image.manifest.content.clone();
    shared.counters.count(|seen| {
        seen.manifests += 1;
        if method == Method::GET {
            seen.bytes += content.len() as u64;
        }
    });
    let headers = [("content-type", MANIFEST_TYPE), ("docker-content-digest", &image.manifest.digest.to_string())]
        .map(|(name, value)| (name, value.to_owned()));
    (headers, Body::from(content)).into_response()
}

fn blob(shared: &Shared, method: &Method, digest: &str) -> Response {
    let known = digest.parse::<Digest>().ok().filter(|digest| shared.blob(digest).is_some());
    let Some(digest) = known else { return error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN") };
    shared.counters.count(|seen| match *method {
        Method::HEAD => seen.checks += 1,
        _ => *seen.blobs.entry(digest).or_default() += 1,
    });
    let location = format!("http://{}{}", shared.storage, shared.signer.sign(&digest));
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}

fn error(status: StatusCode, code: &str) -> Response {
    let message = status.canonical_reason().unwrap_or_default();
    (status, Json(json!({ "errors": [{ "code": code, "message": message }] }))).into_response()
}
