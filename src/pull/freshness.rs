//! What may be answered without upstream: settings, the trouble that a stale
//! answer may stand in for, and what is remembered of trouble and refusals.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tracing::warn;

use super::error::Error;
use crate::oci::Repository;
use crate::registry::Registry;
use crate::upstream;

/// When upstream is asked again, and when not; what a registry says for itself
/// stands with the registry.
#[derive(Debug, Clone)]
pub struct Freshness {
    /// How long "not found" is remembered.
    pub not_found_ttl: Duration,
    /// How long a question to upstream is waited for when there is an answer
    /// that may stand in for it.
    pub revalidate_timeout: Duration,
    /// How long whoever asks for what is not cached waits for an upstream that
    /// is in trouble.
    pub outage_patience: Duration,
    /// No upstream is ever asked.
    pub offline: bool,
}

/// Why an answer is given that upstream was not asked about, or did not confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Upstream cannot be reached.
    Unreachable,
    /// Upstream did not answer in time.
    Timeout,
    /// Upstream's rate limit is reached.
    RateLimited,
    /// Upstream answered with a failure of its own.
    ServerError,
    /// Upstream is not to be asked.
    Offline,
}

impl Stale {
    /// All reasons.
    pub const ALL: [Stale; 5] =
        [Stale::Unreachable, Stale::Timeout, Stale::RateLimited, Stale::ServerError, Stale::Offline];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stale::Unreachable => "unreachable",
            Stale::Timeout => "timeout",
            Stale::RateLimited => "rate_limited",
            Stale::ServerError => "server_error",
            Stale::Offline => "offline",
        }
    }

    /// The trouble that `error` is, if it is of the kind that passes by itself.
    /// A refusal is no trouble: it is an answer.
    fn of(error: &upstream::Error) -> Option<Stale> {
        match error {
            upstream::Error::TooManyRequests { .. } => Some(Stale::RateLimited),
            upstream::Error::Timeout { .. } | upstream::Error::Status { status: 408, .. } => Some(Stale::Timeout),
            upstream::Error::Busy { .. } => Some(Stale::ServerError),
            upstream::Error::Status { status, .. } if *status >= 500 => Some(Stale::ServerError),
            other => other.is_transient().then_some(Stale::Unreachable),
        }
    }
}

/// A question that came to nothing.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    /// What a client is told.
    pub(super) error: Error,
    /// What a stale answer may stand in for.
    pub(super) trouble: Option<Stale>,
    /// How long upstream asked to wait.
    pub(super) retry_after: Option<Duration>,
}

impl From<upstream::Error> for Failed {
    fn from(error: upstream::Error) -> Self {
        Failed { trouble: Stale::of(&error), retry_after: error.retry_after(), error: error.into() }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, trouble: None, retry_after: None }
    }
}

/// A question that was never asked, or got lost.
pub(super) fn lost() -> Failed {
    Error::Unavailable("too many questions to upstream at a time".to_owned()).into()
}

/// Bytes of refusals that are remembered: about 100 000 of them.
const MAX_REMEMBERED: u64 = 32 << 20;
/// How long a refusal is remembered.
const DENIED: Duration = Duration::from_secs(5);
/// How long trouble is remembered, if upstream does not say.
const TROUBLE: Duration = Duration::from_secs(5);
/// … and at the most, if it does.
const LONGEST_TROUBLE: Duration = Duration::from_secs(60);

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Manifest,
    Blob,
    List,
}

/// What is remembered of answers that were none: "not found" and "denied" for
/// what was asked, trouble for the repository.
#[derive(Clone)]
pub(super) struct Setbacks {
    refusals: moka::sync::Cache<String, Lasting<Error>>,
    troubles: moka::sync::Cache<String, Lasting<Stale>>,
    /// Counted up when what a registry said is to be forgotten: an answer to
    /// an earlier question is not remembered under the new number.
    generations: Arc<RwLock<HashMap<String, u64>>>,
    not_found_ttl: Duration,
}

/// Something and how long it lasts.
#[derive(Clone)]
struct Lasting<T>(T, Duration);

struct AsLongAsItLasts;

impl<K, T> moka::Expiry<K, Lasting<T>> for AsLongAsItLasts {
    fn expire_after_create(&self, _: &K, value: &Lasting<T>, _: Instant) -> Option<Duration> {
        Some(value.1)
    }

    fn expire_after_update(&self, _: &K, value: &Lasting<T>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(value.1)
    }
}

/// Where a refusal will be remembered: taken before upstream is asked.
pub(super) struct Slot(String);

impl Setbacks {
    pub(super) fn new(not_found_ttl: Duration) -> Setbacks {
        Setbacks {
            refusals: moka::sync::Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                // A query may be as long as a request's target.
                .weigher(|key: &String, _| u32::try_from(key.len() + 128).unwrap_or(u32::MAX))
                .expire_after(AsLongAsItLasts)
                .build(),
            troubles: moka::sync::Cache::builder().max_capacity(10_000).expire_after(AsLongAsItLasts).build(),
            generations: Arc::default(),
            not_found_ttl,
        }
    }

    pub(super) fn slot(&self, registry: &Registry, repository: &Repository, asked: Asked, what: &str) -> Slot {
        let owner = registry.owner();
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        let generation = generations.get(owner).copied().unwrap_or_default();
        Slot(format!("{owner} {generation} {repository} {asked:?} {what}"))
    }

    /// What upstream has just answered to the same question.
    pub(super) fn refusal(&self, slot: &Slot) -> Option<Error> {
        self.refusals.get(&slot.0).map(|Lasting(error, _)| error)
    }

