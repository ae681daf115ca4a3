//! Waiting an outage out.
//!
//! Today's clients ask once for a layer, and a pull fails with the answer. So
//! whoever asks for what cannot be had without upstream waits for a while
//! before it is told that upstream is in trouble. Questions are shared and an
//! origin that fails is left alone meanwhile, so many who wait cost upstream
//! little, and all go on as soon as it answers.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::{Error, Result};

/// Requests that wait at a time; the others are told at once.
const MOST: usize = 4096;
/// First and longest pause before asking again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(800));

/// Those who wait.
#[derive(Debug)]
pub(super) struct Patience {
    lasts: Duration,
    places: Semaphore,
}

impl Patience {
    pub(super) fn new(lasts: Duration) -> Patience {
        Patience { lasts, places: Semaphore::new(MOST) }
    }

    /// For one request.
    pub(super) fn begin(&self) -> Outage<'_> {
        Outage { patience: self, until: Instant::now() + self.lasts, place: None, ceiling: PAUSE.0, failed: None }
    }
}

/// One request that may have to wait an outage out: it asks until that is
/// [settled](Outage::settle). Where there is an answer that may stand in for
/// upstream's, it is for the question to give that.
pub(super) struct Outage<'a> {
    patience: &'a Patience,
    until: Instant,
    place: Option<SemaphorePermit<'a>>,
    ceiling: Duration,
    /// What the last try came to.
    failed: Option<Error>,
}

impl Outage<'_> {
    /// What `asked` comes to; a question that is asked again is given up when
    /// the patience is over.
    ///
    /// # Errors
    /// What this try came to, or the one before.
    pub(super) async fn within<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(failed) = &self.failed else { return asked.await };
        timeout_at(self.until, asked).await.unwrap_or_else(|_| Err(failed.clone()))
    }

    /// What is told of what a try came to; `None`, after a little while, where
    /// it is to be asked again.
    pub(super) async fn settle<T>(&mut self, came: Result<T>) -> Option<Result<T>> {
        let (error, at_least) = match came {
            Err(error) => match may_pass(&error) {
                Some(at_least) => (error, at_least),
                None => return Some(Err(error)),
            },
            done => return Some(done),
        };
        // That it is left alone says less than why.
        let error = match (error, self.failed.take()) {
            (Error::Later { .. }, Some(earlier)) => earlier,
            (error, _) => error,
        };
        let pause = at_least.max(self.ceiling.mul_f64(0.5 + fastrand::f64() / 2.0));
        if Instant::now() + pause >= self.until {
            return Some(Err(error));
        }
        if self.place.is_none() {
            match self.patience.places.try_acquire() {
                Ok(place) => self.place = Some(place),
                Err(_) => return Some(Err(error)),
            }
        }
        self.failed = Some(error);
        self.ceiling = (self.ceiling * 2).min(PAUSE.1);
        sleep(pause).await;
        None
    }
}

/// Whether the trouble may pass while a client waits; at the earliest after
/// this.
fn may_pass(error: &Error) -> Option<Duration> {
    match error {
        Error::Trouble(_) => Some(Duration::ZERO),
        Error::Later { retry_after, .. } => Some(*retry_after),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(25);

    fn trouble() -> Error {
        Error::Trouble("reset".into())
    }

    /// What an upstream gives that is away for `away`, and when.
    async fn after(away: Duration, error: Error) -> (Result<()>, Duration, u32) {
        let (begun, mut asked) = (Instant::now(), 0);
        let patience = Patience::new(PATIENCE);
        let mut outage = patience.begin();
        loop {
            asked += 1;
            let answer = async { if begun.elapsed() < away { Err(error.clone()) } else { Ok(()) } };
            let came = outage.within(answer).await;
            if let Some(done) = outage.settle(came).await {
                return (done, begun.elapsed(), asked);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_that_passes_is_waited_out() {
        for seconds in [0, 1, 3, 8, 15, 20] {
            let away = Duration::from_secs(seconds);
            let (done, took, _) = after(away, trouble()).await;
            assert!(done.is_ok() && took <= away + PAUSE.1, "{seconds} {took:?}");
        }
        let (done, took, asked) = after(PATIENCE * 2, trouble()).await;
        assert!(done.is_err() && took <= PATIENCE && asked < 80, "{took:?} {asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_an_answer() {
        for error in [Error::NotFound, Error::Denied, Error::TooManyRequests { retry_after: None }] {
            let (done, took, asked) = after(Duration::from_secs(3), error).await;
            assert!(done.is_err() && took.is_zero() && asked == 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn upstream_says_when_to_ask_again() {
        let later = |seconds| Error::Later { cause: "".into(), retry_after: Duration::from_secs(seconds) };
        assert_eq!(after(Duration::from_secs(10), later(5)).await.2, 3);
        assert_eq!(after(Duration::from_secs(10), later(60)).await.2, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_hangs_is_not_waited_for_any_longer() {
        let (patience, begun) = (Patience::new(PATIENCE), Instant::now());
        let mut outage = patience.begin();
        assert!(outage.settle::<()>(Err(trouble())).await.is_none());
        let came: Result<()> = outage.within(std::future::pending()).await;
        assert!(matches!(outage.settle(came).await, Some(Err(Error::Trouble(_)))));
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
