//! An open blob, whole or still growing.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::layout::Layout;
use super::sums::Sums;
use crate::kernel::{self, Mapping};
use crate::oci::{Digest, Hasher};

/// Blobs up to this size are kept in memory: a mapping and a file handle cost
/// more than they hold.
pub(super) const SMALL: u64 = 64 * 1024;

/// Content that can be read at any offset below what is known to be there.
#[derive(Debug, Clone)]
pub enum Content {
    /// A small blob.
    Memory(Bytes),
    /// A file whose final length is known.
    Mapped(Arc<Mapping>),
    /// A growing file whose length nobody has said, or one that the kernel
    /// would not map.
    File(Arc<File>),
}

impl Content {
    /// A file that will have `len` bytes, if that is known.
    pub(super) fn of_growing(file: Arc<File>, len: Option<u64>) -> Content {
        match len.filter(|len| *len > 0).map(|len| mapped(&file, len)) {
            Some(Ok(mapping)) => Content::Mapped(Arc::new(mapping)),
            _ => Content::File(file),
        }
    }

    /// The file behind it, unless it is all in memory.
    pub fn file(&self) -> Option<&Arc<File>> {
        match self {
            Content::Memory(_) => None,
            Content::Mapped(mapping) => Some(mapping.file()),
            Content::File(file) => Some(file),
        }
    }

    /// The mapping, where there is one.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        match self {
            Content::Mapped(mapping) => Some(mapping),
            _ => None,
        }
    }
}

/// Maps a file of the cache that has, or will have, `len` bytes.
#[allow(unsafe_code)]
fn mapped(file: &Arc<File>, len: u64) -> io::Result<Mapping> {
    // SAFETY: the file lies below the cache's own directory, which has mode
    // 0700 and is locked by this process, so no other process writes the file.
    // * What has been sliced is not written again: a published blob is never
    //   opened for writing. Of a partial file, a reader slices what the fill
    //   has counted as written (`Progress::written`), and each byte is written
    //   once before it is counted: parts of several connections are disjoint,
    //   and where a whole turns out wrong, its file is unlinked and another one
    //   is begun.
    // * It gets no shorter: a partial file is cut in `Partial::open` and
    //   `Partial::restart` only, before anything of it has been handed out. A
    //   fill that goes on where another has ended takes a new file while slices
    //   of the other live (`Keeper::take_partial`).
    // * A reader never slices behind what is counted as written, nor behind the
    //   length that a published blob was opened with. Where the disk has lost
    //   it since, bringing the pages in fails (`Mapping::populate`) before
    //   anybody looks at them.
    unsafe { Mapping::new(Arc::clone(file), len) }
}

/// A complete, verified blob.
#[derive(Debug, Clone)]
pub struct Blob {
    pub(super) content: Content,
    pub(super) len: u64,
    /// What vouches for it where it lies on disk; small content was hashed when
    /// it was read, and content of an earlier version may have none yet.
    pub(super) sums: Option<Arc<Sums>>,
}

impl Blob {
    /// Opens a complete file of `len` bytes. A small one is hashed, a large one
    /// is checked as it is read.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is not what was stored; else as
    /// the disk says.
    pub(super) fn open(layout: &Layout, digest: &Digest, file: &Arc<File>, len: u64) -> io::Result<Blob> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if len > SMALL {
            let sums = layout.load_sums(digest, len)?.map(Arc::new);
            if sums.as_ref().is_some_and(|sums| sums.len() != len) {
                return invalid("it is not as long as it was");
            }
            return Ok(Blob { content: Content::of_growing(Arc::clone(file), Some(len)), len, sums });
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        if kernel::read_at(file, &mut bytes, 0)? as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() != *digest {
            return invalid("it does not have the digest of its name");
        }
        Ok(Blob::of_memory(bytes.into()))
    }

    /// Content that is known to be right.
    pub(super) fn of_memory(bytes: Bytes) -> Blob {
        Blob { len: bytes.len() as u64, content: Content::Memory(bytes), sums: None }
    }

    /// Bytes of it that are held in memory.
    pub(super) fn bytes_in_memory(&self) -> u64 {
        match &self.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Mapped(_) | Content::File(_) => 0,
        }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// All of its bytes, where it is kept in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Memory(bytes) => Some(bytes),
            Content::Mapped(_) | Content::File(_) => None,
        }
    }

    /// Whether it is the empty blob.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
