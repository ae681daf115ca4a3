//! The registries of the providers, each speaking its own dialect: how it
//! challenges, what its token service takes and gives, where its blobs are.
//!
//! A [`Provider`] is strict: a token request that the real service would not
//! understand is answered as the real service answers it, and storage refuses
//! whoever brings a second authorization, as S3 does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::upstream::{Answer, Request, Upstream};

/// How a provider's registry talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The token service is elsewhere; lifetimes of five minutes; `issued_at` in nanoseconds.
    DockerHub,
    /// A placeholder scope at `/v2/`; no lifetime; 403 for what may not be read.
    Ghcr,
    /// No service; 401 without a challenge for a token that is not taken; relative redirects.
    ArtifactRegistry,
    /// `service` without quotes.
    Gcr,
    /// The token service is elsewhere; the API token is user name and password.
    DigitalOcean,
    /// `access_token` only, a JWT whose lifetime nobody tells.
    Acr,
    /// Basic to the registry itself.
    Ecr,
    /// A scope that is about no repository; HEAD of a blob is refused to all.
    EcrPublic,
    /// `token` only; redirects with 302.
    Quay,
    /// No service; an empty scope at `/v2/`.
    Ngc,
    /// The token service is elsewhere, and says `expires_in: 300`.
    Gitlab,
    /// A Basic challenge for a token that is not taken; blanks in place of commas.
    Harbor,
    /// Nobody is asked; manifests are elsewhere, under another path.
    RegistryK8s,
}

/// A provider with its registry, its token service and its storage.
pub(crate) struct Provider {
    /// The registry itself.
    pub(crate) registry: Upstream,
    /// Where its tokens are; for some that is the registry.
    pub(crate) tokens: Upstream,
    /// Where its blobs are.
    pub(crate) storage: Upstream,
    state: Arc<State>,
}

struct State {
    dialect: Dialect,
    /// User names and secrets; none: everybody may read.
    accounts: Mutex<Vec<(String, String)>>,
    /// Tokens given out, with their scope.
    given: Mutex<HashMap<String, String>>,
    realm: String,
}

impl Dialect {
    fn is_elsewhere(self) -> bool {
        matches!(self, Dialect::DockerHub | Dialect::DigitalOcean | Dialect::Gitlab)
    }

