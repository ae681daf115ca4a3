//! An open blob, whole or still growing.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::kernel::{self, Mapping};

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
    /// Opens a complete file of `len` bytes.
    pub(super) fn of_complete(file: &Arc<File>, len: u64) -> io::Result<Content> {
        if len > SMALL {
            return Ok(Content::of_growing(Arc::clone(file), Some(len)));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let read = kernel::read_at(file, &mut bytes, 0)?;
        if read as u64 == len { Ok(Content::Memory(bytes.into())) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// A file that will have `len` bytes, if that is known.
    pub(super) fn of_growing(file: Arc<File>, len: Option<u64>) -> Content {
        match len.filter(|len| *len > 0).map(|len| Mapping::new(Arc::clone(&file), len)) {
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

/// A complete, verified blob.
#[derive(Debug, Clone)]
pub struct Blob {
    pub(super) content: Content,
    pub(super) len: u64,
}

impl Blob {
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
