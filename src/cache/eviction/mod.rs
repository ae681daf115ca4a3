//! Which blobs go when there is no room.
//!
//! A policy sees sizes and uses, never files; it is driven the same way by the
//! cache and by the trace benchmark that chose the default.

mod lru;
mod s3_fifo;

pub use lru::Lru;
pub use s3_fifo::S3Fifo;

use std::time::Duration;

use crate::oci::Digest;

/// Decides the order in which blobs go. Time is passed in: monotonic, since
/// any fixed moment.
pub trait Policy: Send {
    /// A blob has come in.
    fn insert(&mut self, digest: Digest, size: u64, now: Duration);
    /// A blob was used. Unknown ones are ignored.
    fn touch(&mut self, digest: &Digest, now: Duration);
    /// A blob is gone for another reason. Unknown ones are ignored.
    fn remove(&mut self, digest: &Digest);
    /// Takes out the blob that should go next, with its size.
    fn evict(&mut self) -> Option<(Digest, u64)>;
    /// Bytes of all blobs in it.
    fn bytes(&self) -> u64;
    /// Number of blobs in it.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The policies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyKind {
    /// S3-FIFO by bytes, uses within one wave counted once.
    #[default]
    S3Fifo,
    /// Least recently used first.
    Lru,
}

impl PolicyKind {
    /// An empty policy of this kind, for a cache of `capacity` bytes.
    pub fn build(self, capacity: u64) -> Box<dyn Policy> {
        match self {
            PolicyKind::S3Fifo => Box::new(S3Fifo::new(capacity)),
            PolicyKind::Lru => Box::new(Lru::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    proptest! {
        /// Whatever happens, the accounts are right and everything can go.
        #[test]
        fn no_byte_is_lost_or_counted_twice(
            steps in proptest::collection::vec((0_u8..4, 0_u8..20, 1_u64..100), 0..300)
        ) {
            for kind in [PolicyKind::S3Fifo, PolicyKind::Lru] {
                let mut policy = kind.build(500);
                let mut expected = std::collections::HashMap::new();
                for (index, (step, n, size)) in steps.iter().enumerate() {
                    let now = Duration::from_secs(index as u64 * 60);
                    match step {
                        0 => {
                            expected.entry(digest(*n)).or_insert(*size);
                            policy.insert(digest(*n), *size, now);
                        }
                        1 => policy.touch(&digest(*n), now),
                        2 => {
                            expected.remove(&digest(*n));
                            policy.remove(&digest(*n));
                        }
                        _ => {
                            let gone = policy.evict();
                            prop_assert_eq!(gone.is_some(), !expected.is_empty());
                            if let Some((digest, size)) = gone {
                                prop_assert_eq!(expected.remove(&digest), Some(size));
                            }
                        }
                    }
                    prop_assert_eq!(policy.bytes(), expected.values().sum::<u64>());
                    prop_assert_eq!(policy.len(), expected.len());
                }
                while let Some((digest, _)) = policy.evict() {
                    prop_assert!(expected.remove(&digest).is_some());
                }
                prop_assert!(expected.is_empty() && policy.bytes() == 0 && policy.is_empty());
            }
        }
    }
}
