//! How clients log in: the challenge that refused requests and `/v2/` carry,
//! and the token service that it names.
//!
//! The service answers `GET /token` as the distribution token specification
//! has it. Whoever shows no login gets a token too, for what is open to
//! anybody: a challenge locks nobody out.

use http::Response;
use url::form_urlencoded;

use super::body::Body;
use super::response;
use crate::access::{Issued, Scope};
use crate::oci::{ErrorCode, Repository};
use crate::registry::HostPort;

/// Where the token service is.
pub(super) const PATH: &str = "/token";

/// How clients reach this proxy, as far as the configuration tells.
#[derive(Debug, Clone)]
pub struct Reached {
    /// The configured URL.
    pub public_url: Option<url::Url>,
    /// The listener speaks TLS.
    pub tls: bool,
}

/// Why a request that carried a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenFault {
    /// It has ended, or is not one of ours.
    Invalid,
    /// It was not asked for this repository, or by nobody in particular.
    Scope,
}

impl Reached {
    /// What a client has to know to log in. Without a configured URL it is
    /// told the host by which it has come itself: the answer is for it alone.
    pub(super) fn challenge(
        &self,
        host: Option<&HostPort>,
        name: Option<&Repository>,
        fault: Option<TokenFault>,
    ) -> String {
        let (base, service) = match (&self.public_url, host) {
            (Some(url), _) => (url.as_str().trim_end_matches('/').to_owned(), service_of(url)),
            (None, Some(host)) => (format!("{}://{host}", if self.tls { "https" } else { "http" }), host.to_string()),
            // A client that names no host can be sent nowhere.
            (None, None) => return BASIC.to_owned(),
        };
        let mut challenge = format!("Bearer realm=\"{base}{PATH}\",service=\"{service}\"");
        if let Some(name) = name {
            challenge += &format!(",scope=\"repository:{name}:pull\"");
        }
        match fault {
            Some(TokenFault::Invalid) => challenge += ",error=\"invalid_token\"",
            Some(TokenFault::Scope) => challenge += ",error=\"insufficient_scope\"",
            None => {}
        }
        challenge
    }
}

fn service_of(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or("transship");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What the token service itself says to a wrong login.
pub(super) const BASIC: &str = "Basic realm=\"transship\", charset=\"UTF-8\"";

/// The repositories that a request for a token names. What else may stand in
/// a scope, nobody can have here.
pub(super) fn scope(raw_query: &str) -> Scope {
    let mut scope = Scope::default();
    for (key, value) in form_urlencoded::parse(raw_query.as_bytes()) {
        if key != "scope" {
            continue;
        }
        for part in value.split(' ') {
            let name = part.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
            if let Some(name) = name.and_then(|(name, _)| name.parse().ok()) {
                scope.add(name);
            }
        }
    }
    scope
}

/// A token, as clients read it.
pub(super) fn granted(issued: &Issued) -> Response<Body> {
    let Issued { token, lifetime } = issued;
    // Some clients read the one name, some the other.
    let document = serde_json::json!({
        "token": token,
        "access_token": token,
        "expires_in": lifetime.as_secs(),
    });
    response::private_json(document.to_string())
}

/// Tokens are had by GET: clients that try the other way first take this for
/// the hint that it is.
pub(super) fn by_get_only() -> Response<Body> {
    response::error(404, ErrorCode::Unsupported, "tokens are asked for with GET and HTTP Basic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_names_the_public_url_or_the_host_that_was_asked() {
        let name: Repository = "team/app".parse().unwrap();
        let host: HostPort = "proxy.example:5000".parse().unwrap();
        let reached = |url: &str, tls| Reached { public_url: url.parse().ok(), tls };
        for (reached, host, fault, expected) in [
            (
                reached("", false),
                Some(&host),
                None,
                "Bearer realm=\"http://proxy.example:5000/token\",service=\"proxy.example:5000\",\
                 scope=\"repository:team/app:pull\"",
            ),
            (
                reached("", true),
                Some(&host),
                Some(TokenFault::Invalid),
                "Bearer realm=\"https://proxy.example:5000/token\",service=\"proxy.example:5000\",\
                 scope=\"repository:team/app:pull\",error=\"invalid_token\"",
            ),
            (
                reached("https://cache.example/", false),
                Some(&host),
                Some(TokenFault::Scope),
                "Bearer realm=\"https://cache.example/token\",service=\"cache.example\",\
                 scope=\"repository:team/app:pull\",error=\"insufficient_scope\"",
            ),
            (
                reached("https://cache.example:8443", false),
                None,
                None,
                "Bearer realm=\"https://cache.example:8443/token\",service=\"cache.example:8443\",\
                 scope=\"repository:team/app:pull\"",
            ),
            (reached("", true), None, None, BASIC),
        ] {
            assert_eq!(reached.challenge(host, Some(&name), fault), expected);
        }
        let bare = reached("", false).challenge(Some(&host), None, None);
        assert_eq!(bare, "Bearer realm=\"http://proxy.example:5000/token\",service=\"proxy.example:5000\"");
    }

    #[test]
    fn scopes_are_read_in_every_form_that_clients_send() {
        let covers = |query: &str, name: &str| scope(query).covers(&name.parse().unwrap());
        assert!(covers("scope=repository%3Ateam%2Fapp%3Apull&service=x", "team/app"));
        assert!(covers("scope=repository:a:pull&scope=repository:b/c:pull,push", "b/c"));
        assert!(covers("service=x&scope=repository:a:pull+repository:b/c:pull", "b/c"));
        assert!(!covers("scope=repository:a:pull", "b"));
        for none in ["", "service=x&account=me", "scope=", "scope=registry:catalog:*", "scope=repository:A B:pull"] {
            assert!(scope(none).is_empty(), "{none}");
        }
    }
}
