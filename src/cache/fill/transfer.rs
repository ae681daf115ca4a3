//! The connections that feed a fill: one to begin with, more where they help.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tracing::debug;

use super::Fill;
use super::feed::Feed;
use super::pace::Pace;
use super::plan::Plan;
use super::tries::{Short, Stalled, Tries};
use super::writer::Piece;
use crate::cache::progress::FillError;
use crate::cache::source::{ByteStream, Opened, Retry, SourceError};
use crate::oci::ByteRange;

/// Blobs below this size are not worth a second connection, unless somebody
/// waits for their end.
const SPLIT_AT: u64 = 32 << 20;
/// How often the pace is looked at, and whether anybody follows still.
const TICK: Duration = Duration::from_millis(50);
/// An abandoned fill goes on for this long in any case.
const ABANDONED_GRACE: Duration = Duration::from_secs(30);
/// An abandoned fill with no more than this left is finished all the same.
const ABANDONED_REST: u64 = 64 << 20;

type Worker<'a> = Pin<Box<dyn Future<Output = Result<(), FillError>> + Send + 'a>>;

/// Whether the source can begin in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Unknown,
    Yes,
    No,
}

/// Why a stream gave no more.
enum Stop {
    /// It came to where it should.
    Limit,
    /// It ended where the source ends.
    End,
    /// It broke; another may go on.
    Broken(SourceError),
}

