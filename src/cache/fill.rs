//! One source → disk transfer of one blob.
//!
//! A fill belongs to the cache: it runs detached from the request that began
//! it, never waits for a follower, and ends in exactly one of *verified* or
//! *failed*. Bytes go network → channel → writer thread; the thread writes,
//! tells the followers, then hashes, so that nobody waits for the hash but the
//! last bytes. A broken transfer is continued at the byte it broke at.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};

use super::content::Content;
use super::keeper::Keeper;
use super::layout::Layout;
use super::progress::{FillError, Progress, Started, State, publish};
use super::settings::Durability;
use super::source::{Opened, Retry, Source, SourceError};
use crate::kernel;
use crate::oci::{Digest, Hasher};

/// Tries in a row that bring not one byte.
const MAX_FRUITLESS: u32 = 5;
/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A partial file of an earlier try is continued from a multiple of this.
const RESUME_UNIT: u64 = 1 << 20;
/// Frames on their way from the network to the disk.
const CHANNEL: usize = 4;
/// An abandoned fill goes on for this long in any case.
const ABANDONED_GRACE: Duration = Duration::from_secs(30);
/// An abandoned fill with no more than this left is finished all the same.
const ABANDONED_REST: u64 = 64 << 20;

/// Everything a fill needs of its cache.
pub(super) struct Fill {
    pub(super) digest: Digest,
    pub(super) source: Arc<dyn Source>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) progress: watch::Sender<Progress>,
}

impl Fill {
    /// Runs to the end; tells the followers how it ended. On success the blob
    /// has its name and is returned, synced.
    pub(super) async fn run(&self) -> Result<(Content, u64), FillError> {
        let result = self.transfer().await;
        if let Err(error) = &result {
            match error {
                FillError::Source(cause) => debug!(digest = %self.digest, %cause, "fill ended by its source"),
                other => warn!(digest = %self.digest, error = %other, "fill failed"),
            }
            let cause = error.clone();
            publish(&self.progress, |progress| progress.state = State::Failed(cause));
            if matches!(error, FillError::Disk(_)) {
                // What a failing disk has of it is worth nothing, and on a full
                // one it takes the room that others need.
                let (keeper, digest) = (Arc::clone(&self.keeper), self.digest);
                let _ = blocking(move || keeper.layout.remove_partial(&digest)).await;
            }
        }
        result
    }

    async fn transfer(&self) -> Result<(Content, u64), FillError> {
        let digest = self.digest;
        let layout = Arc::clone(&self.keeper.layout);
        let mut partial = blocking(move || Partial::open(&layout, &digest)).await?;
        let mut opened = self.open(partial.written, &mut Tries::default()).await;
        let useless = match &opened {
            Ok(opened) => opened.total.is_some_and(|total| total < partial.written),
            Err(FillError::Source(error)) => error.retry() == Retry::FromStart,
            Err(_) => false,
        };
        if useless && partial.written > 0 {
            warn!(%digest, "what an earlier transfer left is not part of the content");
            partial = blocking(move || partial.restart(&digest)).await?;
            opened = self.open(0, &mut Tries::default()).await;
        }
        let opened = opened?;
        let (position, resumed) = (partial.written, partial.written > 0);
        // A source that cannot say where the end is may be endless.
        let total = opened.total;
        if let Some(total) = total
            && total > self.keeper.settings.max_blob_size
        {
            return Err(FillError::TooLarge { limit: self.keeper.settings.max_blob_size });
        }
        let _reservation = self.keeper.inventory.reserve(total.unwrap_or(0));
        self.keeper.wake();
        let (file, keeper) = (Arc::clone(&partial.file), Arc::clone(&self.keeper));
        let content = blocking(move || {
            if let Some(total) = total {
                allocate(&keeper, &file, total)?;
            }
            Ok(Content::of_growing(file, total))
        })
        .await?;
        let started = Started { content: content.clone(), total };
        publish(&self.progress, |progress| {
            progress.available = Progress::releasable(position, total);
            progress.started = Some(started);
        });

        let (frames, receiver) = mpsc::channel(CHANNEL);
        let (done, outcome) = oneshot::channel();
        let mut writer = Writer { total, partial, progress: self.progress.clone() };
        tokio::task::spawn_blocking(move || {
            let result = writer.run(receiver).map(|()| writer.partial);
            // Nobody listens any more only when the fill itself was dropped.
            let _ = done.send(result);
        });
        let received = self.receive(opened, position, total, &frames).await;
        drop(frames);
        let partial = outcome.await.map_err(|_| FillError::Stopped)?.map_err(disk)?;
        received?;
        self.finish(partial, content, resumed).await
    }

