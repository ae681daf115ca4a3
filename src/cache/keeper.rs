//! Keeps the cache directory within its bounds and in order.
//!
//! In the background: finds what earlier processes left, removes what the
//! policy names when a bound is crossed, hashes blobs again at a modest rate,
//! and takes damaged ones out of service. Nothing waits for it but a fill that
//! found the disk full.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::content::{Blob, Content, SMALL};
use super::fill::{Files, Gatherer, Spoiled};
use super::inventory::Inventory;
use super::layout::Layout;
use super::settings::{CacheSettings, MinFree};
use super::source::Owner;
use crate::kernel::{self, Mapping};
use crate::oci::{Digest, Hasher};

/// How often the disk is looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Pause between two removals: unlinking large files can hold up the file
/// system.
const PACE: Duration = Duration::from_millis(5);
/// Partial files that nobody has continued for this long are removed.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(3 * 86_400);
/// One in so many inodes stays free.
const MIN_FREE_INODES: u64 = 100;

/// What was taken out of the cache without anybody asking for it, counted.
#[derive(Debug, Default)]
pub struct CacheCounts {
    evicted_blobs: AtomicU64,
    evicted_bytes: AtomicU64,
    quarantined_blobs: AtomicU64,
}

impl CacheCounts {
    /// Evicted blobs, their bytes, and blobs put in quarantine.
    pub fn all(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.evicted_blobs), read(&self.evicted_bytes), read(&self.quarantined_blobs))
    }
}

/// What the keeper works on, shared with the cache.
pub(super) struct Keeper {
    pub(super) layout: Arc<Layout>,
    pub(super) settings: Arc<CacheSettings>,
    pub(super) inventory: Arc<Inventory>,
    pub(super) open: moka::sync::Cache<Digest, Blob>,
    /// Removed, but still being sent to somebody: their room comes back later.
    leaving: Mutex<Vec<(Weak<Mapping>, u64)>>,
    wanted: Notify,
    /// Partial files that a reader may still use. The lock is held while one is
    /// opened or removed, so that no fill loses the file that it has just opened.
    partial_files: Mutex<HashMap<Digest, Weak<File>>>,
    pub(super) spoiled: Spoiled,
    /// Damaged blobs that could not be moved aside.
    pub(super) shunned: Spoiled,
    /// Fills end now, whatever they have.
    pub(super) halting: CancellationToken,
    pub(super) counts: CacheCounts,
}

/// What hashing a stored blob has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is what its name says.
    Sound,
    /// It is not: it has been taken out of service.
    Damaged,
    /// It is not stored.
    Absent,
}

impl Keeper {
    pub(super) fn new(
        layout: Arc<Layout>,
        settings: Arc<CacheSettings>,
        inventory: Arc<Inventory>,
        open: moka::sync::Cache<Digest, Blob>,
    ) -> Keeper {
        Keeper {
            layout,
            settings,
            inventory,
            open,
            leaving: Mutex::default(),
            wanted: Notify::new(),
            partial_files: Mutex::default(),
            spoiled: Spoiled::default(),
            shunned: Spoiled::default(),
            halting: CancellationToken::new(),
            counts: CacheCounts::default(),
        }
    }

    /// Looks soon whether a bound is crossed.
    pub(super) fn wake(&self) {
        self.wanted.notify_one();
    }

