//! Real parts: the registry, the daemons and the clients that people run.
//!
//! The scripted upstream shows that `transship` does what its authors believe
//! the protocol to be. These parts show that the belief is right: Debian's
//! `docker-registry` behind a token server of our own, and Docker, containerd,
//! podman and skopeo as their users configure them.
//!
//! * [`token_server`] and [`token`]: who may pull, signed so that the registry believes it
//! * [`registry`] and [`push`]: the private registry, its content and its access log
//! * [`images`]: images made from a static busybox, the same bytes every time
//! * [`dockerd`], [`containerd`], [`podman`], [`skopeo`]: one client each
//!
//! All of them are started and ended by [`super::process`].
//!
//! Every part has its own state in its own temporary directory, listens on
//! loopback or a Unix socket, sees no environment but the one given here, and
//! ends with the value that started it.

pub(crate) mod containerd;
pub(crate) mod dockerd;
pub(crate) mod images;
pub(crate) mod podman;

pub(crate) mod push;
pub(crate) mod registry;
pub(crate) mod skopeo;
pub(crate) mod token;
pub(crate) mod token_server;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Whether this test can use the real parts.
///
/// Installs what is missing, once. Without root or apt they cannot be
/// installed and daemons cannot be started: the test should then return, and
/// that it was left out is said on stderr. With both, a part that does not
/// install is a failure, never a silent skip.
pub(crate) fn available() -> bool {
    static REASON: OnceLock<Option<&'static str>> = OnceLock::new();
    let Some(reason) = REASON.get_or_init(install) else { return true };
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    // Not `eprintln`, which is captured and shown only when a test fails.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: the real clients need {reason}");
    false
}

/// Runs the installer; `Some(reason)` when this machine cannot have the parts.
fn install() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("root");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Some("a distribution with apt");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/install-real-parts.sh");
    let output = Command::new(script).output().expect("the installer starts");
    assert!(
        output.status.success(),
        "the real parts could not be installed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    None
}
