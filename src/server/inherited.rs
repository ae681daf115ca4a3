//! Listeners that a service manager has opened for this process (socket
//! activation, `sd_listen_fds(3)`).
//!
//! The manager keeps them while no process runs: whoever connects between two
//! of them waits in the kernel's queue, and is refused by neither.

use std::net::{SocketAddr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use listenfd::ListenFd;
use tracing::warn;

/// What was handed over and is not in use yet.
static INHERITED: LazyLock<Mutex<Vec<TcpListener>>> = LazyLock::new(|| {
    let mut handed_over = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed_over.len() {
        match handed_over.take_tcp_listener(index) {
            Ok(listener) => listeners.extend(listener),
            Err(error) => {
                warn!(index, %error, "a socket of the service manager is not used: it does not listen on TCP")
            }
        }
    }
    Mutex::new(listeners)
});

/// The listener at `address`, if it was handed over.
pub(super) fn take(address: SocketAddr) -> Option<TcpListener> {
    let mut listeners = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    let index = listeners.iter().position(|listener| listener.local_addr().is_ok_and(|own| own == address))?;
    Some(listeners.swap_remove(index))
}

/// Closes what no listener of ours was for, and says so: whoever connects there
/// would wait for ever.
pub fn close_unused_listeners() {
    for listener in INHERITED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        if let Ok(address) = listener.local_addr() {
            warn!(%address, "a socket of the service manager is not used: nothing is configured to listen there");
        }
    }
}
