//! The tags of this process: what upstream last said they name, kept on disk.
//!
//! Within a process a record's age is measured on the clock that never jumps.
//! Only a record that was read from disk has to take the wall clock's word for
//! the time before: a clock that jumps makes it older or younger by the jump,
//! once. Losing records costs a question each, nothing else.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};
use tracing::warn;

use crate::access::LinkKey;
use crate::kernel::FileIdentity;
use crate::oci::{Digest, MediaType, Repository, Tag};
use crate::registry::Registry;

/// Digest, when it was said (seconds since the epoch), media type, length.
const TABLE: TableDefinition<'_, &str, (&str, u64, &str, u64)> = TableDefinition::new("tags");
/// Records in memory.
const RECENT: u64 = 100_000;
/// Records on disk; a table that has so many is begun anew.
const MAX_STORED: u64 = 1_000_000;
/// Records are committed at this pace; a crash loses at most so much.
const COMMIT_EVERY: Duration = Duration::from_millis(500);

/// What upstream said a tag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::pull) struct Record {
    pub(in crate::pull) digest: Digest,
    /// Names the permission to serve that.
    pub(in crate::pull) link: LinkKey,
    pub(in crate::pull) media_type: MediaType,
    /// Length of the manifest in bytes.
    pub(in crate::pull) length: u64,
    /// Its bytes came too, so there was a link: without that link the record
    /// is worth nothing.
    pub(in crate::pull) linked: bool,
    /// How old it was …
    age: Duration,
    /// … at this time.
    at: Instant,
    /// Whoever looked at it since then has to ask.
    due: bool,
}

impl Record {
    /// As upstream has just said.
    pub(in crate::pull) fn new(
        digest: Digest,
        link: LinkKey,
        media_type: MediaType,
        length: u64,
        linked: bool,
    ) -> Record {
        Record { digest, link, media_type, length, linked, age: Duration::ZERO, at: Instant::now(), due: false }
    }

    fn age_at(&self, now: Instant) -> Duration {
        self.age.saturating_add(now.saturating_duration_since(self.at))
    }

    /// Whether it is answered without asking upstream.
    pub(in crate::pull) fn is_fresh(&self, registry: &Registry, tag: &Tag) -> bool {
        self.is_fresh_at(Instant::now(), registry, tag)
    }

    fn is_fresh_at(&self, now: Instant, registry: &Registry, tag: &Tag) -> bool {
        !self.due && (self.age_at(now) < registry.tag_ttl || registry.is_immutable(tag))
    }

    /// Whether it may stand in for the answer of an upstream in trouble.
    pub(in crate::pull) fn may_stand_in(&self, registry: &Registry, tag: &Tag) -> bool {
        self.may_stand_in_at(Instant::now(), registry, tag)
    }

    fn may_stand_in_at(&self, now: Instant, registry: &Registry, tag: &Tag) -> bool {
        let window = registry.tag_ttl.saturating_add(registry.stale_if_error);
        !registry.stale_if_error.is_zero() && (self.age_at(now) < window || registry.is_immutable(tag))
    }
}

type Key = Arc<str>;
/// What goes to disk: the record and when upstream said it; or that it is gone.
type Change = (Key, Option<(Arc<Record>, u64)>);

/// All records of this process.
pub struct Tags {
    /// `None`: removed, though it may still be on disk.
    recent: moka::sync::Cache<Key, Option<Arc<Record>>>,
    stored: ArcSwapOption<Stored>,
    /// The file they are kept in.
    file: Mutex<Option<FileIdentity>>,
}

struct Stored {
    database: Arc<Database>,
    queue: Mutex<Option<Sender<Change>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Records of registries whose answers were forgotten while they were not
    /// in memory: they are due when they were written before.
    forgotten: Mutex<std::collections::HashMap<String, u64>>,
}

impl Tags {
    /// Records kept in memory only.
    pub fn in_memory() -> Tags {
        Tags { recent: moka::sync::Cache::new(RECENT), stored: ArcSwapOption::empty(), file: Mutex::default() }
    }

