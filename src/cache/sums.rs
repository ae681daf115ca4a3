//! Checksums of stored content: what rots on disk is found before it is sent.
//!
//! Content is divided into units of 64 KiB; a table beside the blob has the
//! CRC32C of each, its own, and the length of the content. It guards against
//! disks, not against people: who can write the one can write the other.
//!
//! A unit is checked when it comes off the disk, and once after the blob was
//! opened; then it costs nothing for as long as it stays in memory.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kernel;

/// What one checksum covers; the last unit of a blob is shorter.
pub(super) const UNIT: u64 = 64 << 10;
/// How a table begins. Behind it: the length (8 bytes), the sums (4 bytes
/// each), and the sum of all that, everything little-endian.
const MAGIC: [u8; 8] = *b"crc32c\x14\n";

/// The checksums of one blob.
#[derive(Debug)]
pub(super) struct Sums {
    len: u64,
    sums: Vec<u32>,
    /// One bit for each unit that was found right since the blob was opened.
    checked: Vec<AtomicU64>,
}

/// Units that content of `len` bytes has.
pub(super) fn units(len: u64) -> u64 {
    len.div_ceil(UNIT)
}

impl Sums {
    /// Of content of `len` bytes, whose units have these `sums`.
    pub(super) fn new(len: u64, sums: Vec<u32>) -> Sums {
        let checked = (0..sums.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Sums { len, sums, checked }
    }

    /// Of `bytes`, which are right.
    pub(super) fn of(bytes: &[u8]) -> Sums {
        let sums = bytes.chunks(UNIT as usize).map(crc32c::crc32c).collect();
        Sums::new(bytes.len() as u64, sums)
    }

    /// Length of the content.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// As they are kept.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut table = MAGIC.to_vec();
        table.extend(self.len.to_le_bytes());
        table.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        table.extend(crc32c::crc32c(&table).to_le_bytes());
        table
    }

    /// From what [`encode`](Sums::encode) gave; `None` when it is anything else.
    pub(super) fn decode(table: &[u8]) -> Option<Sums> {
        let (rest, own) = table.split_last_chunk::<4>()?;
        if crc32c::crc32c(rest) != u32::from_le_bytes(*own) {
            return None;
        }
        let (len, sums) = rest.strip_prefix(&MAGIC)?.split_first_chunk::<8>()?;
        let len = u64::from_le_bytes(*len);
        let (sums, []) = sums.as_chunks::<4>() else { return None };
        if sums.len() as u64 != units(len) {
            return None;
        }
        Some(Sums::new(len, sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect()))
    }

    /// Longest table of content of `len` bytes.
    pub(super) fn encoded_len(len: u64) -> u64 {
        MAGIC.len() as u64 + 8 + units(len) * 4 + 4
    }

    /// All units are known to be right.
    pub(super) fn trust(self) -> Sums {
        for bits in &self.checked {
            bits.store(u64::MAX, Ordering::Relaxed);
        }
        self
    }

    fn covering(start: u64, end: u64) -> std::ops::Range<u64> {
        start / UNIT..units(end)
    }

    fn bit(&self, unit: u64) -> Option<(&AtomicU64, u64)> {
        let bits = self.checked.get(usize::try_from(unit / 64).ok()?)?;
        Some((bits, 1 << (unit % 64)))
    }

    fn is_unit_checked(&self, unit: u64) -> bool {
        self.bit(unit).is_some_and(|(bits, bit)| bits.load(Ordering::Relaxed) & bit != 0)
    }

    /// Whether every unit that the bytes from `start` to `end` lie in has been
    /// found right.
    pub(super) fn are_checked(&self, start: u64, end: u64) -> bool {
        Sums::covering(start, end).all(|unit| self.is_unit_checked(unit))
    }

