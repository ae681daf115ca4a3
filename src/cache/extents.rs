//! Which parts of a growing file are there.

/// Disjoint parts in order, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extents(Vec<(u64, u64)>);

impl Extents {
    /// One part from the start of the file.
    pub(super) fn up_to(end: u64) -> Extents {
        let mut extents = Extents::default();
        extents.insert(0, end);
        extents
    }

    /// Adds the bytes from `start` to before `end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // Most files grow at their only end.
        if let [.., (_, last)] = self.0.as_mut_slice()
            && *last == start
        {
            *last = end;
            return;
        }
        let from = self.0.partition_point(|(_, other_end)| *other_end < start);
        let until = self.0.partition_point(|(other_start, _)| *other_start <= end);
        let touched = self.0.get(from..until).unwrap_or_default();
        let merged = (
            touched.first().map_or(start, |(first, _)| start.min(*first)),
            touched.last().map_or(end, |(_, last)| end.max(*last)),
        );
        self.0.splice(from..until, [merged]);
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Where the last part ends.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, end)| *end)
    }

    /// The parts that begin behind `position`, in order.
    pub(super) fn behind(&self, position: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied().filter(move |(start, _)| *start > position)
    }

    /// How far the bytes from `position` on are there without a gap; `position`
    /// itself when not even one is.
    pub(super) fn reach(&self, position: u64) -> u64 {
        let at = self.0.partition_point(|(_, end)| *end <= position);
        match self.0.get(at) {
            Some((start, end)) if *start <= position => *end,
            _ => position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_there_is_what_was_put_there(parts in proptest::collection::vec((0_u64..200, 0_u64..40), 0..40)) {
            let (mut extents, mut bytes) = (Extents::default(), [false; 260]);
            for (start, len) in parts {
                extents.insert(start, start + len);
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            for position in 0..250 {
                let reach = (position..260).find(|at| !bytes[*at]).unwrap();
                prop_assert_eq!(extents.reach(position as u64), reach as u64);
            }
            for pair in extents.0.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0);
            }
        }
    }
}
