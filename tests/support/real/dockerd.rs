//! A Docker daemon and its client.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::{Daemon, Outcome, bounded, state_dir};

/// A daemon with its own data, its own containerd and its own socket.
#[derive(Debug)]
pub(crate) struct Docker {
    // Dropped before the directory it writes to.
    _daemon: Daemon,
    socket: PathBuf,
    dir: TempDir,
}

impl Docker {
    /// Starts one whose `daemon.json` is `settings` and nothing else.
    ///
    /// The command line only keeps it apart from any other daemon on the
    /// machine: where its state is, and that it makes no bridge and writes no
    /// firewall rules. Nothing on it concerns registries.
    pub(crate) fn start(settings: &Value) -> Self {
        let dir = state_dir();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("daemon.json"), settings.to_string()).unwrap();
        let socket = path("docker.sock");
        let mut daemon = Daemon::start("dockerd", dir.path(), |command| {
            command.arg("--config-file").arg(path("daemon.json"));
            command.arg("--data-root").arg(path("data"));
            command.arg("--exec-root").arg(path("exec"));
            command.arg("--pidfile").arg(path("docker.pid"));
            command.arg("--host").arg(format!("unix://{}", socket.display()));
            command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        });
        daemon.wait_until(|_| UnixStream::connect(&socket).is_ok());
        Self { _daemon: daemon, socket, dir }
    }

    /// `docker ARGS…`, by a user who never logged in anywhere.
    pub(crate) fn docker(&self, args: &[&str]) -> Outcome {
        let mut command = bounded("docker", self.dir.path());
        command.arg("--host").arg(format!("unix://{}", self.socket.display())).args(args);
        Outcome::of(&mut command)
    }

    /// `docker pull IMAGE`; what it said is in the output of the test.
    pub(crate) fn pull(&self, image: &str) -> Outcome {
        let outcome = self.docker(&["pull", image]);
        println!("$ docker pull {image}\n{}{}", outcome.text(), outcome.stderr);
        outcome
    }

    /// What a container of `image` prints.
    pub(crate) fn run(&self, image: &str) -> String {
        // Never pulled here: what runs is what was pulled before.
        self.docker(&["run", "--rm", "--pull=never", "--network=none", image]).expect_ok().text()
    }

    /// Removes `image`, so that the next pull asks for all of it again.
    pub(crate) fn remove(&self, image: &str) {
        self.docker(&["image", "rm", "--force", image]).expect_ok();
        let left = self.docker(&["image", "ls", "--all", "--quiet"]).expect_ok().text();
        assert_eq!(left, "", "the daemon still has layers");
    }

    /// `docker login` with the password on standard input.
    pub(crate) fn login(&self, host: &str, user: &str, password: &str) -> Outcome {
        let mut command = bounded("sh", self.dir.path());
        let script = "printf %s \"$1\" | docker --host \"$2\" login --username \"$3\" --password-stdin \"$4\"";
        let socket = format!("unix://{}", self.socket.display());
        Outcome::of(command.args(["-c", script, "sh", password, &socket, user, host]))
    }

    /// Stores a login for `host` without asking it.
    pub(crate) fn store_login(&self, host: &str, user: &str, password: &str) {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let auths = serde_json::json!({"auths": {host: {"auth": auth}}});
        std::fs::create_dir_all(self.dir.path().join(".docker")).unwrap();
        std::fs::write(self.dir.path().join(".docker/config.json"), auths.to_string()).unwrap();
    }

    /// The manifest digest under which the daemon stored `image`.
    pub(crate) fn digest(&self, image: &str) -> String {
        let format = "--format={{index .RepoDigests 0}}";
        let stored = self.docker(&["image", "inspect", format, image]).expect_ok().text();
        stored.split_once('@').expect("a repository digest").1.to_owned()
    }
}
