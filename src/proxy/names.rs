//! The names that registries have and had, remembered over restarts.
//!
//! A name that is taken away means nothing for thirty days: a pull that still
//! uses it fails, instead of getting what somebody has published under that
//! name at the default registry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::registry::{Registry, RetiredName};

/// A name that was taken away is closed for so long.
const CLOSED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Names that are remembered; the ones taken away first are forgotten first.
const MAX_NAMES: usize = 1000;
/// Longest file that is read: far more than so many names have.
const MAX_BYTES: u64 = 1 << 20;

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    in_use: BTreeSet<String>,
    /// Name → seconds since 1970 at which it was taken away.
    retired: BTreeMap<String, u64>,
}

/// The names, and where they are kept.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Absent where nothing may be written.
    path: Option<PathBuf>,
    record: Record,
}

impl Names {
    /// Reads the file at `path`; without one, or when it cannot be read,
    /// nothing is known of earlier names.
    pub(super) fn open(path: PathBuf, may_write: bool) -> Names {
        let record = read(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "earlier names of registries are not known");
            Record::default()
        });
        Names { path: may_write.then_some(path), record }
    }

    /// Takes the names of `registries` for those in use; gives those that are
    /// closed.
    pub(super) fn update(&mut self, registries: &[Arc<Registry>], now: SystemTime) -> Vec<RetiredName> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let in_use: BTreeSet<String> = registries.iter().map(|registry| registry.name.address().to_owned()).collect();
        let mut retired = std::mem::take(&mut self.record.retired);
        for gone in self.record.in_use.difference(&in_use) {
            retired.insert(gone.clone(), now);
        }
        retired.retain(|name, at| !in_use.contains(name) && now < at.saturating_add(CLOSED_FOR.as_secs()));
        while retired.len() > MAX_NAMES {
            let Some(oldest) = retired.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone()) else { break };
            retired.remove(&oldest);
        }
        self.record = Record { in_use, retired };
        if let Some(path) = &self.path
            && let Err(error) = write(path, &self.record)
        {
            warn!(path = %path.display(), %error, "names of registries are not remembered over a restart");
        }
        let until = |at: u64| UNIX_EPOCH + Duration::from_secs(at) + CLOSED_FOR;
        self.record.retired.iter().map(|(name, at)| RetiredName { slug: name.clone(), until: until(*at) }).collect()
    }
}

fn read(path: &Path) -> std::io::Result<Record> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Record::default()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(std::io::Error::other("the file is too long")),
        Ok(_) => {}
    }
    serde_json::from_slice(&std::fs::read(path)?).map_err(std::io::Error::other)
}

fn write(path: &Path, record: &Record) -> std::io::Result<()> {
    let beside = path.with_extension("json.new");
    std::fs::write(&beside, serde_json::to_vec(record).map_err(std::io::Error::other)?)?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn registries(names: &[&str]) -> Vec<Arc<Registry>> {
        let text: String =
            names.iter().map(|name| format!("[[registry]]\nname = \"{name}\"\nkind = \"quay\"\n")).collect();
        let text = format!("docker_hub = false\n{text}");
        Settings::parse("t.toml", &text, &BTreeMap::new()).unwrap().registries
    }

    fn slugs(retired: &[RetiredName]) -> Vec<&str> {
        retired.iter().map(|retired| retired.slug.as_str()).collect()
    }

    #[test]
    fn a_name_that_is_taken_away_is_closed_for_thirty_days_or_until_it_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        let day = |n: u64| UNIX_EPOCH + Duration::from_secs(1_000_000 + n * 24 * 3600);
        let mut names = Names::open(path.clone(), true);
        assert!(names.update(&registries(&["a", "Team-B", "c"]), day(0)).is_empty());
        assert_eq!(slugs(&names.update(&registries(&["a"]), day(1))), ["c", "team-b"]);
        // Over a restart, also of one that may not write.
        let mut names = Names::open(path.clone(), false);
        assert_eq!(slugs(&names.update(&registries(&["a", "c"]), day(2))), ["team-b"]);
        let mut names = Names::open(path.clone(), true);
        let retired = names.update(&registries(&[]), day(10));
        assert_eq!(slugs(&retired), ["a", "c", "team-b"]);
        assert_eq!(retired[2].until, day(31));
        assert_eq!(slugs(&names.update(&registries(&[]), day(31))), ["a"]);
        std::fs::write(&path, "no JSON").unwrap();
        assert!(Names::open(path, true).update(&registries(&[]), day(11)).is_empty());
    }

    #[test]
    fn no_more_names_are_remembered_than_there_may_be() {
        let mut names = Names::default();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        names.record.in_use = (0..MAX_NAMES + 50).map(|n| format!("n{n}")).collect();
        assert_eq!(names.update(&[], now).len(), MAX_NAMES);
    }
}
