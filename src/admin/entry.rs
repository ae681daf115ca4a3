//! Who is let into the API, and what of it is written down.
//!
//! At the socket it is the user at its other end: the proxy's own, or root.
//! Over TCP it is who shows a token. Everything that changes or tries something
//! goes to the audit trail, with who did it and how it ended.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::tokens::Tokens;
use super::{Admin, failure};
use crate::telemetry::{Audit, Event};

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The socket, and the user at its other end.
    Socket { uid: u32 },
    /// TCP: the other end, and this one.
    Network { peer: SocketAddr, own: SocketAddr },
}

/// Knows callers.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) tokens: Arc<Tokens>,
    pub(super) audit: Arc<Audit>,
}

/// Lets a request in whose sender is known and may do what it asks for.
pub(super) async fn admit(State(entry): State<Entry>, mut request: Request, next: Next) -> Response {
    let origin = request.extensions().get::<Origin>().copied();
    let caller = match origin {
        Some(Origin::Socket { uid }) => Caller::local(uid),
        Some(Origin::Network { peer, .. }) => {
            let shown = bearer(request.headers()).map(|token| entry.tokens.find(token));
            let Some(Some((name, role))) = shown else {
                if shown.is_some() {
                    let event =
                        Event { event: "admin_login", outcome: "failure", peer: Some(peer.ip()), ..Event::default() };
                    entry.audit.client(&event);
                }
                return unauthorized();
            };
            Caller { name, address: Some(peer.ip()), role }
        }
        None => return unauthorized(),
    };
    let method = request.method().clone();
    let action = request.extensions().get::<MatchedPath>().map(|path| format!("{method} {}", path.as_str()));
    let changes = !matches!(method, Method::GET | Method::HEAD);
    let answer = if caller.role.covers(&method) {
        request.extensions_mut().insert(caller.clone());
        next.run(request).await
    } else {
        let reason = format!("the token `{}` may only read; use one with the role `write`", caller.name);
        failure(StatusCode::FORBIDDEN, reason).into_response()
    };
    if changes {
        let status = answer.status();
        let outcome = match status {
            StatusCode::FORBIDDEN => "denied",
            _ if status.is_success() => "success",
            _ => "failure",
        };
        entry.audit.operator(&Event {
            event: "admin_request",
            outcome,
            principal: Some(&caller.name),
            peer: caller.address,
            action: action.as_deref(),
            ..Event::default()
        });
    }
    answer
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    let (scheme, token) = line.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unauthorized() -> Response {
    let reason = "the admin API needs a token: send `Authorization: Bearer …` with the one in `token_file` of [admin], \
                  or a named one; commands on the same machine use the socket and need none";
    let mut answer = failure(StatusCode::UNAUTHORIZED, reason).into_response();
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    answer
}

/// What a client asks before it sends its token.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProofQuestion {
    /// Which token: [`super::tokens::id`].
    pub id: String,
    /// Made up for this question.
    pub nonce: String,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProofAnswer {
    /// [`super::tokens::proof`].
    pub proof: String,
}

/// Shows that this process knows a token, to whoever knows it too.
pub(super) async fn prove(
    State(admin): State<Admin>,
    axum::Extension(origin): axum::Extension<Origin>,
    axum::Json(question): axum::Json<ProofQuestion>,
) -> Response {
    let own = match origin {
        Origin::Network { own, .. } => Some(own),
        Origin::Socket { .. } => None,
    };
    let proof = own.and_then(|own| admin.tokens.prove(&question.id, &question.nonce, own));
    match proof {
        Some(proof) => axum::Json(ProofAnswer { proof }).into_response(),
        None => failure(StatusCode::NOT_FOUND, "this proxy does not know that token").into_response(),
    }
}
