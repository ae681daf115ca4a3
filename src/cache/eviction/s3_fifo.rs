//! S3-FIFO by bytes (Yang et al., SOSP 2023), with waves counted once.
//!
//! New blobs enter a small queue; those used again before they reach its end
//! move to the main queue, the others go and leave a ghost. A blob that comes
//! back while its ghost is remembered enters the main queue at once. In the
//! main queue a used blob gets another round for each use, up to three.
//!
//! A deployment asks for one blob hundreds of times within minutes, which says
//! nothing about next week. So a use counts at most once in ten minutes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::Policy;
use crate::oci::Digest;

/// Uses closer together than this are one use.
const WAVE: Duration = Duration::from_secs(600);
/// Part of the bytes that the small queue may have: one in so many.
const SMALL_SHARE: u64 = 10;
const MAX_USES: u8 = 3;
/// Ghosts remembered at the most, whatever the number of blobs.
const MAX_GHOSTS: usize = 1 << 20;

/// The policy's state.
#[derive(Debug)]
pub struct S3Fifo {
    small_capacity: u64,
    entries: HashMap<Digest, Entry>,
    /// Queues may name blobs that are gone or have moved: an entry counts only
    /// where its own `place` says so.
    small: VecDeque<(Digest, u64)>,
    main: VecDeque<(Digest, u64)>,
    ghosts: VecDeque<Digest>,
    ghost_set: HashSet<Digest>,
    small_bytes: u64,
    bytes: u64,
    next_place: u64,
}

#[derive(Debug)]
struct Entry {
    size: u64,
    uses: u8,
    counted_at: Duration,
    in_main: bool,
    /// Which queue element stands for it now.
    place: u64,
}

impl S3Fifo {
    /// For a cache of `capacity` bytes.
    pub fn new(capacity: u64) -> S3Fifo {
        S3Fifo {
            small_capacity: capacity / SMALL_SHARE,
            entries: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_set: HashSet::new(),
            small_bytes: 0,
            bytes: 0,
            next_place: 0,
        }
    }

    fn queue(&mut self, digest: Digest, to_main: bool) {
        let place = self.next_place;
        self.next_place += 1;
        let queue = if to_main { &mut self.main } else { &mut self.small };
        queue.push_back((digest, place));
        if let Some(entry) = self.entries.get_mut(&digest) {
            entry.place = place;
            entry.in_main = to_main;
        }
    }

    fn take(&mut self, digest: &Digest) -> Option<u64> {
        let entry = self.entries.remove(digest)?;
        self.bytes -= entry.size;
        if !entry.in_main {
            self.small_bytes -= entry.size;
        }
        Some(entry.size)
    }

    fn remember(&mut self, digest: Digest) {
        if self.ghost_set.insert(digest) {
            self.ghosts.push_back(digest);
        }
        let limit = self.entries.len().clamp(1024, MAX_GHOSTS);
        while self.ghosts.len() > limit {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }

    fn evict_from_small(&mut self) -> Option<(Digest, u64)> {
        while let Some((digest, place)) = self.small.pop_front() {
            let Some(entry) = self.entries.get_mut(&digest).filter(|entry| entry.place == place) else { continue };
            if entry.uses > 0 {
                entry.uses = 0;
                self.small_bytes -= entry.size;
                self.queue(digest, true);
                continue;
            }
            let size = self.take(&digest)?;
            self.remember(digest);
            return Some((digest, size));
        }
        None
    }

    fn evict_from_main(&mut self) -> Option<(Digest, u64)> {
        while let Some((digest, place)) = self.main.pop_front() {
            let Some(entry) = self.entries.get_mut(&digest).filter(|entry| entry.place == place) else { continue };
            if entry.uses > 0 {
                entry.uses -= 1;
                self.queue(digest, true);
                continue;
            }
            let size = self.take(&digest)?;
            return Some((digest, size));
        }
        None
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, digest: Digest, size: u64, now: Duration) {
        if self.entries.contains_key(&digest) {
            return self.touch(&digest, now);
        }
        let came_back = self.ghost_set.remove(&digest);
        if came_back {
            self.ghosts.retain(|ghost| *ghost != digest);
        } else {
            self.small_bytes += size;
        }
        self.bytes += size;
        self.entries.insert(digest, Entry { size, uses: 0, counted_at: now, in_main: came_back, place: 0 });
        self.queue(digest, came_back);
    }

    fn touch(&mut self, digest: &Digest, now: Duration) {
        if let Some(entry) = self.entries.get_mut(digest)
            && now.saturating_sub(entry.counted_at) >= WAVE
        {
            entry.counted_at = now;
            entry.uses = (entry.uses + 1).min(MAX_USES);
        }
    }

    fn remove(&mut self, digest: &Digest) {
        self.take(digest);
    }

    fn evict(&mut self) -> Option<(Digest, u64)> {
        if self.small_bytes > self.small_capacity {
            return self.evict_from_small().or_else(|| self.evict_from_main());
        }
        self.evict_from_main().or_else(|| self.evict_from_small()).or_else(|| self.evict_from_main())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    #[test]
    fn one_wave_of_uses_does_not_save_a_blob() {
        let mut policy = S3Fifo::new(100);
        policy.insert(digest(1), 40, Duration::ZERO);
        for second in 0..500 {
            policy.touch(&digest(1), Duration::from_secs(second));
        }
        policy.insert(digest(2), 40, MINUTE);
        assert_eq!(policy.evict(), Some((digest(1), 40)));
    }

    #[test]
    fn a_blob_used_in_two_waves_outlives_those_used_in_one() {
        let mut policy = S3Fifo::new(100);
        policy.insert(digest(1), 40, Duration::ZERO);
        policy.touch(&digest(1), 30 * MINUTE);
        policy.insert(digest(2), 40, 31 * MINUTE);
        assert_eq!(policy.evict(), Some((digest(2), 40)));
    }

    #[test]
    fn a_scan_of_blobs_used_once_leaves_the_main_queue_alone() {
        let mut policy = S3Fifo::new(1000);
        policy.insert(digest(1), 100, Duration::ZERO);
        policy.touch(&digest(1), 30 * MINUTE);
        for n in 2..200 {
            policy.insert(digest(n), 100, 40 * MINUTE);
            while policy.bytes() > 1000 {
                let (gone, _) = policy.evict().unwrap();
                assert_ne!(gone, digest(1));
            }
        }
    }

    #[test]
    fn a_blob_that_comes_back_soon_is_kept_longer() {
        let mut policy = S3Fifo::new(100);
        policy.insert(digest(1), 40, Duration::ZERO);
        assert_eq!(policy.evict(), Some((digest(1), 40)));
        policy.insert(digest(1), 40, MINUTE);
        policy.insert(digest(2), 40, MINUTE);
        assert_eq!(policy.evict(), Some((digest(2), 40)));
    }
}
