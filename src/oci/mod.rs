//! The vocabulary of the OCI specifications, pure.
//!
//! Text that a stranger sent becomes one of these types at the edge or is
//! refused there; paths, URLs and cache keys are built from nothing else.
//! Nothing here does I/O, knows HTTP connections, or allocates in proportion
//! to anything but its input.

mod accept;
mod digest;
mod error;
mod manifest;
mod media_type;
mod range;
mod reference;
mod repository;

pub use accept::Accept;
pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use error::ErrorCode;
pub use manifest::{ManifestError, Mentions, check_manifest};
pub use media_type::MediaType;
pub use range::{ByteRange, RangeSpec, TooManyRanges, parse_ranges, resolve_ranges};
pub use reference::{InvalidTag, Reference, Tag};
pub use repository::{InvalidRepository, Repository};