    /// Works until `stopping`, from the first time on that the directory is
    /// `taken`.
    pub(super) async fn run(self: Arc<Self>, mut taken: watch::Receiver<u64>, stopping: CancellationToken) {
        tokio::select! {
            () = stopping.cancelled() => return,
            first = taken.wait_for(|times| *times > 0) => if first.is_err() { return },
        }
        self.take_stock().await;
        let scrub = Arc::clone(&self).scrub(stopping.clone());
        tokio::pin!(scrub);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = &mut scrub => return,
                Ok(()) = taken.changed() => {
                    self.inventory.clear();
                    self.open.invalidate_all();
                    self.take_stock().await;
                }
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let stop = stopping.clone();
            self.blocking(move |keeper| keeper.keep_bounds(&stop)).await;
        }
    }

    async fn take_stock(self: &Arc<Self>) {
        if let Some(Err(error)) = self.blocking(|keeper| keeper.find_all()).await {
            warn!(%error, "the cache directory cannot be read through: blobs that are not used will not be removed");
        }
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Keeper) -> T + Send + 'static,
    ) -> Option<T> {
        let keeper = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&keeper)).await.ok()
    }

    /// Takes stock of what is there: oldest first, so that the policy sees it
    /// come in as it once did.
    fn find_all(&self) -> io::Result<()> {
        let started = Instant::now();
        let mut found = self.layout.list_blobs()?;
        found.sort_unstable_by_key(|entry| entry.modified);
        for entry in found {
            self.inventory.insert(entry.digest, entry.size);
        }
        let oldest = SystemTime::now().checked_sub(PARTIAL_LIFETIME).unwrap_or(SystemTime::UNIX_EPOCH);
        let removed = self.layout.remove_partials_before(oldest)?;
        for (digest, bytes) in self.layout.list_partials()? {
            // The owner is written in the file. Until a fill opens it, its bytes
            // count for no registry.
            self.inventory.leave_partial(digest, Owner::default(), bytes);
        }
        let stock = self.inventory.stock();
        info!(
            blobs = stock.blobs,
            bytes = stock.bytes,
            old_partials = removed,
            millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "took stock of the cache"
        );
        Ok(())
    }

    /// Whether content of `bytes` can be kept at all, if all else goes for it;
    /// `taken` of them have their room already.
    pub(super) fn can_hold(&self, bytes: u64, taken: u64) -> bool {
        if bytes <= SMALL {
            return true;
        }
        if bytes > self.inventory.largest() {
            return false;
        }
        let Ok(room) = kernel::room(self.layout.root()) else { return true };
        let there = room.free_bytes.saturating_add(self.inventory.evictable()).saturating_sub(self.wanted_free(&room));
        bytes.saturating_sub(taken) <= there
    }

    /// The growing file of `digest`, which is counted as its fill's from now on.
    pub(super) fn take_partial(&self, digest: &Digest) -> io::Result<Files> {
        let mut in_use = self.partial_files.lock().unwrap_or_else(PoisonError::into_inner);
        self.inventory.take_partial(digest);
        in_use.retain(|_, file| file.strong_count() > 0);
        let mut files = self.layout.open_partial(digest)?;
        if let Some(earlier) = in_use.get(digest).and_then(Weak::upgrade) {
            // What has been handed out of it stays as it is.
            files.file = self.layout.renew_partial(digest)?;
            files.earlier = earlier;
        }
        in_use.insert(*digest, Arc::downgrade(&files.file));
        Ok(files)
    }

    /// A fill has ended: what it leaves is counted, without what it had taken
    /// ahead.
    pub(super) fn leave_partial(&self, digest: &Digest, owner: Owner) -> io::Result<()> {
        let _turn = self.partial_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = self.layout.trim_partial(digest)? {
            self.inventory.leave_partial(*digest, owner, bytes);
            self.wake();
        }
        Ok(())
    }

    /// Removes what a fill has left; gives its bytes.
    fn remove_partial(&self, next: impl Fn(&Inventory) -> Option<(Digest, u64)>) -> Option<u64> {
        let _turn = self.partial_files.lock().unwrap_or_else(PoisonError::into_inner);
        let (digest, bytes) = next(&self.inventory)?;
        self.inventory.take_partial(&digest);
        if let Err(error) = self.layout.remove_partial(&digest) {
            warn!(%digest, %error, "what an ended transfer left could not be removed");
        }
        Some(bytes)
    }

    /// Removes what fills of `owner` have left, the oldest first, until it and
    /// what they have taken is no more than `bytes`.
    pub(super) fn trim_unfinished(&self, owner: Owner, bytes: u64) {
        while self.inventory.unfinished(owner) > bytes
            && self.remove_partial(|inventory| inventory.next_partial_of(owner)).is_some()
        {}
    }

    /// Removes until every bound is kept.
    fn keep_bounds(&self, stopping: &CancellationToken) {
        while self.remove_partial(Inventory::next_partial_over).is_some() {}
        if self.inventory.is_over() {
            while let Some((digest, size)) = self.inventory.next_over() {
                if stopping.is_cancelled() || self.remove_file(&digest, size).is_err() {
                    return;
                }
                std::thread::sleep(PACE);
            }
        }
        let missing = self.missing_room();
        if missing > 0 {
            debug!(missing, "less room on the disk than should stay free");
            self.make_room(missing);
        }
    }

    /// Removes what fills have left, then blobs, of at least `bytes` altogether; gives how many bytes went.
    pub(super) fn make_room(&self, bytes: u64) -> u64 {
        let mut made = 0;
        while made < bytes
            && let Some(gone) = self.remove_partial(Inventory::next_partial)
        {
            made += gone;
        }
        while made < bytes
            && let Some((digest, size)) = self.inventory.next()
        {
            if self.remove_file(&digest, size).is_err() {
                break;
            }
            made += size;
        }
        made
    }

    /// Bytes by which the disk is fuller than it should be.
    fn missing_room(&self) -> u64 {
        let Ok(room) = kernel::room(self.layout.root()) else { return 0 };
        let leaving: u64 = {
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.retain(|(mapping, _)| mapping.strong_count() > 0);
            leaving.iter().map(|(_, size)| size).sum()
        };
        // A file system without a count of inodes says zero.
        let inodes = room.free_inodes < room.total_inodes / MIN_FREE_INODES;
        let bytes = self.wanted_free(&room).saturating_sub(room.free_bytes.saturating_add(leaving));
        if inodes { bytes.max(1) } else { bytes }
    }

    /// Bytes of the disk that are to stay free.
    fn wanted_free(&self, room: &kernel::Room) -> u64 {
        match self.settings.min_free {
            MinFree::Bytes(bytes) => bytes,
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            MinFree::Percent(percent) => (room.total_bytes as f64 * percent / 100.0) as u64,
        }
    }

    /// Removes a blob that has left the inventory. Whoever is reading it has
    /// it to the end.
    fn remove_file(&self, digest: &Digest, size: u64) -> io::Result<()> {
        let was_open = self.open.remove(digest);
        // What has been removed is let go of only then, and its room with it.
        self.open.run_pending_tasks();
        if let Err(error) = self.layout.remove_blob(digest) {
            warn!(%digest, %error, "a blob could not be removed from the cache");
            self.inventory.insert(*digest, size);
            return Err(error);
        }
        if let Some(Blob { content: Content::Mapped(mapping), .. }) = was_open
            && Arc::strong_count(&mapping) > 1
        {
            self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::downgrade(&mapping), size));
        }
        self.counts.evicted_blobs.fetch_add(1, Ordering::Relaxed);
        self.counts.evicted_bytes.fetch_add(size, Ordering::Relaxed);
        debug!(%digest, size, "evicted");
        Ok(())
    }

    /// Removes a blob because somebody says so.
    pub(super) fn remove(&self, digest: &Digest) -> io::Result<bool> {
        self.inventory.remove(digest);
        self.open.invalidate(digest);
        self.layout.remove_blob(digest)
    }

    /// Hashes a stored blob; a damaged one is moved aside.
    pub(super) fn verify(&self, digest: &Digest, pause: impl Fn(usize)) -> io::Result<Verdict> {
        let Some(file) = self.layout.open_blob(digest)? else { return Ok(Verdict::Absent) };
        let mut hasher = Hasher::new(digest.algorithm());
        let mut gatherer = Gatherer::default();
        let mut buffer = vec![0; 1 << 20];
        let mut position = 0;
        loop {
            let read = match kernel::read_at(&file, &mut buffer, position) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    self.retire(digest, &file, &format!("cannot be read: {error}"));
                    return Ok(Verdict::Damaged);
                }
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            hasher.update(bytes);
            gatherer.add(position, bytes);
            position += read as u64;
            pause(read);
        }
        if hasher.finish() == *digest {
            // Stored by a version that kept no checksums, or they rotted.
            if position > SMALL && self.layout.is_writer() && self.layout.load_sums(digest, position)?.is_none() {
                self.layout.save_sums(digest, &gatherer.finish(&file, position)?)?;
            }
            return Ok(Verdict::Sound);
        }
        self.retire(digest, &file, "does not have the digest of its name");
        Ok(Verdict::Damaged)
    }

    /// Takes a blob out of service whose `file` is damaged; another that has
    /// taken its place meanwhile stays.
    pub(super) fn retire(&self, digest: &Digest, file: &File, reason: &str) {
        if self.layout.is_stored_as(digest, file) {
            self.quarantine(digest, reason);
        }
    }

    /// Takes a blob out of service: the next pull fetches it again.
    fn quarantine(&self, digest: &Digest, reason: &str) {
        warn!(%digest, reason, "a stored blob is damaged and is put in quarantine");
        self.counts.quarantined_blobs.fetch_add(1, Ordering::Relaxed);
        self.inventory.remove(digest);
        self.open.invalidate(digest);
        if !self.layout.is_writer() {
            return;
        }
        if let Err(error) = self.layout.quarantine(digest) {
            // It stays where it is, and is not looked at any more.
            self.shunned.note(*digest);
            warn!(%digest, %error, "a damaged blob could not be moved aside and is ignored until it can be replaced");
        }
    }

    /// Hashes everything stored, over and over, at the configured rate.
    async fn scrub(self: Arc<Self>, stopping: CancellationToken) {
        let rate = self.settings.scrub_rate;
        if rate == 0 {
            return stopping.cancelled().await;
        }
        loop {
            for (digest, _) in self.inventory.list() {
                let stop = stopping.clone();
                let checked = self
                    .blocking(move |keeper| {
                        keeper.verify(&digest, |read| {
                            if !stop.is_cancelled() {
                                std::thread::sleep(Duration::from_secs_f64(read as f64 / rate as f64));
                            }
                        })
                    })
                    .await;
                if let Some(Err(error)) = checked {
                    debug!(%digest, %error, "a blob could not be checked");
                }
                if stopping.is_cancelled() {
                    return;
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}
