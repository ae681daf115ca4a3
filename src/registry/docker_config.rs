//! Docker's `config.json`, and podman's `auth.json`, which is the same form:
//! which login, or which helper, it has for a registry.
//!
//! A key is a host as Docker writes it (`ghcr.io`,
//! `https://index.docker.io/v1/`), or podman's host and path
//! (`quay.io/org/app`), of which the longest that fits counts.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{HelperName, HostPort, Secret};
use crate::oci::Repository;

/// A registry as logins are kept for it: its host, and the part of it that is
/// meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The host by which images name it.
    pub host: HostPort,
    /// Only repositories below this.
    pub prefix: Option<Repository>,
}

impl Server {
    /// What `docker login` calls it, and helpers are asked for.
    pub fn key(&self) -> String {
        // The one registry with a key that is no host.
        if self.host.is_docker_hub() { "https://index.docker.io/v1/".to_owned() } else { self.host.to_string() }
    }

    /// How much of a key fits: more is better, `None` is not at all.
    fn fit(&self, key: &str) -> Option<usize> {
        let without_scheme = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        let (host, path) = match without_scheme {
            // What follows the host in a URL is the version of an API.
            Some(rest) => (rest.split('/').next().unwrap_or_default(), ""),
            None => key.split_once('/').unwrap_or((key, "")),
        };
        let path = path.trim_end_matches('/');
        let path = if matches!(path, "v1" | "v2") { "" } else { path };
        if !host.parse::<HostPort>().is_ok_and(|host| host.same_registry(&self.host)) {
            return None;
        }
        if path.is_empty() {
            return Some(0);
        }
        let path: Repository = path.parse().ok()?;
        let own = self.prefix.as_ref()?;
        (*own == path || own.strip_prefix(&path).is_some()).then(|| path.components().count())
    }

    fn best<'a, V>(&self, entries: &'a HashMap<String, V>) -> Option<&'a V> {
        let fitting = entries.iter().filter_map(|(key, value)| Some((self.fit(key)?, key, value)));
        fitting.max_by_key(|(fit, key, _)| (*fit, *key)).map(|(_, _, value)| value)
    }
}

/// What the file says about a registry.
#[derive(Debug)]
pub enum Entry {
    /// User name and password.
    Login {
        /// User name.
        username: String,
        /// Password.
        secret: Secret,
    },
    /// An identity token.
    IdentityToken(Secret),
    /// Ask this helper.
    Helper(HelperName),
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<Zeroizing<String>>,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    identitytoken: Option<Zeroizing<String>>,
}

/// Why the file does not help. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    /// Not JSON of that form.
    #[error("is no configuration file of Docker")]
    NotOne,
    /// It does not know the registry.
    #[error("has no login for {0}")]
    Unknown(String),
    /// What it has for the registry cannot be read.
    #[error("has a login for {0} that cannot be read")]
    Broken(String),
}

/// What the configuration file `text` has for `server`.
///
/// # Errors
/// When it is no such file, or has nothing usable for it.
pub fn find(text: &Secret, server: &Server) -> Result<Entry, NoEntry> {
    let file: File = serde_json::from_str(text.expose()).map_err(|_| NoEntry::NotOne)?;
    let broken = || NoEntry::Broken(server.key());
    let helper = |name: &str| name.parse().map(Entry::Helper).map_err(|_| broken());
    if let Some(name) = server.best(&file.helpers) {
        return helper(name);
    }
    // With a store in use Docker leaves empty entries here.
    match server.best(&file.auths).map(|auth| read(auth).ok_or_else(broken)) {
        Some(Ok(Some(entry))) => Ok(entry),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => match &file.store {
            Some(name) if !name.is_empty() => helper(name),
            _ => Err(NoEntry::Unknown(server.key())),
        },
    }
}