    fn realm_path(self) -> &'static str {
        match self {
            Dialect::DockerHub | Dialect::Ghcr => "/token",
            Dialect::ArtifactRegistry | Dialect::Gcr => "/v2/token",
            Dialect::DigitalOcean => "/v2/registry/auth",
            Dialect::Acr => "/oauth2/token",
            Dialect::EcrPublic => "/token/",
            Dialect::Quay => "/v2/auth",
            Dialect::Ngc => "/proxy_auth",
            Dialect::Gitlab => "/jwt/auth",
            Dialect::Harbor => "/service/token",
            Dialect::Ecr | Dialect::RegistryK8s => "/none",
        }
    }

    /// The `service` it wants to be asked for.
    fn service(self) -> Option<&'static str> {
        match self {
            Dialect::DockerHub => Some("registry.docker.io"),
            Dialect::Ghcr => Some("ghcr.io"),
            Dialect::Gcr => Some("gcr.io"),
            Dialect::DigitalOcean => Some("registry.digitalocean.com"),
            Dialect::Acr => Some("example.azurecr.io"),
            Dialect::EcrPublic => Some("public.ecr.aws"),
            Dialect::Quay => Some("quay.io"),
            Dialect::Gitlab => Some("container_registry"),
            Dialect::Harbor => Some("harbor-registry"),
            Dialect::ArtifactRegistry | Dialect::Ngc | Dialect::Ecr | Dialect::RegistryK8s => None,
        }
    }

    /// `None` as repository: the challenge of `/v2/`.
    fn challenge(self, realm: &str, repository: Option<&str>) -> String {
        let scope = repository.map(|repository| format!("repository:{repository}:pull"));
        let scoped = |base: String| match &scope {
            Some(scope) => format!("{base},scope=\"{scope}\""),
            None => base,
        };
        match self {
            Dialect::ArtifactRegistry => format!("Bearer realm=\"{realm}\""),
            Dialect::Gcr => format!("Bearer realm=\"{realm}\",service=gcr.io"),
            Dialect::Ghcr => {
                let scope = scope.unwrap_or_else(|| "repository:user/image:pull".into());
                format!("Bearer realm=\"{realm}\",service=\"ghcr.io\",scope=\"{scope}\"")
            }
            Dialect::Ecr => {
                "Basic realm=\"https://1.dkr.ecr.eu-west-1.amazonaws.com/\",service=\"ecr.amazonaws.com\"".into()
            }
            Dialect::EcrPublic => format!("Bearer realm=\"{realm}\",service=\"public.ecr.aws\",scope=\"aws\""),
            Dialect::Ngc => format!("Bearer realm=\"{realm}\",scope=\"{}\"", scope.unwrap_or_default()),
            Dialect::Harbor => {
                format!("Bearer realm=\"{realm}\" service=\"harbor-registry\" scope=\"{}\"", scope.unwrap_or_default())
            }
            _ => scoped(format!("Bearer realm=\"{realm}\",service=\"{}\"", self.service().unwrap())),
        }
    }

    fn denied(self) -> Answer {
        match self {
            Dialect::Ghcr => Answer::status(403).body(r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#),
            Dialect::DockerHub => Answer::status(401).body(r#"{"details":"incorrect username or password"}"#),
            _ => Answer::status(401),
        }
    }

    fn grant(self, token: &str) -> String {
        let document = match self {
            Dialect::DockerHub => serde_json::json!({
                "token": token, "access_token": token, "expires_in": 300, "issued_at": "2024-09-04T08:01:41.048681016Z",
            }),
            Dialect::Acr => serde_json::json!({ "access_token": token }),
            Dialect::Ngc | Dialect::Gitlab => serde_json::json!({ "token": token, "expires_in": 300 }),
            Dialect::Harbor => {
                serde_json::json!({ "token": token, "access_token": "", "expires_in": 1800, "issued_at": "nonsense" })
            }
            _ => serde_json::json!({ "token": token }),
        };
        document.to_string()
    }

    /// What POST of a password gets.
    fn no_post(self) -> u16 {
        match self {
            Dialect::Gcr | Dialect::ArtifactRegistry => 404,
            Dialect::Acr => 400,
            Dialect::Harbor => 405,
            _ => 401,
        }
    }
}

impl Provider {
    /// A provider that lets `account` read; everybody, where there is none.
    pub(crate) fn start(dialect: Dialect, account: Option<(&str, &str)>) -> Self {
        let (registry, storage) = (Upstream::start(), Upstream::start());
        let tokens = if dialect.is_elsewhere() { Upstream::start() } else { registry.clone() };
        let state = Arc::new(State {
            dialect,
            accounts: Mutex::new(account.into_iter().map(|(user, secret)| (user.into(), secret.into())).collect()),
            given: Mutex::default(),
            realm: format!("{}{}", tokens.origin(), dialect.realm_path()),
        });
        let (asked, served, behind) = (state.clone(), state.clone(), storage.origin());
        if dialect.is_elsewhere() {
            tokens.rule(move |request, _| asked.token(request));
        }
        registry.rule(move |request, answer| served.resource(request, answer, &behind));
        storage.rule(|request, answer| match request.header("authorization") {
            Some(_) => Answer::status(400).body("Only one auth mechanism allowed"),
            None => answer,
        });
        Self { registry, tokens, storage, state }
    }

    /// From now on this account reads, and the earlier one does not.
    pub(crate) fn set_account(&self, user: &str, secret: &str) {
        *self.state.accounts.lock().unwrap() = vec![(user.into(), secret.into())];
    }

    /// A secret is rotated as it should be: the new one is good before it is handed out, by
    /// `hand_out`, and the old one until then.
    pub(crate) fn rotate(&self, user: &str, secret: &str, hand_out: impl FnOnce()) {
        self.state.accounts.lock().unwrap().push((user.into(), secret.into()));
        hand_out();
        self.set_account(user, secret);
    }

    /// All tokens given out become worthless.
    pub(crate) fn revoke(&self) {
        self.state.given.lock().unwrap().clear();
    }

    /// Adds an image of one layer; gives the manifest and the digest of the layer.
    pub(crate) fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> (Vec<u8>, String) {
        self.storage.blob(repository, layer);
        if self.state.dialect == Dialect::RegistryK8s {
            self.storage.image(&format!("k8s-artifacts/{repository}"), tag, &[layer]);
        }
        let manifest = self.registry.image(repository, tag, &[layer]);
        (manifest, super::digest::sha256(layer))
    }

    /// How often a token was asked for.
    pub(crate) fn token_requests(&self) -> Vec<Request> {
        let path = self.state.dialect.realm_path();
        self.tokens.requests().into_iter().filter(|request| request.path() == path).collect()
    }
}

impl State {
    fn is_account(&self, authorization: Option<&str>) -> bool {
        let accounts = self.accounts.lock().unwrap();
        match authorization {
            None => accounts.is_empty(),
            Some(shown) => accounts
                .iter()
                .any(|(user, secret)| shown == format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")))),
        }
    }

    /// The token service.
    fn token(&self, request: &Request) -> Answer {
        let dialect = self.dialect;
        if request.path() != dialect.realm_path() {
            return Answer::status(404);
        }
        let url = url::Url::parse(&format!("http://tokens{}", request.target)).unwrap();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let form: Vec<(String, String)> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let asked = |name: &str| {
            let query = url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned()));
            query.chain(form.clone()).find_map(|(key, value)| (key == name).then_some(value))
        };
        let authorized = match (request.method.as_str(), asked("grant_type").as_deref()) {
            ("GET", _) => self.is_account(request.header("authorization")),
            ("POST", Some("refresh_token")) if dialect == Dialect::Acr => {
                let accounts = self.accounts.lock().unwrap();
                accounts.iter().any(|(_, secret)| Some(secret) == asked("refresh_token").as_ref())
            }
            _ => return Answer::status(dialect.no_post()),
        };
        if !authorized {
            return dialect.denied();
        }
        if asked("service").as_deref() != dialect.service() || asked("offline_token").is_some() {
            return Answer::status(400).body("service");
        }
        let scope = asked("scope").unwrap_or_default();
        let sound = match dialect {
            Dialect::EcrPublic => scope == "aws",
            _ => scope.is_empty() || scope.starts_with("repository:") && scope.ends_with(":pull"),
        };
        // The placeholder of `/v2/` is a trap.
        if !sound || scope.contains("user/image") {
            return dialect.denied();
        }
        let token = match dialect {
            Dialect::Acr => jwt(4500),
            _ => format!("token-{:032x}", fastrand::u128(..)),
        };
        self.given.lock().unwrap().insert(token.clone(), scope);
        Answer::status(200).header("Content-Type", "application/json").body(dialect.grant(&token))
    }

    /// The registry; `honest` is what it has.
    fn resource(&self, request: &Request, honest: Answer, storage: &str) -> Answer {
        let dialect = self.dialect;
        if !dialect.is_elsewhere() && request.path() == dialect.realm_path() {
            return self.token(request);
        }
        if let Some(path) = request.path().strip_prefix("/artifacts-downloads/") {
            let target = format!("/v2/{path}");
            return match request.header("authorization") {
                Some(_) => Answer::status(307)
                    .header("Location", format!("{storage}/storage{}", &target[3..].replace("/blobs/", "/"))),
                None => Answer::status(401),
            };
        }
        let Some(path) = request.path().strip_prefix("/v2/") else { return honest };
        let repository = path.rsplitn(3, '/').nth(2);
        if dialect == Dialect::RegistryK8s {
            let location = match path.split_once("/blobs/") {
                _ if path.is_empty() => return Answer::status(200),
                Some((repository, digest)) => format!("{storage}/storage/{repository}/{digest}"),
                None => format!("{storage}/v2/k8s-artifacts/{path}"),
            };
            return Answer::status(307).header("Location", location);
        }
        let authorization = request.header("authorization");
        let challenge = || Answer::status(401).header("WWW-Authenticate", dialect.challenge(&self.realm, repository));
        if dialect == Dialect::Ecr {
            if !self.is_account(authorization) {
                return match authorization {
                    Some(_) => Answer::status(403)
                        .body(r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#),
                    None => challenge().body("Not Authorized"),
                };
            }
        } else {
            let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
            let wanted = match (dialect, repository) {
                (Dialect::EcrPublic, _) => "aws".to_owned(),
                (_, Some(repository)) => format!("repository:{repository}:pull"),
                (_, None) => String::new(),
            };
            let good = token.and_then(|token| self.given.lock().unwrap().get(token).cloned()) == Some(wanted);
            if !good {
                return match (dialect, authorization) {
                    (Dialect::Harbor, Some(_)) => {
                        Answer::status(401).header("WWW-Authenticate", "Basic realm=\"harbor\"")
                    }
                    (Dialect::ArtifactRegistry, Some(_)) => Answer::status(401),
                    _ => challenge(),
                };
            }
        }
        match path.split_once("/blobs/") {
            Some(_) if dialect == Dialect::EcrPublic && request.method == "HEAD" => Answer::status(401),
            Some(_) if honest.status == 404 => honest,
            Some((repository, digest)) => match dialect {
                Dialect::ArtifactRegistry => {
                    Answer::status(302).header("Location", format!("/artifacts-downloads/{repository}/blobs/{digest}"))
                }
                Dialect::Quay => Answer::status(302)
                    .header("Location", format!("{storage}/storage/{repository}/{digest}?Signature=x")),
                Dialect::Harbor => honest,
                _ => Answer::status(307)
                    .header("Location", format!("{storage}/storage/{repository}/{digest}?X-Amz-Signature=x")),
            },
            None => honest,
        }
    }
}

/// A web token that lives for so many seconds from now; signed by nobody.
pub(crate) fn jwt(seconds: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({ "iat": now, "nbf": now, "exp": now + seconds, "jti": fastrand::u64(..) });
    format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}
