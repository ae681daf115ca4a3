//! Whose what upstream said is: a registry's, for as long as it is the same
//! place asked with the same account.
//!
//! A name alone would not do: it may be pointed elsewhere, while the proxy runs
//! or between two starts, and what the old place allowed would open at the new
//! one.

use std::fmt::Write as _;
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::{Credential, Registry, Secret};

/// Made when it is first asked for. A copy is of the same place and account.
#[derive(Debug, Default, Clone)]
pub struct OwnerName(OnceLock<Box<str>>);

/// Bytes of the hash that are shown.
const SHOWN: usize = 8;

impl Registry {
    /// The registry's address form and a hash of where it is, of what kind, what
    /// part of it is meant and as who it is asked; not of its secret, whose
    /// rotation changes nothing. It has no blank in it.
    pub fn owner(&self) -> &str {
        self.owner.0.get_or_init(|| {
            let mut text = format!("{} {} {:?}", self.kind, self.origin, self.prefix);
            for endpoint in &self.endpoints {
                // Writing to a string does not fail.
                let _ = write!(text, " {endpoint}");
            }
            let _ = write!(text, " {}", account(&self.credential));
            let hash = Sha256::digest(text.as_bytes());
            let shown = hash.iter().take(SHOWN).fold(String::new(), |mut shown, byte| {
                let _ = write!(shown, "{byte:02x}");
                shown
            });
            format!("{}{shown}", self.owners()).into()
        })
    }

    /// What all owners of this name begin with.
    pub fn owners(&self) -> String {
        format!("{}#", self.name.slug())
    }
}

/// The address form of the registry that `owner` was made of.
pub fn slug_of_owner(owner: &str) -> Option<&str> {
    owner.split_once('#').map(|(slug, _)| slug)
}

/// Who upstream takes us for, as far as that can be told without the secret.
fn account(credential: &Credential) -> String {
    match credential {
        Credential::Anonymous => "anonymous".to_owned(),
        Credential::Password { username, .. } => format!("user {username:?}"),
        Credential::TokenAsBoth(_) => "token".to_owned(),
        Credential::DockerConfig { server, username, .. } => format!("login {server:?} {username:?}"),
        Credential::Helper { helper, server, username } => format!("helper {helper:?} {server:?} {username:?}"),
        Credential::Aws(key) => format!("aws {} {} {}", key.id, key.region, key.public),
        Credential::Entra(app) => format!("entra {} {}", app.tenant, app.client_id),
        // A key names its account inside; a refresh token says nothing, so that
        // another one may be another's.
        Credential::Google(key) => format!("google {}", email(key.key.secret())),
        Credential::IdentityToken(token) => format!("identity token {}", fingerprint(token.secret())),
    }
}

fn email(key: &Secret) -> String {
    let found = serde_json::from_str::<serde_json::Value>(key.expose()).ok();
    let email = found.as_ref().and_then(|key| key.get("client_email")).and_then(serde_json::Value::as_str);
    email.map_or_else(|| fingerprint(key), str::to_owned)
}

fn fingerprint(secret: &Secret) -> String {
    format!("{:x?}", Sha256::digest(secret.expose().as_bytes()).as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn owner(text: &str) -> String {
        let environment = [("A", "one"), ("B", "two")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let text = format!("docker_hub = false\n[[registry]]\nname = \"team\"\n{text}\n");
        Settings::parse("t.toml", &text, &environment.into()).unwrap().registries[0].owner().to_owned()
    }

    #[test]
    fn another_place_or_account_is_another_owner_and_another_secret_is_not() {
        let keys = |url: &str, user: &str, secret: &str, more: &str| {
            let password = format!("username = \"{user}\"\npassword = {{ env = \"{secret}\" }}");
            owner(&format!("kind = \"generic\"\nurl = \"https://{url}\"\n{password}\n{more}"))
        };
        let one = keys("r.example", "robot", "A", "");
        assert_eq!(slug_of_owner(&one), Some("team"));
        assert_eq!(one, keys("r.example", "robot", "B", ""));
        assert_eq!(one, keys("r.example", "robot", "A", "tag_ttl = \"5m\"\naccess = \"anyone\""));
        let others = [
            keys("other.example", "robot", "A", ""),
            keys("r.example", "somebody", "A", ""),
            keys("r.example", "robot", "A", "namespace = \"team\""),
            keys("r.example", "robot", "A", "endpoints = [\"https://replica.example\"]"),
            owner("kind = \"generic\"\nurl = \"https://r.example\""),
        ];
        let mut all: Vec<_> = others.iter().chain([&one]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 1 + others.len(), "{all:?}");
    }
}
