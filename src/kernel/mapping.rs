//! Mappings of immutable files, handed out as `Bytes`.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use memmap2::{Advice, Mmap, MmapOptions};

/// A read-only shared mapping of a file that is never truncated or replaced
/// while it lives. Slices of it keep it alive.
#[derive(Debug)]
pub struct Mapping {
    file: Arc<File>,
    bytes: Bytes,
    map: Arc<Mmap>,
    failed: AtomicBool,
}

/// What slices keep alive: the file as well, so that whoever has it can tell
/// whether somebody still looks at it.
struct Owner {
    map: Arc<Mmap>,
    _file: Arc<File>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapping {
    /// Maps the first `len` bytes of `file`.
    ///
    /// The file may still be shorter than `len`, as a growing one is: then only
    /// the part that exists may be sliced.
    ///
    /// # Errors
    /// When the kernel refuses (no address space, no memory, a special file).
    ///
    /// # Safety
    /// As long as the mapping or a slice of it lives,
    /// * bytes that have been sliced are not written again, by anybody;
    /// * the file is not made shorter than what has been sliced;
    /// * a part is sliced only when the file has it.
    ///
    /// Unlinking and renaming the file are fine: the pages stay.
    #[allow(unsafe_code)]
    pub unsafe fn new(file: Arc<File>, len: u64) -> io::Result<Mapping> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        // SAFETY: what is asked of the caller here is what `map` asks: that the
        // bytes somebody looks at are there, and stay as they are.
        let map = Arc::new(unsafe { MmapOptions::new().len(len).map(&*file)? });
        let bytes = Bytes::from_owner(Owner { map: Arc::clone(&map), _file: Arc::clone(&file) });
        Ok(Mapping { file, bytes, map, failed: AtomicBool::new(false) })
    }

    /// The mapped file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The mapped bytes from `start` to `end`; empty when that is no part of
    /// the mapping.
    pub fn slice(&self, start: u64, end: u64) -> Bytes {
        match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) if start <= end && end <= self.bytes.len() => self.bytes.slice(start..end),
            _ => Bytes::new(),
        }
    }

    /// Reads the pages of a part from disk, waiting for it.
    ///
    /// # Errors
    /// When the device fails to deliver them.
    pub fn populate(&self, start: u64, end: u64) -> io::Result<()> {
        let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else { return Ok(()) };
        match self.map.advise_range(Advice::PopulateRead, start, end.saturating_sub(start)) {
            // Kernels before 5.14 do not know the advice: the copy waits then.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(()),
            done => done,
        }
    }

    /// Asks the kernel to start reading a part, without waiting.
    pub fn prefetch(&self, start: u64, end: u64) {
        if let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end))
            && end <= self.bytes.len()
            && start < end
        {
            // A hint: nothing depends on it.
            let _ = self.map.advise_range(Advice::WillNeed, start, end - start);
        }
    }

    /// Remembers that the file behind it could not be read.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether the file behind it has been found to fail.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Where in the file `slice` lies, if it is a slice of this mapping.
    fn offset_of(&self, slice: &[u8]) -> Option<u64> {
        let offset = (slice.as_ptr() as usize).checked_sub(self.bytes.as_ptr() as usize)?;
        (offset.checked_add(slice.len())? <= self.bytes.len()).then_some(offset as u64)
    }
}

/// Bytes in order, as they can be had.
pub type Windows = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The same content, from elsewhere: for when the file behind a mapping fails
/// after slices of it have been handed out.
pub trait Spare: Send + Sync {
    /// The bytes from `start` to `end`, which `failed` could not give.
    fn windows(self: Arc<Self>, failed: &Arc<Mapping>, start: u64, end: u64) -> Windows;
}

/// The mappings whose slices may come by on one connection.
///
/// Recognition is an optimisation: a slice of a mapping that is not in here is
/// written like any other bytes.
#[derive(Clone, Default)]
pub struct Mappings(Arc<Mutex<VecDeque<Known>>>);

struct Known {
    mapping: Arc<Mapping>,
    spare: Option<Arc<dyn Spare>>,
}

impl fmt::Debug for Mappings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mappings")
    }
}

impl Mappings {
    /// Blobs that one connection may be sending at a time; with HTTP/1.1 it is
    /// one, and one before it not wholly flushed.
    const MAX: usize = 4;

    /// Remembers `mapping` for this connection, and what may stand in for it.
    pub fn register(&self, mapping: &Arc<Mapping>, spare: Option<Arc<dyn Spare>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.iter_mut().find(|known| Arc::ptr_eq(&known.mapping, mapping)) {
            known.spare = spare;
            return;
        }
        if known.len() == Self::MAX {
            known.pop_front();
        }
        known.push_back(Known { mapping: Arc::clone(mapping), spare });
    }

    /// What may stand in for `mapping`.
    pub fn spare(&self, mapping: &Arc<Mapping>) -> Option<Arc<dyn Spare>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|known| Arc::ptr_eq(&known.mapping, mapping))?.spare.clone()
    }

    /// The mapping that `slice` lies in, and the slice's offset in its file.
    pub fn find(&self, slice: &[u8]) -> Option<(Arc<Mapping>, u64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find_map(|Known { mapping, .. }| Some((Arc::clone(mapping), mapping.offset_of(slice)?)))
    }

    /// Forgets all: the connection is idle.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[allow(unsafe_code)]
    fn map(file: &Arc<File>, len: u64) -> Mapping {
        // SAFETY: a test's own file, written before it is sliced and never after.
        unsafe { Mapping::new(Arc::clone(file), len) }.unwrap()
    }

    fn mapping_of(content: &[u8]) -> Mapping {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        map(&Arc::new(file), content.len() as u64)
    }

    #[test]
    fn slices_are_the_files_bytes_and_outlive_the_mapping() {
        let mapping = mapping_of(b"hello world");
        let slice = mapping.slice(6, 11);
        drop(mapping);
        assert_eq!(&slice[..], b"world");
    }

    #[test]
    fn a_slice_outside_the_mapping_is_empty() {
        let mapping = mapping_of(b"hello");
        assert!(
            mapping.slice(3, 9).is_empty() && mapping.slice(4, 2).is_empty() && mapping.slice(u64::MAX, 0).is_empty()
        );
    }

    #[test]
    fn only_slices_of_registered_mappings_are_recognised() {
        let (a, b) = (Arc::new(mapping_of(b"aaaaaa")), Arc::new(mapping_of(b"bbbbbb")));
        let known = Mappings::default();
        known.register(&a, None);
        let (found, offset) = known.find(&a.slice(2, 4)).unwrap();
        assert!(Arc::ptr_eq(&found, &a) && offset == 2);
        assert!(known.find(&b.slice(0, 1)).is_none());
        assert!(known.find(b"elsewhere").is_none());
        known.clear();
        assert!(known.find(&a.slice(2, 4)).is_none());
    }

    #[test]
    fn a_growing_file_can_be_mapped_before_it_is_whole() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mapping = map(&file, 1 << 20);
        (&*file).write_all(b"first bytes").unwrap();
        assert_eq!(&mapping.slice(0, 5)[..], b"first");
    }
}
