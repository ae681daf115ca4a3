//! The tokens that open the API over TCP.
//!
//! One is made at the first start and lies in a file that only the proxy's own
//! user can read; others have names and roles. Of those the hashes are kept:
//! tokens are 32 random bytes, which no table has.
//!
//! A client that is about to send its token over plain HTTP lets the server
//! prove first that it knows it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::caller::Role;
use crate::access::make_secret;

/// What the token of the file is called in the audit trail.
const FILE_TOKEN: &str = "admin.token";
/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 20;
const MAX_TOKENS: usize = 1000;

/// Stands for a token where the token itself must not be.
type Hash = [u8; 32];

/// A named token, as the file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Named {
    role: Role,
    /// SHA-256 of the token, without padding.
    hash: String,
    /// Seconds since 1970.
    created_at: u64,
}

/// What a named token is, without what opens anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// Its name.
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// Why a token was not added or removed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name cannot be one, or is one already.
    #[error("{0}")]
    Name(String),
    /// There is no such token.
    #[error("there is no admin token `{0}`")]
    Unknown(String),
    /// The disk or the system's random numbers failed.
    #[error("the tokens in {path} could not be changed: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}

/// All tokens of the process.
pub struct Tokens {
    path: PathBuf,
    /// Absent where the file could be neither read nor made.
    file_token: Option<Hash>,
    named: Mutex<BTreeMap<String, Named>>,
}

impl Tokens {
    /// Reads the token of `token_file`, making one if there is none, and those
    /// of `named`. What cannot be read opens nothing.
    pub fn open(token_file: &Path, named: PathBuf) -> Tokens {
        let file_token = match read_or_make(token_file) {
            Ok(token) => Some(hash(&token)),
            Err(error) => {
                warn!(path = %token_file.display(), %error, "there is no admin token: the API is open to named tokens and at the socket");
                None
            }
        };
        let known = match read(&named) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        let known = known.unwrap_or_else(|error| {
            warn!(path = %named.display(), %error, "the named admin tokens cannot be read: none of them opens anything");
            BTreeMap::new()
        });
        Tokens { path: named, file_token, named: Mutex::new(known) }
    }

    fn named(&self) -> MutexGuard<'_, BTreeMap<String, Named>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose `token` is, and what it opens.
    pub(super) fn find(&self, token: &str) -> Option<(String, Role)> {
        let shown = hash(token);
        let is_shown = |known: &Hash| aws_lc_rs::constant_time::verify_slices_are_equal(known, &shown).is_ok();
        if self.file_token.as_ref().is_some_and(is_shown) {
            return Some((FILE_TOKEN.to_owned(), Role::Write));
        }
        let named = self.named();
        let found = named.iter().find(|(_, token)| decode(&token.hash).is_some_and(|known| is_shown(&known)));
        found.map(|(name, token)| (name.clone(), token.role))
    }

    /// What shows to whoever knows the token called `id` that this process
    /// knows it too, and is who listens at `address`: a stranger who has another
    /// address can pass the question on and gains nothing.
    pub(super) fn prove(&self, id: &str, nonce: &str, address: SocketAddr) -> Option<String> {
        let named = self.named();
        let hashes = named.values().filter_map(|token| decode(&token.hash)).chain(self.file_token);
        hashes.into_iter().find(|hash| self::id(hash) == id).map(|hash| proof(&hash, nonce, address))
    }

    /// All named tokens.
    pub fn list(&self) -> Vec<TokenEntry> {
        let entry = |(name, token): (&String, &Named)| TokenEntry {
            name: name.clone(),
            role: token.role,
            created_at: token.created_at,
        };
        self.named().iter().map(entry).collect()
    }

    /// Makes a token; what it is is told this once.
    ///
    /// # Errors
    /// As [`TokenError`] says; nothing has changed then.
    pub fn add(&self, name: &str, role: Role, now: u64) -> Result<Zeroizing<String>, TokenError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) || name == FILE_TOKEN {
            return Err(TokenError::Name(format!(
                "`{}` cannot be the name of a token; use letters, digits and . - _ @, up to 64",
                name.escape_debug()
            )));
        }
        let secret = make_secret().map_err(|error| self.failed(io::Error::other(error.to_string())))?;
        let mut named = self.named();
        if named.contains_key(name) {
            return Err(TokenError::Name(format!("there is an admin token `{name}` already; remove it first")));
        }
        if named.len() >= MAX_TOKENS {
            return Err(TokenError::Name(format!("there are {MAX_TOKENS} admin tokens already; remove some first")));
        }
        let mut next = named.clone();
        let hash = URL_SAFE_NO_PAD.encode(hash(&secret));
        next.insert(name.to_owned(), Named { role, hash, created_at: now });
        self.write(&next)?;
        *named = next;
        Ok(secret)
    }

    /// Removes a token: it opens nothing from now on.
    ///
    /// # Errors
    /// As [`TokenError`] says; nothing has changed then.
    pub fn remove(&self, name: &str) -> Result<(), TokenError> {
        let mut named = self.named();
        let mut next = named.clone();
        if next.remove(name).is_none() {
            return Err(TokenError::Unknown(name.escape_debug().to_string()));
        }
        self.write(&next)?;
        *named = next;
        Ok(())
    }

    fn failed(&self, cause: io::Error) -> TokenError {
        TokenError::Io { path: self.path.clone(), cause }
    }

    fn write(&self, tokens: &BTreeMap<String, Named>) -> Result<(), TokenError> {
        let write = || {
            let bytes = serde_json::to_vec_pretty(tokens).map_err(io::Error::other)?;
            replace(&self.path, &bytes)
        };
        write().map_err(|cause| self.failed(cause))
    }
}

