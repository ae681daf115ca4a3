//! containerd and its client `ctr`.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::process::{Daemon, Outcome, bounded, state_dir};

/// containerd with its own root, state and socket.
#[derive(Debug)]
pub(crate) struct Containerd {
    // Dropped before the directory it writes to.
    _daemon: Daemon,
    socket: PathBuf,
    dir: TempDir,
}

/// Copies the files of a layer instead of mounting it: works wherever the
/// tests run, on an overlay too.
const SNAPSHOTTER: &str = "--snapshotter=native";

impl Containerd {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let dir = state_dir();
        let path = |name: &str| dir.path().join(name);
        let socket = path("containerd.sock");
        let config = format!(
            "version = 2\n\
             root = '{root}'\n\
             state = '{state}'\n\
             disabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             [grpc]\n\
             address = '{socket}'\n",
            root = path("root").display(),
            state = path("state").display(),
            socket = socket.display(),
        );
        fs::write(path("config.toml"), config).unwrap();
        let mut daemon = Daemon::start("containerd", dir.path(), |command| {
            command.arg("--config").arg(path("config.toml"));
        });
        daemon.wait_until(|_| UnixStream::connect(&socket).is_ok());
        Self { _daemon: daemon, socket, dir }
    }

    /// Writes the `hosts.toml` of `host`: its images are asked of `mirror`
    /// only, with `?ns=HOST`.
    pub(crate) fn mirror(&self, host: &str, mirror: &str) {
        // Without a server of our own it would ask the registry itself after a
        // failure and hide it.
        self.hosts_toml(host, mirror, mirror, "");
    }

    /// As [`mirror`](Self::mirror), but after a failure it turns to `server`.
    pub(crate) fn mirror_before(&self, host: &str, mirror: &str, server: &str) {
        self.hosts_toml(host, mirror, server, "");
    }

    /// As [`mirror`](Self::mirror), with further lines for the mirror.
    pub(crate) fn mirror_with(&self, host: &str, mirror: &str, lines: &str) {
        self.hosts_toml(host, mirror, mirror, lines);
    }

    fn hosts_toml(&self, host: &str, mirror: &str, server: &str, lines: &str) {
        let dir = self.hosts_dir().join(host);
        fs::create_dir_all(&dir).unwrap();
        let hosts = format!(
            "server = '{server}'\n\
             [host.'{mirror}']\n\
             capabilities = ['pull', 'resolve']\n{lines}\n"
        );
        fs::write(dir.join("hosts.toml"), hosts).unwrap();
    }

    /// `ctr ARGS…`.
    pub(crate) fn ctr(&self, args: &[&str]) -> Outcome {
        let mut command = bounded("ctr", self.dir.path());
        Outcome::of(command.arg("--address").arg(&self.socket).args(args))
    }

    /// `ctr images pull` by the `hosts.toml` files, with `more` arguments.
    pub(crate) fn pull(&self, image: &str, more: &[&str]) -> Outcome {
        let hosts = self.hosts_dir().display().to_string();
        let mut args = vec!["images", "pull", SNAPSHOTTER, "--hosts-dir", &hosts];
        args.extend(more);
        args.push(image);
        self.ctr(&args)
    }

    /// What a container of `image` prints.
    pub(crate) fn run(&self, image: &str) -> String {
        // The name is unique on the machine: cgroups are named after it.
        let name = format!("transship-{}", self.dir.path().file_name().unwrap().display());
        self.ctr(&["run", "--rm", SNAPSHOTTER, image, &name]).expect_ok().text()
    }

    /// The digests of everything in its content store.
    pub(crate) fn content(&self) -> Vec<String> {
        let listed = self.ctr(&["content", "ls", "--quiet"]).expect_ok().text();
        listed.lines().map(str::to_owned).collect()
    }

    /// The bytes stored under `digest`.
    pub(crate) fn bytes(&self, digest: &str) -> Vec<u8> {
        self.ctr(&["content", "get", digest]).expect_ok().stdout
    }

    fn hosts_dir(&self) -> PathBuf {
        self.dir.path().join("hosts")
    }
}
