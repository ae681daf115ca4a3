//! How often a credential may be tried.
//!
//! An account that is shown a wrong password again and again gets locked, and
//! a thousand clients that start at once show it a thousand times. So a login
//! of which nobody knows yet whether it is right is tried by one request, for
//! which the others wait; and one that has been rejected is left alone for a
//! growing time. The credential counts, not what was asked with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use super::Shown;
use crate::registry::RegistryName;
use crate::upstream::error::{Error, Result};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Logins at a time of a credential that is known to be right.
const AT_A_TIME: u32 = 8;

/// How long a credential is left alone that has been rejected so many times
/// before.
pub(super) fn pause(before: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << before.min(10)).min(LONGEST_PAUSE)
}

/// Tells the audit log that a credential has been rejected.
pub(super) fn tell_rejected(registry: &RegistryName, generation: u64, pause: Duration, error: &Error) {
    let pause_seconds = pause.as_secs();
    warn!(target: "audit", event = "credential_rejected", %registry, generation, pause_seconds, %error);
}

/// The attempts with one registry's credential.
pub(in crate::upstream) struct Attempts {
    registry: RegistryName,
    state: Mutex<State>,
    permits: Semaphore,
    is_news: AtomicBool,
}

#[derive(Default)]
struct State {
    generation: u64,
    /// This login has been accepted: by its serial.
    proven: Option<u64>,
    failures: u32,
    /// This login is not tried before then.
    blocked: Option<(u64, Instant, Error)>,
}

impl Attempts {
    pub(in crate::upstream) fn new(registry: RegistryName) -> Attempts {
        Attempts {
            registry,
            state: Mutex::default(),
            permits: Semaphore::new(AT_A_TIME as usize),
            is_news: AtomicBool::new(false),
        }
    }