/// `Some(None)`: there is nothing in it.
fn read(auth: &Auth) -> Option<Option<Entry>> {
    let secret = |text: &str| Secret::new(text.to_owned());
    if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Some(Some(Entry::IdentityToken(secret(token))));
    }
    if let Some(encoded) = auth.auth.as_ref().filter(|auth| !auth.is_empty()) {
        let decoded = Zeroizing::new(STANDARD.decode(encoded.as_bytes()).ok()?);
        let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        return Some(Some(login(username, password.trim_end_matches('\0'))));
    }
    match (&auth.username, &auth.password) {
        (Some(username), Some(password)) if !username.is_empty() => Some(Some(login(username, password))),
        _ => Some(None),
    }
}

fn login(username: &str, password: &str) -> Entry {
    let secret = Secret::new(password.to_owned());
    if username == super::Credential::IDENTITY_TOKEN_USER {
        Entry::IdentityToken(secret)
    } else {
        Entry::Login { username: username.to_owned(), secret }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str, prefix: &str) -> Server {
        Server { host: host.parse().unwrap(), prefix: prefix.parse().ok() }
    }

    fn found(text: &str, server: &Server) -> String {
        match find(&Secret::new(text.into()), server) {
            Ok(Entry::Login { username, secret }) => format!("{username} {}", secret.expose()),
            Ok(Entry::IdentityToken(secret)) => format!("identity {}", secret.expose()),
            Ok(Entry::Helper(name)) => format!("helper {name}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_registry_finds_its_own_entry_as_docker_and_podman_write_it() {
        // "dXNlcjpwYTpzcw==" is "user:pa:ss".
        let text = r#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
                "https://ghcr.io": {"username": "me", "password": "pat"},
                "quay.io": {"username": "whole", "password": "1"},
                "quay.io/org": {"username": "org", "password": "2"},
                "quay.io/org/app": {"username": "app", "password": "3"},
                "r.example:5000": {"identitytoken": "refresh", "auth": "PHRva2VuPjo="},
                "broken.example": {"auth": "%%%"},
                "stored.example": {}
            },
            "credHelpers": {"123456789012.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login", "evil.example": "../sh"}
        }"#;
        for (host, prefix, expected) in [
            ("docker.io", "", "user pa:ss"),
            ("registry-1.docker.io", "team", "user pa:ss"),
            ("ghcr.io", "org", "me pat"),
            ("quay.io", "", "whole 1"),
            ("quay.io", "other", "whole 1"),
            ("quay.io", "organic", "whole 1"),
            ("quay.io", "org", "org 2"),
            ("quay.io", "org/app/x", "app 3"),
            ("r.example:5000", "", "identity refresh"),
            ("r.example", "", "has no login for r.example"),
            ("evil-ghcr.io", "", "has no login for evil-ghcr.io"),
            ("broken.example", "", "has a login for broken.example that cannot be read"),
            ("stored.example", "", "has no login for stored.example"),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "", "helper ecr-login"),
            ("evil.example", "", "has a login for evil.example that cannot be read"),
        ] {
            assert_eq!(found(text, &server(host, prefix)), expected, "{host} {prefix}");
        }
    }

    #[test]
    fn a_store_is_asked_for_what_the_file_itself_does_not_have() {
        let text = r#"{"auths": {"ghcr.io": {}, "quay.io": {"auth": "YTpi"}}, "credsStore": "desktop"}"#;
        assert_eq!(found(text, &server("ghcr.io", "")), "helper desktop");
        assert_eq!(found(text, &server("other.example", "")), "helper desktop");
        assert_eq!(found(text, &server("quay.io", "")), "a b");
    }

    #[test]
    fn what_is_no_such_file_is_said_to_be_none_and_never_quoted() {
        for text in ["", "canary", "5", "{\"auths\": 5}", "{\"auths\": {\"a\": {\"auth\": {\"canary\": 1}}}}"] {
            assert_eq!(found(text, &server("ghcr.io", "")), "is no configuration file of Docker", "{text}");
        }
        assert_eq!(found("{}", &server("docker.io", "")), "has no login for https://index.docker.io/v1/");
    }
}
