//! podman, which has no daemon: state and configuration only.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::process::{Outcome, bounded, state_dir};

/// podman with its own images, containers and configuration.
#[derive(Debug)]
pub(crate) struct Podman {
    dir: TempDir,
}

impl Podman {
    /// Sets one up whose `registries.conf` is `registries`.
    pub(crate) fn new(registries: &str) -> Self {
        let dir = state_dir();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("registries.conf"), registries).unwrap();
        // runc and modest limits, because they work in more places (in a
        // virtual machine with both versions of cgroups, with capped limits)
        // than podman's own choice; files for locks and events, because shared
        // memory and the journal belong to the machine.
        let containers = format!(
            "[containers]\n\
             default_ulimits = ['nofile=1024:1024', 'nproc=1024:1024']\n\
             [engine]\n\
             runtime = 'runc'\n\
             cgroup_manager = 'cgroupfs'\n\
             events_logger = 'file'\n\
             lock_type = 'file'\n\
             tmp_dir = '{}'\n",
            path("tmp").display()
        );
        fs::write(path("containers.conf"), containers).unwrap();
        Self { dir }
    }

    /// `podman ARGS…`.
    pub(crate) fn podman(&self, args: &[&str]) -> Outcome {
        let mut command = bounded("podman", self.dir.path());
        command.env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"));
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.arg("--root").arg(self.path("root"));
        command.arg("--runroot").arg(self.path("run"));
        command.arg("--storage-driver=vfs");
        Outcome::of(command.args(args))
    }

    /// `podman pull IMAGE`.
    pub(crate) fn pull(&self, image: &str) -> Outcome {
        self.podman(&["pull", image])
    }

    /// What a container of `image` prints.
    pub(crate) fn run(&self, image: &str) -> String {
        // Never pulled here: what runs is what was pulled before.
        self.podman(&["run", "--rm", "--pull=never", "--network=none", image]).expect_ok().text()
    }

    /// The manifest digest under which `image` is stored.
    pub(crate) fn digest(&self, image: &str) -> String {
        self.podman(&["image", "inspect", "--format={{.Digest}}", image]).expect_ok().text()
    }

    /// Where a file of this name is, in its own directory.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
