//! Links: what upstream was shown to allow.
//!
//! A link says: with this registry's credential, upstream let us read this
//! digest in this repository. Cached bytes are served only through a link, so
//! that sharing bytes between registries shares no permission. A link comes
//! from an answer of upstream for that very digest, never from a manifest that
//! merely names it.
//!
//! Links are kept on disk; losing them costs one HEAD each, nothing else.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition};
use tracing::warn;

use crate::oci::{Digest, MediaType, Repository};
use crate::registry::Registry;

const TABLE: TableDefinition<'_, &str, (u64, Option<u64>, &str)> = TableDefinition::new("links");
/// Links in memory.
const RECENT: u64 = 100_000;
/// Links are committed at this pace; a crash loses at most so much.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How long a link to public content holds, and one to private content.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(7 * 86_400), Duration::from_secs(86_400));

/// That upstream allowed reading, and what it said of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Seconds since the epoch when upstream said so.
    seen_at: u64,
    /// The type to serve a manifest with; absent for blobs.
    pub media_type: Option<MediaType>,
    /// How long upstream said the content is, in bytes.
    pub size: Option<u64>,
}

impl Link {
    /// When upstream said so, in seconds since the epoch.
    pub fn seen_at(&self) -> u64 {
        self.seen_at
    }
}

impl Link {
    /// In memory, what was removed and may still be on disk.
    const GONE: Link = Link { seen_at: 0, media_type: None, size: None };

    /// Whether it still says what `registry`'s credential may read.
    pub fn holds_for(&self, registry: &Registry) -> bool {
        let lifetime = if registry.credential.is_anonymous() { LIFETIME.0 } else { LIFETIME.1 };
        // A clock that went backwards makes links look new, never old.
        now().saturating_sub(self.seen_at) < lifetime.as_secs()
    }

    /// Whether it held until at most `grace` ago: then it may stand in for the
    /// answer of an upstream that gives none.
    pub fn held_within(&self, registry: &Registry, grace: Duration) -> bool {
        let moved = Link { seen_at: self.seen_at.saturating_add(grace.as_secs()), ..self.clone() };
        self.holds_for(registry) || !grace.is_zero() && moved.holds_for(registry)
    }
}

type Key = Arc<str>;

/// The name of a link, made once where one is looked for again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkKey(Key);

impl LinkKey {
    /// Of the link of `digest` through (registry, repository).
    pub fn new(registry: &Registry, repository: &Repository, digest: &Digest) -> LinkKey {
        LinkKey(key(registry, repository, digest).into())
    }
}

/// A link to write, or one to remove.
type Change = (Key, Option<Link>);

/// All links of this process.
pub struct Links {
    recent: moka::sync::Cache<Key, Link>,
    stored: Option<Stored>,
}

struct Stored {
    database: Arc<Database>,
    queue: Mutex<Option<Sender<Change>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Links {
    /// Links kept in memory only.
    pub fn in_memory() -> Links {
        Links { recent: moka::sync::Cache::new(RECENT), stored: None }
    }

    /// Links kept in the file `path`. A file that cannot be used is replaced;
    /// where that fails too, links are kept in memory.
    pub fn open(path: &Path) -> Links {
        let database = Database::create(path).or_else(|error| {
            warn!(path = %path.display(), %error, "the index of links cannot be used, starting a new one");
            // A missing file is as good as a removed one.
            let _ = std::fs::remove_file(path);
            Database::create(path)
        });
        let stored = match database {
            Ok(database) => Some(Stored::start(Arc::new(database))),
            Err(error) => {
                warn!(path = %path.display(), %error, "links are kept in memory only");
                None
            }
        };
        Links { stored, ..Links::in_memory() }
    }

    /// The link of `digest` through (registry, repository), if it still holds.
    pub fn get(&self, registry: &Registry, repository: &Repository, digest: &Digest) -> Option<Link> {
        self.last(registry, repository, digest).filter(|link| link.holds_for(registry))
    }

    /// The link of `digest` through (registry, repository), also if it holds
    /// no longer.
    pub fn last(&self, registry: &Registry, repository: &Repository, digest: &Digest) -> Option<Link> {
        self.find(&key(registry, repository, digest))
    }

    /// The link that `key` names, which is one of `registry`, if it still holds.
    pub fn get_by_key(&self, registry: &Registry, key: &LinkKey) -> Option<Link> {
        self.find(&key.0).filter(|link| link.holds_for(registry))
    }

    fn find(&self, key: &str) -> Option<Link> {
        let link = self.recent.get(key).or_else(|| {
            let link = self.stored.as_ref()?.read(key)?;
            self.recent.insert(key.into(), link.clone());
            Some(link)
        })?;
        (link != Link::GONE).then_some(link)
    }

    /// Shows every link to `visit`, as the registry's address form, repository,
    /// digest and link; also those that [hold](Link::holds_for) no longer.
    /// Takes time in proportion to their number: not for the way of a pull.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &str, &Digest, &Link)) {
        let mut show = |key: &str, link: &Link| {
            if let Some((registry, repository, digest)) = parts(key) {
                visit(registry, repository, &digest, link);
            }
        };
        // The newest are not written yet; what is in both is shown once.
        let mut seen = HashSet::new();
        for (key, link) in &self.recent {
            if link != Link::GONE {
                show(&key, &link);
            }
            seen.insert(Key::clone(&key));
        }
        if let Some(stored) = &self.stored
            && let Err(error) = stored.for_each(|key, link| {
                if !seen.contains(key) {
                    show(key, link);
                }
            })
        {
            warn!(%error, "the index of links cannot be read through");
        }
    }

