//! The cache: complete blobs, running fills, and the way from one to the other.
//!
//! For one digest at most one fill runs. A lookup finds a blob from the moment
//! it has its name; between "verified" and that moment it finds the fill.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::content::{Blob, SMALL};
use super::fill::{Demand, Fill, Salvage};
use super::inventory::{Inventory, Stock};
use super::keeper::{CacheCounts, Keeper, Verdict};
use super::layout::{Hold, Layout, LayoutError};
use super::progress::{FillError, Progress, State};
use super::reader::{Method, Reader};
use super::settings::{CacheSettings, Durability};
use super::source::{Owner, Source};
use crate::oci::{ByteRange, Digest};

/// Bytes on disk by digest. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    keeper: Arc<Keeper>,
    /// Open blobs; bounded, because each large one holds a file and a mapping.
    open: moka::sync::Cache<Digest, Blob>,
    /// How often this process has taken the directory, to add to it: again when
    /// it had to be made again.
    taken: watch::Receiver<u64>,
    stopping: CancellationToken,
    fills: Mutex<HashMap<Digest, Running>>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// A part that begins so far behind what is there does not wait for its turn.
const FAR: u64 = 8 << 20;
/// Bytes of manifests and other small blobs that are held in memory.
const MAX_MEMORY: u64 = 64 << 20;
/// What an open blob counts besides its bytes, so that there are no more than
/// 1024 of them.
const OPEN: u64 = MAX_MEMORY / 1024;

/// How often it is looked whether the directory is still there, and whose it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes the directory as soon as no other process has it, and again when it
/// had to be made again; counts in `taken`.
async fn hold(layout: Arc<Layout>, taken: watch::Sender<u64>, stopping: CancellationToken) {
    let dir = layout.root().display().to_string();
    let mut had = layout.is_writer();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let own = Arc::clone(&layout);
        let Ok(hold) = tokio::task::spawn_blocking(move || own.take_over()).await else { continue };
        match &hold {
            Ok(Hold::Kept) => {}
            Ok(Hold::Taken) if had => warn!(dir, "the cache directory was gone and is made anew: the cache is empty"),
            Ok(Hold::Taken) => info!(dir, "this process keeps the cache directory from now on"),
            Ok(Hold::Elsewhere) if had => {
                warn!(dir, "the cache directory was replaced by one that another process uses: nothing is added to it");
            }
            Err(error) if had => {
                warn!(dir, %error, "the cache directory is gone: everything passes through until it can be made again");
            }
            Ok(Hold::Elsewhere) | Err(_) => {}
        }
        if let Ok(Hold::Taken) = &hold {
            taken.send_modify(|times| *times += 1);
        }
        had = matches!(hold, Ok(Hold::Kept | Hold::Taken));
    }
}

/// What a digest is found as.
pub enum Entry {
    /// Complete.
    Blob(Blob),
    /// Being filled: by this call, or by an earlier one.
    Fill {
        /// The view of it.
        follower: Follower,
        /// This call's source is the one that fills it.
        own: bool,
    },
}

impl Cache {
    /// Opens the cache directory; inside a runtime, because it is looked after
    /// from now on.
    ///
    /// # Errors
    /// When it is not safe or not possible to use it.
    pub fn open(settings: CacheSettings) -> Result<Cache, LayoutError> {
        let layout = Layout::open(&settings.dir)?;
        if !layout.is_writer() {
            warn!(dir = %layout.root().display(), "another process uses this cache directory: nothing is added to it until that one has ended");
        }
        let inventory = Arc::new(Inventory::new(settings.policy, settings.max_size));
        let weigh = |_: &Digest, blob: &Blob| u32::try_from(OPEN + blob.bytes_in_memory()).unwrap_or(u32::MAX);
        let open = moka::sync::Cache::builder().max_capacity(MAX_MEMORY).weigher(weigh).build();
        let permits = Arc::new(Semaphore::new(settings.max_fills));
        let keeper = Arc::new(Keeper::new(Arc::new(layout), Arc::new(settings), inventory, open.clone()));
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (takes, taken) = watch::channel(u64::from(keeper.layout.is_writer()));
        tasks.spawn(hold(Arc::clone(&keeper.layout), takes, stopping.clone()));
        tasks.spawn(Arc::clone(&keeper).run(taken.clone(), stopping.clone()));
        Ok(Cache(Arc::new(Inner { keeper, open, taken, stopping, fills: Mutex::default(), permits, tasks })))
    }

