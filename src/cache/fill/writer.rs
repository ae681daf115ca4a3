//! What owns the file while it grows: writes, tells, hashes.

use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::partial::Partial;
use super::room::Room;
use crate::cache::progress::{Progress, publish};
use crate::kernel;

/// Bytes that came in from the source, and their place.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// What is hashed from the file is read in steps of this size.
const CATCH_UP: usize = 1 << 20;

pub(super) struct Writer {
    pub(super) partial: Partial,
    pub(super) room: Room,
    pub(super) progress: watch::Sender<Progress>,
}

impl Writer {
    /// Writes a piece. It is told of before it is hashed: nobody waits for the
    /// hash but the last bytes.
    pub(super) fn write(&mut self, Piece { offset, bytes }: Piece) -> io::Result<()> {
        let len = bytes.len() as u64;
        self.room.before(&self.partial.file, offset, len)?;
        self.room.unless_full(len, || self.partial.file.write_all_at(&bytes, offset))?;
        let end = offset + len;
        self.partial.written.insert(offset, end);
        self.partial.gatherer.add(offset, &bytes);
        publish(&self.progress, |progress| progress.written.insert(offset, end));
        if offset == self.partial.hashed {
            self.partial.hasher.update(&bytes);
            self.partial.hashed = end;
        }
        self.catch_up()
    }

    /// Writes pieces until they end.
    pub(super) fn run(mut self, mut pieces: mpsc::Receiver<Piece>) -> io::Result<Partial> {
        while let Some(piece) = pieces.blocking_recv() {
            self.write(piece)?;
        }
        Ok(self.partial)
    }

    /// What has been written.
    pub(super) fn into_partial(self) -> Partial {
        self.partial
    }

    /// Hashes what had come before its turn and is in turn now.
    fn catch_up(&mut self) -> io::Result<()> {
        let until = self.partial.written.reach(self.partial.hashed);
        if until == self.partial.hashed {
            return Ok(());
        }
        let mut buffer = vec![0; CATCH_UP];
        while self.partial.hashed < until {
            let len = usize::try_from(until - self.partial.hashed).unwrap_or(CATCH_UP).min(CATCH_UP);
            let part = buffer.get_mut(..len).unwrap_or_default();
            if kernel::read_at(&self.partial.file, part, self.partial.hashed)? != len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.partial.hasher.update(part);
            if !self.partial.gatherer.has(self.partial.hashed) {
                self.partial.gatherer.add(self.partial.hashed, part);
            }
            self.partial.hashed += len as u64;
        }
        Ok(())
    }
}
