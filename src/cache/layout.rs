//! The cache directory: what lies where, and who may write it.
//!
//! ```text
//! <root>/            0700, LOCK held by the one process that writes
//!   VERSION          {"format":1}
//!   blobs/<algorithm>/<first two hex>/<hex>     complete, verified, immutable
//!   partial/<algorithm>-<hex>[.<number>]        growing
//!   quarantine/<algorithm>-<hex>                damaged, the last few of them
//!   CLEAN            there only while no process uses the directory
//!   links.redb, pins.json                       of the layers above
//! ```
//! Every path below the root is built from a parsed [`Digest`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::settings::Durability;
use crate::kernel::{self, FileIdentity};
use crate::oci::{Algorithm, Digest};

const FORMAT: u32 = 1;
/// What `st_blocks` counts in, whatever the file system's own blocks are.
const BLOCK: u64 = 512;
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
        let hex = digest.hex();
        let fan_out = hex.get(..2).unwrap_or_default().to_owned();
        self.root.join("blobs").join(digest.algorithm().name()).join(fan_out).join(hex)
    }

    /// Where it grows.
    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Opens the growing file, making it when absent; never through a link.
    pub(super) fn open_partial(&self, digest: &Digest) -> io::Result<File> {
        private(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(self.partial(digest))
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
            self.publish_from(&own, digest)
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&own);
        })
    }

    /// Gives a verified and synced partial its name.
    pub(super) fn publish(&self, digest: &Digest) -> io::Result<()> {
        self.publish_from(&self.partial(digest), digest)
    }

    fn publish_from(&self, from: &Path, digest: &Digest) -> io::Result<()> {
        let to = self.blob(digest);
        let directory = to.parent().unwrap_or(&self.root);
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::set_permissions(from, fs::Permissions::from_mode(0o440))?;
        kernel::publish(from, &to)?;
        File::open(directory)?.sync_all()
    }

    /// Removes a blob; whether it was there.
    pub(super) fn remove_blob(&self, digest: &Digest) -> io::Result<bool> {
        removed(fs::remove_file(self.blob(digest)))
    }

    /// Removes a partial file, if there is one.
    pub(super) fn remove_partial(&self, digest: &Digest) -> io::Result<bool> {
        removed(fs::remove_file(self.partial(digest)))
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

    /// Removes partial files that were last written before `moment`; gives how
    /// many.
    pub(super) fn remove_partials_before(&self, moment: SystemTime) -> io::Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(self.root.join("partial"))?.flatten() {
            let is_old = entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|time| time < moment);
            if is_old && fs::remove_file(entry.path()).is_ok() {
                count += 1;
            }
        }
        Ok(count)
    }

    /// The partial files that a fill may go on with, the oldest first, and what
    /// they take of the disk.
    pub(super) fn list_partials(&self) -> io::Result<Vec<(Digest, u64)>> {
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
    pub(super) fn trim_partial(&self, digest: &Digest) -> io::Result<Option<u64>> {
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
        }
        builder.create(self.root.join("partial"))
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
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_could_write_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let open_to_all = parent.path().join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Layout::open(&open_to_all), Err(LayoutError::Unsafe { .. })));

        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path().join("elsewhere"), &link).unwrap();
        assert!(Layout::open(&link).is_err());
        fs::create_dir(parent.path().join("elsewhere")).unwrap();
        assert!(matches!(Layout::open(&link), Err(LayoutError::Unsafe { .. })));
    }

    #[test]
    fn one_process_writes_and_a_second_one_only_reads() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cache");
        let first = Layout::open(&root).unwrap();
        let second = Layout::open(&root).unwrap();
        assert!(first.is_writer() && !second.is_writer());
        assert_eq!((first.take_over().unwrap(), second.take_over().unwrap()), (Hold::Kept, Hold::Elsewhere));
        drop(first);
        assert_eq!(second.take_over().unwrap(), Hold::Taken);
        drop(second);
        assert!(Layout::open(&root).unwrap().is_writer());
    }

    #[test]
    fn a_directory_that_was_deleted_is_made_again_and_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("below/cache");
        let layout = Layout::open(&root).unwrap();
        let digest = Digest::sha256_of(b"content");
        fs::remove_dir_all(dir.path().join("below")).unwrap();
        // In its place there is what nothing can be kept in: nothing is.
        fs::write(dir.path().join("below"), "a file").unwrap();
        assert!(matches!(layout.take_over(), Err(LayoutError::Io { .. })));
        assert!(!layout.is_writer());
        fs::remove_file(dir.path().join("below")).unwrap();
        assert_eq!(layout.take_over().unwrap(), Hold::Taken);
        layout.write_small(&digest, b"content", Durability::Sync).unwrap();
        assert!(!Layout::open(&root).unwrap().is_writer(), "the new directory is locked too");
        // Its lock alone may go as well.
        fs::remove_file(root.join("LOCK")).unwrap();
        assert_eq!(layout.take_over().unwrap(), Hold::Taken);
        assert_eq!(layout.list_blobs().unwrap().len(), 1);
    }

    #[test]
    fn a_small_blob_is_kept_without_touching_a_fill_of_the_same_content() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("cache")).unwrap();
        let bytes = b"what both of them write";
        let digest = Digest::sha256_of(bytes);
        let mut growing = layout.open_partial(&digest).unwrap();
        growing.write_all(&bytes[..10]).unwrap();
        layout.write_small(&digest, bytes, Durability::Sync).unwrap();
        assert_eq!(fs::read(layout.partial(&digest)).unwrap(), bytes[..10]);
        assert_eq!(fs::read(layout.blob(&digest)).unwrap(), bytes);
        growing.write_all(&bytes[10..]).unwrap();
        layout.publish(&digest).unwrap();
        assert_eq!(fs::read(layout.blob(&digest)).unwrap(), bytes);
        assert_eq!(fs::read_dir(dir.path().join("cache/partial")).unwrap().count(), 0);
    }

    #[test]
    fn h3_a_link_in_the_place_of_a_growing_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("cache")).unwrap();
        let digest = Digest::sha256_of(b"content");
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, b"precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, layout.partial(&digest)).unwrap();
        assert_eq!(layout.open_partial(&digest).unwrap_err().raw_os_error(), Some(40), "ELOOP");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_of_a_newer_format_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cache");
        drop(Layout::open(&root).unwrap());
        fs::write(root.join("VERSION"), "{\"format\":2}").unwrap();
        assert!(matches!(Layout::open(&root), Err(LayoutError::Format { found, .. }) if found == "2"));
    }

    #[test]
    fn a_link_planted_among_the_partials_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("cache")).unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let digest = Digest::sha256_of(b"x");
        std::os::unix::fs::symlink(&victim, layout.partial(&digest)).unwrap();
        assert!(layout.open_partial(&digest).is_err());
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }
}
