//! The links on disk: one file, written by one thread.
//!
//! What it guarantees: a revocation is in force when [`Stored::revoke`]
//! returns, written or not; one that could not be written is tried again until
//! it is, before anything newer. The file holds a bounded number of links, of
//! which the oldest go first.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
};
use tracing::warn;

use super::link::{Key, Link};
use crate::oci::MediaType;

const TABLE: TableDefinition<'_, &str, (u64, Option<u64>, &str)> = TableDefinition::new("links");
/// Links are committed at this pace; a crash loses at most so much.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How soon a revocation that could not be written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Links on disk.
const MAX_LINKS: u64 = 1_000_000;
/// Revocations that wait for the disk. Where there are more, all links count as
/// revoked: upstream is asked again, which is slower and never wrong.
const MAX_PENDING: usize = 1000;

/// A change of the index.
pub(super) enum Change {
    Put(Key, Link),
    Remove(Key),
    /// All whose keys begin so; how many there were goes back.
    Revoke(String, Sender<Result<u64, String>>),
}

/// Why a revocation is in force in memory only.
pub(super) struct Unwritten {
    /// How many links on disk it takes back.
    pub(super) links: u64,
    pub(super) reason: String,
}

/// The index on disk.
pub(super) struct Stored {
    index: Arc<Index>,
    queue: Mutex<Option<Sender<Change>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

type Opener = dyn Fn() -> Result<Database, DatabaseError> + Send + Sync;

struct Index {
    /// Absent while it could not be opened again after a failing write.
    database: RwLock<Option<Database>>,
    /// A database that met a failing write takes no more of them.
    open: Box<Opener>,
    /// What was revoked and is still on disk.
    pending: Mutex<Vec<String>>,
    max_links: u64,
}

impl Stored {
    pub(super) fn start(
        database: Database,
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Stored {
        Stored::start_with(database, open, MAX_LINKS)
    }

    fn start_with(
        database: Database,
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
        max_links: u64,
    ) -> Stored {
        let database = RwLock::new(Some(database));
        let index = Arc::new(Index { database, open: Box::new(open), pending: Mutex::default(), max_links });
        let (queue, receiver) = channel();
        let own = Arc::clone(&index);
        let writer = std::thread::Builder::new().name("links".into()).spawn(move || own.write_all(&receiver)).ok();
        Stored { index, queue: Mutex::new(Some(queue)), writer: Mutex::new(writer) }
    }

    /// Without the writer there is the memory.
    pub(super) fn send(&self, change: Change) {
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = queue.send(change);
        }
    }

    /// Takes back all links whose keys begin with `prefix`; gives how many.
    pub(super) fn revoke(&self, prefix: &str) -> Result<u64, Unwritten> {
        // Counted before: after a failing write there may be nothing to read.
        let mut links = 0;
        let _ = self.index.for_each(|key, _| links += u64::from(key.starts_with(prefix)));
        // Nothing is to be read between a failing write and its answer.
        self.index.hold_back(prefix);
        let (done, answer) = channel();
        self.send(Change::Revoke(prefix.to_owned(), done));
        let answer = answer.recv().unwrap_or_else(|_| Err("the index of links is closed".to_owned()));
        answer.map_err(|reason| Unwritten { links, reason })
    }

    pub(super) fn read(&self, key: &str) -> Option<Link> {
        self.index.read(key)
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(&str, &Link)) -> Result<(), redb::Error> {
        let pending = self.index.pending().clone();
        self.index.for_each(|key, link| {
            if !pending.iter().any(|prefix| key.starts_with(prefix)) {
                visit(key, link);
            }
        })
    }

    pub(super) fn count(&self) -> Option<u64> {
        self.index.count()
    }

    /// Writes what is not written yet.
    pub(super) fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A writer that panicked has nothing more to write.
            let _ = writer.join();
        }
    }
}

