//! What is stored, and what goes first when there is no room.
//!
//! Only accounts: no file is touched here. Manifests and configurations are
//! small, and precious (they are what rate limits count), so blobs that small
//! have a pool of their own, from which layers push nothing out. A pinned blob
//! counts in its pool but is unknown to the policy, so it cannot be named.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::content::SMALL;
use super::eviction::{Policy, PolicyKind};
use super::source::Owner;
use crate::oci::Digest;

/// Once over its bound, a pool goes down to this many hundredths of it: room
/// is made in strokes, not blob by blob.
const DOWN_TO: u64 = 95;
/// The small pool has one in so many bytes of the whole, but at least
/// [`SMALL_POOL_AT_LEAST`] and at most half.
const SMALL_POOL_SHARE: u64 = 20;
const SMALL_POOL_AT_LEAST: u64 = 64 << 20;
/// What fills have left may take one byte in so many of the layers' room.
const PARTIAL_SHARE: u64 = 4;

/// The accounts of the cache directory.
pub(super) struct Inventory {
    pools: Mutex<Pools>,
    bounds: Bounds,
    started: Instant,
}

struct Pools {
    small: Box<dyn Policy>,
    layers: Box<dyn Policy>,
    sizes: HashMap<Digest, u64>,
    /// What is to stay, stored or not.
    pinned: HashSet<Digest>,
    /// What of it is stored.
    held: Held,
    /// Bytes that running fills have taken.
    reserved: u64,
    /// Those and what they left, by whose they are; never zero.
    unfinished: HashMap<Owner, u64>,
    /// What ended fills have left, the oldest first.
    partials: VecDeque<Left>,
    partial_bytes: u64,
}

/// What an ended fill has left.
#[derive(Debug, Clone, Copy)]
struct Left {
    digest: Digest,
    owner: Owner,
    bytes: u64,
}

/// Stored blobs that are pinned.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    blobs: usize,
    small: u64,
    layers: u64,
}

#[derive(Clone, Copy)]
struct Bounds {
    small: u64,
    layers: u64,
    /// Within the layers'.
    partials: u64,
}

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Complete blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that are pinned.
    pub pinned_blobs: usize,
    /// Their bytes.
    pub pinned_bytes: u64,
}

impl Inventory {
    pub(super) fn new(policy: PolicyKind, max_size: u64) -> Inventory {
        let small = (max_size / SMALL_POOL_SHARE).max(SMALL_POOL_AT_LEAST).min(max_size / 2);
        let bounds = Bounds { small, layers: max_size - small, partials: (max_size - small) / PARTIAL_SHARE };
        let pools = Pools {
            small: policy.build(bounds.small),
            layers: policy.build(bounds.layers),
            sizes: HashMap::new(),
            pinned: HashSet::new(),
            held: Held::default(),
            reserved: 0,
            unfinished: HashMap::new(),
            partials: VecDeque::new(),
            partial_bytes: 0,
        };
        Inventory { pools: Mutex::new(pools), bounds, started: Instant::now() }
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob has been stored, or was found.
    pub(super) fn insert(&self, digest: Digest, size: u64) {
        let now = self.started.elapsed();
        let mut pools = self.pools();
        if pools.sizes.insert(digest, size).is_none() {
            pools.admit(digest, size, now);
        }
    }

    /// A blob was asked for.
    pub(super) fn touch(&self, digest: &Digest) {
        let now = self.started.elapsed();
        let mut pools = self.pools();
        if let Some(size) = pools.sizes.get(digest).copied() {
            pools.of(size).touch(digest, now);
        }
    }

    /// A blob is gone.
    pub(super) fn remove(&self, digest: &Digest) {
        let mut pools = self.pools();
        if let Some(size) = pools.sizes.remove(digest) {
            pools.dismiss(digest, size);
        }
    }

    /// From now on these and no others stay, as soon and as long as they are
    /// stored.
    pub(super) fn pin(&self, digests: HashSet<Digest>) {
        let now = self.started.elapsed();
        let mut pools = self.pools();
        let before = pools.pinned.clone();
        let changed = |pools: &Pools, from: &HashSet<Digest>, to: &HashSet<Digest>| -> Vec<(Digest, u64)> {
            from.difference(to).filter_map(|digest| Some((*digest, *pools.sizes.get(digest)?))).collect()
        };
        let (new, old) = (changed(&pools, &digests, &before), changed(&pools, &before, &digests));
        for (digest, size) in new.iter().chain(&old) {
            pools.dismiss(digest, *size);
        }
        pools.pinned = digests;
        for (digest, size) in new.into_iter().chain(old) {
            pools.admit(digest, size, now);
        }
    }

    /// Nothing that was stored is there any more; what is to stay, and what
    /// fills have taken, is as before.
    pub(super) fn clear(&self) {
        let mut pools = self.pools();
        for (digest, size) in std::mem::take(&mut pools.sizes) {
            pools.dismiss(&digest, size);
        }
        while let Some(left) = pools.partials.front().copied() {
            pools.forget_partial(&left.digest);
        }
    }

    /// The size of a stored blob.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        self.pools().sizes.get(digest).copied()
    }

