//! Who is asking, and what they may pull: the one place that decides.
//!
//! Where no client is configured there is nobody to tell apart, and
//! credentials that a runtime sends on its own (a Docker daemon sends its
//! user's Docker Hub login to a mirror) are neither read nor kept. Where
//! clients are configured, credentials that are sent must be right.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use argon2::{Argon2, PasswordVerifier as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::client::{Client, Proof};
use crate::oci::Repository;
use crate::registry::{AccessMode, Registry};

/// Who is asking.
#[derive(Debug, Clone)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// A configured client.
    Client(Arc<Client>),
}

impl Principal {
    /// Whether it has shown who it is.
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Principal::Anonymous)
    }
}

/// What a request shows of its sender.
#[derive(Debug, Default)]
pub struct Evidence<'a> {
    /// Values of all `Authorization` headers.
    pub authorization: Vec<&'a [u8]>,
    /// Address of the peer.
    pub peer: Option<IpAddr>,
    /// Subject of the client certificate that the TLS layer accepted.
    pub certificate: Option<&'a str>,
}

/// Credentials were sent and are not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credentials are not accepted")]
pub struct Rejected;

/// The configured clients.
pub struct Gate {
    clients: Vec<Arc<Client>>,
    /// Header values that passed the slow check: hash → index of the client.
    passed: moka::sync::Cache<[u8; 32], usize>,
    /// Slow checks at a time; each takes memory and a core.
    checks: Semaphore,
}

const PASSED_FOR: Duration = Duration::from_secs(300);
/// Longest credential that is looked at.
const MAX_CREDENTIAL: usize = 4096;
/// What an unknown user's password is checked against, so that it takes as
/// long as a known one's.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LWhlcmU$RHVtbXlIYXNoRHVtbXlIYXNoRHVtbXlIYXNoRHVtbXk";

impl Gate {
    /// A gate that knows `clients`.
    pub fn new(clients: Vec<Client>) -> Gate {
        Gate {
            clients: clients.into_iter().map(Arc::new).collect(),
            passed: moka::sync::Cache::builder().max_capacity(10_000).time_to_live(PASSED_FOR).build(),
            checks: Semaphore::new(2),
        }
    }

    /// Whether anybody could show who they are.
    pub fn knows_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Finds out who is asking.
    ///
    /// # Errors
    /// When credentials were sent that are not right.
    pub async fn identify(&self, evidence: Evidence<'_>) -> Result<Principal, Rejected> {
        if self.clients.is_empty() {
            return Ok(Principal::Anonymous);
        }
        match evidence.authorization.as_slice() {
            [] => Ok(self.by_circumstance(&evidence)),
            [one] => self.by_credential(one).await.map(Principal::Client),
            _ => Err(Rejected),
        }
    }

    /// Whether `principal` may pull `repository` (its full upstream name).
    pub fn may_pull(&self, principal: &Principal, registry: &Registry, repository: &Repository) -> bool {
        match (registry.access, principal) {
            (AccessMode::Anyone, _) => true,
            (AccessMode::Grants, Principal::Anonymous) => false,
            (AccessMode::Grants, Principal::Client(client)) => {
                client.grants.iter().any(|grant| grant.covers(registry, repository))
            }
        }
    }

    fn by_circumstance(&self, evidence: &Evidence<'_>) -> Principal {
        let found = self.clients.iter().find(|client| match &client.proof {
            Proof::Certificate { subject } => evidence.certificate == Some(subject),
            Proof::Networks(networks) => {
                evidence.peer.is_some_and(|peer| networks.iter().any(|network| network.contains(&peer.to_canonical())))
            }
            Proof::Password { .. } | Proof::Token { .. } => false,
        });
        found.map_or(Principal::Anonymous, |client| Principal::Client(Arc::clone(client)))
    }