    /// How many there are, those included that hold no longer.
    pub fn count(&self) -> u64 {
        match &self.stored {
            Some(stored) => stored.count().unwrap_or_default(),
            None => self.recent.entry_count(),
        }
    }

    /// Remembers that upstream has just allowed it.
    pub fn put(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        media_type: Option<&MediaType>,
        size: Option<u64>,
    ) {
        let key: Key = key(registry, repository, digest).into();
        let link = Link { seen_at: now(), media_type: media_type.cloned(), size };
        if let Some(stored) = &self.stored
            && let Some(queue) = &*stored.queue.lock().unwrap_or_else(PoisonError::into_inner)
        {
            // Without the writer there is the memory.
            let _ = queue.send((Arc::clone(&key), Some(link.clone())));
        }
        self.recent.insert(key, link);
    }

    /// Forgets a link: upstream is asked again.
    pub fn remove(&self, registry: &Registry, repository: &Repository, digest: &Digest) {
        let key: Key = key(registry, repository, digest).into();
        // Until it is gone from disk too, it is not to be found there.
        self.recent.insert(Key::clone(&key), Link::GONE);
        if let Some(stored) = &self.stored
            && let Some(queue) = &*stored.queue.lock().unwrap_or_else(PoisonError::into_inner)
        {
            let _ = queue.send((key, None));
        }
    }

    /// Writes what is not written yet.
    pub fn close(&self) {
        if let Some(stored) = &self.stored {
            stored.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(writer) = stored.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                // A writer that panicked has nothing more to write.
                let _ = writer.join();
            }
        }
    }
}

impl Stored {
    fn start(database: Arc<Database>) -> Stored {
        let (queue, receiver) = channel();
        let own = Arc::clone(&database);
        let writer = std::thread::Builder::new().name("links".into()).spawn(move || write_all(&own, &receiver)).ok();
        Stored { database, queue: Mutex::new(Some(queue)), writer: Mutex::new(writer) }
    }

    fn read(&self, key: &str) -> Option<Link> {
        let transaction = self.database.begin_read().ok()?;
        let table = transaction.open_table(TABLE).ok()?;
        let found = table.get(key).ok()??;
        Some(link(found.value()))
    }

    fn for_each(&self, mut visit: impl FnMut(&str, &Link)) -> Result<(), redb::Error> {
        let transaction = self.database.begin_read()?;
        // The table is made with the first link.
        let Ok(table) = transaction.open_table(TABLE) else { return Ok(()) };
        for entry in table.iter()? {
            let (key, value) = entry?;
            visit(key.value(), &link(value.value()));
        }
        Ok(())
    }

    fn count(&self) -> Option<u64> {
        self.database.begin_read().ok()?.open_table(TABLE).ok()?.len().ok()
    }
}

fn link((seen_at, size, media_type): (u64, Option<u64>, &str)) -> Link {
    Link { seen_at, media_type: MediaType::parse(media_type), size }
}

/// Commits in batches until the queue is closed.
fn write_all(database: &Database, queue: &Receiver<Change>) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        let until = std::time::Instant::now() + COMMIT_EVERY;
        let mut open = true;
        while open && batch.len() < 10_000 {
            match queue.recv_timeout(until.saturating_duration_since(std::time::Instant::now())) {
                Ok(next) => batch.push(next),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        if let Err(error) = commit(database, &batch) {
            warn!(%error, lost = batch.len(), "links could not be written");
        }
    }
}

