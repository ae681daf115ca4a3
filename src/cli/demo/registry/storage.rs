//! The second origin: blobs for whoever comes with a signed address.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Method, StatusCode, header};

use super::Shared;
use super::line::PIECE;

/// Answers one request.
pub(super) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.method() != Method::GET {
        // A signature is for one method.
        return StatusCode::FORBIDDEN.into_response();
    }
    if request.headers().contains_key(header::AUTHORIZATION) {
        // Object stores refuse a second way of authorisation, too.
        shared.counters.count(|seen| seen.leaks += 1);
        return StatusCode::BAD_REQUEST.into_response();
    }
    let digest = shared.signer.check(request.uri().path(), request.uri().query().unwrap_or_default());
    let Some(digest) = digest else { return StatusCode::FORBIDDEN.into_response() };
    let Some(content) = shared.blob(&digest).map(|blob| blob.content.clone()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, content.len().to_string()),
    ];
    (headers, Body::from_stream(pieces(shared, content))).into_response()
}

/// The content at the pace of the line.
fn pieces(shared: Arc<Shared>, content: Bytes) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((shared, content), |(shared, mut rest)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(PIECE.min(rest.len()));
        shared.line.carry(piece.len()).await;
        shared.counters.count(|seen| seen.bytes += piece.len() as u64);
        Some((Ok(piece), (shared, rest)))
    })
}