    /// Whether a blob stays.
    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.pools().pinned.contains(digest)
    }

    /// Room for a fill, counted until the value is dropped.
    pub(super) fn reserve(self: &Arc<Inventory>, owner: Owner) -> Reservation {
        Reservation { inventory: Arc::clone(self), owner, bytes: 0 }
    }

    /// What fills of `owner` have taken and left.
    pub(super) fn unfinished(&self, owner: Owner) -> u64 {
        self.pools().unfinished.get(&owner).copied().unwrap_or_default()
    }

    /// The largest layer that can be kept.
    pub(super) fn largest(&self) -> u64 {
        (self.bounds.layers / 100 * DOWN_TO).saturating_sub(self.pools().held.layers)
    }

    /// Bytes that could go if room was needed.
    pub(super) fn evictable(&self) -> u64 {
        let pools = self.pools();
        pools.small.bytes() + pools.layers.bytes() + pools.partial_bytes
    }

    /// A fill has ended and left `bytes` of its content.
    pub(super) fn leave_partial(&self, digest: Digest, owner: Owner, bytes: u64) {
        let mut pools = self.pools();
        pools.forget_partial(&digest);
        pools.partials.push_back(Left { digest, owner, bytes });
        pools.partial_bytes += bytes;
        pools.add_unfinished(owner, bytes);
    }

    /// What a fill left is taken up again, or gone.
    pub(super) fn take_partial(&self, digest: &Digest) {
        self.pools().forget_partial(digest);
    }

    /// What is to go first of what fills have left, while a bound is crossed.
    pub(super) fn next_partial_over(&self) -> Option<(Digest, u64)> {
        let pools = self.pools();
        let is_over = pools.partial_bytes > self.bounds.partials || pools.layers_with_fills() > self.bounds.layers;
        if is_over { pools.next_partial(|_| true) } else { None }
    }

    /// What is to go first of what fills have left.
    pub(super) fn next_partial(&self) -> Option<(Digest, u64)> {
        self.pools().next_partial(|_| true)
    }

    /// … of what fills of `owner` have left.
    pub(super) fn next_partial_of(&self, owner: Owner) -> Option<(Digest, u64)> {
        self.pools().next_partial(|left| left.owner == owner)
    }

    /// Whether a pool is over its bound.
    pub(super) fn is_over(&self) -> bool {
        let pools = self.pools();
        pools.small_bytes() > self.bounds.small
            || pools.layers_with_fills() > self.bounds.layers
            || pools.partial_bytes > self.bounds.partials
    }

    /// Takes out what should go next for the bounds to be kept again.
    pub(super) fn next_over(&self) -> Option<(Digest, u64)> {
        let mut pools = self.pools();
        let small_is_over = pools.small_bytes() > self.bounds.small / 100 * DOWN_TO;
        let layers_are_over = pools.layers_with_fills() > self.bounds.layers / 100 * DOWN_TO;
        let gone = if layers_are_over { pools.layers.evict() } else { None };
        let gone = gone.or_else(|| if small_is_over { pools.small.evict() } else { None });
        if let Some((digest, _)) = &gone {
            pools.sizes.remove(digest);
        }
        gone
    }

    /// Takes out what should go next because the disk is full; layers first.
    pub(super) fn next(&self) -> Option<(Digest, u64)> {
        let mut pools = self.pools();
        let gone = pools.layers.evict().or_else(|| pools.small.evict());
        if let Some((digest, _)) = &gone {
            pools.sizes.remove(digest);
        }
        gone
    }

    pub(super) fn stock(&self) -> Stock {
        let pools = self.pools();
        Stock {
            blobs: pools.sizes.len(),
            bytes: pools.small_bytes() + pools.layer_bytes(),
            pinned_blobs: pools.held.blobs,
            pinned_bytes: pools.held.small + pools.held.layers,
        }
    }

    /// Everything stored, with its size, in no order.
    pub(super) fn list(&self) -> Vec<(Digest, u64)> {
        self.pools().sizes.iter().map(|(digest, size)| (*digest, *size)).collect()
    }
}

