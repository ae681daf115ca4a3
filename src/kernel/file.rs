//! Files: allocation, positioned reads, durable publication.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, RenameFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// Reserves room for `len` bytes from `offset` on without changing the file's
/// length, so that a full disk shows before they are written. File systems without the call are
/// left alone.
///
/// # Errors
/// When there is no room, or the file cannot be written.
pub fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes from the start of `file` up to its first hole: what was written
/// without a gap. File systems that know no holes name the file's length.
///
/// # Errors
/// When the file cannot be asked.
pub fn data_prefix(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(0);
    }
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(0)) {
        Ok(hole) => Ok(hole.min(length)),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(length),
        Err(error) => Err(error.into()),
    }
}

/// Makes the content of `file` durable (`fdatasync`).
///
/// # Errors
/// When the device reports one; the pages may then be lost, so the file must
/// be thrown away and never synced again.
pub fn sync_data(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(file)?)
}

/// Renames `from` to `to` unless `to` exists, which is no error: content is
/// addressed by its digest, so what is there is the same. `from` is gone
/// afterwards in both cases.
///
/// # Errors
/// When the rename or the removal fails.
pub fn publish(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => std::fs::remove_file(from),
        // Some file systems know no flags; content is immutable, so replacing
        // it with itself is harmless.
        Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(from, to),
        Err(error) => Err(error.into()),
    }
}

/// Takes the exclusive lock of `file`; `false` when another process has it.
///
/// # Errors
/// When the file system cannot lock.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads into `buffer` from `offset`, but only what is in memory: `None` when
/// the kernel would have to wait for the disk.
///
/// # Errors
/// When the read fails.
pub fn try_read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    let mut vector = [IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, &mut vector, offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(Some(read)),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads up to the whole of `buffer` from `offset`, waiting as needed; less
/// only at the end of the file.
///
/// # Errors
/// When the read fails.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// What is left on a file system.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
    /// Files that may still be made.
    pub free_inodes: u64,
    /// Files that it can hold; zero where it does not count.
    pub total_inodes: u64,
}

/// What is left on the file system that `path` is on.
///
/// # Errors
/// When it cannot be asked.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Room {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_inodes: stat.f_favail,
        total_inodes: stat.f_files,
    })
}

/// Raises the soft limit of open files to the hard one: every connection and
/// every open blob is a file.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Failing leaves the lower limit in force; the bounds of the server hold.
    let _ = setrlimit(Resource::Nofile, limit);
}
