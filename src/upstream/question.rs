//! Where a question is asked, and how often.
//!
//! The endpoints are asked in their order, each time from the first: one that
//! is left alone costs nothing, and is preferred again once it answers. When
//! all are in trouble that may pass, a question is asked again after a pause;
//! a client waits no longer for that than it will. Transfers are not: a fill
//! tries again by itself, where it left off.

use std::time::Duration;

use http::Method;
use tokio::time::{Instant, sleep};
use url::Url;

use super::error::{Error, Result};
use super::limits::Sort;
use super::registry::Upstream;
use super::send::{Answer, Ask};
use crate::oci::Repository;
use crate::registry::Origin;

/// Rounds through the endpoints.
const MAX_ROUNDS: u32 = 4;
/// No further round begins later than this after the first.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest first pause; each further one may be twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// A rate limit that asks for no more than this is waited for.
const SHORT: Duration = Duration::from_secs(1);

impl Upstream {
    /// Asks for `target` (path and query), authorised for `repository`, and
    /// follows redirects. Statuses that mean an error are one.
    pub(super) async fn ask(&self, target: &str, repository: &Repository, action: &str, ask: Ask) -> Result<Answer> {
        self.ask_around(target, repository, action, ask, true).await
    }

    /// As [`ask`](Self::ask), but redirects are answers.
    pub(super) async fn ask_unfollowed(&self, target: &str, repository: &Repository, ask: Ask) -> Result<Answer> {
        self.ask_around(target, repository, "pull", ask, false).await
    }

    /// The registry's own origins in the order to ask them: theirs, but a
    /// transfer is continued elsewhere than where transfers broke lately.
    fn endpoints(&self, sort: Sort) -> Vec<&Origin> {
        let mut origins: Vec<&Origin> = self.registry().origins().collect();
        if sort == Sort::Transfer {
            let stumbled = |origin: &Origin| self.traffic().breaker(origin).is_some_and(|one| one.has_stumbled());
            origins.sort_by_key(|origin| stumbled(origin));
        }
        origins
    }

    async fn ask_around(
        &self,
        target: &str,
        repository: &Repository,
        action: &str,
        ask: Ask,
        follow: bool,
    ) -> Result<Answer> {
        let mut rounds = Rounds::new(ask.sort, &ask.method);
        loop {
            let mut failure = None;
            for origin in self.endpoints(ask.sort) {
                let url = url(origin, target)?;
                match self.ask_authorised(&url, repository, action, ask.clone(), follow).await {
                    Err(error) if error.is_outage() => failure = worst(failure, error),
                    Err(error @ Error::TooManyRequests { .. }) => failure = Some(error),
                    answered => return answered,
                }
                if matches!(failure, Some(Error::TooManyRequests { .. })) {
                    // Another endpoint shares the limit.
                    break;
                }
            }
            let failure = failure.unwrap_or(Error::NotFound);
            match rounds.pause(&failure) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure),
            }
        }
    }
}

/// What says more: a failure, before that somebody is left alone for one.
fn worst(earlier: Option<Error>, later: Error) -> Option<Error> {
    match (earlier, later) {
        (Some(earlier), Error::CircuitOpen { .. }) => Some(earlier),
        (_, later) => Some(later),
    }
}

pub(super) fn url(origin: &Origin, target: &str) -> Result<Url> {
    format!("{origin}{target}")
        .parse()
        .map_err(|_| Error::Protocol { origin: origin.clone(), what: "a path that makes no URL".to_owned() })
}

/// The rounds of one question.
#[derive(Debug)]
struct Rounds {
    begun: Instant,
    done: u32,
    most: u32,
}

impl Rounds {
    fn new(sort: Sort, method: &Method) -> Rounds {
        let again = sort != Sort::Transfer && matches!(*method, Method::GET | Method::HEAD);
        Rounds { begun: Instant::now(), done: 0, most: if again { MAX_ROUNDS } else { 1 } }
    }

    /// How long to wait before another round; `None`: there is none.
    fn pause(&mut self, failure: &Error) -> Option<Duration> {
        self.done += 1;
        let at_least = match failure {
            Error::Unreachable { .. } | Error::Status { status: 408 | 502..=504, .. } => Duration::ZERO,
            Error::Busy { retry_after, .. } => *retry_after,
            Error::TooManyRequests { retry_after: Some(wait) } if *wait <= SHORT => *wait,
            // Time has run out, or nothing was asked, or the answer stays.
            _ => return None,
        };
        let ceiling = PAUSE.saturating_mul(1 << (self.done - 1).min(16));
        let pause = at_least.max(ceiling.mul_f64(fastrand::f64()));
        (self.done < self.most && self.begun.elapsed() + pause <= PATIENCE).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        "https://r.example".parse().unwrap()
    }

    fn status(status: u16) -> Error {
        Error::Status { origin: origin(), status }
    }

    fn limited(seconds: u64) -> Error {
        Error::TooManyRequests { retry_after: Some(Duration::from_secs(seconds)) }
    }

    /// How long is waited in all, and how many rounds there are.
    async fn rounds(sort: Sort, method: Method, failure: Error) -> (Duration, u32) {
        let begun = Instant::now();
        let mut rounds = Rounds::new(sort, &method);
        while let Some(pause) = rounds.pause(&failure) {
            sleep(pause).await;
        }
        (begun.elapsed(), rounds.done)
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_that_may_pass_is_asked_again_a_few_times_and_not_for_long() {
        let unreachable = || Error::Unreachable {
            obstacle: crate::upstream::Obstacle::Broken,
            origin: origin(),
            cause: "reset".into(),
        };
        for failure in [unreachable(), status(408), status(502), status(503), status(504)] {
            let (waited, done) = rounds(Sort::Pull, Method::GET, failure).await;
            assert_eq!(done, MAX_ROUNDS);
            assert!(waited <= PAUSE * 7, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stays_is_not_asked_for_again() {
        let open = Error::CircuitOpen { origin: origin(), retry_after: Duration::from_secs(1) };
        let slow = Error::Timeout { origin: origin(), limit: Duration::from_secs(30) };
        for failure in
            [status(500), status(501), limited(2), Error::NotFound, Error::Denied { status: 403 }, open, slow]
        {
            assert_eq!(rounds(Sort::Question, Method::GET, failure).await, (Duration::ZERO, 1));
        }
        assert_eq!(rounds(Sort::Transfer, Method::GET, status(503)).await.1, 1, "a fill does that itself");
        assert_eq!(rounds(Sort::Question, Method::POST, status(503)).await.1, 1, "not safe to repeat");
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_waited_for_only_while_a_client_waits() {
        let busy = |seconds| Error::Busy { origin: origin(), status: 503, retry_after: Duration::from_secs(seconds) };
        assert_eq!(rounds(Sort::Question, Method::HEAD, busy(60)).await, (Duration::ZERO, 1));
        let (waited, done) = rounds(Sort::Question, Method::HEAD, busy(2)).await;
        assert!(waited <= PATIENCE && done == 3, "{waited:?} {done}");
        let (waited, done) = rounds(Sort::Question, Method::HEAD, limited(1)).await;
        assert!(waited >= Duration::from_secs(3) && waited <= PATIENCE && done == 4, "{waited:?} {done}");
    }
}
