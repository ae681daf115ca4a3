//! The file a fill grows, and what an earlier try left in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::kernel;
use crate::oci::{Digest, Hasher};

/// A partial file of an earlier try is continued from a multiple of this.
const RESUME_UNIT: u64 = 1 << 20;

/// The growing file, and the hash of what is in it from the start.
pub(super) struct Partial {
    pub(super) file: Arc<File>,
    /// Bytes from the start that are there and hashed.
    pub(super) hashed: u64,
    pub(super) hasher: Hasher,
}

/// The beginning of a stored blob that failed further on.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Salvage {
    pub(in crate::cache) file: Arc<File>,
    /// Bytes from the start that could be read.
    pub(in crate::cache) len: u64,
}

impl Salvage {
    /// More than this takes longer to copy than anybody would wait for.
    const MOST: u64 = 8 << 30;

    /// Copies it, as far as it can be read now.
    fn copy_to(&self, partial: &File) -> io::Result<()> {
        let mut buffer = vec![0; RESUME_UNIT as usize];
        let len = if self.len > Self::MOST { 0 } else { self.len };
        for unit in 0..len / RESUME_UNIT {
            match kernel::read_at(&self.file, &mut buffer, unit * RESUME_UNIT) {
                Ok(read) if read == buffer.len() => partial.write_all_at(&buffer, unit * RESUME_UNIT)?,
                Ok(_) | Err(_) => break,
            }
        }
        Ok(())
    }
}

impl Partial {
    /// Takes the partial `file` of an earlier try, or makes one of `salvage`, and
    /// hashes what is in it up to its first hole. There is always something left
    /// to ask the source for: it is the source's answer that shows who may have
    /// the content.
    pub(super) fn open(file: File, digest: &Digest, salvage: Option<&Salvage>) -> io::Result<Partial> {
        if let Some(salvage) = salvage
            && kernel::data_prefix(&file)? == 0
        {
            salvage.copy_to(&file)?;
        }
        let units = kernel::data_prefix(&file)? / RESUME_UNIT;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut before_last = hasher.clone();
        let mut buffer = vec![0; RESUME_UNIT as usize];
        for unit in 0..units {
            before_last = hasher.clone();
            file.read_exact_at(&mut buffer, unit * RESUME_UNIT)?;
            hasher.update(&buffer);
        }
        let mut hashed = units * RESUME_UNIT;
        if hashed > 0 && hasher.clone().finish() == *digest {
            (hasher, hashed) = (before_last, hashed - RESUME_UNIT);
        }
        file.set_len(hashed)?;
        Ok(Partial { file: Arc::new(file), hashed, hasher })
    }

    /// Forgets what is in it.
    pub(super) fn restart(self, digest: &Digest) -> io::Result<Partial> {
        self.file.set_len(0)?;
        Ok(Partial { file: self.file, hashed: 0, hasher: Hasher::new(digest.algorithm()) })
    }
}
