//! The cache directory: what lies where, and who may write it.
//!
//! ```text
//! <root>/            0700, LOCK held by the one process that writes
//!   VERSION          {"format":1}
//!   blobs/<algorithm>/<first two hex>/<hex>     complete, verified, immutable
//!   partial/<algorithm>-<hex>[.<number>]        growing
//!   sums/<algorithm>/<first two hex>/<hex>      checksums of a large blob
//!   sums/partial/<algorithm>-<hex>              of what has come of a growing one
//!   quarantine/<algorithm>-<hex>                damaged, the last few of them
//!   CLEAN            there only while no process uses the directory
//!   links.redb, pins.json                       of the layers above
//! ```
//! Every path below the root is built from a parsed [`Digest`].

mod partial;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::content::SMALL;
use super::settings::Durability;
use super::sums::Sums;
use crate::kernel::{self, FileIdentity};
use crate::oci::{Algorithm, Digest};

const FORMAT: u32 = 1;
/// Longest table that is read: that of 1 TiB.
const MAX_TABLE: u64 = 64 << 20;
const MAX_QUARANTINED_FILES: usize = 16;
const MAX_QUARANTINED_BYTES: u64 = 1 << 30;

/// Why a directory cannot be the cache.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Somebody else could plant content in it.
    #[error("the cache directory {path} is {what}; make it a directory of its own, owned by this user, mode 0700")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Written by another version.
    #[error(
        "the cache directory {path} has format {found}, this version writes format {FORMAT}; use another directory or delete this one"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// What its VERSION says.
        found: String,
    },
    /// It cannot be made or read.
    #[error("the cache directory {path} cannot be used: {cause}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
}

/// An opened cache directory.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    /// Held for as long as the process lives and the directory is there; absent
    /// while another process writes.
    lock: Mutex<Option<File>>,
    /// Whether the lock is held.
    is_writer: AtomicBool,
    was_clean: AtomicBool,
    /// Small blobs that were written: each had a file of its own to grow in.
    written: AtomicU64,
}

/// A complete blob, as the directory shows it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
}

/// Whose the directory is, as [`Layout::take_over`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Still this process's.
    Kept,
    /// This process's from now on.
    Taken,
    /// Another process's.
    Elsewhere,
}

impl Layout {
    /// Opens `root`, making what is missing, and takes its lock if it is free.
    pub(super) fn open(root: &Path) -> Result<Layout, LayoutError> {
        let layout = Layout {
            root: root.to_owned(),
            lock: Mutex::default(),
            is_writer: AtomicBool::new(false),
            was_clean: AtomicBool::new(true),
            written: AtomicU64::new(0),
        };
        layout.take_over()?;
        Ok(layout)
    }

