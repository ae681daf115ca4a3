//! The connections that feed a fill: one to begin with, more where they help.
//!
//! The *head* owes the content: it waits for its connection, goes on after a
//! break and, when it comes to the end of its stream, does what the others left.
//! *Helpers* owe nothing. One takes a connection that is free now, and whatever
//! becomes of it costs its part and its place. So a fill that has a head goes
//! on, whatever happens to its helpers, and nobody waits for a connection while
//! holding one.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tracing::debug;

use super::Fill;
use super::feed::Feed;
use super::help::Help;
use super::pace::Pace;
use super::plan::{Part, Plan};
use super::tries::{Short, Stalled, Tries};
use super::writer::Piece;
use crate::cache::extents::Extents;
use crate::cache::progress::FillError;
use crate::cache::source::{ByteStream, Opened, Retry, SourceError, Turn};

/// How often the pace is looked at, and whether anybody follows still.
const TICK: Duration = Duration::from_millis(50);
/// Whoever has taken a part and hears nothing from the source loses it after
/// this.
const TAKE_OVER_AFTER: Duration = Duration::from_millis(500);
/// An abandoned fill goes on for this long in any case.
const ABANDONED_GRACE: Duration = Duration::from_secs(30);
/// An abandoned fill with no more than this left is finished all the same.
const ABANDONED_REST: u64 = 64 << 20;

type Worker<'a> = Pin<Box<dyn Future<Output = Result<(), FillError>> + Send + 'a>>;

/// What became of a helper's part.
enum Helped {
    Done,
    /// No connection was free.
    NotNow,
    /// The head was there first.
    TooLate,
    /// It brought only a part, or nothing.
    Failed,
    /// The source cannot begin in the middle.
    NoParts,
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
    help: Mutex<Help>,
    /// Bytes behind the start that are there already.
    kept: u64,
    received: AtomicU64,
    /// The head has come to the end of its stream.
    head_ended: AtomicBool,
    /// Something that a helper brought was taken.
    helped: &'a AtomicBool,
    running: AtomicUsize,
    /// Connections that have begun to bring something.
    delivering: AtomicUsize,
    /// Connections there should be.
    wanted: AtomicUsize,
}

