//! The pins of this process, and what each of them keeps.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::file;
use crate::cache::Cache;
use crate::oci::{Digest, Mentions, Reference, Repository};
use crate::pull::manifest::bytes_of;
use crate::registry::Registry;

/// More than any image has; an index could name more.
const MAX_KEPT: usize = 20_000;
/// Larger than any manifest that is taken.
const MAX_MANIFEST: u64 = 4 << 20;

/// What is pinned, in terms of upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::pull) struct Key {
    /// Address form of the registry's name.
    pub(in crate::pull) registry: String,
    /// Full upstream name.
    pub(in crate::pull) repository: Repository,
    pub(in crate::pull) reference: Reference,
}

/// One pin and what it keeps.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Key,
    /// The configuration says so.
    pub(super) configured: bool,
    /// What the reference meant when it was last seen.
    pub(super) root: Option<Digest>,
    pub(super) keeps: BTreeSet<Digest>,
    /// Manifests whose mentions are in `keeps` already.
    pub(super) read: HashSet<Digest>,
}

/// The pins of this process. Cheap to clone.
#[derive(Clone)]
pub(in crate::pull) struct Pins(Arc<Inner>);

struct Inner {
    cache: Cache,
    /// Absent where this process does not write to the cache directory.
    path: PathBuf,
    entries: Mutex<Vec<Entry>>,
    /// Registries and repositories that have pins: nearly no pull is about one,
    /// and this tells without a lock.
    watched: ArcSwap<HashSet<(String, Repository)>>,
    /// One writer of the file at a time.
    writing: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

/// How an unpinning ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpinned {
    /// It is gone.
    Done,
    /// There is no such pin.
    Absent,
    /// The configuration says it, and only it can take that back.
    Configured,
}

impl Key {
    pub(in crate::pull) fn of(registry: &Registry, repository: &Repository, reference: &Reference) -> Key {
        let (repository, reference) = (repository.clone(), reference.clone());
        Key { registry: registry.name.slug().to_owned(), repository, reference }
    }
}

impl Entry {
    fn new(key: Key, configured: bool) -> Entry {
        Entry { key, configured, root: None, keeps: BTreeSet::new(), read: HashSet::new() }
    }
}

impl Pins {
    /// The pins of earlier processes, and those of the configuration.
    pub(in crate::pull) fn open(cache: &Cache, configured: Vec<Key>) -> Pins {
        let path = file::path(cache.dir());
        let mut entries = file::read(&path);
        // What the configuration said once and says no longer is no pin.
        entries.retain(|entry| !entry.configured || configured.contains(&entry.key));
        for key in configured {
            match entries.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => entry.configured = true,
                None => entries.push(Entry::new(key, true)),
            }
        }
        let pins = Pins(Arc::new(Inner {
            cache: cache.clone(),
            path,
            entries: Mutex::new(entries),
            watched: ArcSwap::default(),
            writing: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        }));
        pins.apply(&pins.entries());
        pins
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pins.
    pub(super) fn list(&self) -> Vec<Entry> {
        self.entries().clone()
    }

    /// A manifest of a repository has passed: what its pins keep may change.
    pub(in crate::pull) fn passed(
        &self,
        registry: &Registry,
        repository: &Repository,
        reference: &Reference,
        digest: &Digest,
    ) {
        let watched = self.0.watched.load();
        if watched.is_empty() || !watched.contains(&(registry.name.slug().to_owned(), repository.clone())) {
            return;
        }
        let key = Key::of(registry, repository, reference);
        let concerned: Vec<(Key, Digest)> = self
            .entries()
            .iter()
            .filter(|entry| entry.key.registry == key.registry && entry.key.repository == key.repository)
            .filter_map(|entry| {
                let root = if entry.key.reference == key.reference { Some(*digest) } else { entry.root };
                let is_part = root == Some(*digest) || entry.keeps.contains(digest);
                let is_new = root != entry.root || !entry.read.contains(digest);
                Some((entry.key.clone(), root?)).filter(|_| is_part && is_new)
            })
            .collect();
        for (key, root) in concerned {
            let pins = self.clone();
            self.0.tasks.spawn(async move {
                debug!(?key, %root, "a pinned image is looked at");
                if let Err(error) = pins.update(&key, root).await {
                    warn!(?key, %error, "the pins could not be written");
                }
            });
        }
    }

    /// Pins an image whose reference means `root` now.
    pub(super) async fn put(&self, key: Key, root: Digest) -> io::Result<()> {
        {
            let mut entries = self.entries();
            if !entries.iter().any(|entry| entry.key == key) {
                entries.push(Entry::new(key.clone(), false));
            }
        }
        self.update(&key, root).await
    }

