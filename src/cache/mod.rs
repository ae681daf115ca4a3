//! Bytes on disk by digest.

mod settings;

pub use settings::{CacheSettings, Durability, MinFree};
