//! The line behind which the sample registry lies: all its blobs together are
//! sent no faster than this. On loopback a registry would be as near as the
//! cache, and the tour would show nothing of what a cache is for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that are sent at a time.
pub(super) const PIECE: usize = 64 * 1024;

/// A line of so many bytes a second, shared by all who send.
#[derive(Debug)]
pub(super) struct Line {
    bytes_per_second: u32,
    free: Mutex<Option<Instant>>,
}

impl Line {
    pub(super) fn new(bytes_per_second: u32) -> Line {
        Line { bytes_per_second, free: Mutex::new(None) }
    }

    /// Waits until all that was given to the line earlier, and these bytes,
    /// are sent.
    pub(super) async fn carry(&self, bytes: usize) {
        tokio::time::sleep_until(self.sent(Instant::now(), bytes).into()).await;
    }

    /// When bytes that are given to the line now will be sent.
    fn sent(&self, now: Instant, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / f64::from(self.bytes_per_second));
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Time in which nobody sent is lost.
        let sent = free.map_or(now, |free| free.max(now)) + takes;
        *free = Some(sent);
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_send_share_the_line_and_idle_time_is_not_saved_up() {
        let (line, start) = (Line::new(1_000), Instant::now());
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(line.sent(start, 500), after(0.5));
        assert_eq!(line.sent(start, 500), after(1.0));
        assert_eq!(line.sent(after(10.0), 500), after(10.5));
    }
}
