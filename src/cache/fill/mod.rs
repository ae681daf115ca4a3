//! One source → disk transfer of one blob.
//!
//! A fill belongs to the cache: it runs detached from the request that began
//! it, never waits for a follower, and ends in exactly one of *verified* or
//! *failed*. Each piece that comes in is written, told to the followers, then
//! hashed, so that nobody waits for the hash but the last bytes. A broken
//! transfer is continued at the byte it broke at, and a
//! slow one gets more connections where they help.
//!
//! * [`partial`]: the growing file, and what an earlier try left in it
//! * [`gather`]: the checksums of what comes
//! * [`writer`], [`feed`], [`turn`]: what owns it, and on which thread
//! * [`transfer`]: the connections that feed the writer
//! * [`help`]: whether there should be several
//! * [`plan`], [`pace`]: which part is fetched by which connection, and how
//!   many there are
//! * [`room`]: what it takes of the disk, as bytes come
//! * [`spoiled`]: what several connections brought wrong
//! * [`tries`]: when to try again and when to give up

mod feed;
mod gather;
mod help;
mod pace;
mod partial;
mod plan;
mod room;
mod spoiled;
mod transfer;
mod tries;
mod turn;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

pub(super) use self::gather::Gatherer;
pub(super) use self::partial::{Files, Salvage};
pub(super) use self::plan::Demand;
pub(super) use self::spoiled::Spoiled;

use self::feed::Feed;
use self::partial::Partial;
use self::room::Room;
use self::transfer::Transfer;
use self::tries::Tries;
use self::writer::Writer;
use super::content::{Blob, Content, SMALL};
use super::extents::Extents;
use super::keeper::Keeper;
use super::progress::{FillError, Progress, Started, State, publish};
use super::settings::Durability;
use super::source::{Opened, Retry, Source, Turn};
use crate::kernel;
use crate::oci::Digest;

/// Everything a fill needs of its cache.
pub(super) struct Fill {
    pub(super) digest: Digest,
    pub(super) source: Arc<dyn Source>,
    pub(super) salvage: Option<Salvage>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) demand: Arc<Demand>,
    /// One connection and no more: several brought it wrong.
    pub(super) alone: bool,
}

impl Fill {
    /// Runs to the end; tells the followers how it ended. On success the blob
    /// has its name and is returned, synced.
    pub(super) async fn run(&self) -> Result<Blob, FillError> {
        let result = self.fetch().await;
        if let Err(error) = &result {
            match error {
                FillError::DoesNotFit => debug!(digest = %self.digest, "too large to be kept"),
                FillError::Source(cause) => debug!(digest = %self.digest, %cause, "fill ended by its source"),
                other => warn!(digest = %self.digest, error = %other, "fill failed"),
            }
            if matches!(error, FillError::Disk(_) | FillError::DoesNotFit) {
                // What a failing disk has of it is worth nothing, and on a full
                // one it takes the room that others need. It goes before anybody
                // is told, who might begin anew.
                let (keeper, digest) = (Arc::clone(&self.keeper), self.digest);
                let _ = blocking(move || keeper.layout.remove_partial(&digest)).await;
            } else {
                let (keeper, digest, owner) = (Arc::clone(&self.keeper), self.digest, self.source.owner());
                let _ = blocking(move || keeper.leave_partial(&digest, owner)).await;
            }
            let cause = error.clone();
            publish(&self.progress, |progress| {
                // Verified content stays that for whoever is reading it, even
                // if the disk would not keep it.
                if !matches!(progress.state, State::Verified) {
                    progress.state = State::Failed(cause);
                }
            });
        }
        result
    }

