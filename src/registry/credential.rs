//! What upstream is shown: the recipe the operator wrote, and the one type that
//! secrets live in.
//!
//! A credential says where a login comes from, not what it is at the moment:
//! files change, helpers are asked again, and the clouds give out logins that
//! end. `upstream` works out what to show now.

use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use super::Origin;
use super::docker_config::Server;

/// A secret text. It neither prints nor serialises, and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the text as it is, byte for byte.
    pub fn new(text: String) -> Secret {
        Secret(SecretString::from(text))
    }

    /// The text of a file: editors and `echo` end it with a newline that is
    /// not part of the secret; all else, inner newlines of a JSON key too, is
    /// kept. `None` when nothing is left.
    pub fn of_file(text: &str) -> Option<Secret> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        (!text.is_empty()).then(|| Secret::new(text.to_owned()))
    }

    /// The text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A secret, and where it may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is what it is until somebody replaces it.
    Fixed(Secret),
    /// The content of a file, which may become another at any time.
    File {
        /// The file.
        path: PathBuf,
        /// What it held when it was last read and sound.
        last: Secret,
    },
}

impl Source {
    /// The secret as it was last seen.
    pub fn secret(&self) -> &Secret {
        match self {
            Source::Fixed(secret) | Source::File { last: secret, .. } => secret,
        }
    }
}

impl From<Secret> for Source {
    fn from(secret: Secret) -> Source {
        Source::Fixed(secret)
    }
}

/// The name of a credential helper: `ecr-login` is the program
/// `docker-credential-ecr-login`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperName(String);

impl HelperName {
    /// The program's name, to be found in `PATH`.
    pub fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }
}

impl fmt::Display for HelperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for HelperName {
    type Err = &'static str;

    /// What goes into the name of a program, and nothing that leads elsewhere.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sound = (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if sound { Ok(HelperName(text.to_owned())) } else { Err("is no name of a credential helper") }
    }
}

/// A registry's credential.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// None: upstream sees an anonymous client.
    Anonymous,
    /// User name and password, token or key: Basic towards the token service,
    /// or towards the registry itself where that is what it asks for.
    Password {
        /// User name; never with a `:`.
        username: String,
        /// Password, access token or key text.
        secret: Source,
    },
    /// A token that is user name and password at once.
    TokenAsBoth(Source),
    /// An identity (refresh) token, exchanged by POST.
    IdentityToken(Source),
    /// Whatever login Docker's configuration file has for the registry.
    DockerConfig {
        /// The file's JSON text.
        file: Source,
        /// The registry, as that file may call it.
        server: Server,
        /// The user name that the login has to have.
        username: Option<String>,
    },
    /// Whatever login a credential helper has for the registry.
    Helper {
        /// The helper.
        helper: HelperName,
        /// The registry, as helpers call it.
        server: Server,
        /// The user name that the login has to have.
        username: Option<String>,
    },
    /// An AWS access key, exchanged for a login of twelve hours.
    Aws(AwsKey),
    /// A Google service account's key, exchanged for an access token.
    Google(GoogleKey),
    /// A Microsoft Entra application, exchanged for a refresh token of the
    /// registry.
    Entra(EntraApp),
}

/// An AWS access key for ECR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsKey {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: Source,
    /// The third part of temporary credentials.
    pub session_token: Option<Source>,
    /// The region of the API.
    pub region: String,
    /// ECR Public has an API of its own.
    pub public: bool,
    /// Where the API is.
    pub endpoint: Origin,
}

/// A Google service account's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoogleKey {
    /// The key file's JSON text.
    pub key: Source,
    /// Where it is exchanged; the `token_uri` of the key has to be there.
    pub endpoint: Origin,
}

/// A Microsoft Entra application (service principal).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntraApp {
    /// Directory (tenant) id.
    pub tenant: String,
    /// Application (client) id.
    pub client_id: String,
    /// Client secret.
    pub secret: Source,
    /// Where it signs in.
    pub endpoint: Origin,
    /// The registry, which turns the sign-in into a refresh token.
    pub registry: Origin,
}

impl Credential {
    /// Container runtimes store an identity token under this user name.
    pub const IDENTITY_TOKEN_USER: &'static str = "<token>";

    /// The credential that a user name and a secret stand for.
    pub fn new(username: String, secret: impl Into<Source>) -> Credential {
        let secret = secret.into();
        if username == Self::IDENTITY_TOKEN_USER {
            Credential::IdentityToken(secret)
        } else {
            Credential::Password { username, secret }
        }
    }

