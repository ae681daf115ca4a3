//! Bytes on disk by digest: found, filled, followed.
//!
//! The cache knows digests only. Who may read one is decided above it; where
//! its bytes come from is a [`Source`]. What it guarantees:
//!
//! * a file under `blobs/` is complete, hashed to its name and synced before
//!   it appeared there;
//! * nobody is handed the last bytes of content that has not been verified;
//! * one digest is filled once at a time, whoever comes and goes.

mod content;
pub mod eviction;
mod extents;
mod fill;
mod inventory;
mod keeper;
mod layout;
mod progress;
mod reader;
mod settings;
mod source;
mod store;
mod sums;

pub use content::{Blob, Content};
pub use inventory::Stock;
pub use keeper::{CacheCounts, Verdict};
pub use layout::LayoutError;
pub use progress::{FillError, HELD_BACK};
pub use reader::{Method, ReadError, Reader};
pub use settings::{CacheSettings, Durability, MinFree, Segments};
pub use source::{ByteStream, Opened, Owner, Retry, Source, SourceError, Turn};
pub use store::{Cache, Entry, Follower};

#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
mod tests;