    async fn fetch(&self) -> Result<Blob, FillError> {
        let (mut partial, opened) = self.unless_halted(self.begin()).await?;
        // A source that cannot say where the end is may be endless.
        let (total, position) = (opened.total, partial.hashed);
        let limit = self.keeper.settings.max_blob_size;
        if total.is_some_and(|total| total > limit) {
            return Err(FillError::TooLarge { limit });
        }
        let (file, keeper, quota) = (Arc::clone(&partial.file), Arc::clone(&self.keeper), self.source.quota());
        if opened.start != position {
            // It comes from the front, once: what is there behind that comes
            // again.
            partial.written = Extents::up_to(position);
        }
        let (written, kept) = (partial.written.clone(), partial.written.bytes());
        let content = blocking(move || {
            let is_over_quota = |total: u64| total > SMALL && quota.is_some_and(|quota| total > quota);
            if total.is_some_and(|total| !keeper.can_hold(total, kept) || is_over_quota(total)) {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(Content::of_growing(file, total))
        })
        .await?;
        let started = Started { content: content.clone(), total };
        publish(&self.progress, |progress| {
            progress.written = written.clone();
            progress.started = Some(started);
        });

        let (room, progress) =
            (Room::new(&self.keeper, (self.source.owner(), quota), total, position, kept), self.progress.clone());
        let feed = Feed::new(Writer { partial, room, progress });
        let helped = AtomicBool::new(kept > position);
        if kept > position {
            // It is hashed in one go when its turn comes.
            feed.move_to_thread();
        }
        let transfer = Transfer::new(self, total, position, &written, &feed, &helped);
        let received = self.unless_halted(transfer.run(opened)).await;
        let partial = feed.finish().await.map_err(disk)?;
        received?;
        let finished = self.finish(partial, content, kept > 0).await;
        if matches!(finished, Err(FillError::WrongDigest)) && helped.into_inner() {
            self.keeper.spoiled.note(self.digest);
        }
        finished
    }

    /// What `work` comes to, unless the process ends first.
    async fn unless_halted<T>(&self, work: impl Future<Output = Result<T, FillError>>) -> Result<T, FillError> {
        tokio::select! {
            done = work => done,
            () = self.keeper.halting.cancelled() => Err(FillError::Stopped),
        }
    }

    /// Opens the partial file, and the source at its end. What an earlier try
    /// left is forgotten if the source has no such content.
    async fn begin(&self) -> Result<(Partial, Opened), FillError> {
        let (digest, keeper, salvage) = (self.digest, Arc::clone(&self.keeper), self.salvage.clone());
        let owner = self.source.owner();
        let partial =
            blocking(move || Partial::open(keeper.take_partial(&digest)?, &digest, owner, salvage.as_ref())).await?;
        // No more than what is missing: what is on its way when a connection
        // is left costs the source all the same.
        let until = partial.written.behind(partial.hashed).next().map(|(start, _)| start);
        let opened = self.open(partial.hashed, until, &mut Tries::to_begin()).await;
        let useless = match &opened {
            Ok(opened) => opened.total.is_some_and(|total| total < partial.end()),
            Err(FillError::Source(error)) => error.retry() == Retry::FromStart,
            Err(_) => false,
        };
        if useless && partial.end() > 0 {
            warn!(%digest, "what an earlier transfer left is not part of the content");
            let partial = blocking(move || partial.restart(&digest)).await?;
            return Ok((partial, self.open(0, None, &mut Tries::to_begin()).await?));
        }
        Ok((partial, opened?))
    }

    /// Opens the source at `position` or before it, as often as that can help,
    /// in turn. A source that refuses a part may have the whole all the same.
    async fn open(&self, position: u64, until: Option<u64>, tries: &mut Tries) -> Result<Opened, FillError> {
        loop {
            let failed = match self.source.open(position, until, Turn::Wait).await {
                Ok(opened) if opened.start <= position => return Ok(opened),
                Ok(_) => return Err(FillError::WrongDigest),
                Err(error) => error,
            };
            let is_refusal = matches!(failed.retry(), Retry::Never | Retry::FromStart);
            if (position > 0 || until.is_some())
                && (is_refusal || tries.are_fruitless())
                && let Ok(opened) = self.source.open(0, None, Turn::Wait).await
                && opened.start == 0
            {
                return Ok(opened);
            }
            match failed.retry() {
                Retry::Never | Retry::FromStart => return Err(FillError::Source(failed)),
                Retry::NotNow => tries.pause(Duration::ZERO, failed).await?,
                Retry::After(pause) => tries.pause(pause, failed).await?,
            }
        }
    }

    async fn finish(&self, partial: Partial, content: Content, resumed: bool) -> Result<Blob, FillError> {
        let Partial { file, hashed, hasher, gatherer, .. } = partial;
        if hasher.finish() != self.digest {
            let (keeper, digest) = (Arc::clone(&self.keeper), self.digest);
            if let Err(error) = blocking(move || keeper.layout.remove_partial(&digest)).await {
                warn!(digest = %self.digest, %error, "a wrong partial file could not be removed");
            }
            warn!(digest = %self.digest, resumed, "the source sent content that does not have its digest");
            return Err(FillError::WrongDigest);
        }
        self.source.proved(hashed);
        publish(&self.progress, |progress| progress.state = State::Verified);
        let (keeper, digest) = (Arc::clone(&self.keeper), self.digest);
        blocking(move || {
            if keeper.settings.durability == Durability::Sync {
                kernel::sync_data(&file)?;
            }
            let sums = (hashed > SMALL).then(|| gatherer.finish(&file, hashed)).transpose()?;
            keeper.layout.publish(&digest, sums.as_ref())?;
            Ok(Blob { content, len: hashed, sums: sums.map(Arc::new) })
        })
        .await
    }
}

fn disk(error: io::Error) -> FillError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => FillError::DoesNotFit,
        _ => FillError::Disk(Arc::new(error)),
    }
}

/// Runs disk work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, FillError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| FillError::Stopped)?.map_err(disk)
}
