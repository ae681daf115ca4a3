//! The key that the store is sealed with, and where it comes from.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::StoreError;
use crate::registry::Secret;

/// Less than this is no key but a password.
const SHORTEST: usize = 32;
/// What is longer is not a key either.
const LONGEST: u64 = 64 * 1024;

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file of at least 32 bytes, which nobody but its owner may read.
    File(PathBuf),
    /// An environment variable of at least 32 characters.
    Environment(String),
    /// A credential that systemd passes (`LoadCredential=`).
    Credential(String),
}

/// Where the store is and what it is sealed with.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The sealed file.
    pub file: PathBuf,
    /// The key; absent: a file `key` beside the store, made with it.
    pub key: Option<KeySource>,
    /// Keys of old, with which the file may still be sealed.
    pub previous_keys: Vec<KeySource>,
    /// A store that is older than the last one seen is taken as well.
    pub allow_rollback: bool,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            file: "store/transship.store".into(),
            key: None,
            previous_keys: Vec::new(),
            allow_rollback: false,
        }
    }
}

impl StoreSettings {
    /// Where the key is made if nobody says where it is.
    pub(super) fn own_key(&self) -> PathBuf {
        self.file.with_file_name("key")
    }

    pub(super) fn current_source(&self) -> KeySource {
        self.key.clone().unwrap_or_else(|| KeySource::File(self.own_key()))
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "the file {}", path.display()),
            KeySource::Environment(name) => write!(f, "the environment variable {name}"),
            KeySource::Credential(name) => write!(f, "the systemd credential {name}"),
        }
    }
}

/// A key to seal with; what it was derived from is gone.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) sealing: Zeroizing<[u8; 32]>,
    fingerprinting: hmac::Key,
    /// For tokens that other processes with this key accept too.
    pub(super) tokens: Zeroizing<[u8; 32]>,
    /// Tells keys apart, and says nothing about them.
    pub(super) id: String,
}

/// The keys of a store.
#[derive(Clone)]
pub struct Keys {
    pub(super) current: Key,
    pub(super) previous: Vec<Key>,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Key {
    fn derive(material: &[u8]) -> Option<Key> {
        let root = Salt::new(HKDF_SHA256, b"transship store").extract(material);
        let part = |root: &Prk, purpose: &[u8]| -> Option<Zeroizing<[u8; 32]>> {
            let mut bytes = Zeroizing::new([0; 32]);
            root.expand(&[purpose], Length(32)).ok()?.fill(bytes.as_mut_slice()).ok()?;
            Some(bytes)
        };
        let id: String = part(&root, b"id")?.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let fingerprinting = hmac::Key::new(hmac::HMAC_SHA256, part(&root, b"fingerprint")?.as_slice());
        let tokens = part(&root, b"tokens")?;
        Some(Key { sealing: part(&root, b"seal")?, fingerprinting, tokens, id })
    }

    /// Tells secrets apart for whoever has no key: 12 hexadecimal characters
    /// that cannot be had by guessing.
    pub(super) fn fingerprint(&self, secret: &Secret) -> String {
        let tag = hmac::sign(&self.fingerprinting, secret.expose().as_bytes());
        tag.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Keys {
    /// Reads the keys; `None` when the key that would be made by itself is not
    /// there yet.
    pub(super) fn read(settings: &StoreSettings) -> Result<Option<Keys>, StoreError> {
        let source = settings.current_source();
        let missing = |path: &Path| !path.exists() && settings.key.is_none();
        if matches!(&source, KeySource::File(path) if missing(path)) {
            return Ok(None);
        }
        let previous: Result<Vec<Key>, StoreError> = settings.previous_keys.iter().map(read).collect();
        Ok(Some(Keys { current: read(&source)?, previous: previous? }))
    }

    /// Makes the key file that is not there yet.
    pub(super) fn make(settings: &StoreSettings) -> Result<Keys, StoreError> {
        let path = settings.own_key();
        let failed = |cause| StoreError::io(&path, "made", cause);
        let mut material = Zeroizing::new([0; 32]);
        rand::fill(material.as_mut_slice()).map_err(|_| StoreError::Key {
            key: KeySource::File(path.clone()),
            what: "cannot be made: the system gives no random bytes".to_owned(),
        })?;
        let text = Zeroizing::new(material.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        let previous: Result<Vec<Key>, StoreError> = settings.previous_keys.iter().map(read).collect();
        Ok(Keys { current: read(&KeySource::File(path))?, previous: previous? })
    }
}

fn read(source: &KeySource) -> Result<Key, StoreError> {
    let wrong = |what: String| StoreError::Key { key: source.clone(), what };
    let material = match source {
        KeySource::File(path) => of_file(path)?,
        KeySource::Credential(name) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or_else(|| wrong("is not there: no credential was passed ($CREDENTIALS_DIRECTORY)".to_owned()))?;
            // systemd has seen to who can read it.
            let path = PathBuf::from(directory).join(name);
            read_bounded(&path).map_err(|cause| StoreError::io(&path, "read", cause))?
        }
        KeySource::Environment(name) => {
            let value = std::env::var(name).map_err(|_| wrong("is not set".to_owned()))?;
            Zeroizing::new(value.into_bytes())
        }
    };
    let material = material.trim_ascii();
    if material.len() < SHORTEST {
        return Err(wrong(format!(
            "holds {} bytes, and a key has at least {SHORTEST}; for example: openssl rand -hex 32",
            material.len()
        )));
    }
    Key::derive(material).ok_or_else(|| wrong("cannot be used".to_owned()))
}

fn of_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    check_mode(path, 0o600)?;
    read_bounded(path).map_err(|cause| StoreError::io(path, "read", cause))
}

fn read_bounded(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses what others could read or change; `mode` is what it should be.
pub(super) fn check_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    let metadata = std::fs::metadata(path).map_err(|cause| StoreError::io(path, "read", cause))?;
    let found = metadata.permissions().mode() & 0o777;
    if found & !mode & 0o077 == 0 {
        return Ok(());
    }
    Err(StoreError::Mode { path: path.to_owned(), found, wanted: mode })
}