impl Pools {
    fn of(&mut self, size: u64) -> &mut Box<dyn Policy> {
        if size <= SMALL { &mut self.small } else { &mut self.layers }
    }

    fn small_bytes(&self) -> u64 {
        self.small.bytes() + self.held.small
    }

    fn layer_bytes(&self) -> u64 {
        self.layers.bytes() + self.held.layers
    }

    /// Layers, what will be some, and what did not become any.
    fn layers_with_fills(&self) -> u64 {
        self.layer_bytes() + self.reserved + self.partial_bytes
    }

    fn forget_partial(&mut self, digest: &Digest) {
        if let Some(index) = self.partials.iter().position(|left| left.digest == *digest)
            && let Some(left) = self.partials.remove(index)
        {
            self.partial_bytes -= left.bytes;
            self.take_unfinished(left.owner, left.bytes);
        }
    }

    fn next_partial(&self, fits: impl Fn(&Left) -> bool) -> Option<(Digest, u64)> {
        self.partials.iter().find(|left| fits(left)).map(|left| (left.digest, left.bytes))
    }

    fn add_unfinished(&mut self, owner: Owner, bytes: u64) {
        if bytes > 0 {
            *self.unfinished.entry(owner).or_default() += bytes;
        }
    }

    fn take_unfinished(&mut self, owner: Owner, bytes: u64) {
        if let Entry::Occupied(mut all) = self.unfinished.entry(owner) {
            *all.get_mut() = all.get().saturating_sub(bytes);
            if *all.get() == 0 {
                all.remove();
            }
        }
    }

    /// Counts a stored blob where it belongs.
    fn admit(&mut self, digest: Digest, size: u64, now: Duration) {
        if self.pinned.contains(&digest) {
            self.held.blobs += 1;
            *self.held.of(size) += size;
        } else {
            self.of(size).insert(digest, size, now);
        }
    }

    /// Undoes [`admit`](Pools::admit).
    fn dismiss(&mut self, digest: &Digest, size: u64) {
        if self.pinned.contains(digest) {
            self.held.blobs = self.held.blobs.saturating_sub(1);
            let held = self.held.of(size);
            *held = held.saturating_sub(size);
        } else {
            self.of(size).remove(digest);
        }
    }
}

impl Held {
    fn of(&mut self, size: u64) -> &mut u64 {
        if size <= SMALL { &mut self.small } else { &mut self.layers }
    }
}

/// Bytes that a running fill will need.
pub(super) struct Reservation {
    inventory: Arc<Inventory>,
    owner: Owner,
    bytes: u64,
}