    /// Whether this process may add to the cache.
    pub fn is_writer(&self) -> bool {
        self.0.keeper.layout.is_writer()
    }

    /// How often this process has taken the directory, to add to it; what others
    /// keep there has to be opened again each time.
    pub fn taken(&self) -> watch::Receiver<u64> {
        self.0.taken.clone()
    }

    /// The complete blob, if it is there.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn get(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        if self.0.keeper.shunned.contains(digest) {
            return Ok(None);
        }
        if let Some(blob) = self.0.open.get(digest) {
            self.0.keeper.inventory.touch(digest);
            return Ok(Some(blob));
        }
        let (keeper, wanted) = (Arc::clone(&self.0.keeper), *digest);
        let found = tokio::task::spawn_blocking(move || {
            // What an unclean end left may not be what was written.
            let distrust = keeper.settings.durability == Durability::Lazy && !keeper.layout.was_clean();
            if distrust && keeper.verify(&wanted, |_| ())? == Verdict::Damaged {
                return Ok(None);
            }
            let Some(file) = keeper.layout.open_blob(&wanted)?.map(Arc::new) else { return Ok(None) };
            let len = file.metadata()?.len();
            match Blob::open(&keeper.layout, &wanted, &file, len) {
                Ok(blob) => Ok(Some(blob)),
                Err(error) => {
                    keeper.retire(&wanted, &file, &format!("cannot be read: {error}"));
                    io::Result::Ok(None)
                }
            }
        })
        .await??;
        if let Some(blob) = &found {
            self.0.open.insert(*digest, blob.clone());
            self.0.keeper.inventory.touch(digest);
        }
        Ok(found)
    }

    /// The running fill of a digest, if there is one.
    pub fn running(&self, digest: &Digest) -> Option<Follower> {
        let fills = self.0.fills.lock().unwrap_or_else(PoisonError::into_inner);
        fills.get(digest).filter(|running| !running.has_failed()).map(Running::follow)
    }

    /// Finds the blob, or joins its fill, or starts one from `source`.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn join(&self, digest: &Digest, source: impl FnOnce() -> Arc<dyn Source>) -> io::Result<Entry> {
        self.find_or_start(digest, source, None).await
    }

    async fn find_or_start(
        &self,
        digest: &Digest,
        source: impl FnOnce() -> Arc<dyn Source>,
        salvage: Option<Salvage>,
    ) -> io::Result<Entry> {
        if let Some(follower) = self.running(digest) {
            return Ok(Entry::Fill { follower, own: false });
        }
        if let Some(blob) = self.get(digest).await? {
            return Ok(Entry::Blob(blob));
        }
        let mut fills = self.0.fills.lock().unwrap_or_else(PoisonError::into_inner);
        // A fill that has failed is gone, even if it has not left the list yet.
        if let Some(running) = fills.get(digest).filter(|running| !running.has_failed()) {
            return Ok(Entry::Fill { follower: running.follow(), own: false });
        }
        // A fill that ended since `get` put its blob here before it left `fills`.
        if let Some(blob) = self.0.open.get(digest) {
            return Ok(Entry::Blob(blob));
        }
        let running = Running { progress: watch::Sender::new(Progress::new()), demand: Arc::default() };
        let follower = running.follow();
        fills.insert(*digest, running.clone());
        drop(fills);
        self.start(*digest, source(), salvage, running);
        Ok(Entry::Fill { follower, own: true })
    }

    /// Keeps `bytes`, whose digest the caller has checked. They can be read at
    /// once; they reach the disk a little later, if it takes them.
    pub fn put(&self, digest: &Digest, bytes: Bytes) {
        let blob = Blob::of_memory(bytes.clone());
        self.0.open.insert(*digest, blob);
        if !self.is_writer() {
            return;
        }
        let (keeper, digest) = (Arc::clone(&self.0.keeper), *digest);
        self.0.tasks.spawn_blocking(move || {
            match keeper.layout.write_small(&digest, &bytes, keeper.settings.durability) {
                Ok(()) => {
                    keeper.inventory.insert(digest, bytes.len() as u64);
                    // The large ones are read from the disk from here on.
                    if bytes.len() as u64 > SMALL {
                        keeper.open.invalidate(&digest);
                    }
                }
                Err(error) => warn!(%digest, %error, "a manifest could not be kept"),
            }
        });
    }

    fn start(&self, digest: Digest, source: Arc<dyn Source>, salvage: Option<Salvage>, running: Running) {
        let cache = self.clone();
        let Running { progress, demand } = running;
        let registration = Registration { cache: self.clone(), digest, progress: progress.clone() };
        let keeper = Arc::clone(&self.0.keeper);
        let alone = keeper.spoiled.contains(&digest);
        let fill = Fill { digest, source, salvage, keeper, progress, demand, alone };
        self.0.tasks.spawn(async move {
            let _registration = registration;
            let permit = tokio::select! {
                permit = cache.0.permits.acquire() => permit,
                () = cache.0.keeper.halting.cancelled() => return,
            };
            let Ok(_permit) = permit else { return };
            if let Ok(blob) = fill.run().await {
                let len = blob.len();
                cache.0.keeper.shunned.forget(&digest);
                cache.0.keeper.inventory.insert(digest, len);
                cache.0.keeper.wake();
                // A small blob is read again at its next use, into memory.
                if blob.content.mapping().is_some_and(|_| len > SMALL) {
                    cache.0.open.insert(digest, blob);
                } else if let Ok(None) | Err(_) = cache.get(&digest).await {
                    warn!(%digest, "a blob was gone as soon as it was published");
                }
            }
        });
    }

    /// Hashes a stored blob; a damaged one is taken out of service.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn verify(&self, digest: &Digest) -> io::Result<Verdict> {
        let (keeper, digest) = (Arc::clone(&self.0.keeper), *digest);
        tokio::task::spawn_blocking(move || keeper.verify(&digest, |_| ())).await?
    }

    /// Takes a stored blob out of service whose `file` could not be read at
    /// `position`, and finds or starts what replaces it: what comes before the
    /// position is used again, the rest comes from `source`.
    ///
    /// # Errors
    /// When nothing may be stored here, or the disk fails.
    pub async fn replace(
        &self,
        digest: &Digest,
        file: &Arc<File>,
        position: u64,
        source: impl FnOnce() -> Arc<dyn Source>,
    ) -> io::Result<Entry> {
        let (keeper, failed, wanted) = (Arc::clone(&self.0.keeper), Arc::clone(file), *digest);
        let len = tokio::task::spawn_blocking(move || {
            let sums = keeper.layout.load_sums(&wanted, failed.metadata().map_or(0, |metadata| metadata.len()));
            keeper.retire(&wanted, &failed, "cannot be read as it was written");
            match sums {
                Ok(Some(sums)) => sums.right_until(&failed, position),
                Ok(None) | Err(_) => position,
            }
        })
        .await?;
        if !self.is_writer() {
            return Err(io::Error::other("nothing may be added to the cache directory"));
        }
        self.find_or_start(digest, source, Some(Salvage { file: Arc::clone(file), len })).await
    }

    /// Removes a stored blob; whether it was there. Whoever is reading it has
    /// it to the end.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(&self, digest: &Digest) -> io::Result<bool> {
        let (keeper, digest) = (Arc::clone(&self.0.keeper), *digest);
        tokio::task::spawn_blocking(move || keeper.remove(&digest)).await?
    }

    /// Bytes that `owner`'s fills have taken and left. What they left goes first
    /// where it is more than `most`.
    pub fn unfinished(&self, owner: Owner, most: u64) -> u64 {
        self.0.keeper.trim_unfinished(owner, most);
        self.0.keeper.inventory.unfinished(owner)
    }

    /// Every stored blob with its size, in no order.
    pub fn list(&self) -> Vec<(Digest, u64)> {
        self.0.keeper.inventory.list()
    }

    /// From now on these blobs and no others stay when room is made, as soon
    /// and as long as they are stored.
    pub fn pin(&self, digests: HashSet<Digest>) {
        self.0.keeper.inventory.pin(digests);
    }

    /// The size of a blob, if it is stored.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.0.keeper.inventory.size(digest)
    }

    /// Whether a blob stays.
    pub fn is_pinned(&self, digest: &Digest) -> bool {
        self.0.keeper.inventory.is_pinned(digest)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0.keeper.settings.dir
    }

    /// How much is stored.
    pub fn stock(&self) -> Stock {
        self.0.keeper.inventory.stock()
    }

    /// What was taken out without anybody asking for it.
    pub fn counts(&self) -> &CacheCounts {
        &self.0.keeper.counts
    }

    /// Bytes of blobs that are kept at the most.
    pub fn max_size(&self) -> u64 {
        self.0.keeper.settings.max_size
    }

    /// Fills at a time that one client may have begun.
    pub fn max_fills_per_client(&self) -> usize {
        self.0.keeper.settings.max_fills_per_client
    }

    /// The bytes of `range` of a complete blob.
    pub fn read(&self, blob: &Blob, range: ByteRange, method: Method) -> Reader {
        Reader::of_blob(blob, range, method)
    }

    /// Bytes of fills are on their way to disk until this returns. Those that
    /// have not ended by `deadline` are stopped; what they have is kept.
    pub async fn close(&self, deadline: Instant) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        if tokio::time::timeout_at(deadline, self.0.tasks.wait()).await.is_err() {
            info!(fills = self.fills(), "stopping transfers that did not end in time; what has come is kept");
            self.0.keeper.halting.cancel();
            self.0.tasks.wait().await;
        }
        if self.is_writer()
            && let Err(error) = self.0.keeper.layout.mark_clean()
        {
            warn!(%error, "the next start will not know that this one ended in order");
        }
    }

    /// Fills running now.
    pub fn fills(&self) -> usize {
        self.0.fills.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A running fill, as seen from outside of it.
#[derive(Clone)]
struct Running {
    progress: watch::Sender<Progress>,
    demand: Arc<Demand>,
}

impl Running {
    fn has_failed(&self) -> bool {
        matches!(self.progress.borrow().state, State::Failed(_))
    }

    fn follow(&self) -> Follower {
        Follower { progress: self.progress.subscribe(), demand: Arc::clone(&self.demand) }
    }
}

/// A fill's place in the list of fills. However the fill ends, even by a
/// panic, its place is given up and its followers are told.
struct Registration {
    cache: Cache,
    digest: Digest,
    progress: watch::Sender<Progress>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut fills = self.cache.0.fills.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have taken the place of one that failed.
        if fills.get(&self.digest).is_some_and(|running| running.progress.same_channel(&self.progress)) {
            fills.remove(&self.digest);
        }
        drop(fills);
        self.progress.send_if_modified(|progress| {
            let cut = matches!(progress.state, State::Running);
            if cut {
                progress.state = State::Failed(FillError::Stopped);
            }
            cut
        });
    }
}

