//! What one client may take of the way to upstream, so that one with many
//! images leaves room for the others: how many fills it may have begun, and
//! how many of a registry's connections they may have. To follow what others
//! began is free.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::upstream;

/// The fills of each client.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    held: Mutex<HashMap<Arc<str>, Held>>,
    /// Told whenever a share is given back.
    freed: Notify,
}

/// How long a client waits for one of its own fills to end: containerd gives up
/// on an answer after 30 s.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Held {
    fills: usize,
    /// By registry.
    connections: HashMap<String, upstream::Share>,
}

/// One fill of one client, for as long as it runs.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    client: Arc<str>,
    connections: upstream::Share,
}

impl Shares {
    pub(super) fn new(most: usize) -> Arc<Shares> {
        Arc::new(Shares { most, held: Mutex::default(), freed: Notify::new() })
    }

    /// As [`take`](Shares::take), when it is the client's turn: one address may
    /// be a whole cluster. `None` when none of its fills ends in time.
    pub(super) async fn wait(self: &Arc<Self>, client: &str, registry: &str, connections: usize) -> Option<Share> {
        let turn = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                // Before it is looked: what is given back in between counts.
                freed.as_mut().enable();
                if let Some(share) = self.take(client, registry, connections) {
                    return share;
                }
                freed.await;
            }
        };
        tokio::time::timeout(PATIENCE, turn).await.ok()
    }

    /// One more for `client`, unless it has all it may have. It goes to
    /// `registry`, which has so many connections.
    pub(super) fn take(self: &Arc<Self>, client: &str, registry: &str, connections: usize) -> Option<Share> {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let client: Arc<str> = match all.get_key_value(client) {
            Some((_, held)) if held.fills >= self.most => return None,
            Some((client, _)) => Arc::clone(client),
            None => Arc::from(client),
        };
        let held = all.entry(Arc::clone(&client)).or_default();
        held.fills += 1;
        let own = held.connections.entry(registry.to_owned());
        // A quarter is always left to others.
        let own = own.or_insert_with(|| Arc::new(Semaphore::new((connections - connections / 4).max(1))));
        Some(Share { shares: Arc::clone(self), client, connections: Arc::clone(own) })
    }
}

impl Share {
    /// What the client may have of the registry's connections.
    pub(super) fn connections(&self) -> &upstream::Share {
        &self.connections
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&self.client) {
            held.fills -= 1;
            if held.fills == 0 {
                all.remove(&self.client);
            }
        }
        drop(all);
        self.shares.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_share_and_what_ends_is_given_back() {
        let shares = Shares::new(2);
        let mine: Vec<_> = (0..3).map(|_| shares.take("a", "r", 16)).collect();
        assert_eq!(mine.iter().flatten().count(), 2);
        assert!(shares.take("b", "r", 16).is_some(), "another has its own");
        drop(mine);
        assert!(shares.take("a", "r", 16).is_some());
        assert!(shares.held.lock().unwrap().is_empty(), "nobody is remembered for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_its_share_waits_until_something_of_it_ends_but_not_for_ever() {
        let shares = Shares::new(1);
        let first = shares.take("a", "r", 16);
        let begun = tokio::time::Instant::now();
        assert!(shares.wait("a", "r", 16).await.is_none());
        assert_eq!(begun.elapsed(), PATIENCE);
        let waiting = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.wait("a", "r", 16).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[test]
    fn one_client_never_has_all_connections_where_there_are_some() {
        let shares = Shares::new(10);
        for (connections, own) in [(16, 12), (4, 3), (3, 3), (1, 1), (0, 1)] {
            let share = shares.take("a", "r", connections).unwrap();
            assert_eq!(share.connections.available_permits(), own, "{connections}");
        }
    }
}
