//! A circuit breaker: an origin that fails again and again is left alone for a
//! while, so that nobody waits for it and it is not kept from recovering.
//!
//! Where nothing else can be asked, failures only raise a suspicion: they count
//! once for each repository, unless there was no answer at all, and then a
//! question of our own decides. So nobody who asks for what is broken, however
//! often, takes the registry from the others. Where there is another endpoint
//! to ask, a few failures in a row are enough.
//!
//! Once open, every request fails at once; after a pause, again a question of
//! our own finds out. Only silence and 5xx are failures: a refusal is an answer.

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
const PAUSE: Duration = Duration::from_secs(1);

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
    /// Failures since the last answer that count one by one.
    failures: u32,
    /// What failed with an answer; each counts once. No more than the threshold.
    failing: Vec<u64>,
    open_since: Option<Instant>,
    /// Somebody is finding out.
    probing: bool,
    /// When it last broke a transfer that it had begun.
    stumbled: Option<Instant>,
}

/// What to do before a request.
#[derive(Debug)]
pub(super) enum Leave {
    /// Make it.
    Go(Pass),
    /// Find out first whether the origin answers.
    AskFirst(Probe),
}

/// Leave to make one request. What came of it is to be told; a request that is
/// given up tells nothing.
#[derive(Debug)]
pub(super) struct Pass(Arc<Breaker>);

/// The one question that finds out whether the origin answers.
#[derive(Debug)]
pub(super) struct Probe(Arc<Breaker>);

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
    pub(super) fn pass(self: &Arc<Self>) -> Result<Leave, Duration> {
        let mut state = self.state();
        let Some(since) = state.open_since else { return Ok(Leave::Go(Pass(Arc::clone(self)))) };
        let left = PAUSE.saturating_sub(since.elapsed());
        if left > Duration::ZERO {
            return Err(left);
        }
        if std::mem::replace(&mut state.probing, true) {
            return Err(PAUSE);
        }
        Ok(Leave::AskFirst(Probe(Arc::clone(self))))
    }

    fn answers(&self) {
        let mut state = self.state();
        if state.open_since.is_some() {
            info!(endpoint = %self.origin, "upstream answers again");
        }
        *state = State { probing: state.probing, stumbled: state.stumbled, ..State::default() };
    }

    fn open(&self, state: &mut State) {
        if state.open_since.is_none() {
            warn!(endpoint = %self.origin, "upstream fails again and again and is left alone for a while");
        }
        state.open_since = Some(Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// The request was answered, if only with a refusal.
    pub(super) fn succeeded(self) {
        self.0.answers();
    }

    /// It was not answered, or with a failure: about `subject`. Gives what is
    /// left to find out.
    #[must_use]
    pub(super) fn failed(self, subject: Option<u64>) -> Option<Probe> {
        let breaker = &self.0;
        let mut state = breaker.state();
        if breaker.threshold < PATIENT || subject.is_none() {
            state.failures = state.failures.saturating_add(1);
        } else if let Some(subject) = subject
            && !state.failing.contains(&subject)
            && state.failing.len() < PATIENT as usize
        {
            state.failing.push(subject);
        }
        let count = state.failures.saturating_add(u32::try_from(state.failing.len()).unwrap_or(u32::MAX));
        if state.open_since.is_some() || count < breaker.threshold {
            return None;
        }
        if breaker.threshold < PATIENT {
            breaker.open(&mut state);
            return None;
        }
        let is_first = !std::mem::replace(&mut state.probing, true);
        is_first.then(|| Probe(Arc::clone(breaker)))
    }
}

impl Probe {
    /// It answers.
    pub(super) fn answered(self) -> Pass {
        self.0.answers();
        Pass(Arc::clone(&self.0))
    }

    /// It does not, or says that it cannot.
    pub(super) fn failed(self) {
        self.0.open(&mut self.0.state());
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.state().probing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(threshold: u32) -> Arc<Breaker> {
        Breaker::new("https://r.example".parse().unwrap(), threshold)
    }

    fn go(breaker: &Arc<Breaker>) -> Pass {
        match breaker.pass() {
            Ok(Leave::Go(pass)) => pass,
            other => panic!("{other:?}"),
        }
    }

    fn probe(breaker: &Arc<Breaker>) -> Probe {
        match breaker.pass() {
            Ok(Leave::AskFirst(probe)) => probe,
            other => panic!("{other:?}"),
        }
    }

    fn open(breaker: &Arc<Breaker>) {
        for _ in 1..PATIENT {
            assert!(go(breaker).failed(None).is_none());
        }
        go(breaker).failed(None).unwrap().failed();
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_raises_a_suspicion_and_a_question_of_our_own_decides() {
        let breaker = breaker(PATIENT);
        for _ in 1..PATIENT {
            assert!(go(&breaker).failed(None).is_none());
        }
        let suspicion = go(&breaker).failed(None).unwrap();
        assert!(go(&breaker).failed(None).is_none(), "one is finding out");
        assert!(!breaker.is_open());
        drop(suspicion.answered());
        open(&breaker);
        assert_eq!(breaker.pass().unwrap_err(), PAUSE);
        tokio::time::advance(PAUSE).await;
        let first = probe(&breaker);
        assert!(breaker.pass().is_err(), "a second one has to wait for the first");
        first.failed();
        assert_eq!(breaker.pass().unwrap_err(), PAUSE, "the pause begins anew");
        tokio::time::advance(PAUSE).await;
        drop(probe(&breaker).answered());
        assert!(!breaker.is_open());
        drop(go(&breaker));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_broken_counts_once_however_often_it_is_asked_for() {
        let breaker = breaker(PATIENT);
        for _ in 0..100 {
            assert!(go(&breaker).failed(Some(1)).is_none());
        }
        for other in 2..u64::from(PATIENT) {
            assert!(go(&breaker).failed(Some(other)).is_none());
        }
        drop(go(&breaker).failed(Some(u64::from(PATIENT))).expect("that many are a reason to find out").answered());
        assert!(go(&breaker).failed(Some(1)).is_none(), "what was before counts no more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_beside_others_is_left_alone_after_a_few_failures() {
        let breaker = breaker(QUICK);
        for _ in 0..10 {
            for _ in 1..QUICK {
                assert!(go(&breaker).failed(Some(1)).is_none());
            }
            go(&breaker).succeeded();
        }
        assert!(!breaker.is_open(), "an answer in between starts the count again");
        for _ in 0..QUICK {
            assert!(go(&breaker).failed(Some(1)).is_none());
        }
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_leaves_its_place_to_the_next() {
        let breaker = breaker(PATIENT);
        open(&breaker);
        tokio::time::advance(PAUSE).await;
        drop(probe(&breaker));
        drop(probe(&breaker).answered());
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_transfer_is_remembered_for_a_while_and_opens_nothing() {
        let breaker = breaker(PATIENT);
        for _ in 0..100 {
            breaker.stumble();
        }
        go(&breaker).succeeded();
        assert!(breaker.has_stumbled() && !breaker.is_open());
        tokio::time::advance(STUMBLE).await;
        assert!(!breaker.has_stumbled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_to_an_earlier_request_closes_it_and_a_late_failure_does_not_prolong_it() {
        let breaker = breaker(PATIENT);
        let (early, late) = (go(&breaker), go(&breaker));
        open(&breaker);
        tokio::time::advance(PAUSE / 2).await;
        assert!(late.failed(None).is_none());
        assert_eq!(breaker.pass().unwrap_err(), PAUSE / 2);
        early.succeeded();
        assert!(!breaker.is_open());
    }
}
