//! How often a broken transfer is tried again, and after which pause.

use std::time::Duration;

use crate::cache::progress::FillError;
use crate::cache::source::SourceError;

/// Tries in a row that bring not one byte.
const MAX_FRUITLESS: u32 = 5;
/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Counts the tries that brought nothing.
#[derive(Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Something came: what failed before counts no more.
    pub(super) fn succeed(&mut self) {
        self.0 = 0;
    }

    /// Waits before the next try, or gives up with `error`.
    pub(super) async fn pause(&mut self, at_least: Duration, error: SourceError) -> Result<(), FillError> {
        self.0 += 1;
        if self.0 >= MAX_FRUITLESS {
            return Err(FillError::Source(error));
        }
        let ceiling = PAUSE.0.saturating_mul(1 << self.0).min(PAUSE.1);
        tokio::time::sleep(at_least.max(ceiling.mul_f64(fastrand::f64()))).await;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the transfer stalled")]
pub(super) struct Stalled;

#[derive(Debug, thiserror::Error)]
#[error("the transfer ended early")]
pub(super) struct Short;
