//! How often a broken transfer is tried again, and after which pause.

use std::time::Duration;

use tokio::time::Instant;

use crate::cache::progress::FillError;
use crate::cache::source::SourceError;

/// Tries in a row that bring not one byte.
const MAX_FRUITLESS: u32 = 5;
/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A source that wants more patience than this is given up.
const LONGEST: Duration = Duration::from_secs(60);
/// No try begins later than this after the first while nothing has come at all:
/// somebody waits for a status line.
const TO_BEGIN: Duration = Duration::from_secs(4);

/// Counts the tries that brought nothing.
#[derive(Default)]
pub(super) struct Tries {
    fruitless: u32,
    until: Option<Instant>,
}

impl Tries {
    /// For the first bytes.
    pub(super) fn to_begin() -> Tries {
        Tries { fruitless: 0, until: Some(Instant::now() + TO_BEGIN) }
    }

    /// Something came: what failed before counts no more.
    pub(super) fn succeed(&mut self) {
        self.fruitless = 0;
    }

    /// Whether so many in a row brought nothing that another way is worth a
    /// try.
    pub(super) fn are_fruitless(&self) -> bool {
        self.fruitless + 2 >= MAX_FRUITLESS
    }

    /// Waits before the next try, or gives up with `error`.
    pub(super) async fn pause(&mut self, at_least: Duration, error: SourceError) -> Result<(), FillError> {
        self.fruitless += 1;
        let ceiling = PAUSE.0.saturating_mul(1 << self.fruitless.min(16)).min(PAUSE.1);
        let pause = at_least.max(ceiling.mul_f64(fastrand::f64()));
        let too_late = self.until.is_some_and(|until| Instant::now() + pause > until);
        if self.fruitless >= MAX_FRUITLESS || pause > LONGEST || too_late {
            return Err(FillError::Source(error));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the transfer stalled")]
pub(super) struct Stalled;

#[derive(Debug, thiserror::Error)]
#[error("the transfer ended early")]
pub(super) struct Short;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::source::Retry;

    fn error() -> SourceError {
        SourceError::new(Stalled, Retry::After(Duration::ZERO))
    }

    /// How many tries there are, and the time they take together.
    async fn all(mut tries: Tries, at_least: u64) -> (u32, Duration) {
        let (begun, mut done) = (Instant::now(), 1);
        while tries.pause(Duration::from_secs(at_least), error()).await.is_ok() {
            done += 1;
        }
        (done, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_the_first_byte_and_what_has_begun_is_not_given_up_so_soon() {
        let (done, took) = all(Tries::to_begin(), 0).await;
        assert!(done > 1 && took <= TO_BEGIN, "{done} {took:?}");
        let (done, took) = all(Tries::to_begin(), 2).await;
        assert_eq!((done, took), (3, Duration::from_secs(4)));
        assert_eq!(all(Tries::to_begin(), 30).await.0, 1);
        let (done, took) = all(Tries::default(), 30).await;
        assert_eq!((done, took.as_secs()), (MAX_FRUITLESS, 30 * u64::from(MAX_FRUITLESS - 1)));
        assert_eq!(all(Tries::default(), 61).await.0, 1, "an hour is not waited for");
    }
}
