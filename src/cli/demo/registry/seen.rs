//! What the sample registry saw: the figures every claim of the tour is
//! checked against.

use std::collections::BTreeMap;
use std::ops::Sub;
use std::sync::{Mutex, PoisonError};

use crate::oci::Digest;

/// Requests and bytes, since the registry started or between two looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Tokens that were given.
    pub(crate) tokens: u64,
    /// Requests that were refused with 401: no credential, a wrong one, or no
    /// token that fits.
    pub(crate) refused: u64,
    /// Manifests that were asked for with a token.
    pub(crate) manifests: u64,
    /// Questions with a token whether a blob may be read (HEAD).
    pub(crate) checks: u64,
    /// Blobs that were asked for with a token (GET), each by its own count.
    pub(crate) blobs: BTreeMap<Digest, u64>,
    /// Requests at the redirect's target that carried a credential.
    pub(crate) leaks: u64,
    /// Bytes of manifests and blobs that were sent.
    pub(crate) bytes: u64,
}

impl Seen {
    /// Requests for blobs in all.
    pub(crate) fn blob_requests(&self) -> u64 {
        self.blobs.values().sum()
    }
}

impl Sub<&Seen> for Seen {
    type Output = Seen;

    fn sub(self, earlier: &Seen) -> Seen {
        let before = |digest| earlier.blobs.get(digest).copied().unwrap_or_default();
        let blobs = self.blobs.iter().map(|(digest, count)| (*digest, count - before(digest)));
        Seen {
            tokens: self.tokens - earlier.tokens,
            refused: self.refused - earlier.refused,
            manifests: self.manifests - earlier.manifests,
            checks: self.checks - earlier.checks,
            blobs: blobs.filter(|(_, count)| *count > 0).collect(),
            leaks: self.leaks - earlier.leaks,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// Where it is counted.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<Seen>);

impl Counters {
    pub(super) fn count(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn look(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