    /// Feeds the writer until the content is whole.
    async fn receive(
        &self,
        opened: Opened,
        mut position: u64,
        total: Option<u64>,
        frames: &mpsc::Sender<Bytes>,
    ) -> Result<(), FillError> {
        let mut tries = Tries::default();
        let mut opened = Some(opened);
        let mut lonely_since = None;
        loop {
            let stream = match opened.take() {
                Some(stream) => stream,
                None => {
                    let stream = self.open(position, &mut tries).await?;
                    if stream.total.is_some_and(|again| total.is_some_and(|total| total != again)) {
                        // Other content than before: nothing may be spliced.
                        return Err(FillError::WrongDigest);
                    }
                    stream
                }
            };
            let mut skip = position - stream.start;
            let mut body = stream.body;
            let broken = loop {
                let next = tokio::time::timeout(self.keeper.settings.idle_timeout, body.next()).await;
                let mut frame = match next {
                    Err(_) => break SourceError::new(Stalled, Retry::After(Duration::ZERO)),
                    Ok(Some(Err(error))) => break error,
                    Ok(None) if total.is_none_or(|total| position == total) => return Ok(()),
                    Ok(None) => break SourceError::new(Short, Retry::After(Duration::ZERO)),
                    Ok(Some(Ok(frame))) => frame,
                };
                // Bytes from before the position were asked for again.
                let skipped = skip.min(frame.len() as u64);
                skip -= skipped;
                let _ = frame.split_to(usize::try_from(skipped).unwrap_or(frame.len()));
                if frame.is_empty() {
                    continue;
                }
                let limit = total.unwrap_or(self.keeper.settings.max_blob_size);
                if position + frame.len() as u64 > limit {
                    return Err(FillError::TooLarge { limit });
                }
                position += frame.len() as u64;
                tries = Tries::default();
                if frames.send(frame).await.is_err() {
                    // The writer has ended; what it says is the reason.
                    return Ok(());
                }
                self.check_abandoned(&mut lonely_since, position, total)?;
            };
            match broken.retry() {
                Retry::Never | Retry::FromStart => return Err(FillError::Source(broken)),
                Retry::After(pause) => {
                    debug!(digest = %self.digest, position, cause = %broken, "transfer broke, resuming");
                    tries.pause(pause, broken).await?;
                }
            }
        }
    }

    /// Opens the source at `position` or before it, as often as that can help.
    async fn open(&self, position: u64, tries: &mut Tries) -> Result<Opened, FillError> {
        loop {
            match self.source.open(position).await {
                Ok(opened) if opened.start <= position => return Ok(opened),
                Ok(_) => return Err(FillError::WrongDigest),
                Err(error) => match error.retry() {
                    Retry::Never | Retry::FromStart => return Err(FillError::Source(error)),
                    Retry::After(pause) => tries.pause(pause, error).await?,
                },
            }
        }
    }

    /// A fill without followers is finished when most of the work is done, and
    /// given up (its partial kept) when it is not.
    fn check_abandoned(&self, since: &mut Option<Instant>, position: u64, total: Option<u64>) -> Result<(), FillError> {
        if self.progress.receiver_count() > 0 {
            *since = None;
            return Ok(());
        }
        let lonely_for = since.get_or_insert_with(Instant::now).elapsed();
        let worth_finishing =
            total.is_some_and(|total| position >= total / 4 || total.saturating_sub(position) < ABANDONED_REST);
        if lonely_for < ABANDONED_GRACE || worth_finishing { Ok(()) } else { Err(FillError::Abandoned) }
    }

