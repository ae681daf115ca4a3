//! What followers see of a fill.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::content::Content;
use super::extents::Extents;
use super::source::SourceError;

/// How far a fill has come. Followers may read what is [`available`] and no
/// further; the last bytes become available only when the digest has matched.
///
/// [`available`]: Progress::available
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// The growing content, once the source has begun to answer.
    pub(super) started: Option<Started>,
    /// What is in the file.
    pub(super) written: Extents,
    /// Where it stands.
    pub(super) state: State,
}

/// What is known when the source has begun to answer.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) content: Content,
    pub(super) total: Option<u64>,
}

/// Where a fill stands.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Bytes are still expected, or not verified yet.
    Running,
    /// All bytes are there and hash to the digest.
    Verified,
    /// It ended without the content.
    Failed(FillError),
}

/// Why a fill ended without its content.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FillError {
    /// The source failed for good.
    #[error("{0}")]
    Source(SourceError),
    /// The disk failed; the content itself may be fine.
    #[error("the cache cannot be written: {0}")]
    Disk(Arc<io::Error>),
    /// The source sent something else.
    #[error("the content does not have the digest it was asked by")]
    WrongDigest,
    /// The source sent more than is accepted, or than it announced.
    #[error("the content is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// It is more than the cache, or the disk, can hold.
    #[error("the content is too large to be kept")]
    DoesNotFit,
    /// Nobody waits for it any more.
    #[error("the transfer was given up because nobody waited for it")]
    Abandoned,
    /// The process is ending, or the task died.
    #[error("the transfer was stopped")]
    Stopped,
}

/// Bytes at the end that nobody gets before the digest has matched. A small
/// blob is held back whole, so that a wrong one costs its clients nothing.
pub const HELD_BACK: u64 = 64 * 1024;

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { started: None, written: Extents::default(), state: State::Running }
    }

    /// How far the bytes from `position` on may be handed out.
    pub(super) fn available(&self, position: u64) -> u64 {
        let reach = self.written.reach(position);
        match self.state {
            State::Verified => reach,
            State::Running | State::Failed(_) => {
                Progress::releasable(reach, self.started.as_ref().and_then(|started| started.total))
            }
        }
    }

    /// What may be handed out of `written` unverified bytes.
    fn releasable(written: u64, total: Option<u64>) -> u64 {
        written.min(total.unwrap_or(written).saturating_sub(HELD_BACK))
    }
}

/// Tells followers of news; `update` says whether there were any.
pub(super) fn publish(sender: &watch::Sender<Progress>, update: impl FnOnce(&mut Progress)) {
    sender.send_modify(update);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_end_is_never_released_unverified(written in 0_u64..1 << 20, total in 1_u64..1 << 20) {
            let released = Progress::releasable(written.min(total), Some(total));
            prop_assert!(released < total && released <= written);
            prop_assert!(total - released >= HELD_BACK.min(total));
        }
    }
}
