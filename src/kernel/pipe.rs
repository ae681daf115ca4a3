//! Pipes for splice: file pages to a socket without a copy.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::pipe::{PipeFlags, SpliceFlags};

/// A pipe that file pages pass through on their way to a socket.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity: usize,
    filled: usize,
}

impl Pipe {
    /// A larger pipe moves more per system call; beyond 1 MiB nothing is won.
    const WANTED: usize = 1 << 20;
    /// Below this, splice is slower than writing from the mapping.
    const WORTH_IT: usize = 512 << 10;

    fn new() -> io::Result<Pipe> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Unprivileged users get a bounded number of pages in all.
        let capacity = rustix::pipe::fcntl_setpipe_size(&writer, Self::WANTED)?;
        if capacity < Self::WORTH_IT {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Pipe { reader, writer, capacity, filled: 0 })
    }

    /// Bytes in the pipe that have not left yet.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Puts up to `len` bytes of `file` from `offset` into the pipe; gives how
    /// many are in it now. What comes before a failure is not lost: it shows
    /// at the next call.
    ///
    /// # Errors
    /// When the file cannot be spliced.
    pub fn fill(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        while self.filled < len.min(self.capacity) {
            let mut at = offset + self.filled as u64;
            let wanted = len.min(self.capacity) - self.filled;
            match rustix::pipe::splice(file, Some(&mut at), &self.writer, None, wanted, SpliceFlags::NONBLOCK) {
                // Also because pages in odd sizes can fill the pipe before its
                // byte count.
                Ok(0) | Err(_) if self.filled > 0 => break,
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => self.filled += moved,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.filled)
    }

    /// Moves up to `len` bytes out of the pipe into `socket`.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing now; else as the socket says.
    pub fn drain(&mut self, socket: impl AsFd, len: usize, more: bool) -> io::Result<usize> {
        let mut flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        if more {
            flags |= SpliceFlags::MORE;
        }
        let moved = rustix::pipe::splice(&self.reader, None, socket, None, len.min(self.filled), flags)?;
        self.filled -= moved;
        Ok(moved)
    }
}

/// Pipes for reuse. A connection holds one only while it is sending.
#[derive(Debug, Clone, Default)]
pub struct PipePool(Arc<Mutex<Vec<Pipe>>>);

impl PipePool {
    /// Kept beyond this, idle pipes would only hold kernel memory.
    const MAX_IDLE: usize = 64;

    /// A pipe, or none when the kernel gives no (large) pipe now.
    pub fn take(&self) -> Option<Pipe> {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        pooled.or_else(|| Pipe::new().ok())
    }

    /// Gives a pipe back. One that still holds bytes is closed instead: they
    /// must not reach another connection.
    pub fn give_back(&self, pipe: Pipe) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pipe.filled == 0 && idle.len() < Self::MAX_IDLE {
            idle.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn bytes_of_a_file_come_out_at_the_other_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let pool = PipePool::default();
        let Some(mut pipe) = pool.take() else { return };
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(pipe.fill(&file, 3, 5).unwrap(), 5);
        assert_eq!(pipe.drain(&far, 5, false).unwrap(), 5);
        let mut received = [0; 5];
        near.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"34567");
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_never_reused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"secret of another").unwrap();
        let pool = PipePool::default();
        let Some(mut pipe) = pool.take() else { return };
        pipe.fill(&file, 0, 6).unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.take().unwrap().filled(), 0);
    }
}
