//! The file a fill grows, what an earlier try left in it, and what vouches for that.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tracing::debug;

use super::gather::{Gatherer, read_log};
use crate::cache::extents::Extents;
use crate::cache::source::{OWNER, Owner};
use crate::cache::sums::{self, UNIT};
use crate::kernel;
use crate::oci::{Digest, Hasher};

/// The growing file, and the hash of what is in it from the start.
pub(super) struct Partial {
    pub(super) file: Arc<File>,
    /// Bytes from the start that are there and hashed.
    pub(super) hashed: u64,
    pub(super) hasher: Hasher,
    /// All that is there.
    pub(super) written: Extents,
    pub(super) gatherer: Gatherer,
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
        let mut buffer = vec![0; UNIT as usize];
        let len = if self.len > Self::MOST { 0 } else { self.len };
        for unit in 0..len / UNIT {
            match kernel::read_at(&self.file, &mut buffer, unit * UNIT) {
                Ok(read) if read == buffer.len() => partial.write_all_at(&buffer, unit * UNIT)?,
                Ok(_) | Err(_) => break,
            }
        }
        Ok(())
    }
}

/// How the file of a partial is opened, with the log of its checksums.
pub(in crate::cache) struct Files {
    pub(in crate::cache) file: Arc<File>,
    /// The file of the earlier fill. It is the same file, unless a reader still
    /// uses that one.
    pub(in crate::cache) earlier: Arc<File>,
    /// Empty where there is none.
    pub(in crate::cache) known: Vec<u8>,
    /// Makes the log anew.
    pub(in crate::cache) log: Box<dyn FnOnce() -> io::Result<File> + Send>,
}

impl Partial {
    /// Takes the partial file of an earlier try, or makes one of `salvage`, and
    /// hashes what is in it up to its first hole; behind that, what its log
    /// vouches for is there too. There is always something left to ask the
    /// source for: it is the source's answer that shows who may have the
    /// content.
    ///
    /// Nothing of a file is changed that an earlier fill's readers may look at.
    ///
    /// What another `owner` left is forgotten: who may not have the content yet
    /// is not given what somebody else was sent of it.
    pub(super) fn open(files: Files, digest: &Digest, owner: Owner, salvage: Option<&Salvage>) -> io::Result<Partial> {
        let Files { file, mut earlier, known, log } = files;
        let known = match known.split_first_chunk::<OWNER>() {
            Some((whose, known)) if *whose == owner.0 => known,
            _ => {
                file.set_len(0)?;
                earlier = Arc::clone(&file);
                &[]
            }
        };
        let mut is_salvaged = false;
        if let Some(salvage) = salvage
            && kernel::data_prefix(&earlier)? == 0
        {
            earlier = Arc::clone(&file);
            salvage.copy_to(&file)?;
            is_salvaged = true;
        }
        let is_other = !Arc::ptr_eq(&file, &earlier);
        let take = |bytes: &[u8], unit: u64| if is_other { file.write_all_at(bytes, unit * UNIT) } else { Ok(()) };
        let known = read_log(known);
        let mut partial = Partial::empty(Arc::clone(&file), digest);
        let mut before_last = partial.hasher.clone();
        let mut buffer = Vec::new();
        let units = kernel::data_prefix(&earlier)? / UNIT;
        for unit in 0..units {
            let Some(sum) = sums::read_unit(&earlier, unit, &mut buffer)? else { break };
            // Nobody vouches for what was salvaged but its digest, in the end.
            if !is_salvaged && known.get(&unit) != Some(&sum) {
                break;
            }
            before_last = partial.hasher.clone();
            partial.hasher.update(&buffer);
            take(&buffer, unit)?;
            partial.gatherer.complete(unit, sum);
            partial.hashed = (unit + 1) * UNIT;
        }
        if partial.hashed > 0 && partial.hasher.clone().finish() == *digest {
            partial.hasher = before_last;
            partial.hashed -= UNIT;
        }
        let mut end = partial.hashed;
        partial.written = Extents::up_to(partial.hashed);
        for (unit, sum) in known.range(partial.hashed / UNIT + 1..) {
            if sums::read_unit(&earlier, *unit, &mut buffer)? == Some(*sum) {
                take(&buffer, *unit)?;
                partial.gatherer.complete(*unit, *sum);
                end = (unit + 1) * UNIT;
                partial.written.insert(unit * UNIT, end);
            }
        }
        partial.file.set_len(end)?;
        match log() {
            Ok(log) => partial.gatherer.log_to(log, owner),
            Err(error) => debug!(%error, "a fill has no log: killed, it loses what came out of turn"),
        }
        Ok(partial)
    }

    fn empty(file: Arc<File>, digest: &Digest) -> Partial {
        Partial {
            file,
            hashed: 0,
            hasher: Hasher::new(digest.algorithm()),
            written: Extents::default(),
            gatherer: Gatherer::default(),
        }
    }

    /// Where the last part ends that is there.
    pub(super) fn end(&self) -> u64 {
        self.written.end()
    }

    /// Forgets what is in it.
    pub(super) fn restart(self, digest: &Digest) -> io::Result<Partial> {
        self.file.set_len(0)?;
        Ok(Partial::empty(self.file, digest))
    }
}
