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
        let secret = connection.credential.sources().next().map(|source| source.secret().expose().to_owned());
        let user = match &connection.credential {
            Credential::Password { username, .. } => username.clone(),
            Credential::TokenAsBoth(token) => token.secret().expose().to_owned(),
            Credential::IdentityToken(_) => "(identity token)".into(),
            Credential::Aws(key) => format!("{} at {}", key.id, key.endpoint),
            Credential::Google(key) => format!("at {}", key.endpoint),
            Credential::Entra(app) => format!("{} of {} at {}", app.client_id, app.tenant, app.endpoint),
            _ => "-".into(),
        };
        let secret = secret.unwrap_or("-".into());
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
    fn a_cloud_is_signed_in_to_at_its_own_place_unless_another_is_written() {
        let key = [("access_key_id", "AKIA"), ("secret_access_key", "s")];
        let ecr = |fields: &[(&str, &str)]| shape(Kind::Ecr, &[fields, &key].concat());
        assert_eq!(
            ecr(&[("account_id", "123456789012"), ("region", "cn-north-1")]),
            expect(
                "https://123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "-",
                "AKIA at https://api.ecr.cn-north-1.amazonaws.com.cn",
                "s"
            ),
        );
        let fips = "https://123456789012.dkr.ecr-fips.us-east-1.amazonaws.com";
        assert_eq!(ecr(&[("url", fips)]), expect(fips, "-", "AKIA at https://ecr-fips.us-east-1.amazonaws.com", "s"));
        assert_eq!(
            ecr(&[("url", "https://public.ecr.aws"), ("namespace", "team")]),
            expect("https://public.ecr.aws", "team", "AKIA at https://api.ecr-public.us-east-1.amazonaws.com", "s"),
        );
        assert_eq!(
            ecr(&[
                ("url", "https://ecr.internal"),
                ("region", "eu-west-1"),
                ("sign_in_endpoint", "https://vpce-1.example/")
            ]),
            expect("https://ecr.internal", "-", "AKIA at https://vpce-1.example", "s"),
        );
        let google = [("region", "us"), ("project", "p"), ("json_key", "{}"), ("sign_in", "access-token")];
        assert_eq!(
            shape(Kind::Google, &google),
            expect("https://us-docker.pkg.dev", "p", "at https://oauth2.googleapis.com", "{}"),
        );
        let legacy = [("url", "https://gcr.io"), ("project", "p"), ("json_key", "{}")];
        assert_eq!(shape(Kind::Google, &legacy), expect("https://gcr.io", "p", "_json_key", "{}"));
        for (host, endpoint) in [
            ("r.azurecr.io", "https://login.microsoftonline.com"),
            ("r.azurecr.cn", "https://login.partner.microsoftonline.cn"),
            ("r.azurecr.us", "https://login.microsoftonline.us"),
        ] {
            let url = format!("https://{host}");
            let fields = [("url", url.as_str()), ("tenant", "t-1"), ("username", "app"), ("password", "s")];
            assert_eq!(shape(Kind::Azure, &fields), expect(&url, "-", &format!("app of t-1 at {endpoint}"), "s"));
        }
    }

    #[test]
    fn a_login_that_is_kept_elsewhere_stands_in_for_the_secret() {
        let config = r#"{"auths": {"quay.io/org": {"username": "org+robot", "password": "p"}}}"#;
        let login = |username: Option<&str>, value: Value| {
            let mut form = Form::new(Kind::Quay);
            form.set("organization", Value::Text("org".into())).unwrap();
            if let Some(username) = username {
                form.set("username", Value::Text(username.into())).unwrap();
            }
            form.set("password", value).unwrap();
            form.connect().map(|connection| format!("{:?}", connection.credential)).map_err(|error| error.field)
        };
        let file = |text: &str| Value::DockerConfig(Secret::new(text.into()).into());
        assert!(login(None, file(config)).unwrap().contains("username: None"));
        assert!(login(Some("org+robot"), file(config)).unwrap().contains("username: Some(\"org+robot\")"));
        assert_eq!(login(Some("somebody"), file(config)), Err("username"), "contradicts the file");
        assert_eq!(login(None, file("{}")), Err("password"));
        assert!(login(None, Value::Helper("desktop".parse().unwrap())).unwrap().contains("quay.io"));
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
            (Kind::Ecr, &[("url", "https://public.ecr.aws"), ("access_key_id", "A")], "secret_access_key"),
            (Kind::Ecr, &[("url", "https://public.ecr.aws"), ("secret_access_key", "A")], "access_key_id"),
            (Kind::Ecr, &[("url", "https://public.ecr.aws"), ("session_token", "A")], "session_token"),
            (
                Kind::Ecr,
                &[
                    ("url", "https://public.ecr.aws"),
                    ("access_key_id", "A"),
                    ("secret_access_key", "s"),
                    ("password", "p"),
                ],
                "password",
            ),
            (Kind::Ecr, &[("url", "https://e.internal"), ("access_key_id", "A"), ("secret_access_key", "s")], "region"),
            (Kind::Google, &[("region", "us"), ("project", "p"), ("sign_in", "magic")], "sign_in"),
            (Kind::Google, &[("region", "us"), ("project", "p"), ("sign_in", "access-token")], "json_key"),
            (Kind::Azure, &[("url", "https://r.azurecr.io"), ("tenant", "t")], "tenant"),
            (Kind::Azure, &[("url", "https://r.azurecr.io"), ("tenant", "../x")], "tenant"),
            (
                Kind::Azure,
                &[
                    ("url", "https://r.azurecr.io"),
                    ("tenant", "t"),
                    ("username", "a"),
                    ("password", "s"),
                    ("sign_in_endpoint", "login.microsoftonline.com"),
                ],
                "sign_in_endpoint",
            ),
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
