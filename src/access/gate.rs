//! Who is asking, and what they may pull: the one place that decides.
//!
//! Where no client is configured there is nobody to tell apart, and
//! credentials that a runtime sends on its own (a Docker daemon sends its
//! user's Docker Hub login to a mirror) are neither read nor kept. Where
//! clients are configured, credentials that are sent must be right, except
//! that a user name nobody here has may be [ignored](ForeignCredentials).
//!
//! A client that is changed or removed is so at once: what was found out about
//! its earlier self counts no longer.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use argon2::{Argon2, PasswordVerifier as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use super::certificate::CertificateNames;
use super::client::{Client, Proof};
use super::throttle::{LoginLimits, Throttle};
use super::token::{Issued, Scope, TokenKey};
use crate::oci::Repository;
use crate::registry::{AccessMode, Registry};
use crate::telemetry::{Audit, Event};

/// Logins that wait for a slow check at a time; at two checks of some 40 ms it
/// takes a second until the last of them has its turn.
const MAX_WAITING: usize = 32;

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

    /// The client's name.
    pub fn name(&self) -> Option<&str> {
        match self {
            Principal::Anonymous => None,
            Principal::Client(client) => Some(&client.name),
        }
    }
}

/// What a request shows of its sender.
#[derive(Debug, Default)]
pub struct Evidence<'a> {
    /// Values of all `Authorization` headers.
    pub authorization: Vec<&'a [u8]>,
    /// Address of the peer.
    pub peer: Option<IpAddr>,
    /// Names in the client certificate that the TLS layer accepted.
    pub certificate: Option<&'a CertificateNames>,
}

/// Who is asking, and by what that is known.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who it is.
    pub principal: Principal,
    /// What was sent to show it.
    pub shown: Shown,
}

/// What became of what was sent to show who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nothing was sent: who it is follows from where it comes from.
    Nothing,
    /// A login, which is right.
    Login,
    /// A login for somewhere else, which was not looked at.
    Ignored,
    /// A token of ours, for these repositories.
    Token(Scope),
}

/// Credentials were sent and are not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// They are not right.
    #[error("the credentials are not accepted")]
    Wrong,
    /// It is a token of ours that has ended, or whose client has changed: a
    /// new one may be had.
    #[error("the token has ended")]
    Ended,
    /// They were not looked at, after too many wrong ones.
    #[error("too many wrong logins")]
    TooMany {
        /// When they will be looked at.
        retry_after: Duration,
    },
}

/// What becomes of a login under a user name that no client here has: a
/// runtime may offer what it has for an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignCredentials {
    /// It is a wrong login.
    #[default]
    Refuse,
    /// It is as if it had not been sent.
    Ignore,
}

/// How logins are treated.
#[derive(Debug, Clone, Copy, Default)]
pub struct GateSettings {
    /// Logins for somewhere else.
    pub foreign_credentials: ForeignCredentials,
    /// Bounds on guessing.
    pub limits: LoginLimits,
    /// Whether a response that has begun ends with the right to it.
    pub cut_on_revoke: bool,
}

/// The clients, and what they may pull.
pub struct Gate {
    settings: GateSettings,
    clients: ArcSwap<Clients>,
    /// Credentials that passed a check, hashed → whose they are. Whose they
    /// were counts only while that client is unchanged.
    passed: moka::future::Cache<[u8; 32], Arc<Client>>,
    /// Slow checks at a time; each takes memory and a core.
    checks: Semaphore,
    /// Logins that wait for theirs.
    waiting: AtomicUsize,
    throttle: Throttle,
    /// Absent where there is no randomness: no token is made then.
    tokens: Option<TokenKey>,
    audit: Arc<Audit>,
    hasher: RandomState,
}

/// A right login stays known for so long after its last use.
const PASSED_FOR: Duration = Duration::from_secs(12 * 3600);
/// Longest credential that is looked at.
const MAX_CREDENTIAL: usize = 4096;
/// What an unknown user's password is checked against where nobody has one, so
/// that it takes as long as if somebody had.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LWhlcmU$RHVtbXlIYXNoRHVtbXlIYXNoRHVtbXlIYXNoRHVtbXk";

