//! Pins on disk: `pins.json` in the cache directory.
//!
//! It holds also what each pin was found to keep, so that a start needs no
//! upstream to know what must not go.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::pins::{Entry, Key};
use crate::oci::Reference;

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    pins: Vec<Pin>,
}

#[derive(Serialize, Deserialize)]
struct Pin {
    registry: String,
    repository: String,
    reference: String,
    configured: bool,
    digest: Option<String>,
    keeps: Vec<String>,
}

/// Where the pins of a cache directory are.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("pins.json")
}

/// The pins of an earlier process. A file that cannot be understood is put
/// aside, for whoever wrote it may want it back.
pub(super) fn read(path: &Path) -> Vec<Entry> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "the pins cannot be read: what was pinned may go");
            }
            return Vec::new();
        }
    };
    match serde_json::from_str::<Document>(&text) {
        Ok(Document { format: FORMAT, pins }) => pins.into_iter().filter_map(entry).collect(),
        understood => {
            let reason = understood.err().map_or_else(|| "another format".to_owned(), |error| error.to_string());
            warn!(path = %path.display(), reason, "the pins cannot be understood: put aside as pins.json.bad");
            // Where that fails, the next change of the pins replaces it.
            let _ = fs::rename(path, path.with_extension("json.bad"));
            Vec::new()
        }
    }
}

fn entry(pin: Pin) -> Option<Entry> {
    let reference = match pin.reference.parse() {
        Ok(digest) => Reference::Digest(digest),
        Err(_) => Reference::Tag(pin.reference.parse().ok()?),
    };
    Some(Entry {
        key: Key { registry: pin.registry, repository: pin.repository.parse().ok()?, reference },
        configured: pin.configured,
        root: pin.digest.and_then(|digest| digest.parse().ok()),
        keeps: pin.keeps.iter().filter_map(|digest| digest.parse().ok()).collect(),
        read: HashSet::new(),
    })
}

/// The text of the file with these pins.
pub(super) fn text(pins: &[Entry]) -> Result<String, serde_json::Error> {
    let pins = pins.iter().map(|entry| Pin {
        registry: entry.key.registry.clone(),
        repository: entry.key.repository.to_string(),
        reference: entry.key.reference.to_string(),
        configured: entry.configured,
        digest: entry.root.map(|digest| digest.to_string()),
        keeps: entry.keeps.iter().map(ToString::to_string).collect(),
    });
    serde_json::to_string_pretty(&Document { format: FORMAT, pins: pins.collect() })
}

/// Replaces the file, so that it is whole at any moment.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = path.with_extension("json.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}
