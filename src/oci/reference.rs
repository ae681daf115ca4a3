//! What a manifest request asks for: a tag or a digest.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Digest;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// Why a text is not a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a tag: expected a letter, digit or `_`, then at most 127 letters, digits, `.`, `_` or `-`")]
pub struct InvalidTag;

impl Tag {
    /// The tag as it goes on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is made from a digest, as those are under which signatures,
    /// SBOMs and referrers of that digest are found: `sha256-<hex>.sig`.
    pub fn is_about_digest(&self) -> bool {
        let hex = self.0.strip_prefix("sha256-").or_else(|| self.0.strip_prefix("sha512-"));
        hex.and_then(|hex| hex.get(..64)).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first && rest && text.len() <= 128 { Ok(Tag(text.into())) } else { Err(InvalidTag) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A tag, which may move, or a digest, which may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A tag.
    Tag(Tag),
    /// A digest.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_made_from_a_digest_is_told_from_others() {
        let hex = "0123456789abcdef".repeat(4);
        for tag in [format!("sha256-{hex}"), format!("sha256-{hex}.sig"), format!("sha512-{hex}.att")] {
            assert!(tag.parse::<Tag>().unwrap().is_about_digest(), "{tag}");
        }
        for tag in ["latest".to_owned(), format!("sha256-{}", &hex[1..]), format!("v{hex}"), "sha256-x".to_owned()] {
            assert!(!tag.parse::<Tag>().unwrap().is_about_digest(), "{tag}");
        }
    }

    #[test]
    fn tags_follow_the_grammar_of_the_specification() {
        for tag in ["latest", "1.0", "_x", "A-b.C_d", &"t".repeat(128)] {
            assert!(tag.parse::<Tag>().is_ok(), "{tag}");
        }
        for tag in ["", ".INVALID_MANIFEST_NAME", "-a", "a/b", "a b", "a:b", "ä", &"t".repeat(129)] {
            assert!(tag.parse::<Tag>().is_err(), "{tag}");
        }
    }
}