    async fn finish(&self, partial: Partial, content: Content, resumed: bool) -> Result<(Content, u64), FillError> {
        let Partial { file, written, hasher } = partial;
        if hasher.finish() != self.digest {
            let path = self.keeper.layout.partial(&self.digest);
            if let Err(error) = blocking(move || std::fs::remove_file(path)).await {
                warn!(digest = %self.digest, %error, "a wrong partial file could not be removed");
            }
            warn!(digest = %self.digest, resumed, "the source sent content that does not have its digest");
            return Err(FillError::WrongDigest);
        }
        publish(&self.progress, |progress| {
            progress.available = written;
            progress.state = State::Verified;
        });
        let (layout, digest, durability) =
            (Arc::clone(&self.keeper.layout), self.digest, self.keeper.settings.durability);
        blocking(move || {
            if durability == Durability::Sync {
                kernel::sync_data(&file)?;
            }
            layout.publish(&digest)
        })
        .await?;
        Ok((content, written))
    }
}

/// The file a fill grows, and the hash of what is in it.
struct Partial {
    file: Arc<File>,
    written: u64,
    hasher: Hasher,
}

impl Partial {
    /// Opens the partial of an earlier try and hashes what is in it, or begins
    /// a new one. There is always something left to ask the source for: it is
    /// the source's answer that shows who may have the content.
    fn open(layout: &Layout, digest: &Digest) -> io::Result<Partial> {
        let file = layout.open_partial(digest)?;
        let units = file.metadata()?.len() / RESUME_UNIT;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut before_last = hasher.clone();
        let mut buffer = vec![0; RESUME_UNIT as usize];
        for unit in 0..units {
            before_last = hasher.clone();
            file.read_exact_at(&mut buffer, unit * RESUME_UNIT)?;
            hasher.update(&buffer);
        }
        let mut written = units * RESUME_UNIT;
        if written > 0 && hasher.clone().finish() == *digest {
            (hasher, written) = (before_last, written - RESUME_UNIT);
        }
        file.set_len(written)?;
        Ok(Partial { file: Arc::new(file), written, hasher })
    }

    /// Forgets what is in it.
    fn restart(self, digest: &Digest) -> io::Result<Partial> {
        self.file.set_len(0)?;
        Ok(Partial { file: self.file, written: 0, hasher: Hasher::new(digest.algorithm()) })
    }
}

/// The thread that owns the file while it grows.
struct Writer {
    total: Option<u64>,
    partial: Partial,
    progress: watch::Sender<Progress>,
}

impl Writer {
    fn run(&mut self, mut frames: mpsc::Receiver<Bytes>) -> io::Result<()> {
        while let Some(frame) = frames.blocking_recv() {
            self.partial.file.write_all_at(&frame, self.partial.written)?;
            self.partial.written += frame.len() as u64;
            let available = Progress::releasable(self.partial.written, self.total);
            publish(&self.progress, |progress| progress.available = available);
            // Followers are on their way already.
            self.partial.hasher.update(&frame);
        }
        Ok(())
    }
}

/// Counts the tries that brought nothing.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// Waits before the next try, or gives up with `error`.
    async fn pause(&mut self, at_least: Duration, error: SourceError) -> Result<(), FillError> {
        self.0 += 1;
        if self.0 >= MAX_FRUITLESS {
            return Err(FillError::Source(error));
        }
        let ceiling = PAUSE.0.saturating_mul(1 << self.0).min(PAUSE.1);
        tokio::time::sleep(at_least.max(ceiling.mul_f64(fastrand::f64()))).await;
        Ok(())
    }
}

/// Reserves room for the whole blob; on a full disk others go for it.
fn allocate(keeper: &Keeper, file: &File, total: u64) -> io::Result<()> {
    match kernel::allocate(file, total) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            if keeper.make_room(total) < total {
                return Err(error);
            }
            kernel::allocate(file, total)
        }
        done => done,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the transfer stalled")]
struct Stalled;

#[derive(Debug, thiserror::Error)]
#[error("the transfer ended early")]
struct Short;

fn disk(error: io::Error) -> FillError {
    FillError::Disk(Arc::new(error))
}

/// Runs disk work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, FillError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| FillError::Stopped)?.map_err(disk)
}
