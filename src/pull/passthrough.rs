//! A blob straight from upstream to one client, when the cache cannot take it.
//!
//! Slower than the cache, never less right: the bytes are hashed on their way,
//! and the end is held back until the digest has matched.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::error::{Error, Result};
use crate::oci::{Digest, Hasher};
use crate::upstream::BlobAnswer;

/// The end that waits for the digest; as much as a fill holds back.
const HELD_BACK: u64 = 64 * 1024;
/// Time without a byte after which the client is cut.
const IDLE: Duration = Duration::from_secs(30);

/// One verified stream.
pub struct Passthrough {
    answer: BlobAnswer,
    digest: Digest,
    hasher: Option<Hasher>,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    received: u64,
}

impl Passthrough {
    /// Streams `answer`, which has to begin at the first byte.
    pub(super) fn new(answer: BlobAnswer, digest: Digest) -> Passthrough {
        let hasher = Some(Hasher::new(digest.algorithm()));
        Passthrough { answer, digest, hasher, held: VecDeque::new(), held_bytes: 0, received: 0 }
    }

    /// Length of the whole, where upstream says it.
    pub(super) fn total(&self) -> Option<u64> {
        self.answer.total
    }

    /// The next bytes; `None` behind the last, when the digest has matched.
    ///
    /// # Errors
    /// When upstream breaks off, or what it sent is not the blob.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            if self.hasher.is_none() {
                return self.held.pop_front().map(Ok);
            }
            if let Some(first) = self.held.front()
                && self.held_bytes - first.len() as u64 >= HELD_BACK
            {
                self.held_bytes -= first.len() as u64;
                return self.held.pop_front().map(Ok);
            }
            match tokio::time::timeout(IDLE, self.answer.body.next()).await {
                Err(_) => return Some(Err(Error::Timeout("the transfer stalled".into()))),
                Ok(Some(Err(error))) => return Some(Err(error.into())),
                Ok(Some(Ok(frame))) => {
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&frame);
                    }
                    self.received += frame.len() as u64;
                    self.held_bytes += frame.len() as u64;
                    self.held.push_back(frame);
                }
                Ok(None) => {
                    let whole = self.answer.total.is_none_or(|total| total == self.received);
                    let right = self.hasher.take().is_some_and(|hasher| hasher.finish() == self.digest);
                    if !whole || !right {
                        self.held.clear();
                        return Some(Err(Error::BadUpstream("the content does not have its digest".into())));
                    }
                }
            }
        }
    }
}