/// The hash that stands for a token.
pub fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

/// What a token is called where it must not be told: derived from its hash, and
/// of no use to find it.
pub fn id(hash: &Hash) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, hash), b"id");
    URL_SAFE_NO_PAD.encode(tag.as_ref().get(..12).unwrap_or_default())
}

/// What only who knows the token can say of `nonce` at `address`.
pub fn proof(hash: &Hash, nonce: &str, address: SocketAddr) -> String {
    let said = format!("proof {address} {nonce}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, hash), said.as_bytes());
    URL_SAFE_NO_PAD.encode(tag.as_ref())
}

/// The token in `path`, which nobody else may read.
///
/// # Errors
/// When it cannot be read, or others can.
pub fn read_token(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(read(path)?);
    let text = std::str::from_utf8(&bytes).map_err(io::Error::other)?.trim();
    if text.len() < 32 {
        return Err(io::Error::other("the file does not hold an admin token"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_or_make(path: &Path) -> io::Result<Zeroizing<String>> {
    match read_token(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let token = make_secret().map_err(|error| io::Error::other(error.to_string()))?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    replace(path, format!("{}\n", *token).as_bytes())?;
    info!(path = %path.display(), "made the admin token, which opens the API over TCP");
    Ok(token)
}

/// Reads a regular file that others cannot read.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("others can get at it: chmod 600 {}", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Beside it and renamed: who is killed leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("new.{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn decode(text: &str) -> Option<Hash> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn open(dir: &tempfile::TempDir) -> Tokens {
        Tokens::open(&dir.path().join("store/admin.token"), dir.path().join("store/admin-tokens.json"))
    }

    #[test]
    fn the_first_start_makes_a_token_that_nobody_else_can_read_and_later_ones_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(&dir);
        let path = dir.path().join("store/admin.token");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let token = read_token(&path).unwrap();
        assert_eq!(tokens.find(&token), Some((FILE_TOKEN.to_owned(), Role::Write)));
        assert_eq!(open(&dir).find(&token), Some((FILE_TOKEN.to_owned(), Role::Write)));
        assert_eq!(tokens.find(""), None);
        // One that others can read opens nothing.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(open(&dir).find(&token), None);
    }

    #[test]
    fn named_tokens_are_kept_as_hashes_and_gone_when_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(&dir);
        let token = tokens.add("grafana", Role::Read, 7).unwrap();
        assert!(tokens.add("grafana", Role::Write, 8).is_err());
        assert_eq!(open(&dir).find(&token), Some(("grafana".to_owned(), Role::Read)));
        let stored = fs::read_to_string(dir.path().join("store/admin-tokens.json")).unwrap();
        assert!(!stored.contains(&**token) && stored.contains("grafana"));
        for wrong in ["", "a b", "a/b", "ä", "\u{1b}[2J", FILE_TOKEN, &"x".repeat(65)] {
            assert!(matches!(tokens.add(wrong, Role::Read, 0), Err(TokenError::Name(_))), "{wrong}");
        }
        tokens.remove("grafana").unwrap();
        assert!(matches!(tokens.remove("grafana"), Err(TokenError::Unknown(_))));
        assert_eq!((tokens.find(&token), open(&dir).find(&token)), (None, None));
    }

    #[test]
    fn a_proof_is_for_one_question_at_one_address() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(&dir);
        let token = tokens.add("ci", Role::Write, 0).unwrap();
        let (hash, address) = (hash(&token), "127.0.0.1:5001".parse().unwrap());
        let shown = tokens.prove(&id(&hash), "nonce", address).unwrap();
        assert_eq!(shown, proof(&hash, "nonce", address));
        assert_ne!(shown, proof(&hash, "other", address));
        assert_ne!(shown, proof(&hash, "nonce", "127.0.0.1:5002".parse().unwrap()));
        assert_eq!(tokens.prove("unknown", "nonce", address), None);
    }
}
