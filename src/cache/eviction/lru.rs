//! Least recently used first.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::Policy;
use crate::oci::Digest;

/// The classic, for comparison.
#[derive(Debug, Default)]
pub struct Lru {
    entries: HashMap<Digest, (u64, u64)>,
    /// Ticks of last use → blob; ticks are unique.
    order: BTreeMap<u64, Digest>,
    tick: u64,
    bytes: u64,
}

impl Lru {
    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }
}

impl Policy for Lru {
    fn insert(&mut self, digest: Digest, size: u64, now: Duration) {
        if self.entries.contains_key(&digest) {
            return self.touch(&digest, now);
        }
        let tick = self.next_tick();
        self.entries.insert(digest, (size, tick));
        self.order.insert(tick, digest);
        self.bytes += size;
    }

    fn touch(&mut self, digest: &Digest, _: Duration) {
        let fresh = self.next_tick();
        if let Some((_, tick)) = self.entries.get_mut(digest) {
            self.order.remove(tick);
            *tick = fresh;
            self.order.insert(fresh, *digest);
        }
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some((size, tick)) = self.entries.remove(digest) {
            self.order.remove(&tick);
            self.bytes -= size;
        }
    }

    fn evict(&mut self) -> Option<(Digest, u64)> {
        let (_, digest) = self.order.pop_first()?;
        let (size, _) = self.entries.remove(&digest)?;
        self.bytes -= size;
        Some((digest, size))
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

    #[test]
    fn the_one_unused_for_longest_goes_first() {
        let (a, b) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
        let mut lru = Lru::default();
        lru.insert(a, 10, Duration::ZERO);
        lru.insert(b, 20, Duration::ZERO);
        lru.touch(&a, Duration::ZERO);
        assert_eq!(lru.evict(), Some((b, 20)));
        assert_eq!(lru.evict(), Some((a, 10)));
        assert_eq!(lru.evict(), None);
    }
}
