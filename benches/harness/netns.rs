//! A network of one's own. The congestion control that a machine uses by
//! default may halve what loopback carries (bbr does), and other traffic would
//! disturb; so a comparison runs in a network namespace whose loopback route
//! says cubic, where it may make one.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::servers::contained;

/// Set in the process that runs inside.
const INSIDE: &str = "TRANSSHIP_BENCH_NETNS";

/// Runs this very program again inside a fresh network namespace, waits for it
/// and removes the namespace. `None`: this is the inside, or there can be
/// none; go on here.
pub(crate) fn enter() -> Option<io::Result<ExitStatus>> {
    if std::env::var_os(INSIDE).is_some() || !rustix::process::geteuid().is_root() {
        return None;
    }
    let name = format!("transship-bench-{}", std::process::id());
    if !ip(&["netns", "add", &name]) {
        return None;
    }
    let inside = |arguments: &[&str]| ip(&[&["netns", "exec", &name, "ip"], arguments].concat());
    let mut ready = inside(&["link", "set", "lo", "up"]);
    for local in ["127.0.0.1", "127.0.0.0/8"] {
        let route = ["route", "change", "local", local, "dev", "lo", "src", "127.0.0.1", "table", "local"];
        ready &= inside(&[&route[..], &["congctl", "cubic"]].concat());
    }
    let status = ready.then(|| {
        let this = std::env::current_exe()?;
        // Ends with this process, and its servers with it.
        let mut command = contained(Path::new("ip"), false);
        command.args(["netns", "exec", &name]).arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        command.status()
    });
    ip(&["netns", "delete", &name]);
    status
}

fn ip(arguments: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The congestion control that a loopback connection has here.
pub(crate) fn congestion_control() -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    Ok(rustix::net::sockopt::tcp_congestion(&stream)?)
}
