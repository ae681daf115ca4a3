//! Contents ↔ sealed bytes: a line that says what it is, and AES-256-GCM over
//! the rest.
//!
//! ```text
//! transship-store 1 <key id> <nonce, hexadecimal>\n
//! <ciphertext and tag>
//! ```
//!
//! The line is authenticated too, so nothing of the file can be changed
//! unnoticed. Each write draws a new random nonce; a store is written too
//! seldom for two of them to meet (NIST SP 800-38D allows 2³² writes).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::Contents;
use super::contents::Plain;
use super::key::{Key, Keys};

const MAGIC: &str = "transship-store";
const FORMAT: u32 = 1;

/// Why sealed bytes cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Written by something else.
    #[error("it is no store of transship")]
    Foreign,
    /// Written by a later version.
    #[error("it has format {0}, which a later version wrote; this one reads format {FORMAT}")]
    Newer(u32),
    /// None of the keys fits.
    #[error("it is sealed with the key {0}, which is not among the configured ones")]
    OtherKey(String),
    /// The key fits, and the bytes are not what was written.
    #[error("it is damaged: a copy has to be restored")]
    Damaged,
    /// It could not be sealed.
    #[error("it cannot be sealed")]
    Unsealable,
}

/// What was opened, and whether by a key of old.
pub(super) struct Opened {
    pub(super) contents: Contents,
    pub(super) generation: u64,
    pub(super) by_previous: bool,
}

pub(super) fn seal(contents: &Contents, generation: u64, keys: &Keys) -> Result<Vec<u8>, Broken> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| Broken::Unsealable)?;
    let hex: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("{MAGIC} {FORMAT} {} {hex}\n", keys.current.id);
    // Grown in place, the plain text would be left behind in freed memory.
    let mut plain = Zeroizing::new(Vec::with_capacity(1 << 20));
    serde_json::to_writer(&mut *plain, &Plain::new(contents, generation)).map_err(|_| Broken::Unsealable)?;
    let tag = cipher(&keys.current)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(line.as_bytes()), &mut plain)
        .map_err(|_| Broken::Unsealable)?;
    Ok([line.as_bytes(), &plain, tag.as_ref()].concat())
}

pub(super) fn open(bytes: &[u8], keys: &Keys) -> Result<Opened, Broken> {
    let end = bytes.iter().take(256).position(|byte| *byte == b'\n').ok_or(Broken::Foreign)? + 1;
    let (line, sealed) = bytes.split_at_checked(end).ok_or(Broken::Foreign)?;
    let text = std::str::from_utf8(line).map_err(|_| Broken::Foreign)?;
    let mut words = text.trim_ascii_end().split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Broken::Foreign);
    }
    let format = words.next().and_then(|word| word.parse().ok()).ok_or(Broken::Foreign)?;
    if format != FORMAT {
        return Err(Broken::Newer(format));
    }
    let (id, nonce) = words.next().zip(words.next().and_then(nonce)).ok_or(Broken::Damaged)?;
    let by_previous = keys.current.id != id;
    let key = std::iter::once(&keys.current)
        .chain(&keys.previous)
        .find(|key| key.id == id)
        .ok_or_else(|| Broken::OtherKey(id.chars().filter(char::is_ascii_alphanumeric).take(16).collect()))?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let plain = cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(line), &mut sealed)
        .map_err(|_| Broken::Damaged)?;
    let plain: Plain = serde_json::from_slice(plain).map_err(|_| Broken::Damaged)?;
    Ok(Opened { generation: plain.generation, contents: plain.into(), by_previous })
}

fn cipher(key: &Key) -> Result<LessSafeKey, Broken> {
    UnboundKey::new(&AES_256_GCM, key.sealing.as_slice()).map(LessSafeKey::new).map_err(|_| Broken::Unsealable)
}

fn nonce(hex: &str) -> Option<[u8; NONCE_LEN]> {
    let mut nonce = [0; NONCE_LEN];
    if hex.len() != 2 * NONCE_LEN || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in nonce.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(nonce)
}