impl Reservation {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more, up to `bytes` in all; `false`, and nothing, if the owner's
    /// fills would have more than `most` together.
    pub(super) fn grow_to(&mut self, bytes: u64, most: Option<u64>) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let mut pools = self.inventory.pools();
        let before = pools.unfinished.get(&self.owner).copied().unwrap_or_default();
        if bytes > SMALL && most.is_some_and(|most| before + more > most) {
            return false;
        }
        pools.reserved += more;
        pools.add_unfinished(self.owner, more);
        drop(pools);
        self.bytes += more;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut pools = self.inventory.pools();
        pools.reserved -= self.bytes;
        pools.take_unfinished(self.owner, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    #[test]
    fn layers_push_no_manifest_out() {
        let inventory = Inventory::new(PolicyKind::Lru, 1000 * MIB);
        inventory.insert(digest(0), 1000);
        for n in 1..200 {
            inventory.insert(digest(n), 10 * MIB);
        }
        let mut gone = Vec::new();
        while inventory.is_over() {
            gone.push(inventory.next_over().unwrap().0);
        }
        assert!(!gone.is_empty() && !gone.contains(&digest(0)));
        assert_eq!(gone.first(), Some(&digest(1)));
    }

    #[test]
    fn room_is_made_down_to_a_little_below_the_bound() {
        let inventory = Inventory::new(PolicyKind::Lru, 2000 * MIB);
        let bound = inventory.bounds.layers;
        for n in 0..200 {
            inventory.insert(digest(n), 10 * MIB);
        }
        while inventory.next_over().is_some() {}
        let stock = inventory.stock();
        assert!(stock.bytes <= bound / 100 * 95 && stock.bytes > bound / 100 * 93, "{stock:?}");
        assert!(!inventory.is_over());
    }

    #[test]
    fn running_fills_count_and_stop_counting() {
        let inventory = Arc::new(Inventory::new(PolicyKind::S3Fifo, 1000 * MIB));
        let mut reservation = inventory.reserve(Owner::of("a"));
        assert!(!reservation.grow_to(2000 * MIB, Some(1999 * MIB)) && !inventory.is_over());
        assert!(reservation.grow_to(2000 * MIB, Some(2000 * MIB)));
        assert!(inventory.is_over());
        assert_eq!(inventory.unfinished(Owner::of("a")), 2000 * MIB);
        drop(reservation);
        assert!(!inventory.is_over());
        assert_eq!(inventory.unfinished(Owner::of("a")), 0);
        inventory.leave_partial(digest(1), Owner::of("b"), 3 * MIB);
        inventory.leave_partial(digest(2), Owner::of("a"), 5 * MIB);
        assert_eq!(inventory.unfinished(Owner::of("a")), 5 * MIB);
        assert_eq!(inventory.next_partial_of(Owner::of("a")), Some((digest(2), 5 * MIB)));
        assert_eq!(inventory.next_partial(), Some((digest(1), 3 * MIB)));
        inventory.take_partial(&digest(2));
        assert_eq!(inventory.next_partial_of(Owner::of("a")), None);
        assert!(!inventory.pools().unfinished.contains_key(&Owner::of("a")));
    }

    #[test]
    fn a_full_disk_takes_layers_before_manifests_and_in_the_end_all() {
        let inventory = Inventory::new(PolicyKind::S3Fifo, 1000 * MIB);
        inventory.insert(digest(1), 1000);
        inventory.insert(digest(2), MIB);
        assert_eq!(inventory.next(), Some((digest(2), MIB)));
        assert_eq!(inventory.next(), Some((digest(1), 1000)));
        assert_eq!(inventory.next(), None);
        assert_eq!(inventory.stock(), Stock { blobs: 0, bytes: 0, pinned_blobs: 0, pinned_bytes: 0 });
    }

    #[test]
    fn what_is_pinned_stays_and_counts_until_it_is_unpinned() {
        for policy in [PolicyKind::Lru, PolicyKind::S3Fifo] {
            let inventory = Inventory::new(policy, 1000 * MIB);
            inventory.insert(digest(0), 1000);
            inventory.insert(digest(1), 10 * MIB);
            // Pinned when it is stored already, and before it is.
            inventory.pin([digest(0), digest(1), digest(2)].into());
            inventory.insert(digest(2), 10 * MIB);
            inventory.insert(digest(3), 10 * MIB);
            let stock = Stock { blobs: 4, bytes: 30 * MIB + 1000, pinned_blobs: 3, pinned_bytes: 20 * MIB + 1000 };
            assert_eq!(inventory.stock(), stock);
            assert_eq!(inventory.next(), Some((digest(3), 10 * MIB)));
            assert_eq!(inventory.next(), None);
            inventory.pin([digest(1)].into());
            assert_eq!(inventory.stock().pinned_blobs, 1);
            assert_eq!(inventory.next(), Some((digest(2), 10 * MIB)));
            assert_eq!(inventory.next(), Some((digest(0), 1000)));
            // Somebody removes it all the same.
            inventory.remove(&digest(1));
            assert_eq!(inventory.stock(), Stock { blobs: 0, bytes: 0, pinned_blobs: 0, pinned_bytes: 0 });
            assert!(inventory.is_pinned(&digest(1)), "and when it comes back, it stays again");
        }
    }

    #[test]
    fn more_pinned_than_fits_leaves_nothing_else_and_ends() {
        let inventory = Inventory::new(PolicyKind::S3Fifo, 100 * MIB);
        inventory.pin((0..20).map(digest).collect());
        for n in 0..30 {
            inventory.insert(digest(n), 10 * MIB);
        }
        assert_eq!(std::iter::from_fn(|| inventory.next_over()).count(), 10);
        assert_eq!((inventory.stock().blobs, inventory.is_over()), (20, true));
    }
}
