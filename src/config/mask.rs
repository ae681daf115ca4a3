//! Leaving out what looks like a secret, wherever it was written: a token that
//! was put where a name belongs is still a secret.

use std::borrow::Cow;

/// What stands in its place.
const MASK: &str = "(left out: it looks like a secret)";

/// What the secrets of registries, clouds and forges begin with.
const PREFIXES: [&str; 21] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "gldt-",
    "glcbt-",
    "dckr_pat_",
    "dckr_oat_",
    "dop_v1_",
    "doo_v1_",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29",
    "eyJ",
    "hvs",
    "tsp_",
    "nvapi-",
];

/// A word with a known prefix is taken for a secret from this length on.
const WITH_PREFIX: usize = 12;
/// Without one, a word of so many characters may have been drawn by chance.
const RANDOM: usize = 20;
/// Hexadecimal has this many.
const HEXADECIMAL: usize = 32;

/// `text` without the words in it that look like secrets.
pub fn mask(text: &str) -> Cow<'_, str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '=' | '~');
    if !text.split(|c| !is_part(c)).any(looks_secret) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, others) = rest.split_at(end);
        shown.push_str(if looks_secret(word) { MASK } else { word });
        let next = others.find(is_part).unwrap_or(others.len());
        let (between, others) = others.split_at(next);
        shown.push_str(between);
        rest = others;
    }
    Cow::Owned(shown)
}

/// Whether `word` has the look of one: a beginning that is known, or letters
/// and digits that nobody would think of.
fn looks_secret(word: &str) -> bool {
    if word.len() >= WITH_PREFIX && PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
        return true;
    }
    let count = |is: fn(&u8) -> bool| word.bytes().filter(is).count();
    let digits = count(u8::is_ascii_digit);
    if word.len() >= HEXADECIMAL && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return digits > 0;
    }
    // Words and numbers that people write keep to themselves; drawn ones mix.
    let kind = |byte: u8| (byte.is_ascii_digit(), byte.is_ascii_uppercase());
    let turns = word.as_bytes().windows(2).filter(|pair| matches!(pair, [a, b] if kind(*a) != kind(*b))).count();
    let mixed = digits > 0 && count(u8::is_ascii_alphabetic) > 0;
    word.len() >= RANDOM && mixed && turns * 4 >= word.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_left_out() {
        for secret in [
            "ghp_0123456789abcdefghijABCDEFGHIJ012345",
            "glpat-aB3dE5gH7jK9mN1pQ2rS",
            "dckr_pat_AAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "dop_v1_0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9",
            "9f86d081884c7d659a2feaa0c55ad015",
            "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY1",
        ] {
            assert_eq!(mask(&format!("kind = \"{secret}\" # x")), format!("kind = \"{MASK}\" # x"), "{secret}");
        }
    }

    #[test]
    fn what_people_write_stays() {
        for text in [
            "`docker-hubb` is not a kind; use one of docker-hub, ghcr, google, digitalocean, azure, ecr, generic",
            "https://europe-west1-docker.pkg.dev/my-project-123456/",
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
            "/etc/transship/secrets/ghcr-token-2024",
            "Team-Registry-Production-2024",
            "my-very-long-project-name-with-a-number-1",
            "2001:db8::/32",
        ] {
            assert_eq!(mask(text), text);
        }
    }
}
