//! From the connections to the writer: at once, or by a thread of its own.
//!
//! Writing to the page cache and hashing take less than the hand-over to
//! another thread costs, so the connection that received a piece does it there
//! and then; one at a time in the whole process, so that a disk that hangs holds
//! no more than one of the runtime's threads. When the disk makes it wait, or
//! several connections feed one fill, the writer moves to a thread of its own,
//! and nobody on the runtime's threads waits for it again.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::partial::Partial;
use super::turn::{SLOW, Turn};
use super::writer::{Piece, Writer};

/// Pieces on their way to the thread.
const CHANNEL: usize = 4;

pub(super) struct Feed {
    here: Mutex<Here>,
    thread: OnceLock<mpsc::Sender<Piece>>,
}

enum Here {
    /// The writer works where the pieces come in.
    Writer(Box<Writer>),
    /// It has a thread, which says here how it ended.
    Moved(oneshot::Receiver<io::Result<Partial>>),
    /// The disk failed.
    Failed(io::Error),
    /// Taken apart.
    Ended,
}

impl Feed {
    pub(super) fn new(writer: Writer) -> Feed {
        Feed { here: Mutex::new(Here::Writer(Box::new(writer))), thread: OnceLock::new() }
    }

    /// Hands on a piece; `false` when the writer has ended, which
    /// [`finish`](Feed::finish) explains.
    pub(super) async fn hand_on(&self, piece: Piece) -> bool {
        let piece = if self.thread.get().is_some() {
            piece
        } else {
            let Some(_turn) = Turn::take().await else {
                self.move_to_thread();
                return self.send(piece).await;
            };
            let Some(piece) = self.write_here(piece) else { return true };
            piece
        };
        self.send(piece).await
    }

    async fn send(&self, piece: Piece) -> bool {
        match self.thread.get() {
            Some(thread) => thread.send(piece).await.is_ok(),
            None => false,
        }
    }

    /// Writes the piece, or gives it back.
    fn write_here(&self, piece: Piece) -> Option<Piece> {
        if self.thread.get().is_some() {
            return Some(piece);
        }
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        let Here::Writer(writer) = &mut *here else { return Some(piece) };
        let begun = Instant::now();
        if let Err(error) = writer.write(piece) {
            *here = Here::Failed(error);
            return None;
        }
        if begun.elapsed() > SLOW {
            self.move_out(&mut here);
        }
        None
    }

    /// Gives the writer a thread, if it has none.
    pub(super) fn move_to_thread(&self) {
        self.move_out(&mut self.here.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn move_out(&self, here: &mut Here) {
        let writer = match std::mem::replace(here, Here::Ended) {
            Here::Writer(writer) => writer,
            other => {
                *here = other;
                return;
            }
        };
        let (pieces, receiver) = mpsc::channel(CHANNEL);
        let (done, outcome) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            // Nobody listens any more only when the fill itself was dropped.
            let _ = done.send(writer.run(receiver));
        });
        *here = Here::Moved(outcome);
        // It is set once: there was a writer to move.
        let _ = self.thread.set(pieces);
    }

    /// What has been written, once all of it is.
    pub(super) async fn finish(self) -> io::Result<Partial> {
        drop(self.thread);
        let ended = || io::Error::other("the writer ended");
        match self.here.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Here::Writer(writer) => Ok(writer.into_partial()),
            Here::Moved(outcome) => outcome.await.map_err(|_| ended())?,
            Here::Failed(error) => Err(error),
            Here::Ended => Err(ended()),
        }
    }
}