impl Index {
    fn pending(&self) -> MutexGuard<'_, Vec<String>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold_back(&self, prefix: &str) {
        let mut pending = self.pending();
        if pending.iter().any(|known| known == prefix) {
            return;
        }
        if pending.len() >= MAX_PENDING {
            pending.clear();
            pending.push(String::new());
        } else {
            pending.push(prefix.to_owned());
        }
    }

    fn read(&self, key: &str) -> Option<Link> {
        let found = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let table = database.as_ref()?.begin_read().ok()?.open_table(TABLE).ok()?;
            let found = table.get(key).ok()??;
            link(found.value())
        };
        (!self.pending().iter().any(|prefix| key.starts_with(prefix))).then_some(found)
    }

    fn for_each(&self, mut visit: impl FnMut(&str, &Link)) -> Result<(), redb::Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*database else { return Ok(()) };
        // The table is made with the first link.
        let Ok(table) = database.begin_read()?.open_table(TABLE) else { return Ok(()) };
        for entry in table.iter()? {
            let (key, value) = entry?;
            visit(key.value(), &link(value.value()));
        }
        Ok(())
    }

    fn count(&self) -> Option<u64> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.as_ref()?.begin_read().ok()?.open_table(TABLE).ok()?.len().ok()
    }

    /// Commits in batches until the queue is closed.
    fn write_all(&self, queue: &Receiver<Change>) {
        let mut failing = false;
        loop {
            let first = match failing {
                false => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                true => queue.recv_timeout(RETRY_AFTER),
            };
            let mut batch = Vec::new();
            match first {
                Ok(change) => batch.push(change),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if failing {
                        // The last chance.
                        let _ = self.write(&[], true);
                    }
                    return;
                }
            }
            let until = Instant::now() + COMMIT_EVERY;
            // Whoever revokes waits for it.
            while !batch.is_empty() && batch.len() < 10_000 && !matches!(batch.last(), Some(Change::Revoke(..))) {
                match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(next) => batch.push(next),
                    Err(_) => break,
                }
            }
            let outcome = self.write(&batch, failing);
            if let Err(error) = &outcome
                && (!failing || !batch.is_empty())
            {
                warn!(%error, lost = batch.len(), "links could not be written; revocations are in force and tried again");
            }
            failing = outcome.is_err();
        }
    }

    /// Writes `batch`, behind what could not be written before if the last
    /// write failed, and tells those who wait.
    fn write(&self, batch: &[Change], failed_before: bool) -> Result<(), redb::Error> {
        let earlier = if failed_before { self.pending().clone() } else { Vec::new() };
        let written = self.reopen().and_then(|()| self.commit(batch, &earlier));
        if written.is_ok() {
            self.pending().retain(|pending| !earlier.contains(pending));
        }
        let mut counts = written.as_ref().map(|counts| counts.iter().copied()).ok();
        for change in batch {
            if let Change::Revoke(prefix, done) = change {
                let count = counts.as_mut().and_then(Iterator::next);
                if count.is_some() {
                    self.pending().retain(|pending| pending != prefix);
                }
                let failure = || written.as_ref().map_or_else(ToString::to_string, |_| String::new());
                // Whoever asked may have stopped waiting.
                let _ = done.send(count.ok_or_else(failure));
            }
        }
        match written {
            Ok(_) => Ok(()),
            Err(error) => {
                self.database.write().unwrap_or_else(PoisonError::into_inner).take();
                // Reading goes on where it can.
                let _ = self.reopen();
                Err(error)
            }
        }
    }

    /// Opens the file again if a failing write closed it.
    fn reopen(&self) -> Result<(), redb::Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some((self.open)()?);
        }
        Ok(())
    }

    /// Gives how many links each revocation of the batch took back.
    fn commit(&self, batch: &[Change], earlier: &[String]) -> Result<Vec<u64>, redb::Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*database else { return Ok(Vec::new()) };
        let transaction = database.begin_write()?;
        let mut counts = Vec::new();
        {
            let mut table = transaction.open_table(TABLE)?;
            // The keys of one prefix end where its blank would be followed
            // by nothing that a name can hold.
            for prefix in earlier {
                table.retain_in(prefix.as_str()..format!("{prefix}\u{7f}").as_str(), |_, _| false)?;
            }
            for change in batch {
                match change {
                    Change::Put(key, link) => {
                        let media_type = link.media_type.as_ref().map_or("", MediaType::as_str);
                        table.insert(&**key, (link.seen_at, link.size, media_type))?;
                    }
                    Change::Remove(key) => {
                        table.remove(&**key)?;
                    }
                    Change::Revoke(prefix, _) => {
                        let before = table.len()?;
                        table.retain_in(prefix.as_str()..format!("{prefix}\u{7f}").as_str(), |_, _| false)?;
                        counts.push(before.saturating_sub(table.len()?));
                    }
                }
            }
            let count = table.len()?;
            if count > self.max_links {
                // A tenth more than it must, so that this is rare.
                let excess = count - self.max_links + self.max_links / 10;
                let mut ages = Vec::new();
                for entry in table.iter()? {
                    ages.push(entry?.1.value().0);
                }
                let at = usize::try_from(excess).unwrap_or(usize::MAX).min(ages.len().saturating_sub(1));
                let (_, oldest, _) = ages.select_nth_unstable(at);
                let oldest = *oldest;
                let mut removed = 0;
                table.retain(|_, (seen_at, ..)| {
                    let goes = seen_at <= oldest && removed < excess;
                    removed += u64::from(goes);
                    !goes
                })?;
            }
        }
        transaction.commit()?;
        Ok(counts)
    }
}

