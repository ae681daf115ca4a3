//! The files that fills grow, and what earlier fills have left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Layout, no_follow, private, removed};
use crate::cache::fill::Files;
use crate::cache::sums;
use crate::oci::Digest;

/// What `st_blocks` counts in, whatever the file system's own blocks are.
const BLOCK: u64 = 512;

impl Layout {
    /// Where it grows.
    pub(in crate::cache) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(partial_name(digest))
    }

    /// Opens the growing file, making it when absent; never through a link.
    pub(in crate::cache) fn open_partial(&self, digest: &Digest) -> io::Result<Files> {
        let file = private(OpenOptions::new().read(true).write(true).create(true).truncate(false))
            .open(self.partial(digest))?;
        let log = self.partial_log(digest);
        let mut known = Vec::new();
        // Each unit is logged about once.
        let most = 16 * (sums::units(file.metadata()?.len()) + 64);
        match OpenOptions::new().read(true).custom_flags(no_follow()).open(&log) {
            Ok(log) => {
                log.take(most).read_to_end(&mut known)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let anew = move || private(OpenOptions::new().create(true).truncate(true).write(true)).open(log);
        let file = Arc::new(file);
        Ok(Files { earlier: Arc::clone(&file), file, known, log: Box::new(anew) })
    }

    /// Puts an empty file in the place of the one that has grown so far. Whoever
    /// has the old one open keeps its content.
    pub(in crate::cache) fn renew_partial(&self, digest: &Digest) -> io::Result<Arc<File>> {
        let path = self.partial(digest);
        removed(fs::remove_file(&path))?;
        private(OpenOptions::new().read(true).write(true).create_new(true)).open(path).map(Arc::new)
    }

    /// What vouches for the content of the growing file.
    pub(super) fn partial_log(&self, digest: &Digest) -> PathBuf {
        self.root.join("sums").join("partial").join(partial_name(digest))
    }

    /// Removes a partial file, if there is one.
    pub(in crate::cache) fn remove_partial(&self, digest: &Digest) -> io::Result<bool> {
        removed(fs::remove_file(self.partial_log(digest)))?;
        removed(fs::remove_file(self.partial(digest)))
    }

    /// Removes partial files that were last written before `moment`; gives how
    /// many.
    pub(in crate::cache) fn remove_partials_before(&self, moment: SystemTime) -> io::Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(self.root.join("partial"))?.flatten() {
            let is_old = entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|time| time < moment);
            if is_old && fs::remove_file(entry.path()).is_ok() {
                removed(fs::remove_file(self.root.join("sums").join("partial").join(entry.file_name())))?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// The partial files that a fill may go on with, the oldest first, and what
    /// they take of the disk.
    pub(in crate::cache) fn list_partials(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.root.join("partial"))?.flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.replacen('-', ":", 1).parse().ok());
            if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                all.push((digest, metadata.blocks() * BLOCK, metadata.modified().ok()));
            }
        }
        all.sort_by_key(|(_, _, modified)| *modified);
        Ok(all.into_iter().map(|(digest, bytes, _)| (digest, bytes)).collect())
    }

    /// Gives back what a partial file has taken of the disk behind its end, and
    /// the whole file if nothing is in it; gives what it takes then.
    pub(in crate::cache) fn trim_partial(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let path = self.partial(digest);
        let file = match OpenOptions::new().write(true).custom_flags(no_follow()).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        if len == 0 {
            self.remove_partial(digest)?;
            return Ok(None);
        }
        file.set_len(len)?;
        Ok(Some(file.metadata()?.blocks() * BLOCK))
    }
}

fn partial_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}
