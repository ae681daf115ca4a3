//! From a filled-in form to where the registry is and what it is shown.

use std::collections::BTreeMap;

use super::{Credential, Field, FieldKind, HostPort, Kind, Origin, Secret};
use crate::oci::Repository;

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
        match (&value, field.kind) {
            (Value::Text(_), FieldKind::Text) | (Value::Secret(_), FieldKind::Secret) => {
                self.values.insert(field.name, value);
                Ok(())
            }
            (Value::Text(_), FieldKind::Secret) => wrong(field.name, "this is a secret: name a source for it"),
            (Value::Secret(_), FieldKind::Text) => wrong(field.name, "this is plain text, not a secret"),
        }
    }

    /// Works out what the form amounts to.
    ///
    /// # Errors
    /// When a required field is missing or a value cannot be what it should.
    pub fn connect(&self) -> Result<Connection, FormError> {
        for Field { name, label, required, .. } in self.kind.fields() {
            if *required && !self.values.contains_key(name) {
                return wrong(name, format!("`{name}` ({label}) is required for a registry of kind `{}`", self.kind));
            }
        }
        match self.kind {
            Kind::DockerHub => {
                let mut hub = self.at("https://registry-1.docker.io", &["https://auth.docker.io"])?;
                hub.image_hosts = vec![host("docker.io")?];
                hub.prefix = self.prefix(&["namespace"])?;
                hub.credential = self.login("username", "password")?;
                Ok(hub)
            }
            Kind::Ghcr => {
                let mut ghcr = self.at("https://ghcr.io", &[])?;
                ghcr.prefix = self.prefix(&["organization"])?;
                // GHCR reads the token alone, but an empty user name would
                // make it no Basic credential at all.
                ghcr.credential = match self.secret("password") {
                    Some(secret) => Credential::new(user(self.text("email").unwrap_or("token"), "email")?, secret),
                    None => Credential::Anonymous,
                };
                Ok(ghcr)
            }
            Kind::Google => {
                let region = self.label("region")?;
                let mut google = self.at(&format!("https://{region}-docker.pkg.dev"), &[])?;
                google.prefix = self.prefix(&["project"])?;
                google.credential = self
                    .secret("json_key")
                    .map_or(Credential::Anonymous, |key| Credential::new("_json_key".into(), key));
                Ok(google)
            }
            Kind::DigitalOcean => {
                let mut docr = self.at("https://registry.digitalocean.com", &["https://api.digitalocean.com"])?;
                docr.prefix = self.prefix(&["registry_name"])?;
                docr.credential = match self.secret("api_token") {
                    Some(token) => Credential::new(user(token.expose(), "api_token")?, token),
                    None => Credential::Anonymous,
                };
                Ok(docr)
            }
            Kind::Azure | Kind::Generic => self.with_url(None),
            Kind::Gitlab => {
                let mut gitlab = self.with_url(Some("https://registry.gitlab.com"))?;
                if gitlab.origin.host() == "registry.gitlab.com" {
                    gitlab.known_realms = vec![origin("https://gitlab.com")?];
                }
                Ok(gitlab)
            }
            Kind::Ecr => {
                let (account, region) = (self.label("account_id")?, self.label("region")?);
                if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
                    return wrong("account_id", "an AWS account id has twelve digits");
                }
                let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
                let mut ecr = self.at(&format!("https://{account}.dkr.ecr.{region}.amazonaws.com{suffix}"), &[])?;
                ecr.prefix = self.prefix(&["namespace"])?;
                ecr.credential = self
                    .secret("password")
                    .map_or(Credential::Anonymous, |password| Credential::new("AWS".into(), password));
                Ok(ecr)
            }
            Kind::Quay => {
                let mut quay = self.at("https://quay.io", &[])?;
                quay.prefix = self.prefix(&["organization"])?;
                quay.credential = self.login("username", "password")?;
                Ok(quay)
            }
            Kind::Ngc => {
                let mut ngc = self.at("https://nvcr.io", &["https://authn.nvidia.com"])?;
                ngc.prefix = self.prefix(&["organization", "team"])?;
                ngc.credential = self
                    .secret("api_key")
                    .map_or(Credential::Anonymous, |key| Credential::new("$oauthtoken".into(), key));
                Ok(ngc)
            }
        }
    }

    fn at(&self, api: &str, realms: &[&str]) -> Result<Connection, FormError> {
        let origin = origin(api)?;
        Ok(Connection {
            image_hosts: vec![origin.host_port()],
            origin,
            prefix: None,
            known_realms: realms.iter().map(|realm| self::origin(realm)).collect::<Result<_, _>>()?,
            credential: Credential::Anonymous,
        })
    }

    fn with_url(&self, default: Option<&str>) -> Result<Connection, FormError> {
        let url = self.text("url").or(default).unwrap_or_default();
        let mut connection = match url.trim_end_matches('/').parse::<Origin>() {
            Ok(origin) => self.at(&origin.to_string(), &[])?,
            Err(error) => return wrong("url", error.to_string()),
        };
        connection.prefix = self.prefix(&["namespace"])?;
        connection.credential = self.login("username", "password")?;
        Ok(connection)
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name)? {
            Value::Text(text) => Some(text.trim()).filter(|text| !text.is_empty()),
            Value::Secret(_) => None,
        }
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        match self.values.get(name)? {
            Value::Secret(secret) => Some(secret.clone()),
            Value::Text(_) => None,
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

    fn login(&self, username: &'static str, password: &'static str) -> Result<Credential, FormError> {
        match (self.text(username), self.secret(password)) {
            (Some(name), Some(secret)) => Ok(Credential::new(user(name, username)?, secret)),
            (None, None) => Ok(Credential::Anonymous),
            (Some(_), None) => wrong(password, "a user name without a password is no credential; give both or neither"),
            (None, Some(_)) => wrong(username, "a password without a user name is no credential; give both or neither"),
        }
    }
}