/// One client's view of a running fill.
#[derive(Clone)]
pub struct Follower {
    progress: watch::Receiver<Progress>,
    demand: Arc<Demand>,
}

impl Follower {
    /// Waits until the source has begun to answer; gives the length, if known.
    ///
    /// # Errors
    /// When the fill fails before that.
    pub async fn started(&mut self) -> Result<Option<u64>, FillError> {
        loop {
            {
                let seen = self.progress.borrow_and_update();
                if let Some(started) = &seen.started {
                    return Ok(started.total);
                }
                if let State::Failed(error) = &seen.state {
                    return Err(error.clone());
                }
            }
            if self.progress.changed().await.is_err() {
                return Err(FillError::Stopped);
            }
        }
    }

    /// Waits until the content is verified.
    ///
    /// # Errors
    /// When the fill fails.
    pub async fn verified(&mut self) -> Result<(), FillError> {
        let settled = self.progress.wait_for(|progress| !matches!(progress.state, State::Running)).await;
        match settled.map(|seen| seen.state.clone()) {
            Ok(State::Failed(error)) => Err(error),
            Ok(_) => Ok(()),
            Err(_) => Err(FillError::Stopped),
        }
    }

    /// The bytes of `range` (or all of them) as they become available; a range
    /// that is far from its turn is fetched before it. `None` before the fill
    /// has [`started`](Follower::started).
    pub fn reader(self, range: Option<ByteRange>, method: Method) -> Option<Reader> {
        let started = self.progress.borrow().started.clone()?;
        if let Some(range) = range
            && range.start >= self.progress.borrow().available(0) + FAR
        {
            self.demand.ask(range);
        }
        Some(Reader::of_fill(started.content, self.progress, range, started.total, method))
    }
}
