//! How long a broken transfer is tried again, and after which pauses.
//!
//! What counts is what has come over time, across all tries: an upstream that
//! sends a byte now and then is as good as one that sends none.

use std::time::Duration;

use tokio::time::Instant;

use crate::cache::progress::FillError;
use crate::cache::source::SourceError;

/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// No try begins later than this after the first while nothing has come at all:
/// whoever waits for a status line asks again.
const TO_BEGIN: Duration = Duration::from_secs(4);
/// So many bytes are worth another while.
const PROGRESS: u64 = 256 << 10;
/// So many tries in a row that bring nothing are a reason to try another way.
const FRUITLESS: u32 = 3;

/// The tries of one transfer.
pub(super) struct Tries {
    patience: Duration,
    /// When the first of them failed, since when too little has come.
    since: Option<Instant>,
    /// What has come since then.
    bytes: u64,
    failed: u32,
}

impl Tries {
    /// For a transfer that is given up when too little has come for so long.
    pub(super) fn new(patience: Duration) -> Tries {
        Tries { patience, since: None, bytes: 0, failed: 0 }
    }

    /// For the first bytes.
    pub(super) fn to_begin() -> Tries {
        Tries::new(TO_BEGIN)
    }

    /// Something came.
    pub(super) fn received(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= PROGRESS {
            *self = Tries::new(self.patience);
        }
    }

    /// Whether so many in a row brought nothing that another way is worth a
    /// try.
    pub(super) fn are_fruitless(&self) -> bool {
        self.failed >= FRUITLESS
    }

    /// Waits before the next try, or gives up with `error`.
    pub(super) async fn pause(&mut self, at_least: Duration, error: SourceError) -> Result<(), FillError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let ceiling = PAUSE.0.saturating_mul(1 << self.failed.min(16)).min(PAUSE.1);
        self.failed += 1;
        let pause = at_least.max(ceiling.mul_f64(0.5 + fastrand::f64() / 2.0));
        if since.elapsed() + pause > self.patience {
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

    const PATIENCE: Duration = Duration::from_secs(25);

    fn error() -> SourceError {
        SourceError::new(Stalled, Retry::After(Duration::ZERO))
    }

    /// How many tries there are that bring `bytes` each in `took`, and the time
    /// they take together; no more than a thousand.
    async fn all(mut tries: Tries, at_least: u64, bytes: u64, took: Duration) -> (u32, Duration) {
        let (begun, mut done) = (Instant::now(), 1);
        while done < 1000 && tries.pause(Duration::from_secs(at_least), error()).await.is_ok() {
            tokio::time::sleep(took).await;
            tries.received(bytes);
            done += 1;
        }
        (done, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_and_not_for_ever() {
        let (done, took) = all(Tries::new(PATIENCE), 0, 0, Duration::ZERO).await;
        assert!((25..60).contains(&done), "{done}");
        assert!(took <= PATIENCE && took > PATIENCE - PAUSE.1, "{took:?}");
        assert_eq!(all(Tries::new(PATIENCE), 10, 0, Duration::ZERO).await.0, 3);
        assert_eq!(all(Tries::new(PATIENCE), 61, 0, Duration::ZERO).await.0, 1, "an hour is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up_and_what_goes_on_is_not() {
        let (done, took) = all(Tries::new(PATIENCE), 0, 6, Duration::from_secs(6)).await;
        assert!(done <= 6 && took <= PATIENCE + Duration::from_secs(7), "{done} {took:?}");
        assert_eq!(all(Tries::new(PATIENCE), 0, PROGRESS / 2, Duration::from_secs(6)).await.0, 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_the_first_byte_asks_again_soon() {
        let (done, took) = all(Tries::to_begin(), 0, 0, Duration::ZERO).await;
        assert!(done > 1 && took <= TO_BEGIN, "{done} {took:?}");
        assert_eq!(all(Tries::to_begin(), 30, 0, Duration::ZERO).await.0, 1);
    }
}
