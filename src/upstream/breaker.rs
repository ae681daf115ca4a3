//! A circuit breaker: an origin that fails again and again is left alone for a
//! while, so that nobody waits for it and it is not kept from recovering.
//!
//! Open after so many failures in a row; then every request fails at once.
//! After a pause one request is let through, and what becomes of it decides.
//! Only silence and 5xx are failures: a refusal is an answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::registry::Origin;

/// Failures in a row after which the only origin of its kind is left alone.
pub(super) const PATIENT: u32 = 10;
/// The same where another origin can be asked instead.
pub(super) const QUICK: u32 = 3;
/// How long.
const PAUSE: Duration = Duration::from_secs(5);

/// An endpoint that broke a transfer is not the first choice for so long.
const STUMBLE: Duration = Duration::from_secs(10);

/// Watches one origin.
#[derive(Debug)]
pub(super) struct Breaker {
    origin: Origin,
    threshold: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_since: Option<Instant>,
    /// One request is on its way to find out.
    probing: bool,
    /// When it last broke a transfer that it had begun.
    stumbled: Option<Instant>,
}

/// Leave to make one request. What came of it is to be told; a request that is
/// given up tells nothing.
#[derive(Debug)]
pub(super) struct Pass {
    breaker: Arc<Breaker>,
    is_probe: bool,
}

impl Breaker {
    pub(super) fn new(origin: Origin, threshold: u32) -> Arc<Breaker> {
        Arc::new(Breaker { origin, threshold, state: Mutex::default() })
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether requests fail at once.
    pub(super) fn is_open(&self) -> bool {
        self.state().open_since.is_some()
    }

    /// It began to send and did not go on.
    pub(super) fn stumble(&self) {
        self.state().stumbled = Some(Instant::now());
    }

    /// Whether it broke a transfer lately: another endpoint, where there is
    /// one, may be the better choice for the rest.
    pub(super) fn has_stumbled(&self) -> bool {
        self.state().stumbled.is_some_and(|when| when.elapsed() < STUMBLE)
    }

    /// Leave for a request, or how long to wait before asking again.
    pub(super) fn pass(self: &Arc<Self>) -> Result<Pass, Duration> {
        let mut state = self.state();
        let mut is_probe = false;
        if let Some(since) = state.open_since {
            let left = PAUSE.saturating_sub(since.elapsed());
            if left > Duration::ZERO {
                return Err(left);
            }
            if state.probing {
                return Err(Duration::from_secs(1));
            }
            (state.probing, is_probe) = (true, true);
        }
        Ok(Pass { breaker: Arc::clone(self), is_probe })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// The request was answered, if only with a refusal.
    pub(super) fn succeeded(self) {
        let mut state = self.breaker.state();
        if state.open_since.is_some() {
            info!(endpoint = %self.breaker.origin, "upstream answers again");
        }
        *state = State { probing: state.probing, stumbled: state.stumbled, ..State::default() };
    }

    /// It was not answered, or with a failure.
    pub(super) fn failed(self) {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        let opens = state.open_since.is_none() && state.failures >= self.breaker.threshold;
        if opens {
            let failures = state.failures;
            warn!(endpoint = %self.breaker.origin, failures, "upstream fails again and again and is left alone for a while");
        }
        if opens || self.is_probe {
            state.open_since = Some(Instant::now());
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Arc<Breaker> {
        Breaker::new("https://r.example".parse().unwrap(), 3)
    }

    fn fail(breaker: &Arc<Breaker>, times: usize) {
        for _ in 0..times {
            breaker.pass().unwrap().failed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_one_probe_at_a_time_may_close_it() {
        let breaker = breaker();
        fail(&breaker, 3);
        assert!(breaker.is_open());
        assert_eq!(breaker.pass().unwrap_err(), PAUSE);
        tokio::time::advance(PAUSE).await;
        let probe = breaker.pass().unwrap();
        assert!(breaker.pass().is_err(), "a second one has to wait for the first");
        probe.failed();
        assert_eq!(breaker.pass().unwrap_err(), PAUSE, "the pause begins anew");
        tokio::time::advance(PAUSE).await;
        breaker.pass().unwrap().succeeded();
        assert!(!breaker.is_open());
        fail(&breaker, 2);
        assert!(!breaker.is_open(), "what was before counts no more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_between_starts_the_count_again() {
        let breaker = breaker();
        for _ in 0..10 {
            fail(&breaker, 2);
            breaker.pass().unwrap().succeeded();
        }
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_leaves_its_place_to_the_next() {
        let breaker = breaker();
        fail(&breaker, 3);
        tokio::time::advance(PAUSE).await;
        drop(breaker.pass().unwrap());
        breaker.pass().unwrap().succeeded();
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_transfer_is_remembered_for_a_while_and_opens_nothing() {
        let breaker = breaker();
        for _ in 0..10 {
            breaker.stumble();
        }
        breaker.pass().unwrap().succeeded();
        assert!(breaker.has_stumbled() && !breaker.is_open());
        tokio::time::advance(STUMBLE).await;
        assert!(!breaker.has_stumbled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_to_an_earlier_request_closes_it_and_a_late_failure_does_not_prolong_it() {
        let breaker = breaker();
        let (early, late) = (breaker.pass().unwrap(), breaker.pass().unwrap());
        fail(&breaker, 3);
        tokio::time::advance(PAUSE / 2).await;
        late.failed();
        assert_eq!(breaker.pass().unwrap_err(), PAUSE / 2);
        early.succeeded();
        assert!(!breaker.is_open());
    }
}
