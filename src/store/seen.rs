//! Which store this machine has seen last.
//!
//! Each write of the store counts its generation up, under the seal. The last
//! one is noted in a file beside it, so that an older copy that was put in its
//! place shows: it would bring back secrets that were replaced and registries
//! that were removed.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Longer than any note of ours.
const MAX: u64 = 64;

/// The note of one store.
pub(super) struct Seen(PathBuf);

impl Seen {
    /// That of the store `file`.
    pub(super) fn of(file: &Path) -> Seen {
        Seen(file.with_extension("seen"))
    }

    /// The generation that was seen last; 0 where nothing is known.
    ///
    /// # Errors
    /// As the system has them; also when the note is not one.
    pub(super) fn read(&self) -> io::Result<u64> {
        match std::fs::metadata(&self.0) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) => return Err(error),
        }
        let text = std::fs::read_to_string(&self.0)?;
        text.trim_end().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Notes that `generation` was seen.
    ///
    /// # Errors
    /// As the system has them.
    pub(super) fn write(&self, generation: u64) -> io::Result<()> {
        let new = self.0.with_extension("seen-new");
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(format!("{generation}\n").as_bytes())?;
        std::fs::rename(&new, &self.0)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}