    /// Whether upstream sees an anonymous client.
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Credential::Anonymous)
    }

    /// Whether it is for all that is known the account of `other`: what one was
    /// allowed to read, the other is. Only secrets differ then.
    pub fn is_account_of(&self, other: &Credential) -> bool {
        match (self, other) {
            (Credential::Password { username, .. }, Credential::Password { username: other, .. }) => username == other,
            (Credential::TokenAsBoth(_), Credential::TokenAsBoth(_)) => true,
            (
                Credential::DockerConfig { server, username, .. },
                Credential::DockerConfig { server: at, username: of, .. },
            ) => (server, username) == (at, of),
            (Credential::Entra(app), Credential::Entra(other)) => {
                (&app.tenant, &app.client_id) == (&other.tenant, &other.client_id)
            }
            // A key or a refresh token says nothing that could be compared.
            (one, other) => one == other,
        }
    }

    /// The provider's API that it is exchanged at, besides the registry and its
    /// token service.
    pub fn endpoint(&self) -> Option<&Origin> {
        match self {
            Credential::Aws(AwsKey { endpoint, .. })
            | Credential::Google(GoogleKey { endpoint, .. })
            | Credential::Entra(EntraApp { endpoint, .. }) => Some(endpoint),
            _ => None,
        }
    }

    /// Its secrets, each with where it may change.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let (first, second) = match self {
            Credential::Anonymous | Credential::Helper { .. } => (None, None),
            Credential::Password { secret, .. }
            | Credential::TokenAsBoth(secret)
            | Credential::IdentityToken(secret)
            | Credential::DockerConfig { file: secret, .. }
            | Credential::Google(GoogleKey { key: secret, .. })
            | Credential::Entra(EntraApp { secret, .. }) => (Some(secret), None),
            Credential::Aws(AwsKey { secret, session_token, .. }) => (Some(secret), session_token.as_ref()),
        };
        first.into_iter().chain(second)
    }

    /// What it is without its secrets, which are empty then.
    #[must_use]
    pub fn without_secrets(mut self) -> Credential {
        for source in self.sources_mut() {
            *source = Secret::new(String::new()).into();
        }
        self
    }

    /// As [`sources`](Self::sources), to bring them up to date.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        let (first, second) = match self {
            Credential::Anonymous | Credential::Helper { .. } => (None, None),
            Credential::Password { secret, .. }
            | Credential::TokenAsBoth(secret)
            | Credential::IdentityToken(secret)
            | Credential::DockerConfig { file: secret, .. }
            | Credential::Google(GoogleKey { key: secret, .. })
            | Credential::Entra(EntraApp { secret, .. }) => (Some(secret), None),
            Credential::Aws(AwsKey { secret, session_token, .. }) => (Some(secret), session_token.as_mut()),
        };
        first.into_iter().chain(second)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Anonymous => f.write_str("Anonymous"),
            // People write their token as the user name too.
            Credential::Password { username, secret } if username == secret.secret().expose() => {
                f.debug_struct("Password").field("username", secret).field("secret", secret).finish()
            }
            Credential::Password { username, secret } => {
                f.debug_struct("Password").field("username", username).field("secret", secret).finish()
            }
            Credential::TokenAsBoth(secret) => f.debug_tuple("TokenAsBoth").field(secret).finish(),
            Credential::IdentityToken(secret) => f.debug_tuple("IdentityToken").field(secret).finish(),
            Credential::DockerConfig { file, server, username } => f
                .debug_struct("DockerConfig")
                .field("file", file)
                .field("server", server)
                .field("username", username)
                .finish(),
            Credential::Helper { helper, server, username } => f
                .debug_struct("Helper")
                .field("helper", helper)
                .field("server", server)
                .field("username", username)
                .finish(),
            Credential::Aws(key) => f.debug_tuple("Aws").field(key).finish(),
            Credential::Google(key) => f.debug_tuple("Google").field(key).finish(),
            Credential::Entra(app) => f.debug_tuple("Entra").field(app).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let canary = || Secret::new("canary".into());
        let file = Source::File { path: "/run/secrets/x".into(), last: canary() };
        for credential in [
            Credential::new("robot".into(), canary()),
            Credential::new("canary".into(), canary()),
            Credential::new("<token>".into(), canary()),
            Credential::new("robot".into(), file.clone()),
            Credential::TokenAsBoth(file),
        ] {
            assert!(!format!("{credential:?}").contains("canary"), "{credential:?}");
        }
    }

    #[test]
    fn only_the_final_newline_is_no_part_of_a_secret() {
        let read = |text| Secret::of_file(text).map(|secret| secret.expose().to_owned());
        assert_eq!(read("token\n").as_deref(), Some("token"));
        assert_eq!(read("token\r\n").as_deref(), Some("token"));
        assert_eq!(read("{\n \"a\": 1\n}\n\n").as_deref(), Some("{\n \"a\": 1\n}\n"));
        assert_eq!(read(" p w ").as_deref(), Some(" p w "));
        assert_eq!((read(""), read("\n")), (None, None));
    }

    #[test]
    fn the_name_of_a_helper_leads_to_no_other_program() {
        for name in ["ecr-login", "desktop", "gcloud", "osxkeychain", "acr-env", "x_1.2"] {
            assert!(name.parse::<HelperName>().is_ok(), "{name}");
        }
        for name in ["", "../evil", "a/b", "/bin/sh", "a b", "a;b", ".", "-x", "a\\b", "a\0", "ä", &"x".repeat(65)] {
            assert!(name.parse::<HelperName>().is_err(), "{name:?}");
        }
    }
}
