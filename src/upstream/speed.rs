//! How fast a body comes: not faster than is wanted, and not so slowly that
//! another connection would be better.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may come at once after a quiet time.
const BURST: Duration = Duration::from_millis(100);

/// A bound on the bytes a second of all transfers of one registry together.
#[derive(Debug)]
pub(super) struct Bandwidth {
    rate: f64,
    /// When all that has come would have come at the wanted rate.
    due: Mutex<Option<Instant>>,
}

impl Bandwidth {
    pub(super) fn new(bytes_per_second: u64) -> Bandwidth {
        #[allow(clippy::cast_precision_loss)]
        Bandwidth { rate: (bytes_per_second as f64).max(1.0), due: Mutex::default() }
    }

    /// `bytes` have come: until when no more should be read by whom they came to.
    pub(super) fn take(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        #[allow(clippy::cast_precision_loss)]
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate);
        let until = due.map_or(earliest, |due| due.max(earliest)) + cost;
        *due = Some(until);
        Some(until).filter(|until| *until > now)
    }
}

/// Watches one transfer for being hardly one. Only time spent waiting for
/// upstream counts: not that of a slow disk, nor that of [`Bandwidth`].
#[derive(Debug)]
pub(super) struct LowSpeed {
    floor: u64,
    over: Duration,
    waiting_since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl LowSpeed {
    /// Fewer than `floor` bytes a second over so long are too few; 0: never.
    pub(super) fn new(floor: u64, over: Duration) -> LowSpeed {
        LowSpeed { floor, over, waiting_since: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// Upstream has sent nothing yet.
    pub(super) fn waits(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// For how long upstream has been waited for now.
    pub(super) fn waiting_for(&self, now: Instant) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// It has sent something; whether it is too slow.
    pub(super) fn received(&mut self, bytes: usize, now: Instant) -> bool {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.waited < self.over {
            return false;
        }
        let enough = u128::from(self.floor) * self.waited.as_millis() / 1000;
        let too_slow = u128::from(self.bytes) < enough;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_readers_together_get_no_more_than_the_bound() {
        let (bandwidth, begun) = (Bandwidth::new(1_000_000), Instant::now());
        // Each of ten takes 10 kB whenever it may.
        let mut readers = [begun; 10];
        let mut taken = 0_u64;
        loop {
            let next = readers.iter_mut().min().unwrap();
            if *next > begun + Duration::from_secs(10) {
                break;
            }
            taken += 10_000;
            *next = bandwidth.take(10_000, *next).unwrap_or(*next);
        }
        assert!((9_900_000..=10_300_000).contains(&taken), "{taken}");
    }

    #[test]
    fn quiet_time_is_not_saved_up() {
        let (bandwidth, begun) = (Bandwidth::new(1_000_000), Instant::now());
        bandwidth.take(1, begun);
        let later = begun + Duration::from_secs(3600);
        assert_eq!(bandwidth.take(100_000, later), None);
        assert!(bandwidth.take(1_000_000, later).unwrap() >= later + Duration::from_millis(900));
    }

    #[test]
    fn a_trickle_is_too_slow_and_a_stream_with_pauses_is_not() {
        let begun = Instant::now();
        let minute = |bytes_per_second: usize| {
            let mut speed = LowSpeed::new(8192, Duration::from_secs(60));
            (1..=61).any(|second| {
                speed.waits(begun + Duration::from_secs(second - 1));
                speed.received(bytes_per_second, begun + Duration::from_secs(second))
            })
        };
        assert!(minute(1) && minute(8000));
        assert!(!minute(8300));
    }

    #[test]
    fn time_that_upstream_is_not_waited_for_does_not_count() {
        let begun = Instant::now();
        let mut speed = LowSpeed::new(8192, Duration::from_secs(60));
        for hour in 0..100 {
            // Nobody asked for more in all that time.
            assert!(!speed.received(1, begun + Duration::from_secs(3600 * hour)));
        }
        let mut never = LowSpeed::new(0, Duration::from_secs(60));
        never.waits(begun);
        assert!(!never.received(0, begun + Duration::from_secs(86_400)));
    }
}
