//! What upstream is shown, and for how long.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::registry::{Credential, Secret};

/// What a registry's upstream is shown.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::upstream) enum Login {
    /// Nothing.
    Anonymous,
    /// User name and secret.
    Basic {
        /// The user name, which token services are told beside; not one that
        /// is a secret itself.
        account: Option<String>,
        /// The whole header.
        header: HeaderValue,
    },
    /// An identity (refresh) token.
    Identity(Zeroizing<String>),
}

impl Login {
    pub(super) fn basic(username: &str, secret: &Secret) -> Option<Login> {
        let pair = Zeroizing::new(format!("{username}:{}", secret.expose()));
        let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        Login::ready(Some(username).filter(|name| *name != secret.expose()), &encoded)
    }

    /// From the parameter of a Basic header as it is.
    pub(super) fn ready(account: Option<&str>, parameter: &str) -> Option<Login> {
        let mut header = HeaderValue::from_str(&Zeroizing::new(format!("Basic {parameter}"))).ok()?;
        header.set_sensitive(true);
        Some(Login::Basic { account: account.map(str::to_owned), header })
    }

    /// An identity token as container runtimes show it where they show a
    /// password.
    pub(in crate::upstream) fn identity_as_basic(token: &str) -> Option<Login> {
        let pair = Zeroizing::new(format!("{}:{token}", Credential::IDENTITY_TOKEN_USER));
        Login::ready(None, &Zeroizing::new(STANDARD.encode(pair.as_bytes())))
    }

    pub(super) fn identity(secret: &Secret) -> Login {
        Login::Identity(Zeroizing::new(secret.expose().to_owned()))
    }
}

/// A login, and which it is.
pub(in crate::upstream) struct Shown {
    /// Of which secret of the registry, counted.
    pub(in crate::upstream) generation: u64,
    /// The how manieth login.
    pub(in crate::upstream) serial: u64,
    pub(in crate::upstream) login: Login,
}

/// A login that was got, and for how long.
pub(super) struct Fresh {
    pub(super) login: Login,
    /// `None`: until the recipe changes.
    pub(super) good_for: Option<Duration>,
    /// Looked at again after this.
    pub(super) renew_in: Option<Duration>,
}

impl Fresh {
    pub(super) fn lasting(login: Login) -> Fresh {
        Fresh { login, good_for: None, renew_in: None }
    }

    /// Given out for so long: renewed when half of it is over.
    pub(super) fn given_for(login: Login, lifetime: Duration) -> Fresh {
        Fresh { login, good_for: Some(lifetime), renew_in: Some(lifetime / 2) }
    }
}

/// The login of a recipe that needs nothing else.
pub(super) fn plain(recipe: &Credential) -> Option<Login> {
    match recipe {
        Credential::Anonymous => Some(Login::Anonymous),
        Credential::Password { username, secret } => Login::basic(username, secret.secret()),
        Credential::TokenAsBoth(token) => Login::basic(token.secret().expose(), token.secret()),
        Credential::IdentityToken(token) => Some(Login::identity(token.secret())),
        _ => None,
    }
}
