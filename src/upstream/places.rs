//! Places: how many transfers a registry is asked for at a time, and whose
//! turn it is.
//!
//! * Nobody waits for a place while holding one. A transfer that has one and
//!   needs another kind gives it back first.
//! * A helper, which only makes a running transfer faster, takes a place that
//!   is free *now* or none. Whoever waits comes before the next helper, because
//!   a place that is given back goes to the longest waiter.
//! * Small content never waits behind large content: it has places of its own,
//!   beside the registry's `max_connections`, as manifests have.
//! * How many transfers upstream bears is learnt: down at once when one is
//!   refused while others run, up slowly while none is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

/// Content up to this size is small.
pub(super) const SMALL: u64 = 1 << 20;
/// Small transfers at a time: a quarter of the large ones, within these bounds.
const SMALL_PLACES: (usize, usize) = (1, 8);
/// After so long without a refusal one more transfer is tried.
const GROW_AFTER: Duration = Duration::from_secs(10);

/// The places of one registry.
#[derive(Debug)]
pub(super) struct Places {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    most: usize,
    learnt: Mutex<Learnt>,
}

#[derive(Debug)]
struct Learnt {
    /// Places there are now.
    limit: usize,
    /// Places that are still held and go when they are given back.
    owed: usize,
    /// Large transfers that upstream has begun to send.
    delivering: usize,
    changed: Instant,
}

/// The places that one client has of those of a registry, so that others have
/// some too.
pub type Share = Arc<Semaphore>;

/// One place, held for as long as the transfer runs.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` for small content.
    large: Option<Large>,
    _small: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Large {
    places: Arc<Places>,
    permit: Option<OwnedSemaphorePermit>,
    _share: Option<OwnedSemaphorePermit>,
    delivers: bool,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Places> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Places {
            large: Arc::new(Semaphore::new(most)),
            small: Arc::new(Semaphore::new((most / 4).clamp(SMALL_PLACES.0, SMALL_PLACES.1))),
            most,
            learnt: Mutex::new(Learnt { limit: most, owed: 0, delivering: 0, changed: Instant::now() }),
        })
    }

    /// A place to begin with, for content that is as large as `size` says. What
    /// may be small does not wait for a large place.
    pub(super) async fn begin(self: &Arc<Self>, size: Option<u64>, share: Option<&Share>) -> Place {
        if size.is_some_and(|size| size > SMALL) {
            return self.large(share).await;
        }
        if size.is_none()
            && let Some(place) = self.large_if_free(share)
        {
            return place;
        }
        Place { large: None, _small: Arc::clone(&self.small).acquire_owned().await.ok() }
    }

    /// A place for large content, in turn.
    pub(super) async fn large(self: &Arc<Self>, share: Option<&Share>) -> Place {
        let share = match share {
            Some(share) => Arc::clone(share).acquire_owned().await.ok(),
            None => None,
        };
        let permit = Arc::clone(&self.large).acquire_owned().await.ok();
        self.place(permit, share)
    }

    /// A place for large content, if one is free now and nobody waits for it.
    pub(super) fn large_if_free(self: &Arc<Self>, share: Option<&Share>) -> Option<Place> {
        let closed_is_free = |got: Result<OwnedSemaphorePermit, TryAcquireError>| match got {
            Ok(permit) => Some(Some(permit)),
            Err(TryAcquireError::Closed) => Some(None),
            Err(TryAcquireError::NoPermits) => None,
        };
        let share = match share {
            Some(share) => closed_is_free(Arc::clone(share).try_acquire_owned())?,
            None => None,
        };
        let permit = closed_is_free(Arc::clone(&self.large).try_acquire_owned())?;
        Some(self.place(permit, share))
    }

    fn place(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>, share: Option<OwnedSemaphorePermit>) -> Place {
        let large = Large { places: Arc::clone(self), permit, _share: share, delivers: false };
        Place { large: Some(large), _small: None }
    }

    /// Upstream would not serve another transfer. Says something about how many
    /// it bears only while it serves some.
    pub(super) fn refused(&self) {
        let mut learnt = self.learnt();
        learnt.changed = Instant::now();
        let bears = learnt.delivering;
        if bears > 0 && bears < learnt.limit {
            let fewer = learnt.limit - bears;
            learnt.owed += fewer - self.large.forget_permits(fewer);
            learnt.limit = bears;
        }
    }

    /// How many large transfers upstream is asked for at a time now.
    #[cfg(test)]
    fn limit(&self) -> usize {
        self.learnt().limit
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A large transfer has begun to come.
    fn delivers(&self) {
        let mut learnt = self.learnt();
        learnt.delivering += 1;
        if learnt.limit < self.most && learnt.changed.elapsed() >= GROW_AFTER {
            learnt.limit += 1;
            learnt.changed = Instant::now();
            match learnt.owed.checked_sub(1) {
                Some(owed) => learnt.owed = owed,
                None => self.large.add_permits(1),
            }
        }
    }
}

