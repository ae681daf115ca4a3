//! What an HTTP/2 peer may send that is no request.
//!
//! Settings, pings and window updates are each answered or done with at once,
//! and HTTP/2 knows no bound on them. A registry's client has little to say
//! beside its requests, so all that comes in is counted against what requests
//! and responses give reason for. Who goes beyond loses the connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may come before the first request, or with none.
const AT_FIRST: i64 = 256 << 10;
/// Of so many bytes sent, one may come back: window updates are far fewer.
const ECHO: usize = 64;

/// How much a peer may still send.
#[derive(Debug, Clone)]
pub(super) struct Allowance(Arc<AtomicI64>);

impl Allowance {
    pub(super) fn new() -> Allowance {
        Allowance(Arc::new(AtomicI64::new(AT_FIRST)))
    }

    /// There is reason for so many bytes more.
    pub(super) fn grant(&self, bytes: usize) {
        self.0.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Takes `bytes` off; whether that much was left.
    fn spend(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.fetch_sub(bytes, Ordering::Relaxed) >= bytes
    }
}

/// A stream whose reads fail beyond the allowance.
pub(super) struct Allowed<S> {
    inner: S,
    allowance: Allowance,
}

impl<S> Allowed<S> {
    pub(super) fn new(inner: S, allowance: Allowance) -> Allowed<S> {
        Allowed { inner, allowance }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Allowed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if this.allowance.spend(buf.filled().len() - before) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::other("the peer sends too much that is no request")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Allowed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))?;
        this.allowance.grant(written / ECHO);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
