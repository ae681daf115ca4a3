//! The token dance: from a challenge to an `Authorization` header.
//!
//! Tokens are kept per (realm, service, scope) of one registry and one
//! generation of its credential: another registry has another [`Tokens`], and
//! what an earlier credential was given is never shown again. One request
//! refreshes a token for all who wait for it.
//! The scope is ours: what a challenge asks for is used only where it is not
//! about repositories at all.

use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Deserialize;
use std::sync::Arc;
use url::Url;
use zeroize::Zeroizing;

use super::challenge::Challenge;
use super::egress::Purpose;
use super::error::{Error, Result};
use super::send::{Ask, Sender, collect};
use crate::registry::Credential;

const MAX_BODY: usize = 64 * 1024;
/// What a token server means that names no lifetime (distribution token spec).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// A token service that said no is left in peace for this long.
const REJECTED_FOR: Duration = Duration::from_secs(5);
const MAX_TOKENS: u64 = 10_000;

/// How a registry wants to be authorised: learned once, from a challenge.
#[derive(Debug, Clone)]
pub(super) enum Scheme {
    /// By tokens of this service.
    Bearer {
        realm: Url,
        service: Option<String>,
        /// A scope that is not about repositories (`aws`), passed on verbatim.
        fixed_scope: Option<String>,
    },
    /// By user name and password.
    Basic,
}

impl Scheme {
    /// What `challenge`, received from `url`, asks for.
    pub(super) fn of(challenge: Challenge, url: &Url) -> Result<Scheme> {
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(Scheme::Basic) };
        // A realm without a scheme is relative to the registry that sent it.
        let realm = url.join(&realm).map_err(|_| Error::Egress {
            target: "the token service".into(),
            reason: "the challenge names no URL for it".into(),
        })?;
        let fixed_scope = scope.filter(|scope| !scope.contains(':') && scope.bytes().all(|b| b.is_ascii_graphic()));
        Ok(Scheme::Bearer { realm, service, fixed_scope })
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    generation: u64,
    realm: String,
    service: Option<String>,
    scope: String,
}

struct Token {
    header: HeaderValue,
    lifetime: Duration,
}

/// A credential, and the how manieth of its registry it is.
struct Current {
    generation: u64,
    credential: Credential,
}

/// The tokens of one registry.
pub(super) struct Tokens {
    current: ArcSwap<Current>,
    tokens: moka::future::Cache<Key, Arc<Token>>,
    rejected: moka::sync::Cache<Key, Error>,
}

/// Each token lives as long as its server said, less a margin.
struct Lifetime;

impl moka::Expiry<Key, Arc<Token>> for Lifetime {
    fn expire_after_create(&self, _: &Key, token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.lifetime)
    }
}

impl Tokens {
    pub(super) fn new(credential: Credential) -> Tokens {
        Tokens {
            current: ArcSwap::from_pointee(Current { generation: 0, credential }),
            tokens: moka::future::Cache::builder().max_capacity(MAX_TOKENS).expire_after(Lifetime).build(),
            rejected: moka::sync::Cache::builder().max_capacity(MAX_TOKENS).time_to_live(REJECTED_FOR).build(),
        }
    }

    /// From now on upstream is shown `credential`, and no token that an earlier
    /// one was given.
    pub(super) fn replace_credential(&self, credential: Credential) {
        self.current.rcu(|current| Current { generation: current.generation + 1, credential: credential.clone() });
        self.tokens.invalidate_all();
        self.rejected.invalidate_all();
    }

    /// The header that authorises `scope` under `scheme`; `None` when there is
    /// nothing to show.
    pub(super) async fn authorization(
        &self,
        sender: &Sender,
        scheme: &Scheme,
        scope: &str,
    ) -> Result<Option<HeaderValue>> {
        let Current { generation, credential } = &*self.current.load_full();
        match scheme {
            Scheme::Basic => Ok(basic(credential)),
            Scheme::Bearer { realm, service, fixed_scope } => {
                let key = key(*generation, realm, service.as_deref(), fixed_scope.as_deref().unwrap_or(scope));
                if let Some(error) = self.rejected.get(&key) {
                    return Err(error);
                }
                let fetched = self.tokens.try_get_with_by_ref(&key, fetch(credential, sender, realm, &key)).await;
                match fetched {
                    Ok(token) => Ok(Some(token.header.clone())),
                    Err(error) => {
                        let error = Error::clone(&error);
                        if matches!(error, Error::CredentialRejected { .. } | Error::Denied { .. }) {
                            self.rejected.insert(key, error.clone());
                        }
                        Err(error)
                    }
                }
            }
        }
    }

    /// Forgets a token that the registry did not take. Another request may
    /// have replaced it meanwhile: then the new one stays.
    pub(super) async fn forget(&self, scheme: &Scheme, scope: &str, refused: &HeaderValue) {
        if let Scheme::Bearer { realm, service, fixed_scope } = scheme {
            let generation = self.current.load().generation;
            let key = key(generation, realm, service.as_deref(), fixed_scope.as_deref().unwrap_or(scope));
            if self.tokens.get(&key).await.is_some_and(|token| token.header == *refused) {
                self.tokens.invalidate(&key).await;
            }
        }
    }
}

fn basic(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Password { username, secret } = credential else { return None };
    let pair = Zeroizing::new(format!("{username}:{}", secret.expose()));
    let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    sensitive(&encoded)
}