    /// Takes a pin away.
    pub(super) async fn remove(&self, key: &Key) -> io::Result<Unpinned> {
        {
            let mut entries = self.entries();
            match entries.iter().position(|entry| entry.key == *key) {
                None => return Ok(Unpinned::Absent),
                Some(at) if entries.get(at).is_some_and(|entry| entry.configured) => return Ok(Unpinned::Configured),
                Some(at) => drop(entries.remove(at)),
            }
            self.apply(&entries);
        }
        self.save().await?;
        Ok(Unpinned::Done)
    }

    /// Finds out what `key` keeps now that it means `root`.
    async fn update(&self, key: &Key, root: Digest) -> io::Result<()> {
        let (keeps, read) = reach(&self.0.cache, root).await;
        {
            let mut entries = self.entries();
            // It may have been taken away meanwhile.
            let Some(entry) = entries.iter_mut().find(|entry| entry.key == *key) else { return Ok(()) };
            if entry.root != Some(root) {
                entry.root = Some(root);
                (entry.keeps, entry.read) = (keeps, read);
            } else {
                // Content never changes: what was known of it stays true, also
                // when the manifest that said it has gone.
                entry.keeps.extend(keeps);
                entry.read.extend(read);
            }
            self.apply(&entries);
        }
        self.save().await
    }

    /// Tells the cache what stays, and [`passed`](Pins::passed) what matters.
    fn apply(&self, entries: &[Entry]) {
        self.0.cache.pin(entries.iter().flat_map(|entry| entry.keeps.iter().copied()).collect());
        let watched = entries.iter().map(|entry| (entry.key.registry.clone(), entry.key.repository.clone()));
        self.0.watched.store(Arc::new(watched.collect()));
    }

    /// Writes them again if their file has gone.
    pub(in crate::pull) async fn keep(&self) -> io::Result<()> {
        if self.0.path.exists() || self.entries().is_empty() { Ok(()) } else { self.save().await }
    }

    async fn save(&self) -> io::Result<()> {
        // The process that writes keeps its own.
        if !self.0.cache.is_writer() {
            return Ok(());
        }
        let path = self.0.path.clone();
        let _turn = self.0.writing.lock().await;
        let text = file::text(&self.entries())?;
        tokio::task::spawn_blocking(move || file::write(&path, &text)).await?
    }

