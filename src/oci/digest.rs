//! Content digests (OCI image-spec, "Digests").
//!
//! Only algorithms that this program can verify parse at all: an unverifiable
//! digest could never be cached, and its text never reaches a path or a URL.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

/// A digest algorithm this program verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, 32 bytes.
    Sha256,
    /// `sha512`, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, in the order of their names.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The registered identifier, as written before the `:`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Number of hexadecimal characters after the `:`.
    pub fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// A verified-by-construction digest: algorithm and raw bytes.
///
/// Two digests of the same content under different algorithms are different
/// objects, as the specification has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// Why a text is not a digest this program accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a sha256 or sha512 digest: expected `sha256:` and 64, or `sha512:` and 128, lower-case hexadecimal characters"
)]
pub struct InvalidDigest;

impl Digest {
    /// The algorithm that made it.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw digest bytes (32 or 64 of them).
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::Sha512(bytes) => bytes,
        }
    }

    /// The lower-case hexadecimal part, without the algorithm.
    pub fn hex(&self) -> String {
        encode_hex(self.as_bytes(), &mut [0; 128]).to_owned()
    }

    /// The SHA-256 digest of `bytes`.
    pub fn sha256_of(bytes: &[u8]) -> Digest {
        Digest::Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// Whether `bytes` hash to this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm());
        hasher.update(bytes);
        hasher.finish() == *self
    }

    /// The tag under which referrers of this digest are listed by registries
    /// without the referrers API: algorithm cut to 32, encoded part to 64
    /// characters, joined by `-` (distribution-spec, "Referrers Tag Schema").
    pub fn referrers_tag(&self) -> String {
        let hex = self.hex();
        let cut = hex.get(..64).unwrap_or(&hex);
        format!("{}-{cut}", self.algorithm().name())
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = text.split_once(':').ok_or(InvalidDigest)?;
        match algorithm {
            "sha256" => Ok(Digest::Sha256(decode_hex(hex)?)),
            "sha512" => Ok(Digest::Sha512(decode_hex(hex)?)),
            _ => Err(InvalidDigest),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().name())?;
        f.write_str(":")?;
        f.write_str(encode_hex(self.as_bytes(), &mut [0; 128]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Running hash of a stream; `finish` gives the digest of all that was fed.
#[derive(Clone)]
pub enum Hasher {
    /// A SHA-256 in progress.
    Sha256(sha2::Sha256),
    /// A SHA-512 in progress.
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// An empty hash of `algorithm`.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::default()),
        }
    }

    /// Feeds the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything fed so far.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Hasher::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// Every request writes digests several times: no allocation, no formatting.
fn encode_hex<'a>(bytes: &[u8], buffer: &'a mut [u8; 128]) -> &'a str {
    let nibble = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
    for (pair, byte) in buffer.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[nibble(byte >> 4), nibble(byte & 0xf)]);
    }
    let text = buffer.get(..2 * bytes.len()).unwrap_or_default();
    std::str::from_utf8(text).unwrap_or_default()
}

fn decode_hex<const N: usize>(hex: &str) -> Result<[u8; N], InvalidDigest> {
    let hex = hex.as_bytes();
    if hex.len() != 2 * N {
        return Err(InvalidDigest);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        for &character in pair {
            let nibble = match character {
                b'0'..=b'9' => character - b'0',
                b'a'..=b'f' => character - b'a' + 10,
                _ => return Err(InvalidDigest),
            };
            *byte = *byte << 4 | nibble;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_empty_blob_has_its_well_known_digest() {
        assert_eq!(Digest::sha256_of(b"").to_string(), EMPTY);
        assert!(EMPTY.parse::<Digest>().unwrap().matches(b""));
    }

    #[test]
    fn sha512_is_an_object_of_its_own() {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"abc");
        let digest = hasher.finish();
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_ne!(digest, Digest::sha256_of(b"abc"));
        assert_eq!(digest.referrers_tag().len(), "sha512-".len() + 64);
    }

    #[test]
    fn texts_that_are_no_verifiable_digest_are_refused() {
        let hex = "a".repeat(64);
        for text in [
            "sha256:baddigeststring".to_owned(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}a"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}g", &hex[1..]),
            format!("SHA256:{hex}"),
            format!("md5:{}", &hex[32..]),
            format!("sha384:{hex}{}", &hex[32..]),
            format!("sha256+b64u:{hex}"),
            format!("sha512:{hex}"),
            "sha256:".to_owned(),
            ":".to_owned(),
            String::new(),
            hex,
        ] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in "sha(256|512):[0-9a-f]{60,130}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<Digest>();
        }
    }
}
