//! The audit trail: who logged in, who was refused, who changed what.
//!
//! Each event is one log line with the target `audit`; `docs/audit.md` lists
//! them. No line holds a secret, and none holds text that a stranger chose,
//! except names that were parsed. What a stranger causes is written once a
//! minute for each cause and bounded for each address, with the number of
//! those left out.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use super::lines::Lines;
use super::trail;

/// The target of every line of the audit trail.
pub(super) const TARGET: &str = "audit";

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
    lines: Lines,
    seen: moka::sync::Cache<u64, ()>,
    hasher: RandomState,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            lines: Lines::default(),
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

    /// Writes what a client did, unless that would flood the trail. The first
    /// refusal of a known client at an address is always written.
    pub fn client(&self, event: &Event<'_>) {
        let is_first_denial = event.outcome == "denied" && event.principal.is_some() && {
            let who = Event { registry: None, repository: None, ..*event };
            self.is_first(&who)
        };
        match self.lines.admit(event, event.peer) {
            Some(repeated) => write(event, repeated),
            None if is_first_denial => write(event, 0),
            None => {}
        }
    }

    /// Writes the first of events that are alike, whatever else happens: that a
    /// client was let in is nothing that a stranger can cause.
    pub fn first(&self, event: &Event<'_>) {
        if self.is_first(event) {
            write(event, 0);
        }
    }

    fn is_first(&self, event: &Event<'_>) -> bool {
        let key = self.hasher.hash_one(event);
        let is_first = !self.seen.contains_key(&key);
        if is_first {
            self.seen.insert(key, ());
        }
        is_first
    }
}

fn write(event: &Event<'_>, repeated: u64) {
    let Event { event, outcome, principal, peer, registry, repository, by, action } = *event;
    let peer = peer.map(tracing::field::display);
    let repeated = (repeated > 0).then_some(repeated);
    tracing::info!(target: TARGET, event, outcome, principal, peer, registry, repository, by, action, repeated, "audit");
    let lost = trail::health().take_lost();
    if lost > 0 {
        tracing::warn!(lost, "the file of the audit trail cannot be written; its lines are in this log");
    }
}
