//! From a filled-in form to where the registry is and what it is shown.

mod cloud;

use std::collections::BTreeMap;

use super::docker_config::{Entry, Server, find};
use super::{Credential, Field, FieldKind, HelperName, HostPort, Kind, Origin, Secret, Source};
use crate::oci::Repository;
use crate::printable;

/// The filled-in form of one kind.
#[derive(Debug, Clone)]
pub struct Form {
    kind: Kind,
    values: BTreeMap<&'static str, Value>,
}

/// What stands in a field.
#[derive(Debug, Clone)]
pub enum Value {
    /// Plain text.
    Text(String),
    /// A secret, already taken from its source.
    Secret(Secret),
    /// A secret that stands in a file.
    Source(Source),
    /// In place of a secret: the login that Docker's configuration file has.
    DockerConfig(Source),
    /// In place of a secret: the login that a credential helper has.
    Helper(HelperName),
}

impl Value {
    fn kind(&self) -> FieldKind {
        match self {
            Value::Text(_) => FieldKind::Text,
            _ => FieldKind::Secret,
        }
    }
}

/// What a form amounts to.
#[derive(Debug)]
pub struct Connection {
    /// Where the API is.
    pub origin: Origin,
    /// Hosts by which images name this registry.
    pub image_hosts: Vec<HostPort>,
    /// The part of the registry that is meant.
    pub prefix: Option<Repository>,
    /// Token services that belong to the provider.
    pub known_realms: Vec<Origin>,
    /// What it is shown.
    pub credential: Credential,
}

/// What is wrong with a form, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FormError {
    /// The field to mend; empty when it is the form as a whole.
    pub field: &'static str,
    /// What is wrong and what to write instead.
    pub message: String,
}

fn wrong<T>(field: &'static str, message: impl Into<String>) -> Result<T, FormError> {
    Err(FormError { field, message: message.into() })
}

