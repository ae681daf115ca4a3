//! What encrypted connections may hold in memory.
//!
//! Over TLS bytes are read into memory before they are written, and HTTP/2 has
//! many responses at a time, of which each would fill its buffers for a client
//! that reads nothing. So a response produces no more while its connection
//! holds as much as it may, or all connections of its address together do. What
//! is on its way is counted from the moment it is read to the moment the
//! kernel takes it.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::proxy_protocol;

/// Bytes on their way to one connection.
const CONNECTION: i64 = 512 << 10;
/// Bytes on their way to all connections of one address.
const ADDRESS: i64 = 128 << 20;
/// How soon a connection looks again whether its address may hold more.
const AGAIN: Duration = Duration::from_millis(20);

/// The budgets of all addresses with connections.
#[derive(Default)]
pub(super) struct Budgets(Mutex<HashMap<IpAddr, Weak<AtomicI64>>>);

impl Budgets {
    /// The budget of a new connection of `address`.
    pub(super) fn open(&self, address: IpAddr) -> Budget {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&address).and_then(Weak::upgrade);
        let of_address = known.unwrap_or_else(|| {
            // Addresses that have left go when others come.
            all.retain(|_, held| held.strong_count() > 0);
            let held = Arc::new(AtomicI64::new(0));
            all.insert(address, Arc::downgrade(&held));
            held
        });
        Budget(Arc::new(Held { own: AtomicI64::new(0), of_address, waiting: Mutex::default() }))
    }
}

/// What one connection holds.
#[derive(Clone)]
pub(super) struct Budget(Arc<Held>);

struct Held {
    own: AtomicI64,
    of_address: Arc<AtomicI64>,
    waiting: Mutex<Vec<Waker>>,
}

impl Budget {
    /// Ready when more may be read. `timer` is the waiting response's own.
    pub(super) fn poll_room(&self, timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.0.own.load(Ordering::Acquire) > CONNECTION {
                self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
                // It may have been written since.
                if self.0.own.load(Ordering::Acquire) > CONNECTION {
                    return Poll::Pending;
                }
            }
            if self.0.of_address.load(Ordering::Acquire) <= ADDRESS {
                *timer = None;
                return Poll::Ready(());
            }
            // Other connections have to write, which nobody tells this one.
            let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(AGAIN)));
            ready!(sleep.as_mut().poll(cx));
            *timer = None;
        }
    }

    /// So many bytes were read for it.
    pub(super) fn hold(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.own.fetch_add(bytes, Ordering::AcqRel);
        self.0.of_address.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The kernel has taken so many. Those of heads and frames were never
    /// counted, so nothing goes below zero.
    fn release(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.0.own.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| Some((held - bytes).max(0)));
        let gone = before.unwrap_or_default().min(bytes);
        self.0.of_address.fetch_sub(gone, Ordering::AcqRel);
        for waker in self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of_address.fetch_sub(*self.own.get_mut(), Ordering::AcqRel);
    }
}

/// A stream below the encryption, whose writes give the budget back.
pub(super) struct Metered<S> {
    inner: S,
    /// What has been read of it already.
    ahead: Bytes,
    budget: Budget,
}

impl<S> Metered<S> {
    /// `ahead` has been read from `inner` before.
    pub(super) fn new(inner: S, ahead: Bytes, budget: Budget) -> Metered<S> {
        Metered { inner, ahead, budget }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if proxy_protocol::hand_out(&mut this.ahead, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
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
        this.budget.release(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn has_room(budget: &Budget) -> bool {
        let mut timer = None;
        let room = poll_fn(|cx| budget.poll_room(&mut timer, cx));
        tokio::time::timeout(10 * AGAIN, room).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_and_an_address_hold_no_more_than_they_may_until_something_is_written() {
        let budgets = Budgets::default();
        let (address, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let one = budgets.open(address);
        assert!(has_room(&one).await);
        one.hold(CONNECTION as usize + 1);
        assert!(!has_room(&one).await);
        let waits = tokio::spawn({
            let one = one.clone();
            async move { poll_fn(|cx| one.poll_room(&mut None, cx)).await }
        });
        tokio::task::yield_now().await;
        one.release(1);
        waits.await.unwrap();
        // All of one address together; another has its own.
        let many: Vec<_> = (0..ADDRESS / CONNECTION).map(|_| budgets.open(address)).collect();
        many.iter().for_each(|budget| budget.hold(CONNECTION as usize));
        assert!(!has_room(&budgets.open(address)).await);
        assert!(has_room(&budgets.open(other)).await);
        drop((one, many));
        let again = budgets.open(address);
        assert!(has_room(&again).await);
        // What was never counted is given back by nobody.
        again.release(1 << 30);
        again.hold(CONNECTION as usize + 1);
        assert!(!has_room(&again).await);
    }
}
