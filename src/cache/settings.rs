//! What the cache needs to know before it opens its directory.

use std::path::PathBuf;
use std::time::Duration;

use super::eviction::PolicyKind;

/// How blobs are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Synced to disk before a blob appears under its name.
    #[default]
    Sync,
    /// Left to the kernel; verified on first use after an unclean stop.
    Lazy,
}

/// Room that must stay free on the file system.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MinFree {
    /// So many bytes.
    Bytes(u64),
    /// So large a part of it, 0 to 100.
    Percent(f64),
}

/// Where and how much to cache.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// The directory; made when absent.
    pub dir: PathBuf,
    /// Bytes of blobs to keep at the most.
    pub max_size: u64,
    /// Room to leave for others.
    pub min_free: MinFree,
    /// What goes first when there is no room.
    pub policy: PolicyKind,
    /// Bytes a second at which stored blobs are hashed again; 0: never.
    pub scrub_rate: u64,
    /// Durability of published blobs.
    pub durability: Durability,
    /// Fills at a time.
    pub max_fills: usize,
    /// Fills at a time that one client has begun.
    pub max_fills_per_client: usize,
    /// Connections that one fill may have at the most; 1: none are added.
    pub max_segments: usize,
    /// How a blob is shared out among them.
    pub segments: Segments,
    /// Largest blob that is accepted, in bytes.
    pub max_blob_size: u64,
    /// How long a transfer that breaks is tried again while too little comes.
    pub outage_patience: Duration,
    /// Time without a byte after which a transfer is resumed.
    pub idle_timeout: Duration,
}

/// How a blob is shared out among several connections, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Segments {
    /// Blobs below this size are not worth a second connection, unless somebody
    /// waits for their end.
    pub split_at: u64,
    /// What a helper takes at a time.
    pub segment: u64,
    /// Segments begin at multiples of this.
    pub grain: u64,
}

impl Default for Segments {
    fn default() -> Segments {
        Segments { split_at: 32 << 20, segment: 8 << 20, grain: 1 << 20 }
    }
}
