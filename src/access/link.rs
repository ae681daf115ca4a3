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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use redb::{Database, DatabaseError};
use tracing::warn;

use super::link_index::{Change, Stored};
use crate::kernel::FileIdentity;
use crate::oci::{Digest, MediaType, Repository};
use crate::registry::Registry;

/// Links in memory.
const RECENT: u64 = 100_000;
/// How much longer than its time a link to private content counts while upstream
/// says that it is asked too often.
const RATE_LIMITED: Duration = Duration::from_secs(300);

/// That upstream allowed reading, and what it said of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Seconds since the epoch when upstream said so.
    pub(super) seen_at: u64,
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
        self.is_younger_than(registry.links.ttl)
    }

    /// Whether it may still be believed when upstream cannot be asked.
    pub fn may_stand_in_for(&self, registry: &Registry) -> bool {
        let settings = registry.links;
        !settings.ttl.is_zero() && self.is_younger_than(settings.ttl.saturating_add(settings.stale_if_error))
    }

    /// Whether it may still be believed when upstream answers that it was asked
    /// too often. Whoever lost the permission could see to that, so it is not
    /// for long where a credential is what reads the content.
    pub fn outlasts_a_rate_limit(&self, registry: &Registry) -> bool {
        let settings = registry.links;
        let longer = if registry.is_known_upstream() {
            settings.stale_if_error.min(RATE_LIMITED)
        } else {
            settings.stale_if_error
        };
        !settings.ttl.is_zero() && self.is_younger_than(settings.ttl.saturating_add(longer))
    }

    fn is_younger_than(&self, age: Duration) -> bool {
        // A clock that went backwards makes links look new, never old.
        now().saturating_sub(self.seen_at) < age.as_secs()
    }
}

pub(super) type Key = Arc<str>;

/// The name of a link, made once where one is looked for again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkKey(Key);

impl LinkKey {
    /// Of the link of `digest` through (registry, repository).
    pub fn new(registry: &Registry, repository: &Repository, digest: &Digest) -> LinkKey {
        LinkKey(key(registry, repository, digest).into())
    }
}

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// How many links there were.
    pub links: u64,
    /// Why it could not be written yet. It is in force in this process, and is
    /// written as soon as the disk takes it.
    pub unwritten: Option<String>,
}

/// A point in time, as far as revocations go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

/// All links of this process.
pub struct Links {
    recent: moka::sync::Cache<Key, Link>,
    stored: ArcSwapOption<Stored>,
    /// The file they are kept in; held while that, or much of it, changes.
    file: Mutex<Option<FileIdentity>>,
    /// How often links were revoked: what was read before is not kept.
    revoked: AtomicU64,
}

impl Links {
    /// Links kept in memory only.
    pub fn in_memory() -> Links {
        Links {
            recent: moka::sync::Cache::new(RECENT),
            stored: ArcSwapOption::empty(),
            file: Mutex::default(),
            revoked: AtomicU64::new(0),
        }
    }

    /// Links kept in the file `path`. A file that cannot be used is replaced;
    /// where that fails too, links are kept in memory.
    pub fn open(path: &Path) -> Links {
        let links = Links::in_memory();
        links.keep_in(path);
        links
    }