/// Basic authentication cannot carry a colon in a user name (RFC 7617).
fn user(name: &str, field: &'static str) -> Result<String, FormError> {
    if name.contains(':') || name.chars().any(char::is_control) {
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
mod tests {
    use super::*;

    fn form(kind: Kind, fields: &[(&str, &str)]) -> Form {
        let mut form = Form::new(kind);
        for (name, value) in fields {
            let field = kind.fields().iter().find(|field| field.name == *name).unwrap();
            let value = match field.kind {
                FieldKind::Text => Value::Text((*value).into()),
                FieldKind::Secret => Value::Secret(Secret::new((*value).into())),
            };
            form.set(name, value).unwrap();
        }
        form
    }

    fn shape(kind: Kind, fields: &[(&str, &str)]) -> (String, String, String, String) {
        let connection = form(kind, fields).connect().unwrap();
        let (user, secret) = match connection.credential {
            Credential::Password { username, secret } => (username, secret.expose().to_owned()),
            Credential::IdentityToken(secret) => ("(identity token)".into(), secret.expose().to_owned()),
            Credential::Anonymous => ("-".into(), "-".into()),
        };
        (connection.origin.to_string(), connection.prefix.map_or("-".into(), |p| p.to_string()), user, secret)
    }

    fn expect(origin: &str, prefix: &str, user: &str, secret: &str) -> (String, String, String, String) {
        (origin.into(), prefix.into(), user.into(), secret.into())
    }

    #[test]
    fn every_form_of_the_documentation_becomes_its_connection() {
        assert_eq!(
            shape(Kind::DigitalOcean, &[("registry_name", "your-registry-name"), ("api_token", "dop_v1")]),
            expect("https://registry.digitalocean.com", "your-registry-name", "dop_v1", "dop_v1"),
        );
        assert_eq!(
            shape(Kind::DockerHub, &[("namespace", "example-repository"), ("username", "me"), ("password", "pw")]),
            expect("https://registry-1.docker.io", "example-repository", "me", "pw"),
        );
        assert_eq!(
            shape(Kind::Google, &[("region", "us-west1"), ("project", "project-name"), ("json_key", "{\"a\":\n1}")]),
            expect("https://us-west1-docker.pkg.dev", "project-name", "_json_key", "{\"a\":\n1}"),
        );
        assert_eq!(
            shape(Kind::Ghcr, &[("organization", "Example-Org"), ("email", "dev@example.com"), ("password", "ghp")]),
            expect("https://ghcr.io", "example-org", "dev@example.com", "ghp"),
        );
        assert_eq!(
            shape(
                Kind::Azure,
                &[
                    ("url", "https://example-registry.azurecr.io"),
                    ("namespace", "/"),
                    ("username", "app-id"),
                    ("password", "s")
                ],
            ),
            expect("https://example-registry.azurecr.io", "-", "app-id", "s"),
        );
    }

    #[test]
    fn the_further_kinds_become_their_connections() {
        assert_eq!(
            shape(Kind::Ecr, &[("account_id", "123456789012"), ("region", "eu-west-1"), ("password", "p")]),
            expect("https://123456789012.dkr.ecr.eu-west-1.amazonaws.com", "-", "AWS", "p"),
        );
        assert_eq!(
            shape(Kind::Ngc, &[("organization", "nvidia"), ("team", "tao"), ("api_key", "k")]),
            expect("https://nvcr.io", "nvidia/tao", "$oauthtoken", "k"),
        );
        assert_eq!(
            shape(Kind::Quay, &[("organization", "org"), ("username", "org+robot"), ("password", "p")]),
            expect("https://quay.io", "org", "org+robot", "p"),
        );
        assert_eq!(
            shape(
                Kind::Gitlab,
                &[("namespace", "group/project"), ("username", "gitlab+deploy-token-1"), ("password", "p")]
            ),
            expect("https://registry.gitlab.com", "group/project", "gitlab+deploy-token-1", "p"),
        );
        assert_eq!(
            shape(
                Kind::Generic,
                &[("url", "https://registry.internal:5000/"), ("username", "<token>"), ("password", "t")]
            ),
            expect("https://registry.internal:5000", "-", "(identity token)", "t"),
        );
        assert_eq!(shape(Kind::DockerHub, &[]), expect("https://registry-1.docker.io", "-", "-", "-"));
    }

    #[test]
    fn a_form_that_cannot_work_names_the_field() {
        for (kind, fields, field) in [
            (Kind::Google, &[("region", "us-west1")][..], "project"),
            (Kind::Google, &[("region", "us.evil/"), ("project", "p")], "region"),
            (Kind::Generic, &[("url", "registry.internal")], "url"),
            (Kind::Generic, &[("url", "https://r.internal/path")], "url"),
            (Kind::Generic, &[("url", "https://r.internal"), ("namespace", "a//b")], "namespace"),
            (Kind::Generic, &[("url", "https://r.internal"), ("username", "u")], "password"),
            (Kind::Generic, &[("url", "https://r.internal"), ("password", "p")], "username"),
            (Kind::Generic, &[("url", "https://r.internal"), ("username", "a:b"), ("password", "p")], "username"),
            (Kind::Ecr, &[("account_id", "12"), ("region", "eu-west-1")], "account_id"),
        ] {
            assert_eq!(form(kind, fields).connect().unwrap_err().field, field, "{kind} {fields:?}");
        }
    }

    #[test]
    fn a_field_of_another_kind_is_refused() {
        assert!(Form::new(Kind::Ghcr).set("region", Value::Text("eu".into())).is_err());
        assert!(Form::new(Kind::Ghcr).set("password", Value::Text("clear".into())).is_err());
    }
}
