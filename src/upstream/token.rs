//! The token dance: from a challenge to an `Authorization` header.
//!
//! Tokens are kept per (realm, service, scope) of one registry and one
//! generation of its credential: another registry has another [`Tokens`], and
//! what an earlier credential was given is never shown again. One request
//! refreshes a token for all who wait for it, and a credential that has been
//! rejected is left alone for a while, whatever it would be asked for with.
//! The scope is ours: what a challenge asks for is used only where it is not
//! about repositories at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tracing::info;
use url::Url;
use zeroize::Zeroizing;

use super::challenge::Challenge;
use super::egress::Purpose;
use super::error::{Error, Result};
use super::send::{Ask, Sender, collect};
use super::sign_in::{Attempts, Login, Shown, SignIn, jwt_lifetime};
use crate::oci::Repository;
use crate::registry::{Credential, RegistryName};

const MAX_BODY: usize = 64 * 1024;
/// What a token server means that names no lifetime (distribution token spec).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// A scope that a token service did not give is not asked for again this long.
const DENIED_FOR: Duration = Duration::from_secs(5);
const MAX_TOKENS: u64 = 10_000;
/// Repositories of which is known that their first use has been told.
const MAX_USES: u64 = 10_000;

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

/// The tokens of one registry, and the credential that they are given for.
pub(super) struct Tokens {
    registry: RegistryName,
    sign_in: SignIn,
    attempts: Attempts,
    tokens: moka::future::Cache<Key, Arc<Token>>,
    denied: moka::sync::Cache<Key, Error>,
    uses: moka::sync::Cache<(u64, Repository), ()>,
}

/// Each token lives as long as its server said, less a margin.
struct Lifetime;

impl moka::Expiry<Key, Arc<Token>> for Lifetime {
    fn expire_after_create(&self, _: &Key, token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.lifetime)
    }
}

impl Tokens {
    pub(super) fn new(registry: RegistryName, credential: Credential) -> Tokens {
        Tokens {
            sign_in: SignIn::new(registry.clone(), credential),
            attempts: Attempts::new(registry.clone()),
            tokens: moka::future::Cache::builder().max_capacity(MAX_TOKENS).expire_after(Lifetime).build(),
            denied: moka::sync::Cache::builder().max_capacity(MAX_TOKENS).time_to_live(DENIED_FOR).build(),
            uses: moka::sync::Cache::new(MAX_USES),
            registry,
        }
    }

    /// From now on upstream is shown `credential`, and no token that an earlier
    /// one was given.
    pub(super) fn replace_credential(&self, credential: Credential) {
        self.sign_in.replace(credential);
        self.tokens.invalidate_all();
        self.denied.invalidate_all();
    }

    /// Whether the credential has been rejected since this was last asked: what
    /// is known of the token service may be as wrong as the credential.
    pub(super) fn was_rejected(&self) -> bool {
        self.attempts.take_news()
    }

    /// The header that authorises `scope` under `scheme`; `None` when there is
    /// nothing to show. `base` is the registry's `/v2/`.
    pub(super) async fn authorization(
        &self,
        sender: &Sender,
        scheme: &Scheme,
        scope: &str,
        base: &Url,
    ) -> Result<Option<HeaderValue>> {
        let shown = self.sign_in.current(sender).await?;
        match self.authorize(&shown, sender, scheme, scope, base).await {
            Err(Error::CredentialRejected { registry, at, status }) => {
                // A file may have changed, a login may have ended.
                match self.sign_in.refused(&shown, sender).await? {
                    Some(other) => self.authorize(&other, sender, scheme, scope, base).await,
                    None => Err(Error::CredentialRejected { registry, at, status }),
                }
            }
            other => other,
        }
    }

