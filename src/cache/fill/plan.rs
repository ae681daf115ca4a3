//! Who fetches which part of a blob, when several connections share it.
//!
//! The *head* is the stream that began at the front and goes on to the end, or
//! to the first part that a helper has taken. Helpers take bounded segments,
//! in order, a little ahead of the head, or where somebody waits out of turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::oci::ByteRange;

/// What a helper takes at a time.
pub(super) const SEGMENT: u64 = 8 << 20;
/// What is left is shared out in at least so many parts.
const LAST_SEGMENTS: u64 = 16;
/// Parts begin at multiples of this.
const GRAIN: u64 = 1 << 20;

/// Parts that somebody waits for out of turn.
#[derive(Default)]
pub(in crate::cache) struct Demand {
    wanted: Mutex<VecDeque<ByteRange>>,
    news: Notify,
}

/// Waiting parts that are remembered; more than that many clients apart are
/// served in turn.
const MAX_WANTED: usize = 64;

impl Demand {
    /// Asks for a part before its turn.
    pub(in crate::cache) fn ask(&self, range: ByteRange) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.len() < MAX_WANTED && !wanted.contains(&range) {
            wanted.push_back(range);
            self.news.notify_one();
        }
    }

    /// Waits until something is asked for.
    pub(super) async fn asked(&self) {
        self.news.notified().await;
    }

    fn next(&self) -> Option<ByteRange> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).front().copied()
    }

    fn satisfied(&self) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }
}

/// The parts of one blob of known length.
#[derive(Debug)]
pub(super) struct Plan {
    total: u64,
    /// Where the head stands; it will fetch what follows up to
    /// [`head_limit`](Plan::head_limit).
    head: u64,
    head_is_running: bool,
    /// Parts that helpers have taken: start → end. Disjoint.
    taken: BTreeMap<u64, u64>,
}

impl Plan {
    pub(super) fn new(total: u64, head: u64) -> Plan {
        Plan { total, head, head_is_running: true, taken: BTreeMap::new() }
    }

    /// The head has come to `position`.
    pub(super) fn advance_head(&mut self, position: u64) {
        self.head = position;
    }

    /// The head fetches nothing more.
    pub(super) fn end_head(&mut self) {
        self.head_is_running = false;
    }

    /// Where the head has to stop: at the first part that a helper has.
    pub(super) fn head_limit(&self) -> u64 {
        self.taken.range(self.head..).next().map_or(self.total, |(start, _)| *start)
    }

    /// The next part for a helper: what is wanted out of turn, else the first
    /// one that nobody has and the head will not have reached soon.
    pub(super) fn take(&mut self, demand: &Demand) -> Option<ByteRange> {
        let from = if self.head_is_running { (self.head + SEGMENT).next_multiple_of(GRAIN) } else { self.head };
        while let Some(wanted) = demand.next() {
            match self.take_from(from.max(wanted.start / GRAIN * GRAIN), wanted.end) {
                Some(part) => return Some(part),
                None => demand.satisfied(),
            }
        }
        self.take_from(from, self.total)
    }

    /// The first part between `from` and `until` that nobody has.
    fn take_from(&mut self, from: u64, until: u64) -> Option<ByteRange> {
        let mut start = from;
        if let Some((_, end)) = self.taken.range(..=start).next_back() {
            start = start.max(*end);
        }
        while let Some(end) = self.taken.get(&start) {
            start = *end;
        }
        if start >= until.min(self.total) {
            return None;
        }
        let next = self.taken.range(start..).next().map_or(self.total, |(next, _)| *next);
        // Smaller ones towards the end, so that all are done at about the same
        // time.
        let len = ((self.total - start) / LAST_SEGMENTS).clamp(2 * GRAIN, SEGMENT).next_multiple_of(GRAIN);
        let end = (start + len).min(next);
        self.taken.insert(start, end);
        Some(ByteRange { start, end })
    }

    /// The rest of a part, from `position` on, is nobody's again.
    pub(super) fn give_back(&mut self, part: ByteRange, position: u64) {
        self.taken.remove(&part.start);
        if position > part.start {
            self.taken.insert(part.start, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    #[test]
    fn helpers_take_segments_in_order_ahead_of_the_head() {
        let (mut plan, demand) = (Plan::new(1000 * MIB, 0), Demand::default());
        plan.advance_head(MIB / 2);
        assert_eq!(plan.take(&demand), Some(range(9 * MIB, 17 * MIB)));
        assert_eq!(plan.take(&demand), Some(range(17 * MIB, 25 * MIB)));
        assert_eq!(plan.head_limit(), 9 * MIB);
    }

    #[test]
    fn what_is_wanted_comes_first_and_only_as_much_of_it() {
        let (mut plan, demand) = (Plan::new(1000 * MIB, 0), Demand::default());
        demand.ask(range(50 * MIB + 5, 60 * MIB));
        assert_eq!(plan.take(&demand), Some(range(50 * MIB, 58 * MIB)));
        assert_eq!(plan.take(&demand), Some(range(58 * MIB, 66 * MIB)));
        assert_eq!(plan.take(&demand), Some(range(8 * MIB, 16 * MIB)));
    }

    #[test]
    fn what_is_given_back_is_taken_again() {
        let (mut plan, demand) = (Plan::new(1000 * MIB, 0), Demand::default());
        let part = plan.take(&demand).unwrap();
        plan.give_back(part, part.start + 5);
        assert_eq!(plan.take(&demand), Some(range(part.start + 5, part.start + 5 + 8 * MIB)));
        let mut plan = Plan::new(1000 * MIB, 0);
        let part = plan.take(&demand).unwrap();
        plan.give_back(part, part.start);
        assert_eq!(plan.head_limit(), 1000 * MIB);
    }

    proptest! {
        /// Whatever is asked for and in whichever order, every byte behind the
        /// head's end is taken exactly once.
        #[test]
        fn all_is_taken_once(
            total in 1_u64..200 * MIB,
            head in 0_u64..100 * MIB,
            asked in proptest::collection::vec((0_u64..200 * MIB, 1_u64..30 * MIB), 0..10),
            advance in 0_u64..3 * MIB,
        ) {
            let mut head = head.min(total);
            let (mut plan, demand) = (Plan::new(total, head), Demand::default());
            for (start, len) in asked {
                if start < total {
                    demand.ask(range(start, (start + len).min(total)));
                }
            }
            let mut parts = Vec::new();
            while head < plan.head_limit() && parts.len() < 5 {
                let Some(part) = plan.take(&demand) else { break };
                parts.push(part);
                head = (head + advance).min(plan.head_limit());
                plan.advance_head(head);
            }
            let head_end = plan.head_limit();
            plan.advance_head(head_end);
            plan.end_head();
            while let Some(part) = plan.take(&demand) {
                parts.push(part);
            }
            parts.sort_by_key(|part| part.start);
            let mut position = head_end;
            for part in parts {
                prop_assert!(part.start == position, "{part:?} after {position}");
                position = part.end;
            }
            prop_assert_eq!(position, total.max(head_end));
        }
    }
}
