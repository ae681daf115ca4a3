//! Who fetches which part of a blob, when several connections share it.
//!
//! The *head* is the stream that began at the front and goes on to the end, or
//! to the first part that a helper has *begun*: one whose bytes come. A part
//! that is only taken does not stop the head; it goes through it, and the
//! helper comes too late. Helpers take bounded segments, in order, a little
//! ahead of the head, or where somebody waits out of turn. What one of them
//! leaves undone is nobody's again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::cache::settings::Segments;
use crate::oci::ByteRange;

/// What is left is shared out in at least so many parts.
const LAST_SEGMENTS: u64 = 16;

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

    /// Whether somebody waits for a part out of turn.
    pub(super) fn is_asked(&self) -> bool {
        self.next().is_some()
    }

    fn next(&self) -> Option<ByteRange> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).front().copied()
    }

    fn satisfied(&self) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }
}

/// A part that somebody has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Who took it: a part may change hands before it is begun.
    id: u64,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    end: u64,
    /// Its bytes come, or have come.
    begun: bool,
    id: u64,
}

/// The parts of one blob of known length.
#[derive(Debug)]
pub(super) struct Plan {
    total: u64,
    /// By start; disjoint. The head's is among them, and grows.
    taken: BTreeMap<u64, Taken>,
    /// Where the head's part begins, while there is a head.
    head: Option<u64>,
    next_id: u64,
    sizes: Segments,
}

impl Plan {
    /// What is before `head` is there already.
    pub(super) fn new(total: u64, head: u64, sizes: Segments) -> Plan {
        let done = Taken { end: head, begun: true, id: 0 };
        Plan { total, taken: BTreeMap::from([(0, done)]), head: Some(0), next_id: 1, sizes }
    }

    /// The bytes from `start` to `end`, behind the head, are there already.
    pub(super) fn is_there(&mut self, start: u64, end: u64) {
        let id = self.new_id();
        self.taken.insert(start, Taken { end, begun: true, id });
    }

    /// Where the head stands.
    fn position(&self) -> Option<u64> {
        self.head.and_then(|start| self.taken.get(&start)).map(|part| part.end)
    }

    /// The head has come to `position`. Parts in its way that were not begun
    /// are its own.
    pub(super) fn advance_head(&mut self, position: u64) {
        let Some(start) = self.head else { return };
        if let Some(part) = self.taken.get_mut(&start) {
            part.end = position;
        }
        while let Some((&passed, part)) = self.taken.range(start + 1..position).next()
            && !part.begun
        {
            self.taken.remove(&passed);
        }
    }

    /// Where the head has to stop: at the first part that a helper has begun.
    pub(super) fn head_limit(&self) -> u64 {
        let Some(position) = self.position() else { return self.total };
        let begun = self.taken.range(position..).find(|(start, part)| Some(**start) != self.head && part.begun);
        begun.map_or(self.total, |(start, _)| *start)
    }

    /// The head fetches nothing more.
    pub(super) fn end_head(&mut self) {
        if let Some(start) = self.head.take()
            && self.taken.get(&start).is_some_and(|part| part.end == start)
        {
            self.taken.remove(&start);
        }
    }

    /// Whoever has `part` has come to `position` and goes on from there as the
    /// head, as far as it can.
    pub(super) fn become_head(&mut self, part: &Part, position: u64) {
        if self.holds(part) {
            self.taken.insert(part.start, Taken { end: position, begun: true, id: part.id });
            self.head = Some(part.start);
        }
    }

    /// The next part for a helper: what is wanted out of turn, else the first
    /// one that nobody has and the head will not have reached soon.
    pub(super) fn take(&mut self, demand: &Demand) -> Option<Part> {
        let Segments { segment, grain, .. } = self.sizes;
        let behind_head = self.position().map_or(0, |head| (head + segment).next_multiple_of(grain));
        while let Some(wanted) = demand.next() {
            match self.take_from(behind_head.max(wanted.start / grain * grain), wanted.end) {
                Some(part) => return Some(part),
                None => demand.satisfied(),
            }
        }
        let before_head = self.head.and_then(|head| self.take_from(0, head));
        before_head.or_else(|| self.take_from(behind_head, self.total))
    }

    /// Whether somebody has taken a part and not begun it.
    pub(super) fn is_waiting(&self) -> bool {
        self.taken.values().any(|part| !part.begun)
    }

    /// A part that somebody has taken and not begun; it is not theirs any more.
    pub(super) fn take_over(&mut self) -> Option<Part> {
        let id = self.new_id();
        let (&start, part) = self.taken.iter_mut().find(|(_, part)| !part.begun)?;
        part.id = id;
        Some(Part { start, end: part.end, id })
    }