    async fn authorize(
        &self,
        shown: &Shown,
        sender: &Sender,
        scheme: &Scheme,
        scope: &str,
        base: &Url,
    ) -> Result<Option<HeaderValue>> {
        match scheme {
            Scheme::Basic => {
                let Login::Basic { header, .. } = &shown.login else { return Ok(None) };
                if !self.attempts.is_proven(shown) {
                    self.prove(shown, sender, base, header).await?;
                }
                Ok(Some(header.clone()))
            }
            Scheme::Bearer { realm, service, fixed_scope } => {
                let key = key(shown.generation, realm, service.as_deref(), fixed_scope.as_deref().unwrap_or(scope));
                if let Some(error) = self.denied.get(&key) {
                    return Err(error);
                }
                let fetched = self.tokens.try_get_with_by_ref(&key, self.fetch(shown, sender, realm, &key)).await;
                fetched.map(|token| Some(token.header.clone())).map_err(|error| {
                    let error = Error::clone(&error);
                    if matches!(error, Error::Denied { .. }) {
                        self.denied.insert(key, error.clone());
                    }
                    error
                })
            }
        }
    }

    /// Whether the login is taken, whatever it may then read.
    pub(super) async fn check(&self, sender: &Sender, scheme: &Scheme, base: &Url) -> Result<()> {
        let shown = self.sign_in.current(sender).await?;
        match (scheme, &shown.login) {
            (Scheme::Bearer { realm, service, .. }, _) => {
                let key = key(shown.generation, realm, service.as_deref(), "");
                match self.ask(&shown, sender, realm, &key, None).await {
                    // Some give nothing without a scope, to nobody.
                    Ok(_) | Err(Error::Denied { status: 403 }) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            (Scheme::Basic, Login::Basic { header, .. }) => self.prove(&shown, sender, base, header).await,
            (Scheme::Basic, _) => Ok(()),
        }
    }

    /// Shows an unproven login to `/v2/`, as `docker login` does, before a
    /// crowd shows it to everything else.
    async fn prove(&self, shown: &Shown, sender: &Sender, base: &Url, header: &HeaderValue) -> Result<()> {
        let _one = self.attempts.enter(shown).await?;
        if self.attempts.is_proven(shown) {
            return Ok(());
        }
        let ask = Ask { authorization: Some(header.clone()), ..Ask::default() };
        let (response, at) = sender.send(Purpose::Registry, base, &ask).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let error = Error::CredentialRejected { registry: self.registry.to_string(), at, status: 401 };
            self.attempts.rejected(shown, &error);
            return Err(error);
        }
        self.attempts.accepted(shown);
        Ok(())
    }

    /// The registry refused what it was shown. Forgets it, unless another
    /// request has replaced it meanwhile.
    ///
    /// # Errors
    /// When it was the login itself, and there is no other.
    pub(super) async fn refused(
        &self,
        sender: &Sender,
        scheme: &Scheme,
        scope: &str,
        base: &Url,
        refused: &HeaderValue,
    ) -> Result<()> {
        let shown = self.sign_in.current(sender).await?;
        match scheme {
            Scheme::Bearer { realm, service, fixed_scope } => {
                let key = key(shown.generation, realm, service.as_deref(), fixed_scope.as_deref().unwrap_or(scope));
                if self.tokens.get(&key).await.is_some_and(|token| token.header == *refused) {
                    self.tokens.invalidate(&key).await;
                }
                Ok(())
            }
            Scheme::Basic => {
                let Login::Basic { header, .. } = &shown.login else { return Ok(()) };
                if header != refused || self.sign_in.refused(&shown, sender).await?.is_some() {
                    return Ok(());
                }
                // Is it the login, or only this resource?
                self.attempts.doubt(&shown);
                self.prove(&shown, sender, base, header).await?;
                Err(Error::Denied { status: 401 })
            }
        }
    }

    /// Tells the audit log when a credential is used for a repository for the
    /// first time.
    pub(super) fn used_for(&self, repository: &Repository) {
        let Some((generation, recipe)) = self.sign_in.in_use() else { return };
        if recipe.is_anonymous() {
            return;
        }
        let use_ = (generation, repository.clone());
        if self.uses.contains_key(&use_) || !self.uses.entry(use_).or_insert(()).is_fresh() {
            return;
        }
        info!(
            target: "audit",
            event = "credential_first_use",
            registry = %self.registry,
            %repository,
            generation,
        );
    }

    /// Asks for the token of `key`; no more than the credential may be tried.
    async fn fetch(&self, shown: &Shown, sender: &Sender, realm: &Url, key: &Key) -> Result<Arc<Token>> {
        if shown.login == Login::Anonymous {
            return self.ask(shown, sender, realm, key, Some(&key.scope)).await;
        }
        let _permit = self.attempts.enter(shown).await?;
        let error = match self.ask(shown, sender, realm, key, Some(&key.scope)).await {
            Ok(token) => {
                self.attempts.accepted(shown);
                return Ok(token);
            }
            Err(error @ Error::CredentialRejected { .. }) => error,
            Err(error) => return Err(error),
        };
        // Some services answer so when only the scope is refused: whether the
        // login itself is good is asked without one, as `docker login` asks.
        let about_repository = key.scope.contains(':');
        if about_repository && self.attempts.deserves_a_second_opinion(shown) {
            match self.ask(shown, sender, realm, key, None).await {
                Ok(_) => {
                    self.attempts.accepted(shown);
                    return Err(Error::Denied { status: 401 });
                }
                Err(Error::CredentialRejected { .. } | Error::Denied { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        self.attempts.rejected(shown, &error);
        Err(error)
    }

    /// An identity token goes by POST; by GET where there is no such thing.
    async fn ask(
        &self,
        shown: &Shown,
        sender: &Sender,
        realm: &Url,
        key: &Key,
        scope: Option<&str>,
    ) -> Result<Arc<Token>> {
        match (self.ask_as(&shown.login, sender, realm, key, scope).await, &shown.login) {
            (Err(Error::Status { origin, status: status @ (404 | 405) }), Login::Identity(token)) => {
                let login = Login::identity_as_basic(token).ok_or(Error::Status { origin, status })?;
                self.ask_as(&login, sender, realm, key, scope).await
            }
            (answer, _) => answer,
        }
    }

    async fn ask_as(
        &self,
        login: &Login,
        sender: &Sender,
        realm: &Url,
        key: &Key,
        scope: Option<&str>,
    ) -> Result<Arc<Token>> {
        let mut url = realm.clone();
        let ask = match login {
            Login::Identity(refresh) => {
                let mut pairs = vec![("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
                pairs.push(("client_id", "transship"));
                pairs.extend(scope.map(|scope| ("scope", scope)));
                pairs.extend(key.service.as_deref().map(|service| ("service", service)));
                Ask::form(&pairs)
            }
            login => {
                let mut query = url.query_pairs_mut();
                if let Some(service) = &key.service {
                    query.append_pair("service", service);
                }
                if let Some(scope) = scope {
                    query.append_pair("scope", scope);
                }
                let mut authorization = None;
                if let Login::Basic { account, header } = login {
                    if let Some(account) = account {
                        query.append_pair("account", account);
                    }
                    authorization = Some(header.clone());
                }
                drop(query);
                Ask { authorization, ..Ask::default() }
            }
        };
        let (response, origin) = sender.send(Purpose::Token, &url, &ask).await?;
        let status = response.status().as_u16();
        match status {
            200 => {
                let body = Zeroizing::new(collect(response, &origin, MAX_BODY).await?.to_vec());
                parse(&body).map(Arc::new).map_err(|what| Error::Protocol { origin, what: what.to_owned() })
            }
            400 | 401 if *login != Login::Anonymous => {
                Err(Error::CredentialRejected { registry: self.registry.to_string(), at: origin, status })
            }
            400 | 401 | 403 => Err(Error::Denied { status }),
            429 => Err(Error::TooManyRequests { retry_after: super::registry::retry_after(response.headers()) }),
            300..400 => Err(Error::Protocol { origin, what: "a redirect of the token request".to_owned() }),
            _ => Err(Error::Status { origin, status }),
        }
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

/// What shows the token of a token service's answer.
pub(super) fn header_of_grant(body: &[u8]) -> Option<HeaderValue> {
    parse(body).ok().map(|token| token.header)
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
    let told = !grant.expires_in.is_null();
    // Azure and others say it inside the token only.
    let lifetime = match jwt_lifetime(&token).filter(|_| !told) {
        Some(inside) => inside.clamp(DEFAULT_LIFETIME, MAX_LIFETIME),
        None => lifetime(&grant.expires_in),
    };
    Ok(Token { header, lifetime: lifetime.mul_f64(0.9) })
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
