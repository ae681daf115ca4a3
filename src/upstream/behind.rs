//! A registry behind a registry: a vanity host that redirects to another one,
//! which asks for a token of its own.
//!
//! Where the operator has named both that origin (`redirect_origins`) and its
//! token service (`token_realms`), an anonymous token is got there, as every
//! client would. The stored credential is never shown: it is the first
//! registry's.

use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use url::Url;

use super::challenge::Challenge;
use super::egress::Purpose;
use super::send::{Ask, Sender};
use super::token;
use crate::registry::Origin;

/// Longest answer of a token service that is taken.
const MAX_GRANT: usize = 64 * 1024;

impl Sender {
    /// What `origin`, which refused with `response`, wants to see; `None` where
    /// nobody may ask for it, or it is not to be had.
    pub(super) async fn anonymous_token(&self, response: &Response<Incoming>, origin: &Origin) -> Option<HeaderValue> {
        if response.status() != StatusCode::UNAUTHORIZED || !self.egress.is_named(origin) {
            return None;
        }
        let lines = response.headers().get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes);
        let Some(Challenge::Bearer { realm, service, scope }) = Challenge::parse(lines) else { return None };
        let mut url: Url = realm.parse().ok()?;
        let pairs = [("service", service), ("scope", scope)];
        let pairs = pairs.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        url.query_pairs_mut().extend_pairs(pairs);
        // The rule of egress refuses a realm that is not trusted.
        let (answer, _) = self.send(Purpose::Token, &url, &Ask::default()).await.ok()?;
        if answer.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(answer.into_body(), MAX_GRANT).collect().await.ok()?.to_bytes();
        token::header_of_grant(&body)
    }
}
