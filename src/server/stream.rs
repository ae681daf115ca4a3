//! The I/O of one plain connection.
//!
//! Above it HTTP is hyper's; below it bytes that hyper was given as slices of
//! a cached file's mapping are recognised and moved by `splice` through a
//! pipe, which spares the copy. Whatever is not recognised, and everything
//! when the kernel has no pipe to give, is written as it is: the same bytes.
//!
//! hyper cannot take back a slice that it was given. When the file behind it
//! fails, its spare stands in: the bytes come from elsewhere, and the response
//! goes on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::proxy_protocol;
use crate::kernel::{Mapping, Mappings, Pipe, PipePool, Windows};

/// Below this a copy is cheaper than two system calls.
const WORTH_SPLICING: usize = 16 * 1024;

/// A plain connection that recognises cached bytes.
pub(super) struct PlainStream {
    tcp: TcpStream,
    /// What has been read of it already.
    ahead: Bytes,
    mappings: Mappings,
    /// Where pipes come from; absent: nothing is spliced.
    pipes: Option<PipePool>,
    moving: Option<Moving>,
    replaced: Option<Replaced>,
}

/// Bytes that are in a pipe on their way to the socket. hyper keeps offering
/// them until they are reported as written, so they are always the next ones.
struct Moving {
    pipe: Pipe,
    mapping: Arc<Mapping>,
    /// File offset of the next byte that leaves the pipe.
    offset: u64,
}

/// Bytes that go out in place of a slice whose file failed. As with those in a
/// pipe, hyper keeps offering the slice, so they are always the next ones.
struct Replaced {
    mapping: Arc<Mapping>,
    /// File offset of the next byte.
    offset: u64,
    end: u64,
    windows: Windows,
    window: Bytes,
}

impl PlainStream {
    /// `ahead` has been read from `tcp` before.
    pub(super) fn new(tcp: TcpStream, ahead: Bytes, mappings: Mappings, pipes: Option<PipePool>) -> PlainStream {
        PlainStream { tcp, ahead, mappings, pipes, moving: None, replaced: None }
    }

    /// Sends what stands in for the `len` bytes at `offset` of `mapping`, of
    /// which the file could not give the first.
    fn poll_replace(
        &mut self,
        cx: &mut Context<'_>,
        mapping: Arc<Mapping>,
        (offset, len): (u64, usize),
        error: io::Error,
    ) -> Poll<io::Result<usize>> {
        let spare = self.mappings.spare(&mapping).filter(|_| is_of_file(&error));
        let Some(spare) = spare else { return Poll::Ready(Err(error)) };
        mapping.fail();
        let end = offset + len as u64;
        let windows = spare.windows(&mapping, offset, end);
        self.poll_replaced(cx, Replaced { mapping, offset, end, windows, window: Bytes::new() })
    }

