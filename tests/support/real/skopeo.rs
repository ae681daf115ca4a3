//! skopeo, which copies images and keeps nothing.

use std::fs;

use tempfile::TempDir;

use crate::support::process::{Outcome, bounded, state_dir};

/// skopeo and a directory to copy into.
#[derive(Debug)]
pub(crate) struct Skopeo {
    dir: TempDir,
}

impl Skopeo {
    /// Sets one up.
    pub(crate) fn new() -> Self {
        Self { dir: state_dir() }
    }

    /// `skopeo ARGS…`.
    pub(crate) fn skopeo(&self, args: &[&str]) -> Outcome {
        let mut command = bounded("skopeo", self.dir.path());
        // Which signatures a machine wants to see is not the matter here.
        Outcome::of(command.arg("--insecure-policy").args(args))
    }

    /// Copies the image at `reference`, with `more` arguments, into a directory
    /// of its own; the outcome and where it is.
    pub(crate) fn copy(&self, reference: &str, more: &[&str]) -> (Outcome, Copy) {
        let copy = Copy { dir: state_dir() };
        let source = format!("docker://{reference}");
        let destination = format!("dir:{}", copy.dir.path().display());
        let mut args = vec!["copy", "--src-tls-verify=false"];
        args.extend(more);
        args.extend([source.as_str(), destination.as_str()]);
        (self.skopeo(&args), copy)
    }

    /// The manifest or index at `reference`, byte for byte.
    pub(crate) fn raw(&self, reference: &str) -> Vec<u8> {
        let source = format!("docker://{reference}");
        self.skopeo(&["inspect", "--raw", "--tls-verify=false", &source]).expect_ok().stdout
    }
}

/// An image on disk in skopeo's `dir:` form.
#[derive(Debug)]
pub(crate) struct Copy {
    dir: TempDir,
}

impl Copy {
    /// Its manifest, byte for byte.
    pub(crate) fn manifest(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("manifest.json")).unwrap()
    }

    /// The blob with this digest, byte for byte.
    pub(crate) fn blob(&self, digest: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(digest.trim_start_matches("sha256:"))).unwrap()
    }
}