    /// Keeps links in the file `path` from now on, those that are known too;
    /// does nothing where they are kept there already.
    pub fn keep_in(&self, path: &Path) {
        let mut file = self.file();
        if file.is_some() && *file == FileIdentity::at(path).ok() {
            return;
        }
        let stored = match open_or_replace(path) {
            Ok(database) => {
                let path = path.to_owned();
                Stored::start(database, move || Database::create(&path))
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "links are kept in memory only");
                return;
            }
        };
        *file = FileIdentity::at(path).ok();
        let stored = Arc::new(stored);
        let before = self.stored.swap(Some(Arc::clone(&stored)));
        for (key, link) in &self.recent {
            if link != Link::GONE {
                stored.send(Change::Put(Key::clone(&key), link));
            }
            // Also one that has gone since it was read above.
            if self.recent.get(&*key).is_none_or(|link| link == Link::GONE) {
                stored.send(Change::Remove(Key::clone(&key)));
            }
        }
        if let Some(before) = before {
            before.close();
        }
    }

    fn file(&self) -> MutexGuard<'_, Option<FileIdentity>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(link) = self.recent.get(key) {
            return (link != Link::GONE).then_some(link);
        }
        let revoked = self.revoked.load(Ordering::SeqCst);
        let link = self.stored.load().as_ref()?.read(key)?;
        self.recent.insert(key.into(), link.clone());
        if self.revoked.load(Ordering::SeqCst) != revoked {
            self.recent.invalidate(key);
            return None;
        }
        Some(link)
    }

    /// Forgets all links of `registry`, or of one repository of it (its full
    /// upstream name): upstream is asked before anything cached is served
    /// through it again. In force when this returns, also where the disk takes
    /// no writes; then it is written as soon as that is possible. Takes time in
    /// proportion to all links: not for the way of a pull.
    pub fn revoke(&self, registry: &Registry, repository: Option<&Repository>) -> Revocation {
        let prefix = match repository {
            Some(repository) => format!("{} {repository} ", registry.owner()),
            None => registry.owners(),
        };
        let _file = self.file();
        let written = self.stored.load().as_ref().map(|stored| stored.revoke(&prefix));
        // What is read from here on was written after; what was read before is
        // in memory now, or will not be kept.
        self.revoked.fetch_add(1, Ordering::SeqCst);
        let recent: Vec<_> = self.recent.iter().map(|(key, _)| key).filter(|key| key.starts_with(&prefix)).collect();
        for key in &recent {
            self.recent.invalidate(&**key);
        }
        match written {
            Some(Ok(links)) => Revocation { links, unwritten: None },
            Some(Err(failure)) => {
                Revocation { links: failure.links.max(recent.len() as u64), unwritten: Some(failure.reason) }
            }
            None => Revocation { links: recent.len() as u64, unwritten: None },
        }
    }

    /// Shows every link to `visit`, as its [owner](Registry::owner), repository,
    /// digest and link; also those that [hold](Link::holds_for) no longer.
    /// Takes time in proportion to their number: not for the way of a pull.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &str, &Digest, &Link)) {
        let mut show = |key: &str, link: &Link| {
            if let Some((owner, repository, digest)) = parts(key) {
                visit(owner, repository, &digest, link);
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
        if let Some(stored) = &*self.stored.load()
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
        match &*self.stored.load() {
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
        let link = Link { seen_at: now(), media_type: media_type.cloned(), size };
        self.write(key(registry, repository, digest).into(), link);
    }

    /// Upstream told another size than the content has; what it allowed stands.
    pub fn correct_size(&self, registry: &Registry, repository: &Repository, digest: &Digest, size: u64) {
        if let Some(link) = self.last(registry, repository, digest) {
            self.write(key(registry, repository, digest).into(), Link { size: Some(size), ..link });
        }
    }

    fn write(&self, key: Key, link: Link) {
        if let Some(stored) = &*self.stored.load() {
            stored.send(Change::Put(Arc::clone(&key), link.clone()));
        }
        self.recent.insert(key, link);
    }

    /// What has been revoked up to now; to be taken before upstream is asked.
    pub fn generation(&self) -> Generation {
        Generation(self.revoked.load(Ordering::SeqCst))
    }

    /// As [`put`](Links::put), unless links were revoked since `asked`: what was
    /// answered to a question of before is worth nothing.
    pub fn put_since(
        &self,
        asked: Generation,
        (registry, repository, digest): (&Registry, &Repository, &Digest),
        media_type: Option<&MediaType>,
        size: Option<u64>,
    ) {
        if self.generation() != asked {
            return;
        }
        self.put(registry, repository, digest, media_type, size);
        // Revoked in this very moment.
        if self.generation() != asked {
            self.remove(registry, repository, digest);
        }
    }

    /// Forgets a link: upstream is asked again.
    pub fn remove(&self, registry: &Registry, repository: &Repository, digest: &Digest) {
        let key: Key = key(registry, repository, digest).into();
        // Until it is gone from disk too, it is not to be found there.
        self.recent.insert(Key::clone(&key), Link::GONE);
        if let Some(stored) = &*self.stored.load() {
            stored.send(Change::Remove(key));
        }
    }

    /// Writes what is not written yet.
    pub fn close(&self) {
        if let Some(stored) = &*self.stored.load() {
            stored.close();
        }
    }
}

fn open_or_replace(path: &Path) -> Result<Database, DatabaseError> {
    Database::create(path).or_else(|error| {
        warn!(path = %path.display(), %error, "the index of links cannot be used, starting a new one");
        // A missing file is as good as a removed one.
        let _ = std::fs::remove_file(path);
        Database::create(path)
    })
}

/// No part can contain a blank, so no two keys run into each other.
fn key(registry: &Registry, repository: &Repository, digest: &Digest) -> String {
    let mut key = String::with_capacity(256);
    for part in [registry.owner(), " ", repository.as_str(), " "] {
        key.push_str(part);
    }
    // Writing to a string does not fail.
    let _ = write!(key, "{digest}");
    key
}

/// The parts that [`key`] was made of.
fn parts(key: &str) -> Option<(&str, &str, Digest)> {
    let mut parts = key.split(' ');
    let (owner, repository, digest) = (parts.next()?, parts.next()?, parts.next()?);
    Some((owner, repository, digest.parse().ok()?))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
