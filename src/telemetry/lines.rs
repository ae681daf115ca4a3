//! Lines that strangers cause, bounded: the same one is written once a minute,
//! and each address has so many, with the number of those that were left out.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same line is written once in this time.
const EVERY: Duration = Duration::from_secs(60);
/// Lines for one address in that time.
pub(super) const EACH: u64 = 30;
/// Lines for all of them in that time.
pub(super) const ALL: u64 = 1000;
const REMEMBERED: u64 = 20_000;

/// Says which lines are written.
pub struct Lines {
    /// When each was written last, and how often it was left out since.
    recent: moka::sync::Cache<u64, Arc<Mutex<Recent>>>,
    /// Lines of each address lately; those of all under no address.
    lately: moka::sync::Cache<Option<IpAddr>, Arc<AtomicU64>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Recent {
    written: Option<Instant>,
    left_out: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Lines {
            recent: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(EVERY * 10).build(),
            lately: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(EVERY).build(),
            hasher: RandomState::new(),
        }
    }
}

impl Lines {
    /// Whether the line that `what` stands for, caused from `peer`, is written
    /// now; with it, how often it was left out.
    pub fn admit(&self, what: impl Hash, peer: Option<IpAddr>) -> Option<u64> {
        let recent = self.recent.get_with(self.hasher.hash_one(what), Arc::default);
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = recent.written.is_some_and(|written| written.elapsed() < EVERY);
        if lately || !self.has_room(peer, EACH) || !self.has_room(None, ALL) {
            recent.left_out += 1;
            return None;
        }
        recent.written = Some(Instant::now());
        Some(std::mem::take(&mut recent.left_out))
    }

    fn has_room(&self, address: Option<IpAddr>, bound: u64) -> bool {
        self.lately.get_with(address, Arc::default).fetch_add(1, Ordering::Relaxed) < bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(n.into()))
    }

    #[test]
    fn what_happens_again_is_left_out_and_counted() {
        let lines = Lines::default();
        assert_eq!(lines.admit("a", peer(1)), Some(0));
        assert_eq!(lines.admit("a", peer(1)), None);
        assert_eq!(lines.admit("a", peer(1)), None);
        assert_eq!(lines.admit("b", peer(1)), Some(0));
        let key = lines.hasher.hash_one("a");
        lines.recent.get(&key).unwrap().lock().unwrap().written = None;
        assert_eq!(lines.admit("a", peer(1)), Some(2));
    }

    #[test]
    fn nobody_floods_the_log() {
        let lines = Lines::default();
        let written = (0..1000).filter(|n| lines.admit(n, peer(1)).is_some()).count();
        assert_eq!(written as u64, EACH);
        let others = (2..5000).filter(|n| lines.admit(("x", n), peer(*n)).is_some()).count();
        assert_eq!(others as u64, ALL - EACH);
    }
}
