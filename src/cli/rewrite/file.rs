//! Reading a file and putting another in its place: whole, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Longest file; more is no document that people write.
const MAX_BYTES: u64 = 16 << 20;

/// A document, and where it is from.
pub(super) struct Input {
    /// What it is called in messages.
    pub(super) name: String,
    pub(super) text: String,
    /// Where it is, with every link followed; `None` is standard input.
    path: Option<PathBuf>,
}

impl Input {
    /// Reads the file, or standard input where it is called `-`. The error
    /// names the file.
    pub(super) fn read(path: &Path) -> Result<Input, String> {
        let standard = path.as_os_str() == "-";
        let name = if standard { "<stdin>".to_owned() } else { path.display().to_string() };
        let read = || -> io::Result<(Vec<u8>, Option<PathBuf>)> {
            let mut bytes = Vec::new();
            if standard {
                io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
                return Ok((bytes, None));
            }
            let path = fs::canonicalize(path)?;
            let file = File::open(&path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            Ok((bytes, Some(path)))
        };
        let (bytes, path) = read().map_err(|error| format!("{name}: cannot be read: {error}"))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("{name}: longer than {} MiB", MAX_BYTES >> 20));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let lines = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
            let line = lines.iter().filter(|byte| **byte == b'\n').count() + 1;
            let column = lines
                .rsplit(|byte| *byte == b'\n')
                .next()
                .map_or(0, |line| String::from_utf8_lossy(line).chars().count());
            format!("{name}:{line}:{}: this is not UTF-8", column + 1)
        })?;
        Ok(Input { name, text, path })
    }

    pub(super) fn is_standard(&self) -> bool {
        self.path.is_none()
    }

    pub(super) fn same_file(&self, other: &Input) -> bool {
        self.path == other.path
    }

    /// Puts `text` in the file's place: a reader sees the old text or the new,
    /// with the mode and owner as before. Standard input has no place.
    pub(super) fn write(&self, text: &str) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        replace(path, text.as_bytes()).map_err(|error| format!("{} cannot be written: {error}", self.name))
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let before = fs::metadata(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // Nobody reads it who could not read the file before.
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let mut put = || {
        new.write_all(bytes)?;
        let made = new.metadata()?;
        if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
            // A file of somebody else becomes ours, as with any editor.
            let _ = std::os::unix::fs::fchown(&new, Some(before.uid()), Some(before.gid()));
        }
        new.set_permissions(before.permissions())?;
        new.sync_all()?;
        fs::rename(&beside, path)
    };
    put().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}