impl Form {
    /// An empty form of `kind`.
    pub fn new(kind: Kind) -> Form {
        Form { kind, values: BTreeMap::new() }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Fills in `name`.
    ///
    /// # Errors
    /// When this kind's form has no such field, or it is of the other sort.
    pub fn set(&mut self, name: &str, value: Value) -> Result<(), FormError> {
        let Some(field) = self.kind.fields().iter().find(|field| field.name == name) else {
            return wrong("", format!("the form of `{}` has no field `{name}`", self.kind));
        };
        match field.kind {
            kind if kind == value.kind() => {
                self.values.insert(field.name, value);
                Ok(())
            }
            FieldKind::Secret => wrong(field.name, "this is a secret: name a source for it"),
            FieldKind::Text => wrong(field.name, "this is plain text, not a secret"),
        }
    }

    /// Works out what the form amounts to.
    ///
    /// # Errors
    /// When a required field is missing or a value cannot be what it should.
    pub fn connect(&self) -> Result<Connection, FormError> {
        for Field { name, label, required, .. } in self.kind.fields() {
            // A URL says what these would.
            let told = matches!(*name, "region" | "account_id") && self.text("url").is_some();
            if *required && !told && !self.values.contains_key(name) {
                return wrong(name, format!("`{name}` ({label}) is required for a registry of kind `{}`", self.kind));
            }
        }
        match self.kind {
            Kind::DockerHub => {
                let mut hub = self.at("https://registry-1.docker.io", &["https://auth.docker.io"], &["namespace"])?;
                hub.image_hosts = vec![host("docker.io")?];
                self.with_login(hub)
            }
            Kind::Ghcr => {
                let mut ghcr = self.at("https://ghcr.io", &[], &["organization"])?;
                // GHCR reads the token alone, but an empty user name would
                // make it no Basic credential at all.
                ghcr.credential = self.shown(&ghcr, "password", |secret| {
                    Ok(Credential::new(user(self.text("email").unwrap_or("token"), "email")?, secret))
                })?;
                Ok(ghcr)
            }
            Kind::Google => self.google(),
            Kind::DigitalOcean => {
                let api = "https://api.digitalocean.com";
                let mut docr = self.at("https://registry.digitalocean.com", &[api], &["registry_name"])?;
                docr.credential = self.shown(&docr, "api_token", |token| {
                    user(token.secret().expose(), "api_token")?;
                    Ok(Credential::TokenAsBoth(token))
                })?;
                Ok(docr)
            }
            Kind::Azure => self.azure(),
            Kind::Generic => self.with_login(self.with_url(None)?),
            Kind::Gitlab => {
                let mut gitlab = self.with_url(Some("https://registry.gitlab.com"))?;
                if gitlab.origin.host() == "registry.gitlab.com" {
                    gitlab.known_realms = vec![origin("https://gitlab.com")?];
                }
                self.with_login(gitlab)
            }
            Kind::Ecr => self.ecr(),
            Kind::Quay => self.with_login(self.at("https://quay.io", &[], &["organization"])?),
            Kind::Ngc => {
                let mut ngc = self.at("https://nvcr.io", &["https://authn.nvidia.com"], &["organization", "team"])?;
                ngc.credential = self.shown(&ngc, "api_key", |key| Ok(Credential::new("$oauthtoken".into(), key)))?;
                Ok(ngc)
            }
        }
    }

    fn at(&self, api: &str, realms: &[&str], prefix: &[&'static str]) -> Result<Connection, FormError> {
        let origin = origin(api)?;
        Ok(Connection {
            image_hosts: vec![origin.host_port()],
            origin,
            prefix: self.prefix(prefix)?,
            known_realms: realms.iter().map(|realm| self::origin(realm)).collect::<Result<_, _>>()?,
            credential: Credential::Anonymous,
        })
    }

    fn with_url(&self, default: Option<&str>) -> Result<Connection, FormError> {
        let url = self.text("url").or(default).unwrap_or_default();
        match url.trim_end_matches('/').parse::<Origin>() {
            Ok(origin) => self.at(&origin.to_string(), &[], &["namespace"]),
            Err(error) => wrong("url", error.to_string()),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name)? {
            Value::Text(text) => Some(text.trim()).filter(|text| !text.is_empty()),
            _ => None,
        }
    }

    /// A secret that has to be one itself: no login stands in for it.
    fn own(&self, name: &'static str) -> Result<Option<Source>, FormError> {
        match self.values.get(name) {
            Some(Value::Secret(secret)) => Ok(Some(secret.clone().into())),
            Some(Value::Source(source)) => Ok(Some(source.clone())),
            Some(Value::DockerConfig(_) | Value::Helper(_)) => {
                wrong(name, "this secret is no login: a `docker_config` or `helper` has none for it")
            }
            Some(Value::Text(_)) | None => Ok(None),
        }
    }

    /// The credential of the field `name`: shown by `show`, where it is not a
    /// login that is kept elsewhere.
    fn shown(
        &self,
        at: &Connection,
        name: &'static str,
        show: impl FnOnce(Source) -> Result<Credential, FormError>,
    ) -> Result<Credential, FormError> {
        if let Some(kept) = self.kept(at, name, None)? {
            return Ok(kept);
        }
        self.own(name)?.map_or(Ok(Credential::Anonymous), show)
    }

    /// The login that is kept elsewhere, where the field `name` says so.
    fn kept(
        &self,
        at: &Connection,
        name: &'static str,
        username: Option<(&'static str, &str)>,
    ) -> Result<Option<Credential>, FormError> {
        let host = at.image_hosts.first().cloned().unwrap_or_else(|| at.origin.host_port());
        let server = Server { host, prefix: at.prefix.clone() };
        let wanted = username.map(|(_, name)| name.to_owned());
        match self.values.get(name) {
            Some(Value::Helper(helper)) => {
                Ok(Some(Credential::Helper { helper: helper.clone(), server, username: wanted }))
            }
            Some(Value::DockerConfig(file)) => {
                match (find(file.secret(), &server), username) {
                    (Err(error), _) => return wrong(name, format!("the file of `{name}` {error}")),
                    (Ok(Entry::Login { username, .. }), Some((field, wanted))) if username != wanted => {
                        return wrong(field, format!("the file of `{name}` has the login of another user"));
                    }
                    _ => {}
                }
                Ok(Some(Credential::DockerConfig { file: file.clone(), server, username: wanted }))
            }
            _ => Ok(None),
        }
    }

    /// A value that becomes part of a host name.
    fn label(&self, name: &'static str) -> Result<&str, FormError> {
        let value = self.text(name).unwrap_or_default();
        let is_label =
            !value.is_empty() && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if is_label { Ok(value) } else { wrong(name, format!("`{value}` cannot be part of a host name")) }
    }

    /// The named fields, joined, as a prefix of repositories. Slashes at the
    /// ends and capitals come from forms of other systems: `/` alone is none.
    fn prefix(&self, names: &[&'static str]) -> Result<Option<Repository>, FormError> {
        let mut joined = String::new();
        for name in names {
            let part = self.text(name).unwrap_or_default().trim_matches('/').to_ascii_lowercase();
            if !part.is_empty() {
                joined = if joined.is_empty() { part } else { format!("{joined}/{part}") };
                if let Err(error) = joined.parse::<Repository>() {
                    return wrong(name, error.to_string());
                }
            }
        }
        Ok(joined.parse().ok())
    }

    /// With the login of `username` and `password`.
    fn with_login(&self, mut at: Connection) -> Result<Connection, FormError> {
        let (field, name) = ("username", self.text("username"));
        let kept = self.kept(&at, "password", name.map(|name| (field, name)))?;
        at.credential = match (kept, name, self.own_login()) {
            (Some(kept), ..) => kept,
            (None, Some(name), Some(secret)) => Credential::new(user(name, field)?, secret),
            (None, None, None) => Credential::Anonymous,
            (None, Some(_), None) => {
                return wrong("password", "a user name without a password is no credential; give both or neither");
            }
            (None, None, Some(_)) => {
                return wrong(field, "a password without a user name is no credential; give both or neither");
            }
        };
        Ok(at)
    }

    fn own_login(&self) -> Option<Source> {
        match self.values.get("password")? {
            Value::Secret(secret) => Some(secret.clone().into()),
            Value::Source(source) => Some(source.clone()),
            _ => None,
        }
    }
}

/// Basic authentication cannot carry a colon in a user name (RFC 7617).
fn user(name: &str, field: &'static str) -> Result<String, FormError> {
    if name.contains(':') || name.chars().any(printable::is_disturbing) {
        return wrong(field, "a user name must not contain a colon or control characters");
    }
    Ok(name.to_owned())
}

fn origin(text: &str) -> Result<Origin, FormError> {
    text.parse().or_else(|error: super::InvalidOrigin| wrong("", error.to_string()))
}

fn host(text: &str) -> Result<HostPort, FormError> {
    text.parse().or_else(|error: super::InvalidOrigin| wrong("", error.to_string()))
}

#[cfg(test)]
mod tests;
