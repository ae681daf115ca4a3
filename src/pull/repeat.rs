//! Blobs that a client asks for again.
//!
//! A client that has just been given a whole blob and wants it once more may
//! have found that it does not have its digest: the one sign of a damaged file
//! that comes before the scrub does. So the file is hashed again while it is
//! being sent, and the end waits for the verdict. Most repeats mean nothing,
//! which bounds what is spent on them: a blob is hashed once in ten minutes, one
//! blob at a time, and a tenth of one core's time in all.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::debug;

use crate::cache::{Cache, Verdict};
use crate::oci::Digest;

/// How long a delivery, or a check, is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// What one check took, so many times over, passes before the next.
const REST: u32 = 9;
/// Deliveries and checks that are remembered; of two in one place, the later.
const PLACES: usize = 4096;

/// Who was given what, and what has been checked.
pub(super) struct Repeats {
    delivered: Recent,
    checked: Recent,
    /// When the next check may begin; none while one is running.
    next: Mutex<Option<Instant>>,
}

/// What a check has shown, once it has.
pub(super) type Verification = oneshot::Receiver<Verdict>;

impl Repeats {
    pub(super) fn new() -> Repeats {
        Repeats { delivered: Recent::new(), checked: Recent::new(), next: Mutex::new(Some(Instant::now())) }
    }

    /// `peer` has been given all of a blob.
    pub(super) fn delivered(&self, peer: IpAddr, digest: &Digest) {
        self.delivered.note(&(peer, digest));
    }

    /// Checks a stored blob that `peer` asks for, if it had it before and
    /// nothing speaks against it.
    pub(super) fn check(self: &Arc<Self>, cache: &Cache, peer: IpAddr, digest: &Digest) -> Option<Verification> {
        if !self.delivered.has(&(peer, digest)) || self.checked.has(digest) {
            return None;
        }
        let begun = Instant::now();
        {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            next.take_if(|next| *next <= begun)?;
        }
        self.checked.note(digest);
        let (done, verification) = oneshot::channel();
        let (repeats, cache, digest) = (Arc::clone(self), cache.clone(), *digest);
        tokio::spawn(async move {
            debug!(%digest, "a stored blob that a client asked for again is checked");
            let verdict = cache.verify(&digest).await;
            let next = Instant::now() + begun.elapsed() * REST;
            *repeats.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
            if let Ok(verdict) = verdict {
                // Nobody may be waiting any more.
                let _ = done.send(verdict);
            }
        });
        Some(verification)
    }
}

/// What happened in the last ten minutes, as far as there is room: a place
/// holds a fingerprint and a time, and is read and written without a lock.
struct Recent {
    places: Box<[AtomicU64]>,
    key: RandomState,
    started: Instant,
}

/// Bits of a place that hold the time, in steps of a second.
const TIME_BITS: u32 = 24;

impl Recent {
    fn new() -> Recent {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Recent { places, key: RandomState::new(), started: Instant::now() }
    }

    fn note(&self, what: &impl Hash) {
        self.note_at(what, self.started.elapsed());
    }

    fn has(&self, what: &impl Hash) -> bool {
        self.has_at(what, self.started.elapsed())
    }

    fn note_at(&self, what: &impl Hash, now: Duration) {
        if let Some((place, fingerprint)) = self.place(what) {
            place.store(fingerprint << TIME_BITS | step(now), Ordering::Relaxed);
        }
    }

    fn has_at(&self, what: &impl Hash, now: Duration) -> bool {
        let Some((place, fingerprint)) = self.place(what) else { return false };
        let found = place.load(Ordering::Relaxed);
        let age = step(now).wrapping_sub(found) & ((1 << TIME_BITS) - 1);
        found >> TIME_BITS == fingerprint && age <= REMEMBERED.as_secs()
    }

    fn place(&self, what: &impl Hash) -> Option<(&AtomicU64, u64)> {
        let hash = self.key.hash_one(what);
        // An empty place has no fingerprint that anything else can have.
        let place = self.places.get(usize::try_from(hash).unwrap_or(0) % PLACES)?;
        Some((place, (hash >> TIME_BITS) | 1))
    }
}

fn step(now: Duration) -> u64 {
    now.as_secs() & ((1 << TIME_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_remembered_for_ten_minutes_and_nothing_else_is() {
        let recent = Recent::new();
        let at = Duration::from_secs;
        // The clock of the places wraps around here.
        for begin in [0, 1000, (1 << TIME_BITS) - 5] {
            assert!(!recent.has_at(&"a", at(begin)));
            recent.note_at(&"a", at(begin));
            assert!(recent.has_at(&"a", at(begin)) && recent.has_at(&"a", at(begin + 600)));
            assert!(!recent.has_at(&"a", at(begin + 601)));
            assert!(!recent.has_at(&"b", at(begin)));
        }
    }
}
