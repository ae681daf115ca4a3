//! The sample registry's tokens: given to its one account, for one repository,
//! for a while.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::random;
use crate::registry::Secret;

/// How long a token is good for.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);

/// The account and the tokens it was given.
#[derive(Debug)]
pub(super) struct Tokens {
    username: &'static str,
    secret: Secret,
    given: Mutex<HashMap<String, Given>>,
}

#[derive(Debug)]
struct Given {
    repository: String,
    until: Instant,
}

impl Tokens {
    pub(super) fn of(username: &'static str, secret: Secret) -> Tokens {
        Tokens { username, secret, given: Mutex::default() }
    }

    /// Gives a token for `scope` (`repository:NAME:pull`) to whoever shows the
    /// account's credential as HTTP Basic; `None` to all others.
    pub(super) fn give(&self, authorization: Option<&str>, scope: &str) -> io::Result<Option<String>> {
        let repository = scope.strip_prefix("repository:").and_then(|rest| rest.strip_suffix(":pull"));
        let (Some(repository), true) = (repository, authorization.is_some_and(|shown| self.is_account(shown))) else {
            return Ok(None);
        };
        let token = random()?;
        let given = Given { repository: repository.to_owned(), until: Instant::now() + LIFETIME };
        self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), given);
        Ok(Some(token))
    }

    /// Whether the header holds a token that is good for `repository` still.
    pub(super) fn admit(&self, authorization: Option<&str>, repository: &str) -> bool {
        let Some(token) = authorization.and_then(|shown| shown.strip_prefix("Bearer ")) else { return false };
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.get(token).is_some_and(|given| given.repository == repository && Instant::now() < given.until)
    }

    fn is_account(&self, authorization: &str) -> bool {
        let pair = format!("{}:{}", self.username, self.secret.expose());
        let shown = authorization.strip_prefix("Basic ").and_then(|encoded| STANDARD.decode(encoded).ok());
        shown.is_some_and(|shown| bool::from(shown.as_slice().ct_eq(pair.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: &str = "repository:demo/app:pull";

    fn basic(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn only_the_account_is_given_a_token_and_only_for_pulling() {
        let tokens = Tokens::of("robot", Secret::new("right".into()));
        let give = |shown: Option<&str>, scope: &str| tokens.give(shown, scope).unwrap();
        for wrong in ["robot:wrong", "robot:", "root:right", "robot:right:", ""] {
            assert_eq!(give(Some(&basic(wrong)), SCOPE), None, "{wrong}");
        }
        assert_eq!(give(None, SCOPE), None);
        assert_eq!(give(Some("Bearer right"), SCOPE), None);
        assert_eq!(give(Some(&basic("robot:right")), "repository:demo/app:pull,push"), None);
        assert!(give(Some(&basic("robot:right")), SCOPE).is_some());
    }

    #[test]
    fn a_token_is_good_for_its_repository_and_none_other() {
        let tokens = Tokens::of("robot", Secret::new("right".into()));
        let token = tokens.give(Some(&basic("robot:right")), SCOPE).unwrap().unwrap();
        let shown = format!("Bearer {token}");
        assert!(tokens.admit(Some(&shown), "demo/app"));
        assert!(!tokens.admit(Some(&shown), "demo/other"));
        assert!(!tokens.admit(Some("Bearer guess"), "demo/app"));
        assert!(!tokens.admit(Some(&basic("robot:right")), "demo/app"));
        assert!(!tokens.admit(None, "demo/app"));
    }
}