fn link((seen_at, size, media_type): (u64, Option<u64>, &str)) -> Link {
    Link { seen_at, media_type: MediaType::parse(media_type), size }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A file in memory, on a disk that can be made read-only.
    #[derive(Debug, Clone, Default)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        is_read_only: Arc<AtomicBool>,
    }

    impl Disk {
        fn change<T>(&self, change: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
            match self.is_read_only.load(Ordering::SeqCst) {
                true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
                false => Ok(change(&mut self.bytes.lock().unwrap())),
            }
        }

        fn open(&self) -> Result<Database, DatabaseError> {
            Database::builder().create_with_backend(self.clone())
        }
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.lock().unwrap().len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).unwrap();
            out.copy_from_slice(&self.bytes.lock().unwrap()[offset..offset + out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.change(|bytes| bytes.resize(usize::try_from(len).unwrap(), 0))
        }

        fn sync_data(&self) -> io::Result<()> {
            self.change(|_| ())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).unwrap();
            self.change(|bytes| bytes[offset..offset + data.len()].copy_from_slice(data))
        }
    }

    fn put(stored: &Stored, key: &str, seen_at: u64) {
        stored.send(Change::Put(key.into(), Link { seen_at, media_type: None, size: None }));
    }

    #[test]
    fn a_revocation_that_cannot_be_written_is_in_force_and_tried_again() {
        let disk = Disk::default();
        let own = disk.clone();
        let stored = Stored::start(disk.open().unwrap(), move || own.open());
        put(&stored, "hub a x", 1);
        put(&stored, "hub b x", 1);
        // Whoever revokes waits until all before it is written.
        assert_eq!(stored.revoke("other ").map_err(|failure| failure.reason), Ok(0));
        assert!(stored.read("hub a x").is_some());

        disk.is_read_only.store(true, Ordering::SeqCst);
        let failure = stored.revoke("hub a ").unwrap_err();
        assert_eq!(failure.links, 1);
        assert!(!failure.reason.is_empty());
        assert_eq!(stored.read("hub a x"), None);

        disk.is_read_only.store(false, Ordering::SeqCst);
        assert_eq!(stored.revoke("other ").map_err(|failure| failure.reason), Ok(0));
        assert!(stored.index.pending().is_empty());
        assert_eq!((stored.read("hub a x"), stored.read("hub b x").is_some()), (None, true));
        stored.close();
        drop(stored);
        let stored = Stored::start(disk.open().unwrap(), move || disk.open());
        assert_eq!((stored.read("hub a x"), stored.read("hub b x").is_some()), (None, true));
    }

    #[test]
    fn of_too_many_links_the_oldest_go() {
        let disk = Disk::default();
        let stored = Stored::start_with(disk.open().unwrap(), move || disk.open(), 20);
        for n in 0..30 {
            put(&stored, &format!("hub a {n:02}"), n);
        }
        assert!(stored.revoke("other ").is_ok());
        assert!(stored.count().unwrap() <= 20);
        assert_eq!((stored.read("hub a 00"), stored.read("hub a 29").is_some()), (None, true));
    }

    #[test]
    fn of_too_many_revocations_that_wait_all_links_count_as_revoked() {
        let disk = Disk::default();
        let own = disk.clone();
        let stored = Stored::start(disk.open().unwrap(), move || own.open());
        for n in 0..=MAX_PENDING {
            stored.index.hold_back(&format!("hub {n} "));
        }
        assert_eq!(*stored.index.pending(), [String::new()]);
    }
}