    /// Remembers `error` if it is a refusal.
    pub(super) fn refused(&self, slot: Slot, error: &Error) {
        let lasts = match error {
            Error::NotFound => self.not_found_ttl,
            error if error.is_refusal() => DENIED.min(self.not_found_ttl),
            _ => return,
        };
        if !lasts.is_zero() {
            self.refusals.insert(slot.0, Lasting(error.clone(), lasts));
        }
    }

    /// The trouble that upstream has just had with this repository.
    pub(super) fn trouble(&self, registry: &Registry, repository: &Repository) -> Option<Stale> {
        self.troubles.get(&place(registry, repository)).map(|Lasting(stale, _)| stale)
    }

    /// Remembers trouble, so that not everybody has to wait for it.
    pub(super) fn troubled(
        &self,
        registry: &Registry,
        repository: &Repository,
        stale: Stale,
        retry_after: Option<Duration>,
    ) {
        let lasts = retry_after.unwrap_or(TROUBLE).clamp(TROUBLE, LONGEST_TROUBLE);
        let place = place(registry, repository);
        if !self.troubles.contains_key(&place) {
            warn!(registry = %registry.name, %repository, trouble = stale.as_str(), "upstream is in trouble");
        }
        self.troubles.insert(place, Lasting(stale, lasts));
    }

    /// Upstream has answered.
    pub(super) fn recovered(&self, registry: &Registry, repository: &Repository) {
        self.troubles.invalidate(&place(registry, repository));
    }

    /// Forgets what upstream said to this registry's credential.
    pub(super) fn forget(&self, registry: &Registry) {
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        *generations.entry(registry.owner().to_owned()).or_default() += 1;
        let prefix = format!("{} ", registry.owner());
        for (place, _) in &self.troubles {
            if place.starts_with(&prefix) {
                self.troubles.invalidate(&*place);
            }
        }
    }
}

fn place(registry: &Registry, repository: &Repository) -> String {
    format!("{} {repository}", registry.owner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn registries() -> Vec<Arc<Registry>> {
        let of = |name: &str| format!("[[registry]]\nname = \"{name}\"\nkind = \"ghcr\"\n");
        let text = of("one") + &of("two");
        Settings::parse("t.toml", &text, &std::collections::BTreeMap::new()).unwrap().registries
    }

    fn setbacks() -> Setbacks {
        Setbacks::new(Duration::from_secs(3600))
    }

    #[test]
    fn only_trouble_that_passes_by_itself_may_be_bridged() {
        let origin: crate::registry::Origin = "https://r.example".parse().unwrap();
        let status = |status| Stale::of(&upstream::Error::Status { origin: origin.clone(), status });
        for (code, stale) in [
            (500, Some(Stale::ServerError)),
            (503, Some(Stale::ServerError)),
            (408, Some(Stale::Timeout)),
            (400, None),
            (416, None),
        ] {
            assert_eq!(status(code), stale, "{code}");
        }
        let limit = Duration::from_secs(1);
        for (error, stale) in [
            (upstream::Error::Timeout { origin: origin.clone(), limit }, Some(Stale::Timeout)),
            (
                upstream::Error::Unreachable {
                    obstacle: upstream::Obstacle::Connection,
                    origin: origin.clone(),
                    cause: String::new(),
                },
                Some(Stale::Unreachable),
            ),
            (upstream::Error::TooManyRequests { retry_after: None }, Some(Stale::RateLimited)),
            (upstream::Error::NotFound, None),
            (upstream::Error::Denied { status: 403 }, None),
            (upstream::Error::CredentialRejected { registry: "r".into(), at: origin.clone(), status: 401 }, None),
            (upstream::Error::Protocol { origin: origin.clone(), what: String::new() }, None),
        ] {
            assert_eq!(Stale::of(&error), stale, "{error}");
        }
    }

    #[test]
    fn what_was_refused_is_forgotten_with_the_credential_and_only_that_of_its_registry() {
        let (registries, setbacks) = (registries(), setbacks());
        let repository = "app".parse().unwrap();
        let slot = |registry| setbacks.slot(registry, &repository, Asked::Manifest, "1");
        for registry in &registries {
            setbacks.refused(slot(registry), &Error::Denied);
            setbacks.troubled(registry, &repository, Stale::RateLimited, None);
        }
        let late = slot(&registries[0]);
        setbacks.forget(&registries[0]);
        // The answer to a question of before comes too late.
        setbacks.refused(late, &Error::NotFound);
        let known =
            |registry| (setbacks.refusal(&slot(registry)).is_some(), setbacks.trouble(registry, &repository).is_some());
        assert_eq!((known(&registries[0]), known(&registries[1])), ((false, false), (true, true)));
    }

    #[test]
    fn a_refusal_is_about_what_was_asked_for() {
        let (registries, setbacks) = (registries(), setbacks());
        let (a, b) = ("app".parse().unwrap(), "app/b".parse().unwrap());
        let of =
            |registry: usize, repository, asked, what| setbacks.slot(&registries[registry], repository, asked, what);
        setbacks.refused(of(0, &a, Asked::Manifest, "1"), &Error::NotFound);
        assert!(setbacks.refusal(&of(0, &a, Asked::Manifest, "1")).is_some());
        for other in [
            of(1, &a, Asked::Manifest, "1"),
            of(0, &b, Asked::Manifest, "1"),
            of(0, &a, Asked::Blob, "1"),
            of(0, &a, Asked::Manifest, "2"),
        ] {
            assert!(setbacks.refusal(&other).is_none());
        }
        setbacks.refused(of(0, &a, Asked::Blob, "1"), &Error::Unavailable(String::new()));
        assert!(setbacks.refusal(&of(0, &a, Asked::Blob, "1")).is_none(), "a failure is no refusal");
    }
}