    /// Finishes what is on its way to disk.
    pub(in crate::pull) async fn close(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// Everything that is reached from the manifest `root` through cached
/// manifests, and the manifests that were read for it.
async fn reach(cache: &Cache, root: Digest) -> (BTreeSet<Digest>, HashSet<Digest>) {
    let (mut reached, mut read) = (BTreeSet::from([root]), HashSet::new());
    let mut ahead = vec![root];
    while let Some(digest) = ahead.pop()
        && reached.len() < MAX_KEPT
    {
        let Ok(Some(blob)) = cache.get(&digest).await else { continue };
        // An index may call anything a manifest.
        if blob.len() > MAX_MANIFEST {
            continue;
        }
        let Some(bytes) = bytes_of(cache, &digest, &blob).await else { continue };
        let Mentions { blobs, manifests } = Mentions::of(&bytes);
        reached.extend(blobs);
        ahead.extend(manifests.into_iter().filter(|child| reached.insert(*child)));
        read.insert(digest);
    }
    (reached, read)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::cache::CacheSettings;
    use crate::config::Settings;

    fn cache(dir: &Path) -> Cache {
        let defaults = Settings::parse("t.toml", "", &std::collections::BTreeMap::new()).unwrap().cache;
        Cache::open(CacheSettings { dir: dir.to_owned(), scrub_rate: 0, ..defaults }).unwrap()
    }

    fn registry() -> Arc<Registry> {
        let settings = Settings::parse("t.toml", "", &std::collections::BTreeMap::new()).unwrap();
        Arc::clone(&settings.registries[0])
    }

    fn layer(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    /// Puts an image with these layers into the cache.
    fn image(cache: &Cache, layers: &[u8]) -> Digest {
        let layers: Vec<_> = layers.iter().map(|n| format!("{{\"digest\":\"{}\"}}", layer(*n))).collect();
        manifest(cache, &format!("{{\"schemaVersion\":2,\"layers\":[{}]}}", layers.join(",")))
    }

    fn manifest(cache: &Cache, text: &str) -> Digest {
        let digest = Digest::sha256_of(text.as_bytes());
        cache.put(&digest, text.to_owned().into());
        digest
    }

    fn key(reference: &str) -> Key {
        Key::of(&registry(), &"library/a".parse().unwrap(), &Reference::Tag(reference.parse().unwrap()))
    }

    async fn settled(pins: &Pins, digest: &Digest, pinned: bool) {
        for _ in 0..1000 {
            if pins.0.cache.is_pinned(digest) == pinned {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{digest} should be pinned: {pinned}");
    }

    #[tokio::test]
    async fn a_pin_keeps_what_its_manifest_names_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir.path().join("cache"));
        let pins = Pins::open(&cache, vec![]);
        let root = image(&cache, &[1, 2]);
        pins.put(key("1"), root).await.unwrap();
        for digest in [root, layer(1), layer(2)] {
            assert!(cache.is_pinned(&digest));
        }
        assert!(!cache.is_pinned(&layer(3)));
        let path = dir.path().join("cache/pins.json");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        cache.pin(HashSet::new());
        let again = Pins::open(&cache, vec![]);
        assert!(cache.is_pinned(&layer(2)));
        assert_eq!(again.remove(&key("2")).await.unwrap(), Unpinned::Absent);
        assert_eq!(again.remove(&key("1")).await.unwrap(), Unpinned::Done);
        assert!(!cache.is_pinned(&layer(2)));
        assert!(Pins::open(&cache, vec![]).list().is_empty());
    }

    #[tokio::test]
    async fn a_tag_that_moves_takes_its_pin_along() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir.path().join("cache"));
        let pins = Pins::open(&cache, vec![]);
        pins.put(key("1"), image(&cache, &[1, 2])).await.unwrap();
        let Key { repository, reference, .. } = key("1");
        let moved = image(&cache, &[2, 3]);
        // Another tag, and another repository, say nothing of it.
        pins.passed(&registry(), &repository, &key("2").reference, &moved);
        pins.passed(&registry(), &"library/b".parse().unwrap(), &reference, &moved);
        assert!(pins.0.tasks.is_empty() && cache.is_pinned(&layer(1)));
        pins.passed(&registry(), &repository, &reference, &moved);
        settled(&pins, &layer(3), true).await;
        assert!(!cache.is_pinned(&layer(1)) && cache.is_pinned(&layer(2)));
        // Nothing new: nothing is done.
        pins.close().await;
        pins.0.tasks.reopen();
        pins.passed(&registry(), &repository, &reference, &moved);
        assert!(pins.0.tasks.is_empty());
    }

    #[tokio::test]
    async fn an_index_keeps_its_children_and_theirs_once_they_are_cached() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir.path().join("cache"));
        let elsewhere = self::cache(&dir.path().join("elsewhere"));
        let pins = Pins::open(&cache, vec![]);
        let (here, late) = (image(&cache, &[1]), image(&elsewhere, &[2]));
        // An index may name a child twice.
        let index = manifest(
            &cache,
            &format!(
                "{{\"manifests\":[{{\"digest\":\"{here}\"}},{{\"digest\":\"{late}\"}},{{\"digest\":\"{here}\"}}]}}"
            ),
        );
        pins.put(key("1"), index).await.unwrap();
        assert!(cache.is_pinned(&layer(1)) && cache.is_pinned(&late) && !cache.is_pinned(&layer(2)));
        image(&cache, &[2]);
        let Key { repository, .. } = key("1");
        pins.passed(&registry(), &repository, &Reference::Digest(late), &late);
        settled(&pins, &layer(2), true).await;
        // What went missing in between is not forgotten.
        cache.remove(&here).await.unwrap();
        image(&cache, &[3]);
        pins.passed(&registry(), &repository, &Reference::Digest(here), &here);
        pins.close().await;
        assert!(cache.is_pinned(&layer(1)));
    }

    #[tokio::test]
    async fn what_the_configuration_pins_only_it_unpins() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir.path().join("cache"));
        let pins = Pins::open(&cache, vec![key("1")]);
        assert_eq!((pins.list().len(), pins.list()[0].root), (1, None));
        let root = image(&cache, &[1]);
        let Key { repository, reference, .. } = key("1");
        pins.passed(&registry(), &repository, &reference, &root);
        settled(&pins, &layer(1), true).await;
        assert_eq!(pins.remove(&key("1")).await.unwrap(), Unpinned::Configured);
        pins.close().await;
        assert_eq!(Pins::open(&cache, vec![key("1")]).list()[0].root, Some(root));
        assert!(Pins::open(&cache, vec![]).list().is_empty());
        assert!(!cache.is_pinned(&layer(1)));
    }

    #[tokio::test]
    async fn a_file_that_is_not_understood_is_put_aside() {
        for text in ["", "{}", "[1]", "{\"format\":2,\"pins\":[]}"] {
            let dir = tempfile::tempdir().unwrap();
            let cache = cache(&dir.path().join("cache"));
            let path = dir.path().join("cache/pins.json");
            std::fs::write(&path, text).unwrap();
            assert!(Pins::open(&cache, vec![]).list().is_empty());
            assert_eq!(std::fs::read_to_string(path.with_extension("json.bad")).unwrap(), text);
        }
    }
}