    fn poll_replaced(&mut self, cx: &mut Context<'_>, mut replaced: Replaced) -> Poll<io::Result<usize>> {
        while replaced.window.is_empty() {
            match replaced.windows.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(window))) => replaced.window = window,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Pending => {
                    self.replaced = Some(replaced);
                    return Poll::Pending;
                }
            }
        }
        let left = usize::try_from(replaced.end - replaced.offset).unwrap_or(usize::MAX);
        let window = replaced.window.get(..left).unwrap_or(&replaced.window);
        let written = Pin::new(&mut self.tcp).poll_write(cx, window);
        if let Poll::Ready(Ok(written)) = written {
            replaced.window.advance(written);
            replaced.offset += written as u64;
        }
        if !matches!(written, Poll::Ready(Err(_))) && replaced.offset < replaced.end {
            self.replaced = Some(replaced);
        }
        written
    }

    /// Moves bytes of `slice`, which lies at `offset` of `mapping`.
    fn poll_splice(&mut self, cx: &mut Context<'_>, mut moving: Moving, len: usize) -> Poll<io::Result<usize>> {
        if moving.pipe.filled() == 0
            && let Err(error) = moving.pipe.fill(moving.mapping.file(), moving.offset, len)
        {
            let (mapping, offset) = (moving.mapping, moving.offset);
            self.give_back(moving.pipe);
            return self.poll_replace(cx, mapping, (offset, len), error);
        }
        let more = moving.pipe.filled() < len;
        loop {
            match self.tcp.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.moving = Some(moving);
                    return Poll::Pending;
                }
            }
            let tcp = &self.tcp;
            match tcp.try_io(Interest::WRITABLE, || moving.pipe.drain(tcp, len, more)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => {
                    moving.offset += moved as u64;
                    if moving.pipe.filled() == 0 {
                        self.give_back(moving.pipe);
                    } else {
                        self.moving = Some(moving);
                    }
                    return Poll::Ready(Ok(moved));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn give_back(&self, pipe: Pipe) {
        if let Some(pipes) = &self.pipes {
            pipes.give_back(pipe);
        }
    }

    /// What is to be spliced now: the rest of what is in the pipe, or `slice`
    /// if it is recognised.
    fn movable(&mut self, slice: &[u8]) -> io::Result<Option<Moving>> {
        let found = self.mappings.find(slice);
        match (self.moving.take(), found) {
            (Some(moving), Some((mapping, offset)))
                if Arc::ptr_eq(&moving.mapping, &mapping)
                    && moving.offset == offset
                    && moving.pipe.filled() <= slice.len() =>
            {
                Ok(Some(moving))
            }
            // Bytes in the pipe that are not next would be sent in the wrong
            // place: better no connection than a wrong byte.
            (Some(_), _) => Err(io::Error::other("the bytes to send are not those under way")),
            (None, Some((mapping, offset))) if slice.len() >= WORTH_SPLICING => {
                let pipe = self.pipes.as_ref().and_then(PipePool::take);
                Ok(pipe.map(|pipe| Moving { pipe, mapping, offset }))
            }
            (None, _) => Ok(None),
        }
    }

    /// What is to be sent now in place of `slice`, if that has begun.
    fn standing_in(&mut self, slice: &[u8]) -> io::Result<Option<Replaced>> {
        let Some(replaced) = self.replaced.take() else { return Ok(None) };
        let is_next = self
            .mappings
            .find(slice)
            .is_some_and(|(mapping, offset)| Arc::ptr_eq(&mapping, &replaced.mapping) && offset == replaced.offset);
        if is_next { Ok(Some(replaced)) } else { Err(io::Error::other("the bytes to send are not those under way")) }
    }
}

/// Whether a write failed because of the file that the bytes come from: a
/// fault is how a failing page shows to whoever copies from its mapping.
fn is_of_file(error: &io::Error) -> bool {
    let of_file = [Errno::IO, Errno::FAULT].map(Errno::raw_os_error);
    error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error().is_some_and(|code| of_file.contains(&code))
}

impl AsyncRead for PlainStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if proxy_protocol::hand_out(&mut this.ahead, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        let Some(first) = filled.next() else { return Poll::Ready(Ok(0)) };
        match this.standing_in(first) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(Some(replaced)) => return this.poll_replaced(cx, replaced),
            Ok(None) => {}
        }
        match this.movable(first) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(Some(moving)) => return this.poll_splice(cx, moving, first.len()),
            Ok(None) => {}
        }
        // Everything up to the next slice that can be spliced, in one call.
        let before = bufs.iter().take_while(|buf| {
            buf.len() < WORTH_SPLICING
                || std::ptr::eq(buf.as_ptr(), first.as_ptr())
                || this.pipes.is_none()
                || this.mappings.find(buf).is_none()
        });
        let run = bufs.get(..before.count()).unwrap_or(bufs);
        match ready!(Pin::new(&mut this.tcp).poll_write_vectored(cx, run)) {
            Err(error) if is_of_file(&error) => match this.mappings.find(first) {
                Some((mapping, offset)) => this.poll_replace(cx, mapping, (offset, first.len()), error),
                // A later one of them failed: it is the first next time.
                None => Pin::new(&mut this.tcp).poll_write(cx, first),
            },
            Ok(written) => {
                if let Some((mapping, offset)) = this.mappings.find(first)
                    && mapping.file().metadata()?.len() < offset + written.min(first.len()) as u64
                {
                    // The page in which the file now ends reads as zeros behind
                    // its end, and may just have been sent: no connection is
                    // better than a wrong byte.
                    return Poll::Ready(Err(io::Error::other("the file was cut short while it was sent")));
                }
                Poll::Ready(Ok(written))
            }
            error => Poll::Ready(error),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

/// A stream whose writes fail when the peer takes nothing for too long.
pub(super) struct StallGuard<S> {
    inner: S,
    limit: Duration,
    /// Armed while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> StallGuard<S> {
    pub(super) fn new(inner: S, limit: Duration) -> StallGuard<S> {
        StallGuard { inner, limit, waiting: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let timer = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        if timer.deadline() <= Instant::now() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.watch(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
