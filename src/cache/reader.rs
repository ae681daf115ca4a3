//! The bytes of a blob, in windows, for one client.
//!
//! A reader of a complete blob and a follower of a fill are the same thing:
//! the one finds all bytes available, the other waits for more. A reader never
//! yields a byte that is not available, and ends early only with an error.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::content::{Blob, Content};
use super::progress::{FillError, Progress, State};
use super::sums::Sums;
use crate::kernel;
use crate::oci::ByteRange;

/// How bytes get from a file to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Slices of a mapping: for connections that hand them to the kernel.
    Mapped,
    /// Copies in memory: for connections that look at the bytes, as TLS does,
    /// where a failing disk under a mapping would be a signal, not an error.
    Read,
    /// As [`Read`](Method::Read), in small pieces: for connections that send
    /// many responses at a time, of which each holds one.
    ReadShared,
}

/// A window of a mapping. Large enough that the work per window vanishes.
const MAPPED_WINDOW: u64 = 4 << 20;
/// A window that is read into memory.
const READ_WINDOW: u64 = 256 << 10;
/// The same, where many are held at a time.
const SHARED_WINDOW: u64 = 16 << 10;

/// Yields the bytes of one range, in order.
pub struct Reader {
    source: ReaderSource,
    method: Method,
    position: u64,
    /// Behind the last byte; unknown while nobody has said the length.
    end: Option<u64>,
}

enum ReaderSource {
    Complete { content: Content, sums: Option<Arc<Sums>> },
    Growing { content: Content, progress: watch::Receiver<Progress> },
}

impl Reader {
    /// Reads `range` of a complete blob.
    pub(super) fn of_blob(blob: &Blob, range: ByteRange, method: Method) -> Reader {
        Reader {
            source: ReaderSource::Complete { content: blob.content.clone(), sums: blob.sums.clone() },
            method,
            position: range.start,
            end: Some(range.end.min(blob.len)),
        }
    }

    pub(super) fn of_fill(
        content: Content,
        progress: watch::Receiver<Progress>,
        range: Option<ByteRange>,
        total: Option<u64>,
        method: Method,
    ) -> Reader {
        Reader {
            source: ReaderSource::Growing { content, progress },
            method,
            position: range.map_or(0, |range| range.start),
            end: range.map(|range| range.end).or(total),
        }
    }

    /// What is being read.
    pub fn content(&self) -> &Content {
        match &self.source {
            ReaderSource::Complete { content, .. } | ReaderSource::Growing { content, .. } => content,
        }
    }

    /// Offset of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.position))
    }

    /// The next window; `None` behind the last one.
    ///
    /// # Errors
    /// When the disk fails, or the fill that is followed.
    pub async fn next_window(&mut self) -> Option<Result<Bytes, ReadError>> {
        if self.end.is_some_and(|end| self.position >= end) {
            return None;
        }
        let available = match self.available().await {
            Ok(available) => available,
            Err(error) => return Some(Err(error)),
        };
        let until = self.end.unwrap_or(available).min(available);
        if self.position >= until {
            return None;
        }
        let window = match self.window(until).await {
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            window => window,
        };
        Some(match window {
            Ok(bytes) => {
                self.position += bytes.len() as u64;
                Ok(bytes)
            }
            Err(error) => Err(ReadError::Disk(Arc::new(error))),
        })
    }

    /// Waits until there is something at the position, or nothing more comes.
    async fn available(&mut self) -> Result<u64, ReadError> {
        let ReaderSource::Growing { progress, .. } = &mut self.source else { return Ok(u64::MAX) };
        loop {
            let (available, state) = {
                let seen = progress.borrow_and_update();
                (seen.available(self.position), seen.state.clone())
            };
            match state {
                State::Verified => return Ok(available),
                _ if available > self.position => return Ok(available),
                State::Failed(error) => return Err(ReadError::Fill(error)),
                State::Running => {}
            }
            if progress.changed().await.is_err() {
                return Err(ReadError::Fill(FillError::Stopped));
            }
        }
    }

    /// What the bytes from `start` to `end` have to be checked against before
    /// they are given out.
    fn unchecked(&self, start: u64, end: u64, is_cold: bool) -> Option<Arc<Sums>> {
        let ReaderSource::Complete { sums: Some(sums), .. } = &self.source else { return None };
        (is_cold || !sums.are_checked(start, end)).then(|| Arc::clone(sums))
    }

    async fn window(&self, until: u64) -> io::Result<Bytes> {
        let start = self.position;
        match (self.content(), self.method) {
            (Content::Memory(bytes), _) => {
                let (start, until) = (to_usize(start), to_usize(until).min(bytes.len()));
                Ok(if start < until { bytes.slice(start..until) } else { Bytes::new() })
            }
            (Content::Mapped(mapping), _) if mapping.has_failed() => Err(io::Error::other("it has failed before")),
            (Content::Mapped(mapping), Method::Mapped) => {
                let end = until.min(start + MAPPED_WINDOW);
                // One byte at the end tells whether the kernel would wait for
                // the disk; a thread that may wait does it then.
                let mut probe = [0];
                let is_cold = kernel::try_read_at(mapping.file(), &mut probe, end - 1)? != Some(1);
                let unchecked = self.unchecked(start, end, is_cold);
                if is_cold || unchecked.is_some() {
                    let mapping = Arc::clone(mapping);
                    tokio::task::spawn_blocking(move || {
                        if is_cold {
                            mapping.prefetch(end, end + MAPPED_WINDOW);
                            mapping.populate(start, end)?;
                        }
                        unchecked.map_or(Ok(()), |sums| sums.check(mapping.file(), start, end, is_cold))
                    })
                    .await??;
                }
                Ok(mapping.slice(start, end))
            }
            (Content::Mapped(_) | Content::File(_), _) => {
                let Some(file) = self.content().file() else { return Ok(Bytes::new()) };
                let window = if self.method == Method::ReadShared { SHARED_WINDOW } else { READ_WINDOW };
                let mut buffer = vec![0; to_usize((until - start).min(window))];
                let end = start + buffer.len() as u64;
                let resident = kernel::try_read_at(file, &mut buffer, start)?.filter(|read| *read > 0);
                let unchecked = self.unchecked(start, end, resident.is_none());
                let read = match resident {
                    Some(read) if unchecked.is_none() => read,
                    _ => {
                        let file = Arc::clone(file);
                        let read = tokio::task::spawn_blocking(move || {
                            if let Some(sums) = unchecked {
                                sums.check(&file, start, end, resident.is_none())?;
                            }
                            kernel::read_at(&file, &mut buffer, start).map(|read| (buffer, read))
                        });
                        let (filled, read) = read.await??;
                        buffer = filled;
                        read
                    }
                };
                buffer.truncate(read);
                Ok(buffer.into())
            }
        }
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Why a reader could not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The fill it follows failed.
    #[error(transparent)]
    Fill(FillError),
    /// The disk failed.
    #[error("the cache cannot be read: {0}")]
    Disk(Arc<io::Error>),
}