    /// The right to try `shown`; waits for one who is trying an unproven login.
    ///
    /// # Errors
    /// When it has been rejected a short time ago.
    pub(in crate::upstream) async fn enter(&self, shown: &Shown) -> Result<Option<SemaphorePermit<'_>>> {
        loop {
            let alone = !self.is_proven(shown);
            let permit = self.permits.acquire_many(if alone { AT_A_TIME } else { 1 }).await.ok();
            if let Some(error) = self.blocked(shown) {
                return Err(error);
            }
            if !alone || !self.is_proven(shown) {
                return Ok(permit);
            }
            // Proven meanwhile: from now on several may go at a time.
        }
    }

    /// Why `shown` must not be tried now.
    pub(in crate::upstream) fn blocked(&self, shown: &Shown) -> Option<Error> {
        self.with(shown, |state| {
            let (serial, until, error) = state.blocked.as_ref()?;
            (*serial == shown.serial && Instant::now() < *until).then(|| error.clone())
        })
    }

    /// Whether `shown` has been accepted, and not rejected since.
    pub(in crate::upstream) fn is_proven(&self, shown: &Shown) -> bool {
        self.with(shown, |state| state.proven == Some(shown.serial))
    }

    /// Whether a rejection of `shown` may be about what was asked for: it was
    /// right once, or has been wrong for a while.
    pub(in crate::upstream) fn deserves_a_second_opinion(&self, shown: &Shown) -> bool {
        self.with(shown, |state| state.proven == Some(shown.serial) || state.failures > 0)
    }

    /// `shown` was accepted, but has been refused for something: it has to be
    /// proven anew.
    pub(in crate::upstream) fn doubt(&self, shown: &Shown) {
        self.with(shown, |state| state.proven = None);
    }

    /// `shown` is right.
    pub(in crate::upstream) fn accepted(&self, shown: &Shown) {
        self.with(shown, |state| {
            state.proven = Some(shown.serial);
            state.failures = 0;
            state.blocked = None;
        });
    }

    /// `shown` has been rejected, as `error` says.
    pub(in crate::upstream) fn rejected(&self, shown: &Shown, error: &Error) {
        let pause = self.with(shown, |state| {
            if matches!(&state.blocked, Some((serial, until, _)) if *serial == shown.serial && Instant::now() < *until)
            {
                // It was under way when another was rejected: one step.
                return None;
            }
            let pause = pause(state.failures);
            state.failures = state.failures.saturating_add(1);
            state.proven = None;
            state.blocked = Some((shown.serial, Instant::now() + pause, error.clone()));
            Some(pause)
        });
        if let Some(pause) = pause {
            self.is_news.store(true, Ordering::Relaxed);
            tell_rejected(&self.registry, shown.generation, pause, error);
        }
    }

    /// Whether there has been a rejection since this was last asked.
    pub(in crate::upstream) fn take_news(&self) -> bool {
        self.is_news.swap(false, Ordering::Relaxed)
    }

    /// What is known of an earlier secret says nothing about this one, and what
    /// comes late about an earlier one says nothing at all.
    fn with<T: Default>(&self, shown: &Shown, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.generation < state.generation {
            return T::default();
        }
        if shown.generation > state.generation {
            *state = State { generation: shown.generation, ..State::default() };
        }
        change(&mut state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Login;
    use super::*;

    fn shown(generation: u64, serial: u64) -> Shown {
        Shown { generation, serial, login: Login::Anonymous }
    }

    fn rejection() -> Error {
        let at = "https://auth.example".parse().unwrap();
        Error::CredentialRejected { registry: "r".into(), at, status: 401 }
    }

    /// The pauses of so many rejections, one after the other.
    fn pauses(attempts: &Attempts, shown: &Shown, count: usize) -> Vec<u64> {
        let mut pauses = Vec::new();
        for _ in 0..count {
            attempts.rejected(shown, &rejection());
            let mut state = attempts.state.lock().unwrap();
            let (_, until, _) = state.blocked.as_mut().unwrap();
            pauses.push(until.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as u64);
            *until = Instant::now();
        }
        pauses
    }

    #[test]
    fn a_rejected_credential_is_left_alone_for_longer_and_longer() {
        let attempts = Attempts::new("r".parse().unwrap());
        assert_eq!(pauses(&attempts, &shown(0, 0), 9), [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn what_was_under_way_when_it_was_rejected_is_no_further_step() {
        let attempts = Attempts::new("r".parse().unwrap());
        for _ in 0..500 {
            attempts.rejected(&shown(0, 0), &rejection());
        }
        assert!(attempts.blocked(&shown(0, 0)).is_some());
        assert_eq!(attempts.state.lock().unwrap().failures, 1);
    }

    #[test]
    fn a_new_secret_and_a_renewed_login_are_tried_at_once() {
        let attempts = Attempts::new("r".parse().unwrap());
        pauses(&attempts, &shown(0, 0), 3);
        attempts.rejected(&shown(0, 0), &rejection());
        assert!(attempts.blocked(&shown(0, 0)).is_some());
        assert!(attempts.blocked(&shown(0, 1)).is_none());
        assert!(attempts.blocked(&shown(1, 0)).is_none());
        assert_eq!(pauses(&attempts, &shown(1, 0), 1), [5], "its pauses begin anew");
        attempts.rejected(&shown(0, 0), &rejection());
        assert!(!attempts.deserves_a_second_opinion(&shown(0, 0)), "what comes late of an old one is dropped");
        attempts.accepted(&shown(1, 0));
        assert!(attempts.is_proven(&shown(1, 0)) && !attempts.is_proven(&shown(1, 1)));
    }

    #[tokio::test]
    async fn an_unproven_login_is_tried_by_one_alone() {
        let attempts = Attempts::new("r".parse().unwrap());
        let login = shown(0, 0);
        let first = attempts.enter(&login).await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(20), attempts.enter(&login)).await;
        assert!(second.is_err(), "it waits");
        attempts.rejected(&login, &rejection());
        drop(first);
        assert!(attempts.enter(&login).await.is_err(), "and learns what became of it");
        attempts.accepted(&login);
        let _both = [attempts.enter(&login).await.unwrap(), attempts.enter(&login).await.unwrap()];
    }

    #[tokio::test]
    async fn those_who_waited_for_a_login_that_is_right_go_on_together() {
        let attempts = Attempts::new("r".parse().unwrap());
        let login = shown(0, 0);
        let first = attempts.enter(&login).await.unwrap();
        let all = async { tokio::join!(attempts.enter(&login), attempts.enter(&login), attempts.enter(&login)) };
        let proven = async {
            tokio::task::yield_now().await;
            attempts.accepted(&login);
            drop(first);
        };
        // None of them gives its turn back before all have theirs.
        let (all, ()) =
            tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(all, proven) }).await.unwrap();
        assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok());
    }
}