impl<'a> Transfer<'a> {
    /// What is `written` is there already. `helped` is set as soon as more than
    /// one connection brings the content.
    pub(super) fn new(
        fill: &'a Fill,
        total: Option<u64>,
        start: u64,
        written: &Extents,
        feed: &'a Feed,
        helped: &'a AtomicBool,
    ) -> Transfer<'a> {
        let help = Help::unless(fill.alone);
        let plan = |total| {
            let mut plan = Plan::new(total, start, fill.keeper.settings.segments);
            written.behind(start).for_each(|(start, end)| plan.is_there(start, end));
            Mutex::new(plan)
        };
        Transfer {
            fill,
            total,
            start,
            plan: total.map(plan),
            feed,
            help: Mutex::new(help),
            kept: written.bytes().saturating_sub(start),
            received: AtomicU64::new(0),
            head_ended: AtomicBool::new(false),
            helped,
            running: AtomicUsize::new(0),
            delivering: AtomicUsize::new(0),
            wanted: AtomicUsize::new(1),
        }
    }

    /// Feeds the writer until the content is whole. `opened` is the stream at
    /// the start.
    pub(super) async fn run(self, opened: Opened) -> Result<(), FillError> {
        let mut workers: FuturesUnordered<Worker<'_>> = FuturesUnordered::new();
        let settings = &self.fill.keeper.settings;
        let most = settings.max_segments;
        let (began, mut pace) = (Instant::now(), Pace::new(most));
        let mut tick = tokio::time::interval(TICK);
        let (mut lonely_since, mut left) = (None, None);
        if self.start > 0 && opened.start != self.start {
            self.help().never = true;
        }
        workers.push(Box::pin(self.head(opened)));
        loop {
            tokio::select! {
                biased;
                done = workers.next() => {
                    if let Some(done) = done {
                        done?;
                    }
                    // A helper that hangs is not waited for.
                    if self.head_ended.load(Ordering::Relaxed) && self.missing() == 0 {
                        return Ok(());
                    }
                    if workers.is_empty() {
                        if self.total.is_none() {
                            return Ok(());
                        }
                        // What helpers gave back after the head had looked.
                        if left.replace(self.missing()) == Some(self.missing()) {
                            return Err(FillError::Stopped);
                        }
                        workers.push(Box::pin(self.do_the_rest()));
                    }
                }
                () = self.fill.demand.asked() => {
                    if self.can_split(0) && workers.len() < most {
                        workers.push(Box::pin(self.helper()));
                    }
                }
                _ = tick.tick() => {
                    self.check_abandoned(&mut lonely_since)?;
                    if self.can_split(settings.segments.split_at) {
                        let received = self.received.load(Ordering::Relaxed);
                        let delivering = self.delivering.load(Ordering::Relaxed);
                        let wanted = pace.advise(began.elapsed(), received, self.missing(), delivering);
                        self.wanted.store(wanted, Ordering::Relaxed);
                        for _ in workers.len()..wanted {
                            workers.push(Box::pin(self.helper()));
                        }
                    }
                    if self.fill.demand.is_asked() && self.can_split(0) && workers.len() < most {
                        workers.push(Box::pin(self.helper()));
                    }
                }
            }
        }
    }

    fn can_split(&self, at_least: u64) -> bool {
        self.total.is_some_and(|total| total - self.start >= at_least) && self.help().may_be_tried(Instant::now())
    }

    fn tries(&self) -> Tries {
        Tries::new(self.fill.keeper.settings.outage_patience)
    }

    fn missing(&self) -> u64 {
        let known = self.total.unwrap_or(u64::MAX) - self.start - self.kept;
        known.saturating_sub(self.received.load(Ordering::Relaxed))
    }

    fn plan(&self) -> Option<MutexGuard<'_, Plan>> {
        Some(self.plan.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn help(&self) -> MutexGuard<'_, Help> {
        self.help.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream from the start. It stops where a helper has begun; then it
    /// does what is left.
    async fn head(&self, opened: Opened) -> Result<(), FillError> {
        self.go_on(self.start, Some(opened), &mut self.tries()).await?;
        self.head_ended.store(true, Ordering::Relaxed);
        self.do_the_rest().await
    }

    /// Brings everything from `position` on to the end, or to where a helper
    /// has begun.
    async fn go_on(&self, mut position: u64, mut next: Option<Opened>, tries: &mut Tries) -> Result<(), FillError> {
        let _counted = Counted::new(&self.running);
        loop {
            let opened = match next.take() {
                Some(opened) => opened,
                None => {
                    let limit = self.limit(position, None);
                    let until = (limit < self.whole()).then_some(limit);
                    self.fill.open(position, until, tries).await?
                }
            };
            self.check_total(&opened)?;
            let skip = position - opened.start;
            match self.stream(opened.body, skip, &mut position, None, tries).await? {
                Stop::Limit => break,
                Stop::End if self.total.is_none_or(|total| position == total) => break,
                Stop::End => tries.pause(Duration::ZERO, short()).await?,
                Stop::Broken(error) => self.after(error, position, tries).await?,
            }
        }
        if let Some(mut plan) = self.plan() {
            plan.end_head();
        }
        Ok(())
    }

    /// Takes what nobody has until there is no more of it; then, a little later,
    /// what somebody has taken and not begun. It holds no connection while it
    /// waits for one.
    async fn do_the_rest(&self) -> Result<(), FillError> {
        let mut patience = TAKE_OVER_AFTER;
        loop {
            let part = self.plan().and_then(|mut plan| match plan.take(&self.fill.demand) {
                None if patience.is_zero() => plan.take_over(),
                taken => taken,
            });
            match part {
                Some(part) => {
                    self.owe(part).await?;
                    patience = TAKE_OVER_AFTER;
                }
                None if !patience.is_zero() && self.plan().is_some_and(|plan| plan.is_waiting()) => {
                    tokio::time::sleep(TICK).await;
                    patience = patience.saturating_sub(TICK);
                }
                None => return Ok(()),
            }
        }
    }

    /// Fetches a part, as often as that can help.
    async fn owe(&self, part: Part) -> Result<(), FillError> {
        let (mut position, mut tries) = (part.start, self.tries());
        while position < part.end {
            let opened = self.fill.open(position, Some(part.end), &mut tries).await?;
            self.check_total(&opened)?;
            if !self.plan().is_some_and(|mut plan| plan.begin(&part)) {
                return Ok(());
            }
            if opened.start != position {
                // It comes from the front, once: so it may as well go on.
                self.help().never = true;
                if let Some(mut plan) = self.plan() {
                    plan.become_head(&part, position);
                }
                return self.go_on(position, Some(opened), &mut tries).await;
            }
            let _counted = Counted::new(&self.running);
            match self.stream(opened.body, 0, &mut position, Some(part.end), &mut tries).await? {
                Stop::Limit | Stop::End if position == part.end => {}
                Stop::Limit | Stop::End => tries.pause(Duration::ZERO, short()).await?,
                Stop::Broken(error) => self.after(error, position, &mut tries).await?,
            }
        }
        Ok(())
    }

    /// Takes one part after the other, while there are connections for it.
    async fn helper(&self) -> Result<(), FillError> {
        let _counted = Counted::new(&self.running);
        loop {
            let Some(part) = self.plan().and_then(|mut plan| plan.take(&self.fill.demand)) else { return Ok(()) };
            let mut position = part.start;
            let helped = self.bring(&part, &mut position).await;
            if let Some(mut plan) = self.plan()
                && position < part.end
            {
                plan.give_back(&part, position);
            }
            match helped? {
                Helped::Done => self.help().succeeded(),
                Helped::TooLate => {}
                Helped::NotNow => return Ok(()),
                Helped::Failed => {
                    self.help().failed(Instant::now());
                    return Ok(());
                }
                Helped::NoParts => {
                    debug!(digest = %self.fill.digest, "the source gives no parts: one connection has to do");
                    self.help().never = true;
                    return Ok(());
                }
            }
            if self.running.load(Ordering::Relaxed) > self.wanted.load(Ordering::Relaxed).max(1) {
                return Ok(());
            }
        }
    }

    /// A helper's part. An error is one of our own.
    async fn bring(&self, part: &Part, position: &mut u64) -> Result<Helped, FillError> {
        let opened = match self.fill.source.open(part.start, Some(part.end), Turn::IfFree).await {
            Ok(opened) => opened,
            Err(error) if error.retry() == Retry::NotNow => return Ok(Helped::NotNow),
            Err(error) => {
                debug!(digest = %self.fill.digest, part.start, cause = %error, "a part did not come");
                return Ok(Helped::Failed);
            }
        };
        if opened.start != part.start {
            return Ok(Helped::NoParts);
        }
        if self.check_total(&opened).is_err() {
            return Ok(Helped::Failed);
        }
        if !self.plan().is_some_and(|mut plan| plan.begin(part)) {
            return Ok(Helped::TooLate);
        }
        self.helped.store(true, Ordering::Relaxed);
        self.feed.move_to_thread();
        match self.stream(opened.body, 0, position, Some(part.end), &mut self.tries()).await? {
            Stop::Limit | Stop::End if *position == part.end => Ok(Helped::Done),
            _ => Ok(Helped::Failed),
        }
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
            let limit = self.limit(*position, end);
            if *position == limit && (end.is_some() || limit < self.whole()) {
                return Ok(Stop::Limit);
            }
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
                    self.may_stop_at(limit, end)?;
                    return Ok(Stop::Limit);
                }
                self.hand_on(frame.split_to(within), position, end.is_none()).await?;
                tries.received(within as u64);
            }
        }
    }

    /// What must not be passed.
    fn whole(&self) -> u64 {
        self.total.unwrap_or(self.fill.keeper.settings.max_blob_size)
    }

    fn limit(&self, position: u64, end: Option<u64>) -> u64 {
        let limit = end.or_else(|| Some(self.plan()?.head_limit())).unwrap_or(self.whole());
        limit.max(position)
    }

    /// The head may stop where a helper has begun, and not at the end of the
    /// content while more comes.
    fn may_stop_at(&self, limit: u64, end: Option<u64>) -> Result<(), FillError> {
        // More than was announced, or than is accepted.
        if end.is_none() && limit >= self.whole() { Err(FillError::TooLarge { limit: self.whole() }) } else { Ok(()) }
    }

    async fn hand_on(&self, bytes: Bytes, position: &mut u64, is_head: bool) -> Result<(), FillError> {
        let (offset, len) = (*position, bytes.len() as u64);
        *position += len;
        if is_head && let Some(mut plan) = self.plan() {
            plan.advance_head(*position);
        }
        // When the writer has ended, what it says is the reason.
        if !self.feed.hand_on(Piece { offset, bytes }).await {
            return Err(FillError::Stopped);
        }
        // Not before: when all has been received, whoever still hands on is
        // dropped.
        self.received.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Other content than before may not be spliced in.
    fn check_total(&self, opened: &Opened) -> Result<(), FillError> {
        let differs = opened.total.is_some_and(|again| self.total.is_some_and(|total| total != again));
        if differs { Err(FillError::WrongDigest) } else { Ok(()) }
    }

    async fn after(&self, error: SourceError, position: u64, tries: &mut Tries) -> Result<(), FillError> {
        match error.retry() {
            Retry::Never | Retry::FromStart => Err(FillError::Source(error)),
            Retry::NotNow => tries.pause(Duration::ZERO, error).await,
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
        let have = self.start + self.kept + self.received.load(Ordering::Relaxed);
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