    /// Records kept in the file `path`. A file that cannot be used is replaced;
    /// where that fails too, records are kept in memory.
    pub fn open(path: &Path) -> Tags {
        let tags = Tags::in_memory();
        tags.keep_in(path);
        tags
    }

    /// Keeps records in the file `path` from now on, those that are known too;
    /// does nothing where they are kept there already.
    pub fn keep_in(&self, path: &Path) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_some() && *file == FileIdentity::at(path).ok() {
            return;
        }
        let database = Database::create(path).or_else(|error| {
            warn!(path = %path.display(), %error, "the index of tags cannot be used, starting a new one");
            // A missing file is as good as a removed one.
            let _ = std::fs::remove_file(path);
            Database::create(path)
        });
        let stored = match database {
            Ok(database) => Stored::start(Arc::new(database)),
            Err(error) => {
                warn!(path = %path.display(), %error, "tags are kept in memory only");
                return;
            }
        };
        *file = FileIdentity::at(path).ok();
        let before = self.stored.swap(Some(Arc::new(stored)));
        for (key, record) in &self.recent {
            if record.as_ref().is_none_or(|record| record.linked) {
                let said = |record: &Record| now().saturating_sub(record.age_at(Instant::now()).as_secs());
                self.write((Key::clone(&key), record.map(|record| (Arc::clone(&record), said(&record)))));
            }
        }
        if let Some(before) = before {
            before.close();
        }
    }

    /// What upstream last said of `tag`.
    pub(in crate::pull) fn get(&self, registry: &Registry, repository: &Repository, tag: &Tag) -> Option<Arc<Record>> {
        let key = key(registry, repository, tag);
        if let Some(known) = self.recent.get(key.as_str()) {
            return known;
        }
        let record = Arc::new(self.stored.load().as_ref()?.read(&key, registry, repository)?);
        self.recent.insert(key.into(), Some(Arc::clone(&record)));
        Some(record)
    }

    /// Remembers what upstream has just said of `tag`.
    pub(in crate::pull) fn put(&self, registry: &Registry, repository: &Repository, tag: &Tag, record: Record) {
        let (key, record): (Key, _) = (key(registry, repository, tag).into(), Arc::new(record));
        // What was never pulled is not worth keeping for another process.
        if record.linked {
            self.write((Arc::clone(&key), Some((Arc::clone(&record), now()))));
        }
        self.recent.insert(key, Some(record));
    }

    /// The tag is gone, or it is no longer for us.
    pub(in crate::pull) fn remove(&self, registry: &Registry, repository: &Repository, tag: &Tag) {
        let key: Key = key(registry, repository, tag).into();
        self.recent.insert(Key::clone(&key), None);
        self.write((key, None));
    }

    /// Upstream is asked again about every tag of `registry`, however young.
    pub(in crate::pull) fn forget(&self, registry: &Registry) {
        if let Some(stored) = &*self.stored.load() {
            let mut forgotten = stored.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            forgotten.insert(registry.owner().to_owned(), now());
        }
        let prefix = format!("{} ", registry.owner());
        for (key, record) in &self.recent {
            if let (true, Some(record)) = (key.starts_with(&prefix), record) {
                self.recent.insert(Key::clone(&key), Some(Arc::new(Record { due: true, ..Record::clone(&record) })));
            }
        }
    }

    /// How many are kept.
    pub(in crate::pull) fn count(&self) -> u64 {
        match &*self.stored.load() {
            Some(stored) => stored.count().unwrap_or_default(),
            None => self.recent.entry_count(),
        }
    }

    /// Writes what is not written yet.
    pub(in crate::pull) fn close(&self) {
        if let Some(stored) = &*self.stored.load() {
            stored.close();
        }
    }

    fn write(&self, change: Change) {
        if let Some(stored) = &*self.stored.load()
            && let Some(queue) = &*stored.queue.lock().unwrap_or_else(PoisonError::into_inner)
        {
            // Without the writer there is the memory.
            let _ = queue.send(change);
        }
    }
}

