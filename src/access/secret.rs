//! The secrets that clients are given: made here, shown once, kept as hashes.

use argon2::{Argon2, CustomizedPasswordHasher as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs;
use zeroize::Zeroizing;

use super::Proof;

/// What a made secret begins with, so that tools that look for secrets in the
/// wrong places find it.
const PREFIX: &str = "tsp_";
/// A token is hashed fast, because it is checked often: it has to be long.
const SHORTEST_TOKEN: usize = 20;
const SHORTEST_PASSWORD: usize = 8;

/// Why there is no secret, or why one will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The system gives no random bytes, or the hash fails.
    #[error("no secret could be made")]
    System,
    /// Somebody would guess it.
    #[error("a {what} has {shortest} characters or more")]
    TooShort {
        /// What it should be.
        what: &'static str,
        /// How long that is.
        shortest: usize,
    },
}

/// A secret of 256 random bits.
///
/// # Errors
/// When the system gives none.
pub fn make_secret() -> Result<Zeroizing<String>, SecretError> {
    let bytes = Zeroizing::new(random::<32>()?);
    Ok(Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*bytes))))
}

/// The proof that a password makes.
///
/// # Errors
/// When it is too short, or cannot be hashed.
pub fn password_proof(password: &str) -> Result<Proof, SecretError> {
    if password.chars().count() < SHORTEST_PASSWORD {
        return Err(SecretError::TooShort { what: "password", shortest: SHORTEST_PASSWORD });
    }
    let salt = random::<16>()?;
    let hash =
        Argon2::default().hash_password_customized(password.as_bytes(), &salt, None, None, argon2::Params::default());
    Ok(Proof::Password { hash: hash.map_err(|_| SecretError::System)?.to_string() })
}

/// The proof that a token makes.
///
/// # Errors
/// When it is too short.
pub fn token_proof(token: &str) -> Result<Proof, SecretError> {
    if token.chars().count() < SHORTEST_TOKEN {
        return Err(SecretError::TooShort { what: "token", shortest: SHORTEST_TOKEN });
    }
    Ok(Proof::Token { sha256: crate::oci::Digest::sha256_of(token.as_bytes()).hex() })
}

fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    aws_lc_rs::default_provider().secure_random.fill(&mut bytes).map_err(|_| SecretError::System)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::record::{check_password_hash, check_token_hash};
    use super::*;

    #[test]
    fn made_secrets_differ_and_their_proofs_are_sound() {
        let (a, b) = (make_secret().unwrap(), make_secret().unwrap());
        assert!(a != b && a.len() == PREFIX.len() + 43 && a.starts_with(PREFIX));
        let (Proof::Password { hash }, Proof::Password { hash: other }) =
            (password_proof(&a).unwrap(), password_proof(&a).unwrap())
        else {
            panic!("no password")
        };
        assert!(check_password_hash(&hash).is_ok() && hash != other, "each has a salt of its own");
        assert!(matches!(token_proof(&a).unwrap(), Proof::Token { sha256 } if check_token_hash(&sha256).is_ok()));
    }

    #[test]
    fn what_can_be_guessed_is_refused() {
        assert!(password_proof("short").is_err() && password_proof("").is_err());
        assert!(token_proof("twenty-less-one-char").is_ok() && token_proof("nineteen-characters").is_err());
    }
}
