//! The kernel interface: mappings, splice, positioned I/O that never waits.
//!
//! At the bottom of the tree because both the cache (which owns files) and the
//! server (which owns sockets) stand on it. Everything it exports is safe to
//! call with any argument, but for [`Mapping::new`]: whether a file stays as it
//! is, only its owner can promise. That promise, in `cache::content`, is the one
//! `unsafe` outside of here.

mod file;
mod identity;
mod mapping;
mod memory;
mod pipe;
// It implements the allocator, of which everything is `unsafe`.
#[allow(unsafe_code)]
mod wiping;

pub use file::{
    Room, allocate, data_prefix, publish, raise_file_limit, read_at, room, sync_data, try_lock, try_read_at,
};
pub use identity::FileIdentity;
pub use mapping::{Mapping, Mappings, Spare, Windows};
pub use memory::{keep_files_private, keep_memory_private};
pub use pipe::{Pipe, PipePool};
pub use wiping::WipingAllocator;
