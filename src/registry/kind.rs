//! The kinds of registry, and the form of each: what an operator fills in.

use std::fmt;
use std::str::FromStr;

/// A provider, with its own form and its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the provider of that name
pub enum Kind {
    DockerHub,
    Ghcr,
    Google,
    DigitalOcean,
    Azure,
    Ecr,
    Quay,
    Ngc,
    Gitlab,
    Generic,
}

/// How a field is asked for and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// Plain text.
    Text,
    /// A secret: taken from a source, never shown.
    Secret,
}

/// One field of a kind's form.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name in configuration, command line and API.
    pub name: &'static str,
    /// What to ask for.
    pub label: &'static str,
    /// Text or secret.
    pub kind: FieldKind,
    /// The form is incomplete without it; `url`, where the form has it, stands
    /// in for what it is otherwise worked out from.
    pub required: bool,
    /// Not part of the provider's usual form: asked for by nobody, but there
    /// for whoever needs it.
    pub advanced: bool,
}

const fn text(name: &'static str, label: &'static str, required: bool) -> Field {
    Field { name, label, kind: FieldKind::Text, required, advanced: false }
}

const fn secret(name: &'static str, label: &'static str, required: bool) -> Field {
    Field { name, label, kind: FieldKind::Secret, required, advanced: false }
}

impl Field {
    const fn advanced(self) -> Field {
        Field { advanced: true, ..self }
    }
}

const SIGN_IN_ENDPOINT: Field = text("sign_in_endpoint", "Sign-in endpoint", false).advanced();

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Kind; 10] = [
        Kind::DockerHub,
        Kind::Ghcr,
        Kind::Google,
        Kind::DigitalOcean,
        Kind::Azure,
        Kind::Ecr,
        Kind::Quay,
        Kind::Ngc,
        Kind::Gitlab,
        Kind::Generic,
    ];

    /// The kind as written in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::DockerHub => "docker-hub",
            Kind::Ghcr => "ghcr",
            Kind::Google => "google",
            Kind::DigitalOcean => "digitalocean",
            Kind::Azure => "azure",
            Kind::Ecr => "ecr",
            Kind::Quay => "quay",
            Kind::Ngc => "ngc",
            Kind::Gitlab => "gitlab",
            Kind::Generic => "generic",
        }
    }

    /// The fields of this kind's form, in the order they are asked for.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Kind::DockerHub => {
                const {
                    &[
                        text("namespace", "Namespace", false),
                        text("username", "Username", false),
                        secret("password", "Password or access token", false),
                    ]
                }
            }
            Kind::Ghcr => {
                const {
                    &[
                        text("organization", "Organization", false),
                        text("email", "Email", false),
                        secret("password", "Password (personal access token)", false),
                    ]
                }
            }
            Kind::Google => {
                const {
                    &[
                        text("region", "Region", true),
                        text("project", "Project", true),
                        secret("json_key", "JSON key", false),
                        text("url", "Registry URL", false).advanced(),
                        text("sign_in", "Sign in with", false).advanced(),
                        SIGN_IN_ENDPOINT,
                    ]
                }
            }
            Kind::DigitalOcean => {
                const { &[text("registry_name", "Registry name", true), secret("api_token", "API token", false)] }
            }
            Kind::Azure => {
                const {
                    &[
                        text("url", "Registry URL", true),
                        text("namespace", "Namespace", false),
                        text("username", "Username", false),
                        secret("password", "Password", false),
                        text("tenant", "Directory (tenant) ID", false).advanced(),
                        SIGN_IN_ENDPOINT,
                    ]
                }
            }
            Kind::Generic => {
                const {
                    &[
                        text("url", "Registry URL", true),
                        text("namespace", "Namespace", false),
                        text("username", "Username", false),
                        secret("password", "Password", false),
                    ]
                }
            }
            Kind::Ecr => {
                const {
                    &[
                        text("account_id", "Account ID", true),
                        text("region", "Region", true),
                        text("namespace", "Namespace", false),
                        text("access_key_id", "Access key ID", false),
                        secret("secret_access_key", "Secret access key", false),
                        secret("session_token", "Session token", false).advanced(),
                        secret("password", "Authorization password", false).advanced(),
                        text("url", "Registry URL", false).advanced(),
                        SIGN_IN_ENDPOINT,
                    ]
                }
            }
            Kind::Quay => {
                const {
                    &[
                        text("organization", "Organization", false),
                        text("username", "Username or robot account", false),
                        secret("password", "Password or robot token", false),
                    ]
                }
            }
            Kind::Ngc => {
                const {
                    &[
                        text("organization", "Organization", false),
                        text("team", "Team", false),
                        secret("api_key", "API key", false),
                    ]
                }
            }
            Kind::Gitlab => {
                const {
                    &[
                        text("url", "Registry URL", false),
                        text("namespace", "Group or project", false),
                        text("username", "Username or deploy token", false),
                        secret("password", "Password or token", false),
                    ]
                }
            }
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
