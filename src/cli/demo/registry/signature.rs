//! Signed addresses, as object stores have them: whoever holds one may read
//! one blob, for a while, and needs no credential.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use subtle::ConstantTimeEq as _;

use super::random;
use crate::oci::{Algorithm, Digest, Hasher};

/// How long an address is good for.
const LIFETIME: Duration = Duration::from_secs(60);
/// The block of SHA-256.
const BLOCK: usize = 64;

/// Signs addresses and knows its own signatures.
#[derive(Debug)]
pub(super) struct Signer {
    key: String,
}

impl Signer {
    pub(super) fn new() -> io::Result<Signer> {
        Ok(Signer { key: random()? })
    }

    /// Path and query of an address for the blob.
    pub(super) fn sign(&self, digest: &Digest) -> String {
        let until = now() + LIFETIME.as_secs();
        format!("/{digest}?expires={until}&signature={}", self.signature(&digest.to_string(), &until.to_string()))
    }

    /// Whether path and query are an address of this signer's that is good
    /// still; gives the blob's digest.
    pub(super) fn check(&self, path: &str, query: &str) -> Option<Digest> {
        let digest = path.strip_prefix('/')?;
        let (until, signature) = query.strip_prefix("expires=")?.split_once("&signature=")?;
        let is_own = bool::from(self.signature(digest, until).as_bytes().ct_eq(signature.as_bytes()));
        let is_good = until.parse::<u64>().is_ok_and(|until| now() < until);
        if is_own && is_good { digest.parse().ok() } else { None }
    }

    /// HMAC-SHA-256 (RFC 2104); the key is no longer than a block.
    fn signature(&self, digest: &str, until: &str) -> String {
        let pad = |with: u8| {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let key = self.key.bytes().chain(std::iter::repeat(0));
            hasher.update(&key.take(BLOCK).map(|byte| byte ^ with).collect::<Vec<u8>>());
            hasher
        };
        let (mut inner, mut outer) = (pad(0x36), pad(0x5c));
        inner.update(format!("{digest}\n{until}").as_bytes());
        outer.update(inner.finish().as_bytes());
        outer.finish().hex()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_as_it_was_signed_leads_to_its_blob() {
        let signer = Signer::new().unwrap();
        let (digest, other) = (Digest::sha256_of(b"one"), Digest::sha256_of(b"other"));
        let signed = signer.sign(&digest);
        let (path, query) = signed.split_once('?').unwrap();
        assert_eq!(signer.check(path, query), Some(digest));
        assert_eq!(signer.check(&format!("/{other}"), query), None);
        assert_eq!(signer.check(path, &query.replace("expires=", "expires=9")), None);
        assert_eq!(signer.check(path, &format!("{query}0")), None);
        assert_eq!(signer.check(path, "expires=99999999999&signature="), None);
        assert_eq!(signer.check(path, ""), None);
        assert_eq!(Signer::new().unwrap().check(path, query), None);
    }

    #[test]
    fn an_address_ends() {
        let signer = Signer::new().unwrap();
        let (digest, past) = (Digest::sha256_of(b"one"), (now() - 1).to_string());
        let query = format!("expires={past}&signature={}", signer.signature(&digest.to_string(), &past));
        assert_eq!(signer.check(&format!("/{digest}"), &query), None);
    }

    /// RFC 4231 has test vectors for binary messages; this text and its
    /// signature come from another implementation of HMAC.
    #[test]
    fn signatures_are_hmac_sha256() {
        let signer = Signer { key: "key".into() };
        assert_eq!(signer.signature("a", "b"), "5460bc7da6ecb3a4b2c1470e0468f9debef55c0f1d60619e2b08ef89be62763d");
    }
}