    /// The bytes of `part` come; `false`: it is another's by now.
    pub(super) fn begin(&mut self, part: &Part) -> bool {
        match self.taken.get_mut(&part.start) {
            Some(taken) if taken.id == part.id => {
                taken.begun = true;
                true
            }
            _ => false,
        }
    }

    /// The rest of a part, from `position` on, is nobody's again.
    pub(super) fn give_back(&mut self, part: &Part, position: u64) {
        if !self.holds(part) {
            return;
        }
        if position > part.start {
            self.taken.insert(part.start, Taken { end: position, begun: true, id: part.id });
        } else {
            self.taken.remove(&part.start);
        }
    }

    fn holds(&self, part: &Part) -> bool {
        self.taken.get(&part.start).is_some_and(|taken| taken.id == part.id)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The first part between `from` and `until` that nobody has.
    fn take_from(&mut self, from: u64, until: u64) -> Option<Part> {
        let mut start = from;
        if let Some((_, part)) = self.taken.range(..=start).next_back() {
            start = start.max(part.end);
        }
        while let Some(part) = self.taken.get(&start).filter(|part| part.end > start) {
            start = part.end;
        }
        if start >= until.min(self.total) {
            return None;
        }
        let next = self.taken.range(start..).next().map_or(self.total, |(next, _)| *next);
        // Smaller ones towards the end, so that all are done at about the same
        // time.
        let Segments { segment, grain, .. } = self.sizes;
        let len = ((self.total - start) / LAST_SEGMENTS).max(2 * grain).min(segment).next_multiple_of(grain);
        let (end, id) = ((start + len).min(next), self.new_id());
        self.taken.insert(start, Taken { end, begun: false, id });
        Some(Part { start, end, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn bounds(part: Option<Part>) -> Option<(u64, u64)> {
        part.map(|part| (part.start, part.end))
    }

    #[test]
    fn helpers_take_segments_in_order_ahead_of_the_head() {
        let (mut plan, demand) = (Plan::new(1000 * MIB, 0, Segments::default()), Demand::default());
        plan.advance_head(MIB / 2);
        let first = plan.take(&demand);
        assert_eq!(bounds(first), Some((9 * MIB, 17 * MIB)));
        assert_eq!(bounds(plan.take(&demand)), Some((17 * MIB, 25 * MIB)));
        assert_eq!(plan.head_limit(), 1000 * MIB, "nothing has begun");
        assert!(plan.begin(&first.unwrap()));
        assert_eq!(plan.head_limit(), 9 * MIB);
    }

    #[test]
    fn the_head_goes_through_what_was_not_begun_and_the_helper_comes_too_late() {
        let (mut plan, demand) = (Plan::new(1000 * MIB, 0, Segments::default()), Demand::default());
        let (first, second) = (plan.take(&demand).unwrap(), plan.take(&demand).unwrap());
        plan.advance_head(first.start);
        assert!(plan.begin(&second));
        plan.advance_head(first.start + 1);
        assert!(!plan.begin(&first));
        plan.give_back(&first, first.start);
        assert_eq!(plan.head_limit(), second.start);
        plan.advance_head(second.start);
        plan.end_head();
        assert_eq!(plan.take(&demand).map(|part| part.start), Some(second.end));
    }

    #[test]
    fn what_somebody_took_and_did_not_begin_changes_hands() {
        let (mut plan, demand) = (Plan::new(20 * MIB, 0, Segments::default()), Demand::default());
        let slow = plan.take(&demand).unwrap();
        let own = plan.take_over().unwrap();
        assert_eq!((own.start, own.end), (slow.start, slow.end));
        assert!(!plan.begin(&slow), "too late");
        plan.give_back(&slow, slow.start + 1);
        assert!(plan.begin(&own), "what the late one says changes nothing");
        assert!(plan.take_over().is_none(), "what has begun is not taken over");
    }

    #[test]
    fn what_is_wanted_comes_first_and_only_as_much_of_it() {
        let (mut plan, demand) = (Plan::new(1000 * MIB, 0, Segments::default()), Demand::default());
        demand.ask(ByteRange { start: 50 * MIB + 5, end: 60 * MIB });
        assert_eq!(bounds(plan.take(&demand)), Some((50 * MIB, 58 * MIB)));
        assert_eq!(bounds(plan.take(&demand)), Some((58 * MIB, 66 * MIB)));
        assert_eq!(bounds(plan.take(&demand)), Some((8 * MIB, 16 * MIB)));
    }

    #[test]
    fn what_is_given_back_is_taken_again() {
        let (mut plan, demand) = (Plan::new(1000 * MIB, 0, Segments::default()), Demand::default());
        let part = plan.take(&demand).unwrap();
        plan.give_back(&part, part.start + 5);
        assert_eq!(bounds(plan.take(&demand)), Some((part.start + 5, part.start + 5 + 8 * MIB)));
        let mut plan = Plan::new(1000 * MIB, 0, Segments::default());
        let part = plan.take(&demand).unwrap();
        plan.give_back(&part, part.start);
        assert_eq!(plan.head_limit(), 1000 * MIB);
    }

    #[test]
    fn a_gap_before_a_later_head_is_taken_too() {
        let (mut plan, demand) = (Plan::new(100 * MIB, 0, Segments::default()), Demand::default());
        let first = plan.take(&demand).unwrap();
        let second = plan.take(&demand).unwrap();
        plan.begin(&first);
        plan.advance_head(first.start);
        plan.end_head();
        plan.become_head(&second, second.start);
        plan.advance_head(second.start + MIB);
        plan.give_back(&first, first.start + 7);
        assert_eq!(bounds(plan.take(&demand)), Some((first.start + 7, first.end)));
    }

    /// What one of the others does next.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Take,
        Ask(u64, u64),
        Begin(usize),
        /// So much of a begun part comes.
        Come(usize, u64),
        Fail(usize),
        Head(u64),
        EndHead,
        TakeOver,
        BecomeHead(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let who = 0..6_usize;
        prop_oneof![
            4 => Just(Step::Take),
            1 => (0..200 * MIB, 1..30 * MIB).prop_map(|(start, len)| Step::Ask(start, len)),
            4 => who.clone().prop_map(Step::Begin),
            4 => (who.clone(), 1..9 * MIB).prop_map(|(who, len)| Step::Come(who, len)),
            2 => who.clone().prop_map(Step::Fail),
            4 => (1..9 * MIB).prop_map(Step::Head),
            1 => Just(Step::EndHead),
            1 => Just(Step::TakeOver),
            1 => who.prop_map(Step::BecomeHead),
        ]
    }

    proptest! {
        /// Whoever fails, comes too late or changes places, and whatever is
        /// asked for: every byte comes exactly once, and in the end all have.
        #[test]
        fn every_byte_comes_once(
            total in 1..200 * MIB,
            start in 0..100 * MIB,
            steps in proptest::collection::vec(step(), 0..120),
        ) {
            let start = start.min(total);
            let (mut plan, demand) = (Plan::new(total, start, Segments::default()), Demand::default());
            let mut held: Vec<(Part, u64, bool)> = Vec::new();
            let mut came: Vec<(u64, u64)> = vec![(0, start)];
            let mut head = Some(start);
            for step in steps {
                match step {
                    Step::Take => held.extend(plan.take(&demand).map(|part| (part, part.start, false))),
                    Step::TakeOver if head.is_none() => {
                        held.extend(plan.take_over().map(|part| (part, part.start, false)));
                    }
                    Step::Ask(start, len) if start < total => {
                        demand.ask(ByteRange { start, end: (start + len).min(total) });
                    }
                    Step::Begin(who) if who < held.len() => {
                        let (part, _, begun) = &mut held[who];
                        *begun = plan.begin(part);
                        if !*begun {
                            held.remove(who);
                        }
                    }
                    Step::Come(who, len) if held.get(who).is_some_and(|(_, _, begun)| *begun) => {
                        let (part, position, _) = &mut held[who];
                        let end = (*position + len).min(part.end);
                        came.push((*position, end));
                        *position = end;
                        if end == part.end {
                            held.remove(who);
                        }
                    }
                    Step::Fail(who) if who < held.len() => {
                        let (part, position, _) = held.remove(who);
                        plan.give_back(&part, position);
                    }
                    Step::Head(len) => if let Some(position) = head {
                        let end = (position + len).min(plan.head_limit());
                        came.push((position, end));
                        plan.advance_head(end);
                        head = Some(end);
                    },
                    Step::EndHead => {
                        plan.end_head();
                        head = None;
                    }
                    Step::BecomeHead(who) if head.is_none() && who < held.len() => {
                        let (part, position, begun) = held[who];
                        if begun || plan.begin(&part) {
                            held.remove(who);
                            plan.become_head(&part, position);
                            head = Some(position);
                        }
                    }
                    _ => {}
                }
            }
            // Those that are still there end; whoever is left does the rest.
            plan.end_head();
            for (part, position, _) in held {
                plan.give_back(&part, position);
            }
            while let Some(part) = plan.take(&demand).or_else(|| plan.take_over()) {
                plan.begin(&part);
                came.push((part.start, part.end));
            }
            came.retain(|(start, end)| start < end);
            came.sort_unstable();
            let mut position = 0;
            for (start, end) in came {
                prop_assert!(start == position, "{start} after {position}");
                position = end;
            }
            prop_assert_eq!(position, total);
        }
    }
}