/// A running transfer.
pub(super) struct Transfer<'a> {
    fill: &'a Fill,
    total: Option<u64>,
    /// Where it began.
    start: u64,
    /// For content of known length.
    plan: Option<Mutex<Plan>>,
    feed: &'a Feed,
    ranges: watch::Sender<Ranges>,
    received: AtomicU64,
    running: AtomicUsize,
    /// Connections that have begun to bring something.
    delivering: AtomicUsize,
    /// Connections there should be.
    wanted: AtomicUsize,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(fill: &'a Fill, total: Option<u64>, start: u64, feed: &'a Feed) -> Transfer<'a> {
        Transfer {
            fill,
            total,
            start,
            plan: total.map(|total| Mutex::new(Plan::new(total, start))),
            feed,
            ranges: watch::Sender::new(Ranges::Unknown),
            received: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            delivering: AtomicUsize::new(0),
            wanted: AtomicUsize::new(1),
        }
    }

    /// Feeds the writer until the content is whole. `opened` is the stream at
    /// the start.
    pub(super) async fn run(self, opened: Opened) -> Result<(), FillError> {
        let mut workers: FuturesUnordered<Worker<'_>> = FuturesUnordered::new();
        let (began, mut pace) = (Instant::now(), Pace::new(self.fill.keeper.settings.max_segments));
        let mut tick = tokio::time::interval(TICK);
        let mut lonely_since = None;
        if self.start > 0 {
            self.ranges.send_replace(if opened.start == self.start { Ranges::Yes } else { Ranges::No });
        }
        workers.push(Box::pin(self.head(opened)));
        loop {
            tokio::select! {
                biased;
                done = workers.next() => match done {
                    Some(done) => done?,
                    None => return Ok(()),
                },
                () = self.fill.demand.asked() => {
                    if self.can_split(0) && workers.len() < self.fill.keeper.settings.max_segments {
                        workers.push(Box::pin(self.helper()));
                    }
                }
                _ = tick.tick() => {
                    self.check_abandoned(&mut lonely_since)?;
                    if self.can_split(SPLIT_AT) {
                        let received = self.received.load(Ordering::Relaxed);
                        let delivering = self.delivering.load(Ordering::Relaxed);
                        let wanted = pace.advise(began.elapsed(), received, self.missing(), delivering);
                        self.wanted.store(wanted, Ordering::Relaxed);
                        for _ in workers.len()..wanted {
                            workers.push(Box::pin(self.helper()));
                        }
                    }
                }
            }
        }
    }

    fn can_split(&self, at_least: u64) -> bool {
        self.total.is_some_and(|total| total - self.start >= at_least) && *self.ranges.borrow() != Ranges::No
    }

    fn missing(&self) -> u64 {
        let known = self.total.unwrap_or(u64::MAX) - self.start;
        known.saturating_sub(self.received.load(Ordering::Relaxed))
    }

    fn plan(&self) -> Option<MutexGuard<'_, Plan>> {
        Some(self.plan.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The stream from the start. It stops where a helper has begun; then it
    /// helps too.
    async fn head(&self, opened: Opened) -> Result<(), FillError> {
        let _counted = Counted::new(&self.running);
        let (mut position, mut tries, mut next) = (self.start, Tries::default(), Some(opened));
        loop {
            let opened = match next.take() {
                Some(opened) => opened,
                None => self.fill.open(position, None, &mut tries).await?,
            };
            self.check_total(&opened)?;
            let skip = position - opened.start;
            match self.stream(opened.body, skip, &mut position, None, &mut tries).await? {
                Stop::Limit => break,
                Stop::End if self.total.is_none_or(|total| position == total) => return Ok(()),
                Stop::End => tries.pause(Duration::ZERO, short()).await?,
                Stop::Broken(error) => self.after(error, position, &mut tries).await?,
            }
        }
        if let Some(mut plan) = self.plan() {
            plan.end_head();
        }
        self.help().await
    }

    /// Takes one part after the other.
    async fn helper(&self) -> Result<(), FillError> {
        self.feed.move_to_thread();
        let _counted = Counted::new(&self.running);
        self.help().await
    }

    async fn help(&self) -> Result<(), FillError> {
        loop {
            let Some(part) = self.plan().and_then(|mut plan| plan.take(&self.fill.demand)) else { return Ok(()) };
            if !self.fetch(part).await? {
                return Ok(());
            }
            if self.running.load(Ordering::Relaxed) > self.wanted.load(Ordering::Relaxed).max(1) {
                return Ok(());
            }
        }
    }

    /// Fetches one part; `false` when the source cannot begin in the middle:
    /// the part is the head's again.
    async fn fetch(&self, part: ByteRange) -> Result<bool, FillError> {
        let (mut position, mut tries) = (part.start, Tries::default());
        while position < part.end {
            let opened = self.fill.open(position, Some(part.end), &mut tries).await?;
            self.check_total(&opened)?;
            if opened.start != position {
                debug!(digest = %self.fill.digest, "the source gives no parts: one connection has to do");
                if let Some(mut plan) = self.plan() {
                    plan.give_back(part, position);
                }
                self.ranges.send_replace(Ranges::No);
                return Ok(false);
            }
            self.ranges.send_if_modified(|ranges| std::mem::replace(ranges, Ranges::Yes) != Ranges::Yes);
            match self.stream(opened.body, 0, &mut position, Some(part.end), &mut tries).await? {
                Stop::Limit | Stop::End if position == part.end => {}
                Stop::Limit | Stop::End => tries.pause(Duration::ZERO, short()).await?,
                Stop::Broken(error) => self.after(error, position, &mut tries).await?,
            }
        }
        Ok(true)
    }

    /// Hands on what `body` brings, from `position` on, up to `end`, or for the
    /// head up to where the plan says.
    async fn stream(
        &self,
        mut body: ByteStream,
        mut skip: u64,
        position: &mut u64,
        end: Option<u64>,
        tries: &mut Tries,
    ) -> Result<Stop, FillError> {
        let _counted = Counted::new(&self.delivering);
        loop {
            let next = tokio::time::timeout(self.fill.keeper.settings.idle_timeout, body.next()).await;
            let mut frame = match next {
                Err(_) => return Ok(Stop::Broken(SourceError::new(Stalled, Retry::After(Duration::ZERO)))),
                Ok(Some(Err(error))) => return Ok(Stop::Broken(error)),
                Ok(None) => return Ok(Stop::End),
                Ok(Some(Ok(frame))) => frame,
            };
            // Bytes from before the position were asked for again.
            let skipped = skip.min(frame.len() as u64);
            skip -= skipped;
            let _ = frame.split_to(usize::try_from(skipped).unwrap_or(frame.len()));
            while !frame.is_empty() {
                let limit = self.limit(*position, end);
                let within = usize::try_from(limit - *position).unwrap_or(usize::MAX).min(frame.len());
                if within == 0 {
                    match end {
                        None if !self.may_stop_at(limit).await? => continue,
                        _ => return Ok(Stop::Limit),
                    }
                }
                self.hand_on(frame.split_to(within), position, end.is_none()).await?;
                tries.succeed();
            }
            if end == Some(*position) {
                return Ok(Stop::Limit);
            }
        }
    }

    fn limit(&self, position: u64, end: Option<u64>) -> u64 {
        let whole = self.total.unwrap_or(self.fill.keeper.settings.max_blob_size);
        let limit = end.or_else(|| Some(self.plan()?.head_limit())).unwrap_or(whole);
        limit.max(position)
    }

    /// Whether the head, come to `limit`, is done: yes, once it is certain that
    /// the helper there can do its part. `false`: the limit may have moved.
    async fn may_stop_at(&self, limit: u64) -> Result<bool, FillError> {
        let whole = self.total.unwrap_or(self.fill.keeper.settings.max_blob_size);
        if limit >= whole {
            // More than was announced, or than is accepted.
            return Err(FillError::TooLarge { limit: whole });
        }
        let mut ranges = self.ranges.subscribe();
        let known = ranges.wait_for(|ranges| *ranges != Ranges::Unknown).await.map_err(|_| FillError::Stopped)?;
        Ok(*known == Ranges::Yes && self.limit(limit, None) == limit)
    }

    async fn hand_on(&self, bytes: Bytes, position: &mut u64, is_head: bool) -> Result<(), FillError> {
        let (offset, len) = (*position, bytes.len() as u64);
        *position += len;
        self.received.fetch_add(len, Ordering::Relaxed);
        if is_head && let Some(mut plan) = self.plan() {
            plan.advance_head(*position);
        }
        // When the writer has ended, what it says is the reason.
        if self.feed.hand_on(Piece { offset, bytes }).await { Ok(()) } else { Err(FillError::Stopped) }
    }

    /// Other content than before may not be spliced in.
    fn check_total(&self, opened: &Opened) -> Result<(), FillError> {
        let differs = opened.total.is_some_and(|again| self.total.is_some_and(|total| total != again));
        if differs { Err(FillError::WrongDigest) } else { Ok(()) }
    }

    async fn after(&self, error: SourceError, position: u64, tries: &mut Tries) -> Result<(), FillError> {
        match error.retry() {
            Retry::Never | Retry::FromStart => Err(FillError::Source(error)),
            Retry::After(pause) => {
                debug!(digest = %self.fill.digest, position, cause = %error, "transfer broke, resuming");
                tries.pause(pause, error).await
            }
        }
    }

    /// A fill without followers is finished when most of the work is done, and
    /// given up (its partial kept) when it is not.
    fn check_abandoned(&self, since: &mut Option<Instant>) -> Result<(), FillError> {
        if self.fill.progress.receiver_count() > 0 {
            *since = None;
            return Ok(());
        }
        let lonely_for = since.get_or_insert_with(Instant::now).elapsed();
        let have = self.start + self.received.load(Ordering::Relaxed);
        let worth_finishing = self.total.is_some_and(|total| have >= total / 4 || total - have < ABANDONED_REST);
        if lonely_for < ABANDONED_GRACE || worth_finishing { Ok(()) } else { Err(FillError::Abandoned) }
    }
}

fn short() -> SourceError {
    SourceError::new(Short, Retry::After(Duration::ZERO))
}

/// One connection, counted while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Counted<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
