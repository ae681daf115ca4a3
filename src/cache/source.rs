//! Where the bytes of a fill come from.
//!
//! The cache knows no HTTP: it asks for a stream at an offset and is told, on
//! failure, whether asking again can help. An upstream registry is a source;
//! so is a test, and so may be another tier.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use sha2::{Digest as _, Sha256};

/// Bytes as they arrive.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, SourceError>> + Send>>;

/// A stream at an offset.
pub struct Opened {
    /// Length of the whole content, where the source says it.
    pub total: Option<u64>,
    /// Offset of the stream's first byte: the one asked for, or an earlier
    /// one where the source cannot start in the middle.
    pub start: u64,
    /// The bytes from there to the end, or to the bound that was asked for.
    pub body: ByteStream,
}

/// What to do when the source is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Wait until it is one's turn.
    Wait,
    /// Give up at once: the stream would only make a transfer faster that runs
    /// anyhow.
    IfFree,
}

/// Content that can be read from an offset, any number of times.
pub trait Source: Send + Sync + 'static {
    /// Opens the content at `offset`, up to its end or to before `until`. A
    /// source that cannot start in the middle gives the whole. One that serves
    /// so many at a time has whoever comes wait for its turn, or says
    /// [`Retry::NotNow`].
    fn open(
        &self,
        offset: u64,
        until: Option<u64>,
        turn: Turn,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, SourceError>> + Send + '_>>;

    /// Who may go on with what came of it before it was whole.
    fn owner(&self) -> Owner {
        Owner::default()
    }

    /// Bytes that its owner's fills may take of the cache together.
    fn quota(&self) -> Option<u64> {
        None
    }

    /// The whole has come, `len` bytes, and is right. Told before anybody else
    /// learns of it.
    fn proved(&self, len: u64) {
        let _ = len;
    }
}

/// Bytes of an [`Owner`].
pub(super) const OWNER: usize = 8;

/// Stands for whoever may have the content of a source before it is whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Owner(pub(super) [u8; OWNER]);

impl Owner {
    /// The one that `name` stands for.
    pub fn of(name: &str) -> Owner {
        let mut owner = Owner::default();
        let hash = Sha256::digest(name.as_bytes());
        owner.0.copy_from_slice(hash.get(..OWNER).unwrap_or(&[0; OWNER]));
        owner
    }
}

/// Why a source failed, and whether another try can succeed.
#[derive(Clone)]
pub struct SourceError {
    cause: Arc<dyn std::error::Error + Send + Sync>,
    retry: Retry,
}

/// What a failed transfer may try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The answer will be the same.
    Never,
    /// The content ends before the offset: what is kept of it is something else.
    FromStart,
    /// The source is busy, and [`Turn::IfFree`] was asked for.
    NotNow,
    /// The trouble may pass; at the earliest after this.
    After(Duration),
}

impl SourceError {
    /// A failure for `cause`.
    pub fn new(cause: impl std::error::Error + Send + Sync + 'static, retry: Retry) -> SourceError {
        SourceError { cause: Arc::new(cause), retry }
    }

    /// What another try may do.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// The cause, where it is of type `E`.
    pub fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.cause.downcast_ref()
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl fmt::Debug for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?})", self.cause, self.retry)
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}
