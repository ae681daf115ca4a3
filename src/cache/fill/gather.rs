//! The checksums of a fill, gathered as its bytes come.
//!
//! Those of whole units also go to a log beside the partial file, at once: a
//! fill that is killed is continued with everything that the log vouches for,
//! also what came far ahead of its turn.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write as _};

use tracing::debug;

use crate::cache::source::{OWNER, Owner};
use crate::cache::sums::{self, Sums, UNIT};

/// A unit and its checksum, as the log has them.
const ENTRY: usize = 8;

/// Gathers checksums, whatever the order.
#[derive(Default)]
pub(in crate::cache) struct Gatherer {
    /// Of whole units.
    done: BTreeMap<u64, u32>,
    /// Of units whose first bytes came in order: by the offset of what comes
    /// next.
    growing: HashMap<u64, u32>,
    /// Absent where nothing is worth being logged.
    log: Option<File>,
    /// What goes to the log next.
    unlogged: Vec<u8>,
}

impl Gatherer {
    /// `log` takes whose the content is, what is known so far, and all that
    /// comes.
    pub(super) fn log_to(&mut self, mut log: File, owner: Owner) {
        let mut known = Vec::with_capacity(OWNER + self.done.len() * ENTRY);
        known.extend(owner.0);
        for (unit, sum) in &self.done {
            known.extend(entry(*unit, *sum));
        }
        self.log = match log.write_all(&known) {
            Ok(()) => Some(log),
            Err(error) => {
                debug!(%error, "a fill has no log: killed, it loses what came out of turn");
                None
            }
        };
    }

    /// Bytes that were written at `offset`.
    pub(in crate::cache) fn add(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let unit = offset / UNIT;
            let until = (unit + 1) * UNIT;
            let within = usize::try_from(until - offset).unwrap_or(bytes.len()).min(bytes.len());
            let (part, rest) = bytes.split_at(within);
            let before = if offset == unit * UNIT { Some(0) } else { self.growing.remove(&offset) };
            offset += within as u64;
            if let Some(before) = before {
                let sum = crc32c::crc32c_append(before, part);
                if offset == until {
                    self.complete(unit, sum);
                } else {
                    self.growing.insert(offset, sum);
                }
            }
            bytes = rest;
        }
        // A log that fails costs bytes that come again, nothing else.
        if let Some(log) = &mut self.log
            && !self.unlogged.is_empty()
            && log.write_all(&self.unlogged).is_err()
        {
            self.log = None;
        }
        self.unlogged.clear();
    }

    /// Whether the unit that `offset` lies in has its checksum.
    pub(super) fn has(&self, offset: u64) -> bool {
        self.done.contains_key(&(offset / UNIT))
    }

    /// All of `unit` is there.
    pub(super) fn complete(&mut self, unit: u64, sum: u32) {
        self.done.insert(unit, sum);
        if self.log.is_some() {
            self.unlogged.extend(entry(unit, sum));
        }
    }

    /// The checksums of the whole, whose content in `file` has been verified.
    ///
    /// # Errors
    /// When what never came in order cannot be read.
    pub(in crate::cache) fn finish(mut self, file: &File, len: u64) -> io::Result<Sums> {
        let mut buffer = Vec::new();
        let mut all = Vec::new();
        for unit in 0..sums::units(len) {
            let is_last = (unit + 1) * UNIT > len;
            let known = if is_last { self.growing.remove(&len) } else { self.done.get(&unit).copied() };
            all.push(match known {
                Some(sum) => sum,
                None => {
                    buffer.resize(usize::try_from((len - unit * UNIT).min(UNIT)).unwrap_or_default(), 0);
                    if crate::kernel::read_at(file, &mut buffer, unit * UNIT)? != buffer.len() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    crc32c::crc32c(&buffer)
                }
            });
        }
        Ok(Sums::new(len, all).trust())
    }
}

fn entry(unit: u64, sum: u32) -> [u8; ENTRY] {
    // Blobs have fewer than 2^32 units: that would be 256 TiB.
    let mut entry = [0; ENTRY];
    let (first, second) = entry.split_at_mut(ENTRY / 2);
    first.copy_from_slice(&u32::try_from(unit).unwrap_or(u32::MAX).to_le_bytes());
    second.copy_from_slice(&sum.to_le_bytes());
    entry
}

/// What a log says behind its owner; the last word on a unit counts. An entry that was cut short
/// is left out.
pub(super) fn read_log(log: &[u8]) -> BTreeMap<u64, u32> {
    let (entries, _cut) = log.as_chunks::<ENTRY>();
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    entries
        .iter()
        .map(|entry| entry.split_at(ENTRY / 2))
        .map(|(unit, sum)| (number(unit).into(), number(sum)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt as _;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Whatever the pieces and their order, the sums are those of the whole.
        #[test]
        fn the_order_of_pieces_makes_no_difference(
            len in 1..6 * UNIT as usize,
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            order in any::<u64>(),
        ) {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(len)).chain([0, len]).collect();
            places.sort_unstable();
            let mut pieces: Vec<_> = places.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let count = pieces.len();
            pieces.rotate_left(order as usize % count);
            let mut gatherer = Gatherer::default();
            for (start, end) in pieces {
                gatherer.add(start as u64, &bytes[start..end]);
            }
            let logged: Vec<_> = gatherer.done.iter().flat_map(|(unit, sum)| entry(*unit, *sum)).collect();
            prop_assert_eq!(read_log(&logged), gatherer.done.clone());
            let sums = gatherer.finish(&file, len as u64).unwrap();
            prop_assert_eq!(sums.encode(), Sums::of(&bytes).encode());
        }
    }

    #[test]
    fn an_entry_that_was_cut_short_is_left_out() {
        let mut log = entry(3, 7).to_vec();
        log.extend(entry(3, 8));
        log.extend(&entry(4, 9)[..5]);
        assert_eq!(read_log(&log), BTreeMap::from([(3, 8)]));
    }
}
