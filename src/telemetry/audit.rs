//! The audit trail: who logged in, who was refused, who changed what.
//!
//! Each event is one log line with the target `audit`; `docs/audit.md` lists
//! them. No line holds a secret, and none holds text that a stranger chose,
//! except names that were parsed. What a stranger causes is written once a
//! minute for each cause and bounded for each address, with the number of
//! those left out.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The target of every line of the audit trail.
pub(super) const TARGET: &str = "audit";

/// The same event is written once in this time.
const EVERY: Duration = Duration::from_secs(60);
/// Lines for one address in that time.
const EACH: u64 = 30;
/// Lines for all of them in that time.
const ALL: u64 = 1000;
/// A client that was seen at an address is not told of again for so long.
const SEEN_FOR: Duration = Duration::from_secs(24 * 3600);
const REMEMBERED: u64 = 20_000;

/// One thing that happened.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub struct Event<'a> {
    /// What: a name of `docs/audit.md`.
    pub event: &'static str,
    /// How it ended.
    pub outcome: &'static str,
    /// Which client, or which registry's credential.
    pub principal: Option<&'a str>,
    /// From where.
    pub peer: Option<IpAddr>,
    /// The registry it is about.
    pub registry: Option<&'a str>,
    /// The repository it is about.
    pub repository: Option<&'a str>,
    /// Who did it, where that is somebody who administers the proxy.
    pub by: Option<&'a str>,
    /// What was asked of the admin API: method and path, without names.
    pub action: Option<&'a str>,
}

/// Writes the audit trail.
pub struct Audit {
    /// When each event was written last, and how often it happened since.
    recent: moka::sync::Cache<u64, Arc<Mutex<Recent>>>,
    /// Lines of each address lately; those of all under no address.
    lines: moka::sync::Cache<Option<IpAddr>, Arc<AtomicU64>>,
    seen: moka::sync::Cache<u64, ()>,
    hasher: RandomState,
}

#[derive(Default)]
struct Recent {
    written: Option<Instant>,
    left_out: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            recent: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(EVERY * 10).build(),
            lines: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(EVERY).build(),
            seen: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(SEEN_FOR).build(),
            hasher: RandomState::new(),
        }
    }
}

impl Audit {
    /// Writes what an operator did: always.
    pub fn operator(&self, event: &Event<'_>) {
        write(event, 0);
    }

    /// Writes what a client did, unless that would flood the trail.
    pub fn client(&self, event: &Event<'_>) {
        if let Some(repeated) = self.admit(event) {
            write(event, repeated);
        }
    }

    /// Writes the first of events that are alike.
    pub fn first(&self, event: &Event<'_>) {
        let key = self.hasher.hash_one(event);
        if !self.seen.contains_key(&key) {
            self.seen.insert(key, ());
            self.client(event);
        }
    }

    /// Whether it is written now; with it, how often it happened unwritten.
    fn admit(&self, event: &Event<'_>) -> Option<u64> {
        let recent = self.recent.get_with(self.hasher.hash_one(event), Arc::default);
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = recent.written.is_some_and(|written| written.elapsed() < EVERY);
        if lately || !self.has_room(event.peer, EACH) || !self.has_room(None, ALL) {
            recent.left_out += 1;
            return None;
        }
        recent.written = Some(Instant::now());
        Some(std::mem::take(&mut recent.left_out))
    }

    fn has_room(&self, address: Option<IpAddr>, bound: u64) -> bool {
        self.lines.get_with(address, Arc::default).fetch_add(1, Ordering::Relaxed) < bound
    }
}

fn write(event: &Event<'_>, repeated: u64) {
    let Event { event, outcome, principal, peer, registry, repository, by, action } = *event;
    let peer = peer.map(tracing::field::display);
    let repeated = (repeated > 0).then_some(repeated);
    tracing::info!(target: TARGET, event, outcome, principal, peer, registry, repository, by, action, repeated, "audit");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(principal: Option<&str>, peer: u32) -> Event<'_> {
        let peer = Some(IpAddr::V4(peer.into()));
        Event { event: "login", outcome: "failure", principal, peer, ..Event::default() }
    }

    #[test]
    fn what_happens_again_is_left_out_and_counted() {
        let audit = Audit::default();
        assert_eq!(audit.admit(&failed(Some("ci"), 1)), Some(0));
        assert_eq!(audit.admit(&failed(Some("ci"), 1)), None);
        assert_eq!(audit.admit(&failed(Some("ci"), 1)), None);
        assert_eq!(audit.admit(&failed(Some("other"), 1)), Some(0));
        assert_eq!(audit.admit(&failed(Some("ci"), 2)), Some(0));
        let key = audit.hasher.hash_one(failed(Some("ci"), 1));
        audit.recent.get(&key).unwrap().lock().unwrap().written = None;
        assert_eq!(audit.admit(&failed(Some("ci"), 1)), Some(2));
    }

    #[test]
    fn nobody_floods_the_trail() {
        let audit = Audit::default();
        let names: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let written = names.iter().filter(|name| audit.admit(&failed(Some(name), 1)).is_some()).count();
        assert_eq!(written as u64, EACH);
        let others = (2..5000).filter(|peer| audit.admit(&failed(None, *peer)).is_some()).count();
        assert_eq!(others as u64, ALL - EACH);
    }
}