impl Place {
    pub(super) fn is_large(&self) -> bool {
        self.large.is_some()
    }

    /// Upstream has begun to send.
    pub(super) fn delivers(&mut self) {
        if let Some(large) = &mut self.large
            && !std::mem::replace(&mut large.delivers, true)
        {
            large.places.delivers();
        }
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let mut learnt = self.places.learnt();
        if self.delivers {
            learnt.delivering -= 1;
        }
        if learnt.owed > 0
            && let Some(permit) = self.permit.take()
        {
            learnt.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const LARGE: Option<u64> = Some(SMALL + 1);

    #[tokio::test]
    async fn a_helper_takes_only_what_is_free_and_whoever_waits_comes_first() {
        let places = Places::new(2);
        let first = places.begin(LARGE, None).await;
        let helper = places.large_if_free(None).expect("one is free");
        assert!(places.large_if_free(None).is_none());
        let mut waiting = Box::pin(places.begin(LARGE, None));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(helper);
        assert!(places.large_if_free(None).is_none(), "it belongs to the one who waits");
        assert!(waiting.await.is_large());
        drop(first);
        assert!(places.large_if_free(None).is_some());
    }

    #[tokio::test]
    async fn small_content_never_waits_behind_large_content() {
        for most in [1, 4, 16] {
            let places = Places::new(most);
            let mut held = Vec::new();
            while let Some(place) = places.large_if_free(None) {
                held.push(place);
            }
            assert_eq!(held.len(), most);
            let small = places.begin(Some(600), None).now_or_never().expect("a place of its own");
            assert!(!small.is_large());
            drop(small);
            let unknown = places.begin(None, None).now_or_never().expect("what may be small");
            assert!(!unknown.is_large());
        }
    }

    #[tokio::test]
    async fn a_client_has_no_more_than_its_share() {
        let (places, share) = (Places::new(4), Arc::new(Semaphore::new(3)));
        let held: Vec<_> = std::iter::from_fn(|| places.large_if_free(Some(&share))).collect();
        assert_eq!(held.len(), 3);
        assert!(places.large_if_free(None).is_some(), "the fourth is another's");
        assert!(places.begin(None, Some(&share)).now_or_never().is_some(), "small content does not count");
    }

    #[tokio::test(start_paused = true)]
    async fn what_upstream_bears_is_learnt_at_once_and_unlearnt_slowly() {
        let places = Places::new(8);
        places.refused();
        assert_eq!(places.limit(), 8, "a refusal while nothing runs says nothing of how many it bears");
        let mut held: Vec<_> = std::iter::from_fn(|| places.large_if_free(None)).collect();
        for place in &mut held[..3] {
            place.delivers();
        }
        places.refused();
        assert_eq!(places.limit(), 3);
        drop(held.split_off(3));
        assert!(places.large_if_free(None).is_none(), "five are gone");
        drop(held);
        let held: Vec<_> = std::iter::from_fn(|| places.large_if_free(None)).collect();
        assert_eq!(held.len(), 3);
        drop(held);
        for more in 4..=9 {
            tokio::time::advance(GROW_AFTER).await;
            let mut place = places.large_if_free(None).unwrap();
            place.delivers();
            drop(place);
            assert_eq!(places.limit(), more.min(8));
        }
        let held: Vec<_> = std::iter::from_fn(|| places.large_if_free(None)).collect();
        assert_eq!(held.len(), 8);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_takes_nothing_with_it() {
        let places = Places::new(1);
        let held = places.begin(LARGE, None).await;
        let mut waiting = Box::pin(places.begin(LARGE, None));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        drop(waiting);
        assert!(places.large_if_free(None).is_some());
    }
}
