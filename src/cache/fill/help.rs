//! Whether more connections than one are worth trying for a fill.

use std::time::{Duration, Instant};

/// Helpers are tried again after this, twice as long each time they fail.
const REST: Duration = Duration::from_millis(250);
/// How often in a row they may fail before the rest is left to the head.
const MAX_FAILURES: u32 = 4;

/// Whether helpers are worth trying.
#[derive(Debug, Default)]
pub(super) struct Help {
    /// The source gives the whole whatever is asked.
    pub(super) never: bool,
    failures: u32,
    rest_until: Option<Instant>,
}

impl Help {
    /// None at all if `never`.
    pub(super) fn unless(never: bool) -> Help {
        Help { never, ..Help::default() }
    }

    pub(super) fn may_be_tried(&self, now: Instant) -> bool {
        !self.never && self.failures < MAX_FAILURES && self.rest_until.is_none_or(|until| now >= until)
    }

    /// Several that fail together have failed once.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.rest_until.is_none_or(|until| now >= until) {
            self.rest_until = Some(now + REST * (1 << self.failures.min(8)));
            self.failures += 1;
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}