    /// Takes the lock if it is free. A directory that was deleted, or that
    /// another file system was mounted over, is made anew: what is in the old
    /// one is lost to this process.
    ///
    /// # Errors
    /// When the directory cannot be used now. This process does not write then.
    pub(super) fn take_over(&self) -> Result<Hold, LayoutError> {
        let root = &self.root;
        let io = |cause| LayoutError::Io { path: root.clone(), cause };
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = &*held {
            if FileIdentity::at(&root.join("LOCK")).ok() == FileIdentity::of(lock).ok() {
                return Ok(Hold::Kept);
            }
            *held = None;
            self.is_writer.store(false, Ordering::Release);
        }
        self.make_root()?;
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true)).open(root.join("LOCK"));
        if let Ok(lock) = lock
            && kernel::try_lock(&lock).unwrap_or(false)
        {
            self.check_version()?;
            let is_new = !root.join("blobs").exists();
            self.make_directories().map_err(io)?;
            let is_clean = removed(fs::remove_file(root.join("CLEAN"))).unwrap_or(false) || is_new;
            self.was_clean.store(is_clean, Ordering::Relaxed);
            *held = Some(lock);
            self.is_writer.store(true, Ordering::Release);
            return Ok(Hold::Taken);
        }
        Ok(Hold::Elsewhere)
    }

    /// Makes the directory if it is missing; refuses one that is not safe.
    fn make_root(&self) -> Result<(), LayoutError> {
        let io = |cause| LayoutError::Io { path: self.root.clone(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.root).map_err(io)?;
        let metadata = fs::symlink_metadata(&self.root).map_err(io)?;
        let refuse = |what| Err(LayoutError::Unsafe { path: self.root.clone(), what });
        if metadata.is_symlink() {
            return refuse("a symbolic link");
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return refuse("owned by another user");
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return refuse("writable by others");
        }
        Ok(())
    }

    /// Whether this process is the one that writes.
    pub(super) fn is_writer(&self) -> bool {
        self.is_writer.load(Ordering::Acquire)
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the complete blob is.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.below("blobs", digest)
    }

    /// Where the checksums of the complete blob are.
    fn sums(&self, digest: &Digest) -> PathBuf {
        self.below("sums", digest)
    }

    fn below(&self, directory: &str, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let fan_out = hex.get(..2).unwrap_or_default().to_owned();
        self.root.join(directory).join(digest.algorithm().name()).join(fan_out).join(hex)
    }

    /// Opens the complete blob, if it is there.
    pub(super) fn open_blob(&self, digest: &Digest) -> io::Result<Option<File>> {
        match OpenOptions::new().read(true).custom_flags(no_follow()).open(self.blob(digest)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `file` is what is stored under this digest.
    pub(super) fn is_stored_as(&self, digest: &Digest, file: &File) -> bool {
        let stored = FileIdentity::at(&self.blob(digest));
        stored.is_ok_and(|stored| FileIdentity::of(file).is_ok_and(|open| open == stored))
    }

    /// Writes a small blob whole; one that is there already is left alone. It
    /// grows in a file of its own: a fill of the same content may be running.
    pub(super) fn write_small(&self, digest: &Digest, bytes: &[u8], durability: Durability) -> io::Result<()> {
        if self.blob(digest).exists() {
            return Ok(());
        }
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let own = self.partial(digest).with_extension(number.to_string());
        let write = || {
            let mut file = private(OpenOptions::new().create(true).truncate(true).write(true)).open(&own)?;
            file.write_all(bytes)?;
            if durability == Durability::Sync {
                kernel::sync_data(&file)?;
            }
            let sums = (bytes.len() as u64 > SMALL).then(|| Sums::of(bytes));
            self.publish_from(&own, digest, sums.as_ref())
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&own);
        })
    }

    /// Gives a verified and synced partial its name, and its checksums a file.
    pub(super) fn publish(&self, digest: &Digest, sums: Option<&Sums>) -> io::Result<()> {
        self.publish_from(&self.partial(digest), digest, sums)?;
        removed(fs::remove_file(self.partial_log(digest))).map(|_| ())
    }

    fn publish_from(&self, from: &Path, digest: &Digest, sums: Option<&Sums>) -> io::Result<()> {
        let to = self.blob(digest);
        let directory = to.parent().unwrap_or(&self.root);
        make_parent(&to)?;
        fs::set_permissions(from, fs::Permissions::from_mode(0o440))?;
        if let Some(sums) = sums {
            self.save_sums(digest, sums)?;
        }
        kernel::publish(from, &to)?;
        File::open(directory)?.sync_all()
    }

    /// Removes a blob; whether it was there.
    pub(super) fn remove_blob(&self, digest: &Digest) -> io::Result<bool> {
        removed(fs::remove_file(self.sums(digest)))?;
        removed(fs::remove_file(self.blob(digest)))
    }

    /// Keeps the checksums of a blob. They are not synced: what a crash leaves
    /// of them is as good as none.
    pub(super) fn save_sums(&self, digest: &Digest, sums: &Sums) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let beside = self.partial(digest).with_extension(number.to_string());
        let mut file = private(OpenOptions::new().create(true).truncate(true).write(true)).open(&beside)?;
        file.write_all(&sums.encode())?;
        let to = self.sums(digest);
        make_parent(&to)?;
        fs::rename(&beside, to)
    }

    /// The checksums of a blob of `len` bytes, if it has any.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn load_sums(&self, digest: &Digest, len: u64) -> io::Result<Option<Sums>> {
        let file = match OpenOptions::new().read(true).custom_flags(no_follow()).open(self.sums(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // That of a longer blob, which has lost its end, is read too.
        let most = Sums::encoded_len(len).max(file.metadata()?.len().min(MAX_TABLE));
        let mut table = Vec::new();
        file.take(most).read_to_end(&mut table)?;
        Ok(Sums::decode(&table))
    }

    /// Moves a damaged blob aside, where somebody can look at it; of many, the
    /// first few stay.
    pub(super) fn quarantine(&self, digest: &Digest) -> io::Result<()> {
        let aside = self.root.join("quarantine");
        DirBuilder::new().recursive(true).mode(0o700).create(&aside)?;
        let (mut files, mut bytes) = (0, 0);
        for entry in fs::read_dir(&aside)?.flatten() {
            files += 1;
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
        let from = self.blob(digest);
        let size = fs::metadata(&from).map_or(0, |metadata| metadata.len());
        removed(fs::remove_file(self.sums(digest)))?;
        if files < MAX_QUARANTINED_FILES && bytes + size <= MAX_QUARANTINED_BYTES {
            let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
            fs::rename(from, aside.join(name))
        } else {
            self.remove_blob(digest).map(|_| ())
        }
    }

    /// All complete blobs, in no order. What has no name that a blob can have
    /// is left alone.
    pub(super) fn list_blobs(&self) -> io::Result<Vec<Listed>> {
        let mut all = Vec::new();
        for algorithm in Algorithm::ALL {
            for fan_out in fs::read_dir(self.root.join("blobs").join(algorithm.name()))? {
                let fan_out = fan_out?;
                if !fan_out.file_type()?.is_dir() {
                    continue;
                }
                for entry in fs::read_dir(fan_out.path())?.flatten() {
                    let name = entry.file_name();
                    let digest = name.to_str().and_then(|hex| format!("{}:{hex}", algorithm.name()).parse().ok());
                    // A blob may go while the list is made.
                    let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) else { continue };
                    if metadata.is_file() {
                        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                        all.push(Listed { digest, size: metadata.len(), modified });
                    }
                }
            }
        }
        Ok(all)
    }

    /// Whether the process before this one ended in order.
    pub(super) fn was_clean(&self) -> bool {
        self.was_clean.load(Ordering::Relaxed)
    }

    /// Says to the next process that this one ended in order.
    pub(super) fn mark_clean(&self) -> io::Result<()> {
        let mark = private(OpenOptions::new().create(true).truncate(true).write(true)).open(self.root.join("CLEAN"))?;
        mark.sync_all()
    }

    fn check_version(&self) -> Result<(), LayoutError> {
        let path = self.root.join("VERSION");
        let io = |cause| LayoutError::Io { path: self.root.clone(), cause };
        match fs::read_to_string(&path) {
            // Earlier versions could be killed between making and writing it.
            Ok(text) if text.trim().is_empty() => self.write_version().map_err(io),
            Ok(text) => {
                let found = serde_json::from_str::<serde_json::Value>(&text).ok();
                let format = found.as_ref().and_then(|value| value.get("format")).and_then(serde_json::Value::as_u64);
                if format == Some(u64::from(FORMAT)) {
                    return Ok(());
                }
                let found = format.map_or_else(|| "unknown".to_owned(), |format| format.to_string());
                Err(LayoutError::Format { path: self.root.clone(), found })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write_version().map_err(io),
            Err(error) => Err(io(error)),
        }
    }

    /// Beside it and renamed: a start that is killed leaves none or a whole one.
    fn write_version(&self) -> io::Result<()> {
        let beside = self.root.join("VERSION.new");
        let mut file = private(OpenOptions::new().create(true).truncate(true).write(true)).open(&beside)?;
        writeln!(file, "{{\"format\":{FORMAT}}}")?;
        file.sync_all()?;
        fs::rename(&beside, self.root.join("VERSION"))
    }

    fn make_directories(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for algorithm in Algorithm::ALL {
            builder.create(self.root.join("blobs").join(algorithm.name()))?;
            builder.create(self.root.join("sums").join(algorithm.name()))?;
        }
        builder.create(self.root.join("sums").join("partial"))?;
        builder.create(self.root.join("partial"))
    }
}

/// Makes the directory that `path` lies in, which has one itself.
fn make_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match DirBuilder::new().mode(0o700).create(parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether there was something to remove.
fn removed(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600).custom_flags(no_follow())
}

#[cfg(test)]
mod tests;
