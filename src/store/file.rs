//! The file of the store: read at start, replaced as a whole with each change,
//! by one process at a time.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::key::check_mode;
use super::seal::{self, Broken, Opened};
use super::seen::Seen;
use super::{Contents, KeySource, Keys, StoreSettings};
use crate::kernel;
use crate::registry::Secret;

/// The store of one process.
pub struct Store {
    settings: StoreSettings,
    keys: Option<Keys>,
    contents: Contents,
    /// Of the file as it was read or written last.
    generation: u64,
    lock: Option<File>,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory cannot be read, made or written.
    #[error("{} cannot be {verb}: {cause}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What was to be done with it.
        verb: &'static str,
        /// The system's reason.
        #[source]
        cause: std::io::Error,
    },
    /// Others could read it.
    #[error("{} has mode {found:o}, so others can get at it: chmod {wanted:o} {}", path.display(), path.display())]
    Mode {
        /// What.
        path: PathBuf,
        /// Its permissions.
        found: u32,
        /// What they should be.
        wanted: u32,
    },
    /// A key cannot be had.
    #[error("the store's key, {key}, {what}")]
    Key {
        /// Where it should come from.
        key: KeySource,
        /// What is wrong.
        what: String,
    },
    /// The file is there and cannot be opened.
    #[error("the store {} cannot be opened: {cause}; nothing was changed", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Broken,
    },
    /// A copy of old has taken its place.
    #[error(
        "the store {} is an older one than the last that was seen here (generation {found}, and {seen} was seen): \
         secrets that were replaced since would be back. Restore the newest copy, or start once with --allow-rollback",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its generation.
        found: u64,
        /// The newest that was seen.
        seen: u64,
    },
    /// Another process changes the store.
    #[error("another process has the store {} open for changes", .0.display())]
    Locked(PathBuf),
}

impl StoreError {
    pub(super) fn io(path: &Path, verb: &'static str, cause: std::io::Error) -> StoreError {
        StoreError::Io { path: path.to_owned(), verb, cause }
    }
}

impl Store {
    /// Opens the store, which may well not exist yet: then it is empty, and
    /// nothing is made.
    ///
    /// # Errors
    /// As [`StoreError`] says; the file is left as it is.
    pub fn open(settings: StoreSettings) -> Result<Store, StoreError> {
        let mut store = Store { settings, keys: None, contents: Contents::default(), generation: 0, lock: None };
        if store.directory().exists() {
            check_mode(store.directory(), 0o755)?;
            // Who cannot have the lock may read all the same.
            match store.take_lock() {
                Ok(()) | Err(StoreError::Locked(_) | StoreError::Io { .. }) => {}
                Err(error) => return Err(error),
            }
            store.read()?;
        }
        Ok(store)
    }

    /// What is stored.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The sealed file.
    pub fn path(&self) -> &Path {
        &self.settings.file
    }

    /// Tells secrets apart without helping to guess them; `None` before
    /// anything was stored.
    pub fn fingerprint(&self, secret: &Secret) -> Option<String> {
        self.keys.as_ref().map(|keys| keys.current.fingerprint(secret))
    }

    /// What clients' tokens are signed with: the same for everybody who has the
    /// store's key. `None` before anything was stored.
    pub fn token_key(&self) -> Option<Zeroizing<[u8; 32]>> {
        self.keys.as_ref().map(|keys| keys.current.tokens.clone())
    }

    /// Makes sure that this process may change the store, and that what it
    /// knows of it is what the file says.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let directory = self.directory();
        if !directory.exists() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|cause| StoreError::io(directory, "made", cause))?;
        }
        check_mode(directory, 0o755)?;
        self.take_lock()?;
        self.read()
    }

    /// Replaces what is stored. After an error the old contents stand, in
    /// memory and in the file.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn replace(&mut self, contents: Contents) -> Result<(), StoreError> {
        self.prepare()?;
        let keys = match &self.keys {
            Some(keys) => keys.clone(),
            None => {
                let keys = Keys::make(&self.settings)?;
                let key = self.settings.own_key();
                warn!(key = %key.display(), "a key for the store was made beside it: keep it elsewhere, and a copy of it");
                keys
            }
        };
        // One that was deleted is followed by a newer one, not by its first.
        let generation = self.generation.max(self.seen()?) + 1;
        let sealed = seal::seal(&contents, generation, &keys).map_err(|cause| self.broken(cause))?;
        self.write(&sealed)?;
        (self.contents, self.keys, self.generation) = (contents, Some(keys), generation);
        self.note_seen();
        Ok(())
    }

    fn directory(&self) -> &Path {
        self.settings.file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
    }

    /// The generation that was seen last.
    fn seen(&self) -> Result<u64, StoreError> {
        let seen = Seen::of(&self.settings.file);
        match seen.read() {
            // As good as a note that is not there, once somebody says so.
            Err(_) if self.settings.allow_rollback => Ok(0),
            read => read.map_err(|cause| StoreError::io(seen.path(), "read", cause)),
        }
    }

    /// Notes what was read or written, by whoever may change the store.
    fn note_seen(&self) {
        let seen = Seen::of(&self.settings.file);
        if self.lock.is_some()
            && let Err(error) = seen.write(self.generation)
        {
            warn!(path = %seen.path().display(), %error, "which store was seen last cannot be noted");
        }
    }

    fn broken(&self, cause: Broken) -> StoreError {
        StoreError::Broken { path: self.settings.file.clone(), cause }
    }

    fn take_lock(&mut self) -> Result<(), StoreError> {
        let path = self.settings.file.with_extension("lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|cause| StoreError::io(&path, "opened", cause))?;
        let locked = kernel::try_lock(&file).map_err(|cause| StoreError::io(&path, "locked", cause))?;
        if !locked {
            return Err(StoreError::Locked(self.settings.file.clone()));
        }
        self.lock = Some(file);
        Ok(())
    }

    fn read(&mut self) -> Result<(), StoreError> {
        let path = &self.settings.file;
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.keys = Keys::read(&self.settings)?;
                return Ok(());
            }
            Err(cause) => return Err(StoreError::io(path, "read", cause)),
        };
        check_mode(path, 0o600)?;
        let keys = Keys::read(&self.settings)?.ok_or_else(|| StoreError::Key {
            key: self.settings.current_source(),
            what:
                "is not there, and the store is sealed with it: restore it, or name where it is with `key` in [store]"
                    .to_owned(),
        })?;
        let Opened { contents, generation, by_previous } =
            seal::open(&bytes, &keys).map_err(|cause| self.broken(cause))?;
        let seen = self.seen()?;
        if generation < seen {
            if !self.settings.allow_rollback {
                return Err(StoreError::Older { path: path.clone(), found: generation, seen });
            }
            warn!(store = %path.display(), generation, seen, "an older store is taken, as asked for");
        }
        (self.contents, self.keys, self.generation) = (contents, Some(keys), generation);
        if generation != seen {
            self.note_seen();
        }
        if by_previous && self.lock.is_some() {
            self.replace(self.contents.clone())?;
            info!(store = %self.settings.file.display(), "the store is sealed with its new key from now on");
        }
        Ok(())
    }

    /// The new file takes the place of the old one in one step.
    fn write(&self, sealed: &[u8]) -> Result<(), StoreError> {
        let path = &self.settings.file;
        let failed = |cause| StoreError::io(path, "written", cause);
        let new = path.with_extension("new");
        // Left behind by a process that was killed: nobody else writes here.
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(sealed).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)?;
        File::open(self.directory()).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}
