//! Content that came wrong while several connections brought it: it is fetched
//! once more by one.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::oci::Digest;

/// So many are remembered, the latest.
const MOST: usize = 256;

/// The latest digests that came wrong.
#[derive(Default)]
pub(in crate::cache) struct Spoiled(Mutex<VecDeque<Digest>>);

impl Spoiled {
    pub(in crate::cache) fn note(&self, digest: Digest) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&digest) {
            all.truncate(MOST - 1);
            all.push_front(digest);
        }
    }

    pub(in crate::cache) fn forget(&self, digest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other != digest);
    }

    /// Whether one connection has to do for `digest`.
    pub(in crate::cache) fn contains(&self, digest: &Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let (spoiled, digest) = (Spoiled::default(), |n: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            Digest::Sha256(bytes)
        });
        for n in 0..300 {
            spoiled.note(digest(n));
        }
        assert!(spoiled.contains(&digest(299)) && spoiled.contains(&digest(44)));
        assert!(!spoiled.contains(&digest(43)));
    }
}
