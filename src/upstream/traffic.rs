//! What was asked of one upstream and what came back, counted; what it says of
//! its limits, and which of its origins are in trouble.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::breaker::Breaker;
use super::egress::Purpose;
use super::limits::{PullLimit, RateLimits};
use crate::registry::{Origin, Reserve};

/// The counts of one upstream.
#[derive(Debug, Default)]
pub struct Traffic {
    /// 1xx to 5xx, then no answer at all.
    answers: [AtomicU64; 6],
    tokens: AtomicU64,
    bytes: AtomicU64,
    pub(super) limits: RateLimits,
    pub(super) breakers: Vec<Arc<Breaker>>,
}

/// How the classes are called, in the order of [`Traffic::answers`].
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

impl Traffic {
    /// Of an upstream whose origins are watched by `breakers`.
    pub(super) fn watching(breakers: Vec<Arc<Breaker>>) -> Traffic {
        Traffic { breakers, ..Traffic::default() }
    }

    /// What watches `origin`, if it is one that is watched.
    pub(super) fn breaker(&self, origin: &Origin) -> Option<&Arc<Breaker>> {
        self.breakers.iter().find(|breaker| breaker.origin() == origin)
    }

    /// A request has been answered with `status`, or with nothing.
    pub(super) fn answered(&self, purpose: Purpose, status: Option<u16>) {
        if matches!(purpose, Purpose::Token | Purpose::SignIn) {
            self.tokens.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let class = status.map_or(5, |status| usize::from(status / 100).clamp(1, 5) - 1);
        if let Some(count) = self.answers.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So much of a body has come.
    pub(super) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Requests to the registry and to where it redirected, by the class of the
    /// status that answered them; `none` where nothing did.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.answers.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Requests to token services.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// The registry's own origins and token services, and whether each is left
    /// alone because it failed again and again.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Origin, bool)> {
        self.breakers.iter().map(|breaker| (breaker.origin(), breaker.is_open()))
    }

    /// What upstream last said of its pull limit, if it has one.
    pub fn pull_limit(&self) -> Option<PullLimit> {
        self.limits.pulls()
    }

    /// Whether the pulls that are left should be kept for what cannot be had
    /// otherwise: no more than `reserve` of them are left.
    pub fn should_spare(&self, reserve: Reserve) -> bool {
        self.limits.should_spare(reserve)
    }

    /// How often upstream answered that the pull limit is reached, and that any
    /// other limit is.
    pub fn limited(&self) -> (u64, u64) {
        self.limits.counts()
    }

    /// Bytes of manifests, lists and blobs.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class_and_tokens_apart() {
        let traffic = Traffic::default();
        for status in [100, 200, 206, 307, 404, 599, 700] {
            traffic.answered(Purpose::Registry, Some(status));
        }
        traffic.answered(Purpose::Redirect, None);
        traffic.answered(Purpose::Token, Some(200));
        traffic.answered(Purpose::Token, None);
        let counts: Vec<u64> = traffic.answers().map(|(_, count)| count).collect();
        assert_eq!((counts, traffic.tokens()), (vec![1, 2, 1, 1, 2, 1], 2));
    }
}