impl Stored {
    fn start(database: Arc<Database>) -> Stored {
        let (queue, receiver) = channel();
        let own = Arc::clone(&database);
        let writer = std::thread::Builder::new().name("tags".into()).spawn(move || write_all(&own, &receiver)).ok();
        Stored { database, queue: Mutex::new(Some(queue)), writer: Mutex::new(writer), forgotten: Mutex::default() }
    }

    /// Writes what is not written yet.
    fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A writer that panicked has nothing more to write.
            let _ = writer.join();
        }
    }

    fn read(&self, key: &str, registry: &Registry, repository: &Repository) -> Option<Record> {
        let transaction = self.database.begin_read().ok()?;
        let table = transaction.open_table(TABLE).ok()?;
        let found = table.get(key).ok()??;
        let (digest, said, media_type, length) = found.value();
        let digest = digest.parse().ok()?;
        let forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Record {
            digest,
            link: LinkKey::new(registry, repository, &digest),
            media_type: MediaType::parse(media_type)?,
            length,
            linked: true,
            // A clock that went backwards makes records look new.
            age: Duration::from_secs(now().saturating_sub(said)),
            at: Instant::now(),
            due: forgotten.get(registry.owner()).is_some_and(|when| said <= *when),
        })
    }

    fn count(&self) -> Option<u64> {
        self.database.begin_read().ok()?.open_table(TABLE).ok()?.len().ok()
    }
}

/// Commits in batches until the queue is closed.
fn write_all(database: &Database, queue: &Receiver<Change>) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        let until = Instant::now() + COMMIT_EVERY;
        let mut open = true;
        while open && batch.len() < 10_000 {
            match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(next) => batch.push(next),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        if let Err(error) = commit(database, &batch, MAX_STORED) {
            warn!(%error, lost = batch.len(), "tags could not be written");
        }
    }
}