fn commit(database: &Database, batch: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        for (key, link) in batch {
            let Some(link) = link else {
                table.remove(&**key)?;
                continue;
            };
            let media_type = link.media_type.as_ref().map_or("", MediaType::as_str);
            table.insert(&**key, (link.seen_at, link.size, media_type))?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// No part can contain a blank, so no two keys run into each other.
fn key(registry: &Registry, repository: &Repository, digest: &Digest) -> String {
    let mut key = String::with_capacity(256);
    for part in [registry.name.slug(), " ", repository.as_str(), " "] {
        key.push_str(part);
    }
    // Writing to a string does not fail.
    let _ = write!(key, "{digest}");
    key
}

/// The parts that [`key`] was made of.
fn parts(key: &str) -> Option<(&str, &str, Digest)> {
    let mut parts = key.split(' ');
    let (registry, repository, digest) = (parts.next()?, parts.next()?, parts.next()?);
    Some((registry, repository, digest.parse().ok()?))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    /// Everything in `links`, sorted.
    fn all(links: &Links) -> Vec<String> {
        let mut all = Vec::new();
        links.for_each(|registry, repository, digest, link| {
            all.push(format!("{registry} {repository} {} {:?}", &digest.hex()[..4], link.size));
        });
        all.sort();
        all
    }

    #[test]
    fn a_link_that_is_removed_is_gone_at_once_and_for_good() {
        let registries = Settings::parse("t.toml", "", &std::collections::BTreeMap::new()).unwrap().registries;
        let (registry, repository, digest) = (&registries[0], "a".parse().unwrap(), Digest::Sha256([1; 32]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.redb");
        let links = Links::open(&path);
        links.put(registry, &repository, &digest, None, Some(1));
        links.close();
        drop(links);
        let links = Links::open(&path);
        // It is still on disk for a moment.
        links.remove(registry, &repository, &digest);
        assert_eq!((links.last(registry, &repository, &digest), all(&links)), (None, vec![]));
        links.close();
        drop(links);
        assert_eq!(Links::open(&path).last(registry, &repository, &digest), None);
    }

    #[test]
    fn a_link_stands_in_for_a_while_after_it_held() {
        let registries = Settings::parse("t.toml", "", &std::collections::BTreeMap::new()).unwrap().registries;
        let registry = &registries[0];
        let hour = Duration::from_secs(3600);
        let of_age = |age: Duration| Link { seen_at: now() - age.as_secs(), media_type: None, size: None };
        for (age, holds, stands_in) in [
            (Duration::ZERO, true, true),
            (LIFETIME.0 - hour, true, true),
            (LIFETIME.0 + hour, false, true),
            (LIFETIME.0 + 3 * hour, false, false),
        ] {
            let link = of_age(age);
            assert_eq!((link.holds_for(registry), link.held_within(registry, 2 * hour)), (holds, stands_in), "{age:?}");
            assert_eq!(link.held_within(registry, Duration::ZERO), holds, "{age:?}");
        }
    }

    #[test]
    fn every_link_is_shown_once_whether_it_is_written_already_or_not() {
        let registries = Settings::parse("t.toml", "", &std::collections::BTreeMap::new()).unwrap().registries;
        let registry = &registries[0];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.redb");
        let links = Links::open(&path);
        assert_eq!((all(&links), links.count()), (vec![], 0));
        let put = |links: &Links, repository: &str, n: u8, size| {
            links.put(registry, &repository.parse().unwrap(), &Digest::Sha256([n; 32]), None, Some(size));
        };
        put(&links, "library/a", 1, 10);
        put(&links, "library/a", 2, 20);
        links.close();
        assert_eq!((all(&links).len(), links.count()), (2, 2));
        drop(links);
        let links = Links::open(&path);
        put(&links, "library/a", 2, 21);
        put(&links, "library/b", 2, 20);
        let expected = [
            "docker-hub library/a 0101 Some(10)",
            "docker-hub library/a 0202 Some(21)",
            "docker-hub library/b 0202 Some(20)",
        ];
        assert_eq!(all(&links), expected);
        links.close();
        assert_eq!((all(&links).as_slice(), links.count()), (expected.map(str::to_owned).as_slice(), 3));
    }
}
