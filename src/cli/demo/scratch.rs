//! A directory of the tour's own that is gone when the tour is, however it ends.

use crate::cli::terminal::errln;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Removed with all that is in it when dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a directory that only this user can enter, where temporary files
    /// belong.
    pub(super) fn make() -> io::Result<Scratch> {
        let name = format!("transship-demo-{:016x}", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        // Not recursive: a directory that exists already is somebody else's.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            errln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nobody_else_can_enter_it_and_nothing_of_it_remains() {
        let scratch = Scratch::make().unwrap();
        let path = scratch.path().to_owned();
        std::fs::write(path.join("blob"), "bytes").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!path.exists());
    }
}
