//! How blobs and tags were answered, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::freshness::Stale;

/// The counts of one process: blobs that were asked for by GET, by where their
/// bytes came from.
#[derive(Debug, Default)]
pub struct BlobCounts {
    hits: AtomicU64,
    joins: AtomicU64,
    fills: AtomicU64,
    pass_throughs: AtomicU64,
}

/// Where the bytes of a blob came from.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    /// It was cached.
    Hit,
    /// A fill that another request had begun.
    Join,
    /// A fill of its own.
    Fill,
    /// Straight from upstream.
    PassThrough,
}

impl BlobCounts {
    pub(super) fn count(&self, from: From) {
        let count = match from {
            From::Hit => &self.hits,
            From::Join => &self.joins,
            From::Fill => &self.fills,
            From::PassThrough => &self.pass_throughs,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Every count with its name.
    pub fn all(&self) -> [(&'static str, u64); 4] {
        [("hit", &self.hits), ("join", &self.joins), ("fill", &self.fills), ("pass_through", &self.pass_throughs)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

/// The counts of one process: tags that were asked for, by what upstream was
/// asked, and answers that were given without it.
#[derive(Debug, Default)]
pub struct TagCounts {
    cached: AtomicU64,
    heads: AtomicU64,
    gets: AtomicU64,
    refusals: AtomicU64,
    stale: [AtomicU64; Stale::ALL.len()],
}

/// What the answer about a tag took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagFrom {
    /// Nothing: it was known.
    Cache,
    /// A HEAD of upstream.
    Head,
    /// A GET of upstream, which rate limits count.
    Get,
}

impl TagCounts {
    pub(super) fn count(&self, from: TagFrom) {
        let count = match from {
            TagFrom::Cache => &self.cached,
            TagFrom::Head => &self.heads,
            TagFrom::Get => &self.gets,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stale(&self, why: Stale) {
        for (stale, count) in Stale::ALL.into_iter().zip(&self.stale) {
            if stale == why {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tags answered, by what that took.
    pub fn tags(&self) -> [(&'static str, u64); 3] {
        [("cache", &self.cached), ("head", &self.heads), ("get", &self.gets)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// Refusals of upstream that were answered from memory.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Answers that upstream did not confirm, by the reason.
    pub fn stale_answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Stale::ALL.into_iter().zip(&self.stale).map(|(why, count)| (why.as_str(), count.load(Ordering::Relaxed)))
    }
}