/// One state of the list of clients.
#[derive(Default)]
struct Clients {
    all: Vec<Arc<Client>>,
    by_name: HashMap<String, Arc<Client>>,
}

impl Clients {
    fn is_current(&self, client: &Arc<Client>) -> bool {
        self.by_name.get(&client.name).is_some_and(|current| Arc::ptr_eq(current, client))
    }

    /// The client of that name if it has a password, and its hash.
    fn with_password(&self, user: &str) -> Option<(&Arc<Client>, &str)> {
        let client = self.by_name.get(user)?;
        match &client.proof {
            Proof::Password { hash } => Some((client, hash)),
            _ => None,
        }
    }
}

/// A credential as it was sent.
enum Sent {
    Basic { user: String, password: Zeroizing<String> },
    Bearer(Zeroizing<String>),
}

impl Sent {
    /// Takes an `Authorization` header apart.
    fn parse(header: &[u8]) -> Option<Sent> {
        let header = Some(header).filter(|header| header.len() <= MAX_CREDENTIAL)?;
        let (scheme, credential) = std::str::from_utf8(header).ok()?.split_once(' ')?;
        let credential = credential.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Sent::Bearer(Zeroizing::new(credential.to_owned())));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(credential).ok()?);
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Sent::Basic { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
    }

    fn user(&self) -> Option<&str> {
        match self {
            Sent::Basic { user, .. } => Some(user),
            Sent::Bearer(_) => None,
        }
    }

    /// What it is remembered by.
    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        match self {
            Sent::Basic { user, password } => {
                hash.update(b"basic\0");
                hash.update(user.as_bytes());
                hash.update(b"\0");
                hash.update(password.as_bytes());
            }
            Sent::Bearer(token) => {
                hash.update(b"bearer\0");
                hash.update(token.as_bytes());
            }
        }
        hash.finalize().into()
    }
}

impl Gate {
    /// A gate that knows `clients`.
    pub fn new(clients: Vec<Client>, settings: GateSettings, audit: Arc<Audit>) -> Gate {
        let gate = Gate {
            settings,
            clients: ArcSwap::default(),
            passed: moka::future::Cache::builder().max_capacity(10_000).time_to_idle(PASSED_FOR).build(),
            checks: Semaphore::new(2),
            waiting: AtomicUsize::new(0),
            throttle: Throttle::new(settings.limits),
            tokens: TokenKey::random(),
            audit,
            hasher: RandomState::new(),
        };
        gate.replace(clients);
        gate
    }

    /// The gate, with tokens signed by a key that outlives this process.
    #[must_use]
    pub fn with_token_key(mut self, key: TokenKey) -> Gate {
        self.tokens = Some(key);
        self
    }

    /// From now on these are the clients. Those that are as they were keep
    /// what was found out about their logins; running responses go on.
    pub fn replace(&self, clients: Vec<Client>) {
        let before = self.clients.load();
        let mut next = Clients::default();
        for client in clients {
            let same = before.by_name.get(&client.name).filter(|earlier| ***earlier == client);
            let client = same.map_or_else(|| Arc::new(client), Arc::clone);
            next.by_name.insert(client.name.clone(), Arc::clone(&client));
            next.all.push(client);
        }
        self.clients.store(Arc::new(next));
    }

    /// All clients, by name.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        let mut all = self.clients.load().all.clone();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Whether anybody could show who they are.
    pub fn knows_clients(&self) -> bool {
        !self.clients.load().all.is_empty()
    }

    /// Finds out who is asking.
    ///
    /// # Errors
    /// When credentials were sent that are not accepted.
    pub async fn identify(&self, evidence: Evidence<'_>) -> Result<Identity, Rejected> {
        if !self.knows_clients() {
            let shown = if evidence.authorization.is_empty() { Shown::Nothing } else { Shown::Ignored };
            return Ok(Identity { principal: Principal::Anonymous, shown });
        }
        let identity = match evidence.authorization.as_slice() {
            [] => Identity { principal: self.by_circumstance(&evidence), shown: Shown::Nothing },
            [one] => self.by_credential(one, &evidence).await?,
            _ => return Err(Rejected::Wrong),
        };
        if let Some(name) = identity.principal.name() {
            self.audit.first(&login("success", Some(name), evidence.peer));
        }
        Ok(identity)
    }

