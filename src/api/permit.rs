//! The right to the rest of a response.
//!
//! Who may pull is decided when a request comes. With `cut_on_revoke` it is
//! decided again before each window of a blob, by what is configured then.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::access::{Gate, Principal};
use crate::oci::Repository;
use crate::registry::Directory;
use crate::telemetry::{Audit, Event};

/// What a response was begun with.
pub(super) struct Permit {
    pub(super) gate: Arc<Gate>,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) audit: Arc<Audit>,
    pub(super) principal: Principal,
    pub(super) peer: Option<IpAddr>,
    /// By name: its settings may be others by now.
    pub(super) registry: String,
    pub(super) repository: Repository,
}

impl Permit {
    /// Whether the response may go on.
    pub(super) fn holds(&self) -> bool {
        let Permit { gate, audit, principal, peer, repository, .. } = self;
        let directory = self.directory.load();
        let registry = directory.by_name(&self.registry);
        let holds = registry.is_some_and(|registry| gate.may_go_on(principal, registry, repository));
        if !holds {
            audit.client(&Event {
                event: "pull",
                outcome: "cut",
                principal: principal.name(),
                peer: *peer,
                registry: Some(registry.map_or(&self.registry, |registry| registry.name.display())),
                repository: Some(repository.as_str()),
                ..Event::default()
            });
        }
        holds
    }

    /// How a response ends that may not.
    pub(super) fn ended() -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, "the right to this response was taken away")
    }
}