    /// Checks the units of `file` that the bytes from `start` to `end` lie in:
    /// all, if they come off the disk, else those that never were.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] at the first that is wrong; else as the
    /// disk says.
    pub(super) fn check(&self, file: &File, start: u64, end: u64, off_disk: bool) -> io::Result<()> {
        let mut buffer = Vec::new();
        for unit in Sums::covering(start, end) {
            if !off_disk && self.is_unit_checked(unit) {
                continue;
            }
            if !self.is_right(file, unit, &mut buffer)? {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "what is on the disk is not what was written"));
            }
            if let Some((bits, bit)) = self.bit(unit) {
                bits.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// How far `file` is right from its start, in whole units up to `until`.
    pub(super) fn right_until(&self, file: &File, until: u64) -> u64 {
        let mut buffer = Vec::new();
        let wrong = (0..until / UNIT).find(|unit| !self.is_right(file, *unit, &mut buffer).unwrap_or(false));
        wrong.unwrap_or(until / UNIT) * UNIT
    }

    fn is_right(&self, file: &File, unit: u64, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let start = unit * UNIT;
        let len = usize::try_from(self.len.saturating_sub(start).min(UNIT)).unwrap_or_default();
        let wanted = usize::try_from(unit).ok().and_then(|unit| self.sums.get(unit));
        buffer.resize(len, 0);
        let is_whole = kernel::read_at(file, buffer, start)? == len;
        Ok(is_whole && wanted == Some(&crc32c::crc32c(buffer)))
    }
}

/// The checksum of `unit` of `file`, if all of it is there.
pub(super) fn read_unit(file: &File, unit: u64, buffer: &mut Vec<u8>) -> io::Result<Option<u32>> {
    buffer.resize(UNIT as usize, 0);
    let read = kernel::read_at(file, buffer, unit * UNIT)?;
    Ok((read == buffer.len()).then(|| crc32c::crc32c(buffer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt as _;

    fn stored(bytes: &[u8]) -> (File, Sums) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        (file, Sums::of(bytes))
    }

    #[test]
    fn one_flipped_bit_is_found_where_it_is_and_nowhere_else() {
        let mut bytes = vec![7; 3 * UNIT as usize + 5];
        let (file, sums) = stored(&bytes);
        assert!(!sums.are_checked(0, 1));
        sums.check(&file, 0, sums.len(), true).unwrap();
        assert!(sums.are_checked(0, sums.len()));
        let at = UNIT as usize + 100;
        bytes[at] ^= 1;
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        sums.check(&file, 0, sums.len(), false).unwrap();
        for (start, end, is_right) in
            [(0, UNIT, true), (0, UNIT + 1, false), (2 * UNIT - 1, 2 * UNIT, false), (2 * UNIT, sums.len(), true)]
        {
            assert_eq!(sums.check(&file, start, end, true).is_ok(), is_right, "{start} to {end}");
        }
        assert_eq!(sums.right_until(&file, 3 * UNIT), UNIT);
        assert_eq!(sums.right_until(&file, UNIT / 2), 0);
    }

    #[test]
    fn a_shortened_file_is_wrong_in_its_last_unit() {
        let (file, sums) = stored(&vec![7; UNIT as usize + 5]);
        file.set_len(UNIT + 4).unwrap();
        sums.check(&file, 0, UNIT, true).unwrap();
        assert_eq!(sums.check(&file, UNIT, UNIT + 5, true).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn a_table_is_what_was_kept_or_nothing(len in 0..5 * UNIT, place in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let sums = Sums::new(len, (0..units(len)).map(|unit| unit as u32 * 77).collect());
            let mut table = sums.encode();
            prop_assert_eq!(table.len() as u64, Sums::encoded_len(len));
            let again = Sums::decode(&table).unwrap();
            prop_assert_eq!((again.len, &again.sums), (len, &sums.sums));
            let at = place.index(table.len());
            prop_assert!(Sums::decode(&table[..at]).is_none());
            table[at] ^= flip;
            prop_assert!(Sums::decode(&table).is_none());
        }
    }
}
