//! Secrets that stand in files: read again, and taken up when they changed.
//!
//! The content is what counts, not dates or inodes: Kubernetes swaps a symbolic
//! link, others write in place. A file that cannot be read or is empty, as one
//! is while it is being written, changes nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tracing::warn;
use zeroize::Zeroizing;

use crate::registry::{Credential, RegistryName, Secret, Source};

/// No secret is longer; Docker's configuration file may hold many.
const MAX_BYTES: u64 = 1 << 20;
/// A file that stays unreadable is told of this often.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// A file system that hangs holds up no pull for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// When the operator was last told.
#[derive(Default)]
pub(super) struct Warned(Mutex<Option<Instant>>);

impl Warned {
    /// Tells of a problem with a file, but not all the time.
    pub(super) fn tell(&self, registry: &RegistryName, problem: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *last = Some(Instant::now());
            warn!(%registry, problem, "the last good secret stays in use");
        }
    }
}

/// Whether any secret of `credential` stands in a file.
pub(super) fn has_any(credential: &Credential) -> bool {
    credential.sources().any(|source| matches!(source, Source::File { .. }))
}

/// Tells of secrets that everybody on this machine may read. Not refused:
/// Kubernetes mounts them like that, where nobody else is.
pub(super) fn tell_of_exposed(credential: &Credential, registry: &RegistryName) {
    for source in credential.sources() {
        let Source::File { path, .. } = source else { continue };
        let Ok(found) = std::fs::metadata(path) else { continue };
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o004 != 0 {
            let (path, mode) = (path.display(), format!("{mode:o}"));
            warn!(%registry, %path, mode, "everybody on this machine may read this file with a secret: `chmod o= {path}`");
        }
    }
}

/// `credential` with what its files hold now, if that is something else.
pub(super) async fn changed(credential: &Credential, registry: &RegistryName, warned: &Warned) -> Option<Credential> {
    if !has_any(credential) {
        return None;
    }
    let mut fresh = credential.clone();
    let mut is_other = false;
    for source in fresh.sources_mut() {
        let Source::File { path, last } = source else { continue };
        match read(path).await {
            Ok(secret) => {
                is_other |= secret.expose() != last.expose();
                *last = secret;
            }
            Err(problem) => {
                warned.tell(registry, &format!("{}: {problem}", path.display()));
            }
        }
    }
    is_other.then_some(fresh)
}

async fn read(path: &Path) -> Result<Secret, String> {
    let reading = async {
        let mut text = Zeroizing::new(String::new());
        let file = tokio::fs::File::open(path).await?;
        file.take(MAX_BYTES).read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Ok(text)) => Secret::of_file(&text).ok_or_else(|| "the file is empty".to_owned()),
        Ok(Err(error)) => Err(format!("the file cannot be read: {error}")),
        Err(_) => Err("the file system does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_read_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let last = Secret::new("one".into());
        let credential = Credential::new("u".into(), Source::File { path: path.clone(), last });
        let name: RegistryName = "r".parse().unwrap();
        let look = async |credential: &Credential| {
            let changed = changed(credential, &name, &Warned::default()).await;
            changed.map(|credential| credential.sources().next().unwrap().secret().expose().to_owned())
        };
        assert_eq!(look(&credential).await, None, "absent");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(look(&credential).await, None, "empty");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(look(&credential).await, None, "no text");
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(look(&credential).await, None, "the same");
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(look(&credential).await.as_deref(), Some("two"));
        assert_eq!(look(&Credential::Anonymous).await, None);
    }

    #[tokio::test]
    async fn a_swapped_link_is_another_secret() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("old", "one"), ("new", "two")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("password"), text).unwrap();
        }
        let data = dir.path().join("..data");
        std::os::unix::fs::symlink("old", &data).unwrap();
        let last = Secret::new("one".into());
        let source = Source::File { path: data.join("password"), last };
        let credential = Credential::new("u".into(), source);
        let name: RegistryName = "r".parse().unwrap();
        std::os::unix::fs::symlink("new", dir.path().join("tmp")).unwrap();
        std::fs::rename(dir.path().join("tmp"), &data).unwrap();
        let fresh = changed(&credential, &name, &Warned::default()).await.unwrap();
        assert_eq!(fresh.sources().next().unwrap().secret().expose(), "two");
    }
}
