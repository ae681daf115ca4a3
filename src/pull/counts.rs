//! How blobs were answered, counted.

use std::sync::atomic::{AtomicU64, Ordering};

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
