//! Tokens of our own: what a client shows instead of its login, as registries'
//! token services have it.
//!
//! A token says whose it is, which repositories it was asked for, and when it
//! ends; it is signed, so that checking it takes no look-up and no password
//! hash. It gives no rights: what its client may pull is decided when it is
//! used, and a client that has changed its proof, or is gone, has no tokens. A
//! token without a name is nobody's and is worth as much as none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::client::Client;
use crate::oci::Repository;

/// What every token begins with: nothing else is taken for one.
const PREFIX: &str = "tsp1.";
/// How long a token is good for. Clients ask for the next one by themselves.
const LIFETIME: Duration = Duration::from_secs(300);
/// Longest list of names in a token, in bytes: with it, a token still fits
/// into the longest credential that is looked at.
const MAX_SCOPE: usize = 2000;

/// The repositories that a token was asked for, as clients name them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(Vec<Repository>);

impl Scope {
    /// Adds a name; over the bound it is left out, as a token service may.
    pub fn add(&mut self, name: Repository) {
        let used: usize = self.0.iter().map(|name| name.as_str().len() + 3).sum();
        if used + name.as_str().len() + 3 <= MAX_SCOPE && !self.0.contains(&name) {
            self.0.push(name);
        }
    }

    /// Whether no repository is named: a login asks for none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name`, as it stands in a request's path, was asked for. A
    /// client whose mirror has a path asks by the name behind that path.
    pub fn covers(&self, name: &Repository) -> bool {
        let name = name.as_str();
        self.0.iter().any(|asked| {
            name.strip_suffix(asked.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('/'))
        })
    }
}

/// A token that was made.
#[derive(Clone)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// How long it is good for.
    pub lifetime: Duration,
}

/// What a token says.
#[derive(Serialize, Deserialize)]
struct Claims {
    /// The client's name; absent: nobody.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// The state of the client's proof.
    #[serde(rename = "g", default, skip_serializing_if = "String::is_empty")]
    generation: String,
    /// Seconds since 1970 at which it ends.
    #[serde(rename = "e")]
    ends: u64,
    #[serde(rename = "s", default)]
    scope: Vec<String>,
}

/// Whose a sound token is, and for what.
pub(super) struct Shown {
    /// Nobody's: `None`.
    pub(super) client: Option<(String, String)>,
    pub(super) scope: Scope,
}

/// What tokens are signed with.
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// A key of these bytes: processes that share them share their tokens.
    pub fn new(bytes: &[u8]) -> TokenKey {
        TokenKey(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A key that nobody else has; `None` when the system has no randomness.
    pub(super) fn random() -> Option<TokenKey> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok().map(TokenKey)
    }

    /// Whether `credential` is meant to be one of ours.
    pub(super) fn is_token(credential: &str) -> bool {
        credential.starts_with(PREFIX)
    }

    /// What a client's tokens carry, so that they end with its proof.
    pub(super) fn generation(&self, client: &Client) -> String {
        let state = format!("generation\0{}\0{:?}", client.name, client.proof);
        let tag = hmac::sign(&self.0, state.as_bytes());
        URL_SAFE_NO_PAD.encode(tag.as_ref().get(..16).unwrap_or_default())
    }

    /// A token for `client`, or for nobody.
    pub(super) fn issue(&self, client: Option<&Client>, scope: &Scope, now: SystemTime) -> Issued {
        let claims = Claims {
            client: client.map(|client| client.name.clone()),
            generation: client.map(|client| self.generation(client)).unwrap_or_default(),
            ends: seconds(now + LIFETIME),
            scope: scope.0.iter().map(ToString::to_string).collect(),
        };
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, claims.as_bytes()).as_ref());
        Issued { token: format!("{PREFIX}{claims}.{tag}"), lifetime: LIFETIME }
    }

    /// What `token` says, if it is ours and has not ended.
    pub(super) fn read(&self, token: &str, now: SystemTime) -> Option<Shown> {
        let (claims, tag) = token.strip_prefix(PREFIX)?.split_once('.')?;
        hmac::verify(&self.0, claims.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let scope = Scope(claims.scope.iter().filter_map(|name| name.parse().ok()).collect());
        let client = claims.client.map(|name| (name, claims.generation));
        (seconds(now) < claims.ends).then_some(Shown { client, scope })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Proof;

    fn client() -> Client {
        Client { name: "ci".into(), proof: Proof::Token { sha256: "00".into() }, grants: vec![] }
    }

    fn scope(names: &[&str]) -> Scope {
        let mut scope = Scope::default();
        names.iter().for_each(|name| scope.add(name.parse().unwrap()));
        scope
    }

    #[test]
    fn a_token_is_believed_until_it_ends_and_only_as_it_was_made() {
        let (key, now) = (TokenKey::random().unwrap(), SystemTime::now());
        let token = key.issue(Some(&client()), &scope(&["team/app"]), now).token;
        let shown = key.read(&token, now).unwrap();
        assert_eq!(shown.client, Some(("ci".into(), key.generation(&client()))));
        assert_eq!(shown.scope, scope(&["team/app"]));
        assert!(key.read(&token, now + LIFETIME - Duration::from_secs(1)).is_some());
        assert!(key.read(&token, now + LIFETIME).is_none());
        assert!(TokenKey::random().unwrap().read(&token, now).is_none(), "another key's");
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(key.read(std::str::from_utf8(&bytes).unwrap(), now).is_none(), "byte {at}");
        }
        for cut in ["", PREFIX, &token[..token.len() - 1], &format!("{token}A"), "tsp1..", "tsp1.e30."] {
            assert!(key.read(cut, now).is_none(), "{cut}");
        }
    }

    #[test]
    fn a_generation_is_one_proof_of_one_client() {
        let key = TokenKey::new(&[7; 32]);
        let mut other = client();
        other.proof = Proof::Token { sha256: "01".into() };
        assert_ne!(key.generation(&client()), key.generation(&other));
        other = client();
        other.grants = vec!["hub/**".parse().unwrap()];
        assert_eq!(key.generation(&client()), key.generation(&other));
        assert_eq!(key.generation(&client()), TokenKey::new(&[7; 32]).generation(&client()));
    }

    #[test]
    fn a_scope_covers_what_was_asked_for_and_is_bounded() {
        let asked = scope(&["team/app", "library/alpine"]);
        for (name, covered) in [
            ("team/app", true),
            ("my-hub/library/alpine", true),
            ("team/app2", false),
            ("team", false),
            ("app", false),
            ("myteam/app", false),
            ("other/app", false),
        ] {
            assert_eq!(asked.covers(&name.parse().unwrap()), covered, "{name}");
        }
        assert!(!Scope::default().covers(&"app".parse().unwrap()));
        let many: Vec<String> = (0..1000).map(|n| format!("{}/{n}", "a".repeat(200))).collect();
        let many = scope(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let token = TokenKey::new(&[1; 32]).issue(Some(&client()), &many, SystemTime::now()).token;
        assert!(!many.is_empty() && token.len() < 3600, "{}", token.len());
    }
}