fn commit(database: &Database, batch: &[Change], max: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    if transaction.open_table(TABLE)?.len()? >= max {
        warn!(max, "the index of tags is full and begun anew");
        transaction.delete_table(TABLE)?;
    }
    {
        let mut table = transaction.open_table(TABLE)?;
        for (key, record) in batch {
            match record {
                Some((record, said)) => {
                    let digest = record.digest.to_string();
                    let value = (digest.as_str(), *said, record.media_type.as_str(), record.length);
                    table.insert(&**key, value)?;
                }
                None => {
                    table.remove(&**key)?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// No part can contain a blank, so no two keys run into each other.
pub(super) fn key(registry: &Registry, repository: &Repository, tag: &Tag) -> String {
    let parts = [registry.owner(), " ", repository.as_str(), " ", tag.as_str()];
    let mut key = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        key.push_str(part);
    }
    key
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    const MINUTE: Duration = Duration::from_secs(60);

    fn registry(keys: &str) -> Arc<Registry> {
        let text = format!("[[registry]]\nname = \"hub\"\nkind = \"docker-hub\"\n{keys}\n");
        Settings::parse("t.toml", &text, &std::collections::BTreeMap::new()).unwrap().registries.remove(0)
    }

    fn record(n: u8) -> Record {
        let (registry, digest) = (registry(""), Digest::Sha256([n; 32]));
        let link = LinkKey::new(&registry, &"library/a".parse().unwrap(), &digest);
        Record::new(digest, link, MediaType::parse("a/b").unwrap(), 7, true)
    }

    #[test]
    fn a_record_is_fresh_for_its_time_and_stands_in_for_a_while_after() {
        let registry = registry("tag_ttl = \"60s\"\nstale_if_error = \"10m\"\nimmutable_tags = [\"v*\"]");
        let (record, moving, fixed) = (record(1), "latest".parse().unwrap(), "v1".parse().unwrap());
        let second = Duration::from_secs(1);
        for (age, fresh, stands_in) in [
            (Duration::ZERO, true, true),
            (MINUTE - second, true, true),
            (MINUTE, false, true),
            (11 * MINUTE - second, false, true),
            (11 * MINUTE, false, false),
        ] {
            let now = record.at + age;
            assert_eq!(record.is_fresh_at(now, &registry, &moving), fresh, "{age:?}");
            assert_eq!(record.may_stand_in_at(now, &registry, &moving), stands_in, "{age:?}");
            assert!(record.is_fresh_at(now, &registry, &fixed) && record.may_stand_in_at(now, &registry, &fixed));
        }
    }

    #[test]
    fn nothing_is_fresh_and_nothing_stands_in_where_that_is_ruled_out() {
        let registry = registry("tag_ttl = \"0s\"\nstale_if_error = \"0s\"\nimmutable_tags = \"v*\"");
        let (record, moving, fixed) = (record(1), "latest".parse().unwrap(), "v1".parse().unwrap());
        assert!(!record.is_fresh(&registry, &moving) && record.is_fresh(&registry, &fixed));
        assert!(!record.may_stand_in(&registry, &moving) && !record.may_stand_in(&registry, &fixed));
    }

    #[test]
    fn f26_records_survive_with_their_age_and_a_clock_that_jumped_costs_the_jump() {
        let registry = registry("");
        let (repository, tag) = ("library/a".parse().unwrap(), "1".parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tags.redb");
        // Seconds by which the record is in the past when it is read.
        for (past, at_least) in [(0, 0), (45, 45), (86_400, 86_400), (-86_400, 0)] {
            let tags = Tags::open(&path);
            let said = now().checked_add_signed(-past).unwrap();
            tags.write((key(&registry, &repository, &tag).into(), Some((Arc::new(record(1)), said))));
            tags.close();
            drop(tags);
            let tags = Tags::open(&path);
            let found = tags.get(&registry, &repository, &tag).unwrap();
            let age = found.age_at(found.at).as_secs();
            assert!((at_least..at_least + 5).contains(&age), "{past} {age}");
            assert_eq!((found.digest, found.length, tags.count()), (Digest::Sha256([1; 32]), 7, 1));
            // From here on no clock but the monotonic one counts.
            assert_eq!(found.age_at(found.at + MINUTE).as_secs(), age + 60);
            tags.remove(&registry, &repository, &tag);
            tags.close();
        }
    }

    #[test]
    fn what_is_removed_or_forgotten_is_asked_for_again() {
        let registry = registry("");
        let (repository, tag) = ("library/a".parse().unwrap(), "1".parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tags.redb");
        let tags = Tags::open(&path);
        tags.put(&registry, &repository, &tag, record(1));
        assert!(tags.get(&registry, &repository, &tag).unwrap().is_fresh(&registry, &tag));
        tags.forget(&registry);
        let forgotten = tags.get(&registry, &repository, &tag).unwrap();
        assert!(!forgotten.is_fresh(&registry, &tag) && forgotten.may_stand_in(&registry, &tag));
        tags.close();
        drop(tags);
        let tags = Tags::open(&path);
        tags.forget(&registry);
        assert!(!tags.get(&registry, &repository, &tag).unwrap().is_fresh(&registry, &tag), "not only in memory");
        tags.remove(&registry, &repository, &tag);
        assert_eq!(tags.get(&registry, &repository, &tag), None, "though it is still on disk for a moment");
        tags.close();
        drop(tags);
        assert_eq!(Tags::open(&path).get(&registry, &repository, &tag), None);
    }

    #[test]
    fn a_table_that_is_full_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(dir.path().join("tags.redb")).unwrap();
        let put =
            |n: u8| commit(&database, &[(format!("hub a {n}").into(), Some((Arc::new(record(n)), 0)))], 3).unwrap();
        let count = || database.begin_read().unwrap().open_table(TABLE).unwrap().len().unwrap();
        (0..3).for_each(put);
        assert_eq!(count(), 3);
        put(4);
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_file_that_is_no_index_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tags.redb");
        std::fs::write(&path, b"not a database").unwrap();
        assert!(Tags::open(&path).stored.load().is_some());
    }
}
