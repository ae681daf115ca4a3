//! Patterns of tags.

use std::fmt;
use std::str::FromStr;

use crate::oci::Tag;

/// Tags of one form: `*` stands for any characters, also for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPattern(String);

/// Why a text is no pattern of tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a pattern of tags as `v*` or `1.2.3`")]
pub struct InvalidPattern;

impl TagPattern {
    /// Whether `tag` has this form.
    pub fn matches(&self, tag: &Tag) -> bool {
        let mut pieces = self.0.split('*');
        let Some(mut rest) = tag.as_str().strip_prefix(pieces.next().unwrap_or_default()) else { return false };
        let mut pieces: Vec<&str> = pieces.collect();
        let Some(last) = pieces.pop() else { return rest.is_empty() };
        for piece in pieces {
            match rest.split_once(piece) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl FromStr for TagPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-*".contains(&byte);
        let sound = !text.is_empty() && text.len() <= 128 && text.bytes().all(allowed);
        if sound { Ok(TagPattern(text.to_owned())) } else { Err(InvalidPattern) }
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, tag: &str) -> bool {
        pattern.parse::<TagPattern>().unwrap().matches(&tag.parse().unwrap())
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, tag) in
            [("v*", "v1.2"), ("v*", "v"), ("*", "x"), ("*-rc*", "1-rc2"), ("1.*.3", "1.2.3"), ("a*a*a", "aXaaYa")]
        {
            assert!(matches(pattern, tag), "{pattern} {tag}");
        }
        for (pattern, tag) in [("v*", "1.2"), ("1.2", "1.2.3"), ("*-rc", "1-rc2"), ("V*", "v1"), ("a*a", "a")] {
            assert!(!matches(pattern, tag), "{pattern} {tag}");
        }
    }

    #[test]
    fn what_no_tag_can_match_is_no_pattern() {
        for text in ["", "a/b", "a:b", "v?", "ä*", &"v".repeat(129)] {
            assert_eq!(text.parse::<TagPattern>(), Err(InvalidPattern), "{text}");
        }
    }
}