    /// A token for whoever has logged in, or for nobody in particular; `None`
    /// when none can be made.
    ///
    /// Who is known by a network or a certificate stays known by that alone: a
    /// token that could be carried elsewhere is not made of it.
    pub fn issue(&self, principal: &Principal, scope: &Scope) -> Option<Issued> {
        let client = match principal {
            Principal::Client(client) if matches!(client.proof, Proof::Password { .. } | Proof::Token { .. }) => {
                Some(client.as_ref())
            }
            _ => None,
        };
        Some(self.tokens.as_ref()?.issue(client, scope, SystemTime::now()))
    }

    /// Who shows a token of ours.
    fn by_own_token(&self, token: &str, evidence: &Evidence<'_>) -> Result<Identity, Rejected> {
        let tokens = self.tokens.as_ref().ok_or(Rejected::Ended)?;
        let read = tokens.read(token, SystemTime::now()).ok_or(Rejected::Ended)?;
        let principal = match read.client {
            None => self.by_circumstance(evidence),
            Some((name, generation)) => {
                let clients = self.clients.load();
                let client = clients.by_name.get(&name).filter(|client| tokens.generation(client) == generation);
                Principal::Client(Arc::clone(client.ok_or(Rejected::Ended)?))
            }
        };
        Ok(Identity { principal, shown: Shown::Token(read.scope) })
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

    /// Whether `principal` may be told that there is such a registry.
    pub fn may_know(&self, principal: &Principal, registry: &Registry) -> bool {
        match (registry.access, principal) {
            (AccessMode::Anyone, _) => true,
            (AccessMode::Grants, Principal::Anonymous) => false,
            (AccessMode::Grants, Principal::Client(client)) => {
                client.grants.iter().any(|grant| registry.name.matches(grant.registry()))
            }
        }
    }

    /// Whether whoever began a response as `earlier` may have the rest of it.
    pub fn may_go_on(&self, earlier: &Principal, registry: &Registry, repository: &Repository) -> bool {
        let now = match earlier {
            Principal::Anonymous => Some(Principal::Anonymous),
            Principal::Client(earlier) => {
                let clients = self.clients.load();
                let same = clients.by_name.get(&earlier.name).filter(|now| now.proof == earlier.proof);
                same.map(|now| Principal::Client(Arc::clone(now)))
            }
        };
        registry.access == AccessMode::Anyone || now.is_some_and(|now| self.may_pull(&now, registry, repository))
    }

    /// Whether responses that have begun end with the right to them.
    pub fn cuts_on_revoke(&self) -> bool {
        self.settings.cut_on_revoke
    }

    fn by_circumstance(&self, evidence: &Evidence<'_>) -> Principal {
        let clients = self.clients.load();
        let found = clients.all.iter().find(|client| match &client.proof {
            Proof::Certificate(name) => evidence.certificate.is_some_and(|names| names.contain(name)),
            Proof::Networks(networks) => {
                evidence.peer.is_some_and(|peer| networks.iter().any(|network| network.contains(&peer.to_canonical())))
            }
            Proof::Password { .. } | Proof::Token { .. } => false,
        });
        found.map_or(Principal::Anonymous, |client| Principal::Client(Arc::clone(client)))
    }

    async fn by_credential(&self, header: &[u8], evidence: &Evidence<'_>) -> Result<Identity, Rejected> {
        let sent = Sent::parse(header).ok_or(Rejected::Wrong)?;
        let logged_in = |client| Identity { principal: Principal::Client(client), shown: Shown::Login };
        if let Sent::Bearer(token) = &sent
            && TokenKey::is_token(token)
        {
            return self.by_own_token(token, evidence);
        }
        let fingerprint = sent.fingerprint();
        if let Some(client) = self.passed.get(&fingerprint).await {
            if self.clients.load().is_current(&client) {
                return Ok(logged_in(client));
            }
            self.passed.invalidate(&fingerprint).await;
        }
        let (peer, user) = (evidence.peer, sent.user());
        let known = user.is_some_and(|user| self.clients.load().with_password(user).is_some());
        if user.is_some() && !known && self.settings.foreign_credentials == ForeignCredentials::Ignore {
            return Ok(Identity { principal: self.by_circumstance(evidence), shown: Shown::Ignored });
        }
        // Whoever sends the same at the same time shares the check.
        let checked = self.passed.try_get_with(fingerprint, self.check(&sent, peer)).await;
        // A name that nobody has may be a password in the wrong place.
        let name = user.filter(|_| known);
        match checked.map_err(|rejected| *rejected) {
            Ok(client) if self.clients.load().is_current(&client) => {
                self.throttle.right(peer, user);
                Ok(logged_in(client))
            }
            Err(rejected @ Rejected::TooMany { .. }) => {
                self.audit.client(&login("refused", name, peer));
                Err(rejected)
            }
            _ => {
                self.audit.client(&login("failure", name, peer));
                tokio::time::sleep(self.throttle.wrong(peer, user, Instant::now())).await;
                Err(Rejected::Wrong)
            }
        }
    }

    /// The slow check. It waits for its turn, and may find that too many were
    /// wrong by then.
    async fn check(&self, sent: &Sent, peer: Option<IpAddr>) -> Result<Arc<Client>, Rejected> {
        let held_up = || match self.throttle.wait(peer, sent.user(), Instant::now()) {
            Some(retry_after) => Err(Rejected::TooMany { retry_after }),
            None => Ok(()),
        };
        held_up()?;
        match sent {
            Sent::Bearer(token) => self.by_token(token).ok_or(Rejected::Wrong),
            Sent::Basic { user, password } => {
                let permit = self.turn_to_check().await?;
                let Ok(_permit) = permit else { return Err(Rejected::Wrong) };
                held_up()?;
                self.by_password(user, password).await.ok_or(Rejected::Wrong)
            }
        }
    }

    /// Waits for the turn of a slow check, behind a bounded number of others:
    /// strangers at many addresses would make everybody wait for minutes.
    async fn turn_to_check(&self) -> Result<Result<SemaphorePermit<'_>, AcquireError>, Rejected> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Rejected::TooMany { retry_after: Duration::from_secs(1) });
        }
        let _waits = Waits(&self.waiting);
        Ok(self.checks.acquire().await)
    }

    fn by_token(&self, token: &str) -> Option<Arc<Client>> {
        let sent = crate::oci::Digest::sha256_of(token.as_bytes()).hex();
        let clients = self.clients.load();
        // All of them are looked at, whichever it is.
        clients.all.iter().fold(None, |found, client| match &client.proof {
            Proof::Token { sha256 } if bool::from(sha256.as_bytes().ct_eq(sent.as_bytes())) => Some(Arc::clone(client)),
            _ => found,
        })
    }

    async fn by_password(&self, user: &str, password: &Zeroizing<String>) -> Option<Arc<Client>> {
        let clients = self.clients.load_full();
        let known = clients.with_password(user);
        // An unknown user's password is checked against somebody's, always the
        // same one's: that takes as long as a known user's, and changes nothing.
        let hash = known.map_or_else(|| self.stand_in(&clients, user), |(_, hash)| hash).to_owned();
        let password = Zeroizing::new(password.as_bytes().to_vec());
        let check =
            tokio::task::spawn_blocking(move || Argon2::default().verify_password(&password, hash.as_str()).is_ok());
        let passed = check.await.unwrap_or(false);
        known.filter(|_| passed).map(|(client, _)| Arc::clone(client))
    }

    fn stand_in<'a>(&self, clients: &'a Clients, user: &str) -> &'a str {
        let hashes: Vec<&str> = clients
            .all
            .iter()
            .filter_map(|client| match &client.proof {
                Proof::Password { hash } => Some(hash.as_str()),
                _ => None,
            })
            .collect();
        let chosen = self.hasher.hash_one(user).checked_rem(hashes.len() as u64);
        chosen.and_then(|index| hashes.get(usize::try_from(index).ok()?).copied()).unwrap_or(NOBODY)
    }
}

/// Counts a login that waits, also if its client leaves.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn login<'a>(outcome: &'static str, principal: Option<&'a str>, peer: Option<IpAddr>) -> Event<'a> {
    Event { event: "login", outcome, principal, peer, ..Event::default() }
}

#[cfg(test)]
mod tests;
