//! Which file a path means.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file, whatever it is called: it stays the same when it is renamed, and
/// differs from another that is put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// Of an open file.
    ///
    /// # Errors
    /// As the system has them.
    pub fn of(file: &File) -> std::io::Result<FileIdentity> {
        file.metadata().map(|metadata| FileIdentity::from(&metadata))
    }

    /// Of what is at `path` now, which is not followed where it is a link.
    ///
    /// # Errors
    /// As the system has them; also when nothing is there.
    pub fn at(path: &Path) -> std::io::Result<FileIdentity> {
        fs::symlink_metadata(path).map(|metadata| FileIdentity::from(&metadata))
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> FileIdentity {
        FileIdentity { device: metadata.dev(), inode: metadata.ino() }
    }
}
