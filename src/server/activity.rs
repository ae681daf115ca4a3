//! What a connection is doing: waiting for a request, receiving its header, or
//! answering it.
//!
//! A header has little time, a kept connection that is silent between two
//! requests has more. hyper knows one timer for both (HTTP/1) or none at all
//! (HTTP/2).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::budget::Budget;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Shared by a connection and the answers that it is giving.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests that are not answered to their end.
    answering: usize,
    /// Since when there is none.
    silent_since: Instant,
    had_request: bool,
    /// When the header has to be complete, while one is awaited or comes.
    header_until: Option<Instant>,
}

impl Activity {
    /// Of a connection that has just come, and owes its first header within
    /// `header_timeout`.
    pub(super) fn new(header_timeout: Duration) -> Activity {
        let now = Instant::now();
        let header_until = Some(now + header_timeout);
        Activity(Arc::new(Mutex::new(State { answering: 0, silent_since: now, had_request: false, header_until })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's header is complete.
    pub(super) fn begin(&self) -> Answering {
        let mut state = self.state();
        state.answering += 1;
        state.had_request = true;
        state.header_until = None;
        Answering(self.clone())
    }

    /// Bytes came: of a header, unless something is being answered.
    fn received(&self, header_timeout: Duration) {
        let mut state = self.state();
        if state.answering == 0 && state.header_until.is_none() {
            state.header_until = Some(Instant::now() + header_timeout);
        }
    }

    fn header_until(&self) -> Option<Instant> {
        self.state().header_until
    }

    /// Waits until nothing has been asked for `idle`, or for `first` if nothing
    /// ever was.
    pub(super) async fn silence(&self, first: Duration, idle: Duration) {
        loop {
            let until = {
                let state = self.state();
                let since = if state.answering > 0 { Instant::now() } else { state.silent_since };
                since + if state.had_request { idle } else { first }
            };
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Held while a request is answered.
#[derive(Debug)]
pub(super) struct Answering(Activity);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answering = state.answering.saturating_sub(1);
        state.silent_since = Instant::now();
    }
}

/// A body that says when it has ended, or was given up, and that is not read
/// beyond what its connection may hold.
pub(super) struct Answer<B: http_body::Body> {
    body: B,
    /// What the body ended with, when it has not been told yet.
    error: Option<B::Error>,
    _answering: Answering,
    /// Where bytes are held in memory.
    budget: Option<Budget>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B: http_body::Body> Answer<B> {
    pub(super) fn new(body: B, answering: Answering, budget: Option<Budget>) -> Answer<B> {
        Answer { body, error: None, _answering: answering, budget, timer: None }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Answer<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(budget) = &this.budget {
            ready!(budget.poll_room(&mut this.timer, cx));
        }
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Err(error)) => {
                // hyper closes the connection at once, with what it has not
                // written yet: the head may be among that. It writes when it
                // has to wait.
                this.error = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                if let (Some(budget), Some(bytes)) = (&this.budget, data) {
                    budget.hold(bytes.len());
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that fails when a header takes longer than its time.
pub(super) struct HeaderGuard<S> {
    inner: S,
    activity: Activity,
    header_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> HeaderGuard<S> {
    pub(super) fn new(inner: S, activity: Activity, header_timeout: Duration) -> HeaderGuard<S> {
        HeaderGuard { inner, activity, header_timeout, timer: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            read?;
            if buf.filled().len() > before {
                this.activity.received(this.header_timeout);
            }
            return Poll::Ready(Ok(()));
        }
        let Some(until) = this.activity.header_until() else { return Poll::Pending };
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the header of a request did not come in time")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_header_has_its_time_from_its_first_byte_and_silence_before_it_another() {
        let (mut client, server) = tokio::io::duplex(100);
        let activity = Activity::new(HEADER);
        let mut stream = HeaderGuard::new(server, activity.clone(), HEADER);
        let mut byte = [0];
        client.write_all(b"1").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        drop(activity.begin());
        // Nothing comes for longer than a header may take.
        let waited = tokio::time::timeout(5 * HEADER, stream.read(&mut byte)).await;
        assert!(waited.is_err(), "still open");
        client.write_all(b"2").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        let begun = Instant::now();
        let failed = stream.read(&mut byte).await.unwrap_err();
        assert_eq!((failed.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, HEADER.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_says_anything_has_the_time_of_a_header() {
        let (_client, server) = tokio::io::duplex(100);
        let mut stream = HeaderGuard::new(server, Activity::new(HEADER), HEADER);
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_something_is_answered_is_not_hurried() {
        let (mut client, server) = tokio::io::duplex(100);
        let activity = Activity::new(HEADER);
        let mut stream = HeaderGuard::new(server, activity.clone(), HEADER);
        let _answering = activity.begin();
        client.write_all(b"1").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        assert!(tokio::time::timeout(5 * HEADER, stream.read(&mut [0])).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_begins_when_the_last_answer_has_ended() {
        let activity = Activity::new(HEADER);
        let begun = Instant::now();
        activity.silence(HEADER, IDLE).await;
        assert_eq!(begun.elapsed(), HEADER, "nothing was ever asked");
        let (first, second) = (activity.begin(), activity.begin());
        let own = activity.clone();
        let silence = tokio::spawn(async move { own.silence(HEADER, IDLE).await });
        tokio::time::sleep(10 * IDLE).await;
        drop(first);
        tokio::time::sleep(10 * IDLE).await;
        assert!(!silence.is_finished());
        drop(second);
        let begun = Instant::now();
        silence.await.unwrap();
        assert!(begun.elapsed() >= IDLE);
    }
}
