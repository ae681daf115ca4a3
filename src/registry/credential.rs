//! What upstream is shown, and the one type that secrets live in.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

/// A secret text. It neither prints nor serialises, and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the text as it is, byte for byte.
    pub fn new(text: String) -> Secret {
        Secret(SecretString::from(text))
    }

    /// The text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A registry's credential.
#[derive(Clone)]
pub enum Credential {
    /// None: upstream sees an anonymous client.
    Anonymous,
    /// User name and password, token or key: Basic towards the token service,
    /// or towards the registry itself where that is what it asks for.
    Password {
        /// User name; never with a `:`.
        username: String,
        /// Password, access token or key text.
        secret: Secret,
    },
    /// An identity (refresh) token, exchanged by POST.
    IdentityToken(Secret),
}

impl Credential {
    /// Container runtimes store an identity token under this user name.
    const IDENTITY_TOKEN_USER: &'static str = "<token>";

    /// The credential that a user name and a secret stand for.
    pub fn new(username: String, secret: Secret) -> Credential {
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
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Anonymous => f.write_str("Anonymous"),
            // Some providers want the token as user name too.
            Credential::Password { username, secret } if username == secret.expose() => {
                f.debug_struct("Password").field("username", secret).field("secret", secret).finish()
            }
            Credential::Password { username, secret } => {
                f.debug_struct("Password").field("username", username).field("secret", secret).finish()
            }
            Credential::IdentityToken(secret) => f.debug_tuple("IdentityToken").field(secret).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let credential = Credential::new("robot".into(), Secret::new("canary".into()));
        assert!(!format!("{credential:?}").contains("canary"));
        let credential = Credential::new("canary".into(), Secret::new("canary".into()));
        assert!(!format!("{credential:?}").contains("canary"), "nor as a user name");
    }
}