async fn fetch(credential: &Credential, sender: &Sender, realm: &Url, key: &Key) -> Result<Arc<Token>> {
    let mut url = realm.clone();
    let ask = match credential {
        Credential::IdentityToken(refresh) => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", refresh.expose());
            form.append_pair("client_id", "transship").append_pair("scope", &key.scope);
            if let Some(service) = &key.service {
                form.append_pair("service", service);
            }
            Ask { method: Method::POST, form: Some(Bytes::from(form.finish())), ..Ask::default() }
        }
        credential => {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &key.scope);
            if let Credential::Password { username, .. } = credential {
                query.append_pair("account", username);
            }
            drop(query);
            Ask { authorization: basic(credential), ..Ask::default() }
        }
    };
    let (response, origin) = sender.send(Purpose::Token, &url, &ask).await?;
    let status = response.status().as_u16();
    match status {
        200 => {
            let body = Zeroizing::new(collect(response, &origin, MAX_BODY).await?.to_vec());
            parse(&body).map(Arc::new).map_err(|what| Error::Protocol { origin, what: what.to_owned() })
        }
        400 | 401 if !credential.is_anonymous() => Err(Error::CredentialRejected { realm: origin, status }),
        400 | 401 | 403 => Err(Error::Denied { status }),
        429 => Err(Error::TooManyRequests { retry_after: super::registry::retry_after(response.headers()) }),
        300..400 => Err(Error::Protocol { origin, what: "a redirect of the token request".to_owned() }),
        _ => Err(Error::Status { origin, status }),
    }
}

fn key(generation: u64, realm: &Url, service: Option<&str>, scope: &str) -> Key {
    Key { generation, realm: realm.to_string(), service: service.map(str::to_owned), scope: scope.to_owned() }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[derive(Deserialize)]
struct Grant {
    token: Option<Zeroizing<String>>,
    access_token: Option<Zeroizing<String>>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

fn parse(body: &[u8]) -> std::result::Result<Token, &'static str> {
    let grant: Grant =
        serde_json::from_slice(body).map_err(|_| "a token answer that is not the JSON of the specification")?;
    let token = [grant.token, grant.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let token = token.ok_or("a token answer without a token")?;
    // A header value admits a tab; a token does not.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token with characters that no token has");
    }
    let header = sensitive(&Zeroizing::new(format!("Bearer {}", *token))).ok_or("a token that fits no header")?;
    Ok(Token { header, lifetime: lifetime(&grant.expires_in).mul_f64(0.9) })
}

/// Seconds, as a number or as text; what names no lifetime means the default,
/// and a lifetime that is over means: for the requests now waiting, only.
fn lifetime(expires_in: &serde_json::Value) -> Duration {
    let seconds = match expires_in {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match seconds {
        Some(seconds) if seconds <= 0.0 => Duration::ZERO,
        Some(seconds) if seconds >= MAX_LIFETIME.as_secs_f64() => MAX_LIFETIME,
        Some(seconds) if seconds.is_finite() => Duration::from_secs_f64(seconds),
        _ => DEFAULT_LIFETIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(json: &str) -> u64 {
        let body = format!(r#"{{"token":"abc","expires_in":{json}}}"#);
        parse(body.as_bytes()).unwrap().lifetime.as_secs()
    }

    #[test]
    fn lifetimes_are_bounded_whatever_the_server_says() {
        assert_eq!(lives("300"), 270);
        assert_eq!(lives("\"300\""), 270);
        assert_eq!(lives("null"), 54);
        assert_eq!(lives("true"), 54);
        assert_eq!(lives("\"soon\""), 54);
        assert_eq!(lives("0"), 0);
        assert_eq!(lives("-1"), 0);
        assert_eq!(lives("1e300"), 3240);
        assert_eq!(lives("1000000000000"), 3240);
        assert_eq!(parse(br#"{"access_token":"abc"}"#).unwrap().lifetime.as_secs(), 54);
    }

    #[test]
    fn either_name_of_the_token_is_taken_and_it_never_prints() {
        for body in [r#"{"token":"canary"}"#, r#"{"access_token":"canary"}"#, r#"{"token":"","access_token":"canary"}"#]
        {
            let token = parse(body.as_bytes()).unwrap();
            assert_eq!(token.header.to_str().unwrap(), "Bearer canary");
            assert!(!format!("{:?}", token.header).contains("canary"));
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"token":1}"#,
            r#"{"token":null}"#,
            r#"{"token":"a\r\nb"}"#,
            r#"{"token":"a b"}"#,
            "<html>",
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn the_scope_of_a_challenge_is_used_only_where_it_is_not_about_repositories() {
        let url: Url = "https://registry.example/v2/".parse().unwrap();
        let fixed = |scope: &str| {
            let challenge = Challenge::Bearer { realm: "/token".into(), service: None, scope: Some(scope.into()) };
            match Scheme::of(challenge, &url).unwrap() {
                Scheme::Bearer { fixed_scope, realm, .. } => (fixed_scope, realm.to_string()),
                Scheme::Basic => panic!("bearer"),
            }
        };
        assert_eq!(fixed("aws"), (Some("aws".into()), "https://registry.example/token".into()));
        assert_eq!(fixed("repository:other:pull,push").0, None);
        assert_eq!(fixed("registry:catalog:*").0, None);
    }
}
