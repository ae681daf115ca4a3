//! `[admin]` and `[metrics]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::load::{address, read_tls};
use super::problem::Place;
use super::section::Section;
use crate::admin::AdminSettings;
use crate::store::StoreSettings;

/// What was read, and where the addresses of it are named.
pub(super) struct Read {
    pub(super) settings: AdminSettings,
    pub(super) places: Vec<(SocketAddr, Place)>,
}

/// Reads where the proxy is administered, by default beside the store.
pub(super) fn read(admin: Section<'_>, metrics: Section<'_>, store: &StoreSettings) -> Read {
    let listen = admin.read("listen", address).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 5001)));
    let tls = admin.table("tls", "[admin.tls]").and_then(|section| read_tls(section, "[admin.tls]"));
    let in_clear = admin.flag("insecure_http").is_some_and(|flag| flag.value);
    if tls.is_none() && !in_clear && !listen.ip().is_loopback() {
        let message = format!("administration at {listen} would go over the network in clear, tokens and all");
        let help = "give it a certificate with [admin.tls], or listen on loopback and name an address for health and \
                    metrics alone with `listen` in [metrics]; `insecure_http = true` where something else encrypts";
        admin.problems.add(&admin.place_of("listen"), message, help.to_owned());
    }
    let path = |key| admin.text(key).map(|found| PathBuf::from(found.value));
    let (socket, token_file) = (path("socket"), path("token_file"));
    let settings = AdminSettings {
        socket_is_given: socket.is_some(),
        socket: socket.unwrap_or_else(|| store.file.with_file_name("admin.sock")),
        listen,
        token_file: token_file.unwrap_or_else(|| store.file.with_file_name("admin.token")),
        tls,
        metrics: metrics.read("listen", address),
    };
    let mut places = vec![(listen, admin.place_of("listen"))];
    places.extend(settings.metrics.map(|address| (address, metrics.place_of("listen"))));
    for section in [admin, metrics] {
        section.finish(|_| None);
    }
    Read { settings, places }
}