    async fn by_credential(&self, header: &[u8]) -> Result<Arc<Client>, Rejected> {
        let header = Some(header).filter(|header| header.len() <= MAX_CREDENTIAL).ok_or(Rejected)?;
        let text = std::str::from_utf8(header).map_err(|_| Rejected)?;
        let (scheme, credential) = text.split_once(' ').ok_or(Rejected)?;
        let credential = credential.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.by_token(credential);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(Rejected);
        }
        let fingerprint: [u8; 32] = Sha256::digest(credential.as_bytes()).into();
        if let Some(client) = self.passed.get(&fingerprint).and_then(|index| self.clients.get(index)) {
            return Ok(Arc::clone(client));
        }
        let decoded = Zeroizing::new(STANDARD.decode(credential).map_err(|_| Rejected)?);
        let decoded = std::str::from_utf8(&decoded).map_err(|_| Rejected)?;
        let (user, password) = decoded.split_once(':').ok_or(Rejected)?;
        let index = self.by_password(user, password).await?;
        self.passed.insert(fingerprint, index);
        self.clients.get(index).cloned().ok_or(Rejected)
    }

    fn by_token(&self, token: &str) -> Result<Arc<Client>, Rejected> {
        let sent = crate::oci::Digest::sha256_of(token.as_bytes()).hex();
        let matches = |client: &&Arc<Client>| match &client.proof {
            Proof::Token { sha256 } => bool::from(sha256.as_bytes().ct_eq(sent.as_bytes())),
            _ => false,
        };
        self.clients.iter().find(matches).cloned().ok_or(Rejected)
    }

    async fn by_password(&self, user: &str, password: &str) -> Result<usize, Rejected> {
        let known = self.clients.iter().enumerate().find_map(|(index, client)| match &client.proof {
            Proof::Password { hash } if client.name == user => Some((index, hash.clone())),
            _ => None,
        });
        let (index, hash) = known.map_or((None, NOBODY.to_owned()), |(index, hash)| (Some(index), hash));
        let password = Zeroizing::new(password.to_owned());
        let Ok(_permit) = self.checks.acquire().await else { return Err(Rejected) };
        let check = tokio::task::spawn_blocking(move || {
            Argon2::default().verify_password(password.as_bytes(), hash.as_str()).is_ok()
        });
        if check.await.unwrap_or(false) { index.ok_or(Rejected) } else { Err(Rejected) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `correct horse`, hashed with small parameters.
    fn hash() -> String {
        use argon2::{CustomizedPasswordHasher as _, Params};
        let params = Params::new(64, 1, 1, None).unwrap();
        Argon2::default()
            .hash_password_customized(b"correct horse", b"salt-of-tests-16", None, None, params)
            .unwrap()
            .to_string()
    }

    fn client(name: &str, proof: Proof) -> Client {
        Client { name: name.into(), proof, grants: vec![] }
    }

    fn gate() -> Gate {
        Gate::new(vec![
            client("ci", Proof::Password { hash: hash() }),
            client("robot", Proof::Token { sha256: crate::oci::Digest::sha256_of(b"t0ken").hex() }),
            client("rack", Proof::Networks(vec!["10.1.0.0/16".parse().unwrap()])),
            client("node", Proof::Certificate { subject: "CN=node".into() }),
        ])
    }

    async fn who(gate: &Gate, evidence: Evidence<'_>) -> Result<String, Rejected> {
        gate.identify(evidence).await.map(|principal| match principal {
            Principal::Anonymous => "-".into(),
            Principal::Client(client) => client.name.clone(),
        })
    }

    fn sends(value: &[u8]) -> Evidence<'_> {
        Evidence { authorization: vec![value], ..Evidence::default() }
    }

    #[tokio::test]
    async fn each_proof_names_its_client() {
        let gate = gate();
        let basic = format!("Basic {}", STANDARD.encode("ci:correct horse"));
        for _ in 0..2 {
            assert_eq!(who(&gate, sends(basic.as_bytes())).await, Ok("ci".into()));
        }
        assert_eq!(who(&gate, sends(b"bearer t0ken")).await, Ok("robot".into()));
        let from = |peer: &str| Evidence { peer: peer.parse().ok(), ..Evidence::default() };
        assert_eq!(who(&gate, from("10.1.2.3")).await, Ok("rack".into()));
        assert_eq!(who(&gate, from("::ffff:10.1.2.3")).await, Ok("rack".into()));
        assert_eq!(who(&gate, from("10.2.0.1")).await, Ok("-".into()));
        let certified = Evidence { certificate: Some("CN=node"), ..Evidence::default() };
        assert_eq!(who(&gate, certified).await, Ok("node".into()));
    }

    #[tokio::test]
    async fn wrong_and_malformed_credentials_are_rejected() {
        let gate = gate();
        for text in ["ci:wrong", "ci:", "ci:correct horse\0", "nobody:correct horse", "robot:t0ken", "ci"] {
            let header = format!("Basic {}", STANDARD.encode(text));
            assert_eq!(who(&gate, sends(header.as_bytes())).await, Err(Rejected), "{text}");
        }
        let long = format!("Basic {}", "A".repeat(64 * 1024));
        for header in [
            &b"x"[..],
            b"Basic",
            b"Basic ",
            b"Basic !!!",
            b"Basic \xff\xfe",
            b"Bearer nope",
            b"Digest x",
            long.as_bytes(),
        ] {
            assert_eq!(who(&gate, sends(header)).await, Err(Rejected));
        }
        let twice = Evidence { authorization: vec![b"bearer t0ken", b"bearer t0ken"], ..Evidence::default() };
        assert_eq!(who(&gate, twice).await, Err(Rejected));
    }

    #[tokio::test]
    async fn without_clients_nobody_is_asked() {
        let gate = Gate::new(vec![]);
        assert_eq!(who(&gate, sends(b"Basic c29tZWJvZHk6ZWxzZQ==")).await, Ok("-".into()));
    }

    #[test]
    fn the_dummy_hash_is_a_hash() {
        assert!(argon2::password_hash::phc::PasswordHash::new(NOBODY).is_ok());
    }
}
