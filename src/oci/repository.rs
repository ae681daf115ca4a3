//! Repository names (distribution-spec, "Pulling manifests": `<name>`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest accepted name, in bytes; the bound that clients apply too.
const MAX_LEN: usize = 255;

/// A repository name: lower-case path components joined by `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

/// Why a text is not a repository name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a repository name: expected lower-case components of letters, digits and single separators (`.`, `_`, `__`, `-`), joined by `/`, at most 255 bytes"
)]
pub struct InvalidRepository;

impl Repository {
    /// The name as it goes on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components between the slashes; at least one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// This name behind `prefix`, as `prefix/name`.
    ///
    /// # Errors
    /// When the whole would be longer than a name may be.
    pub fn under(&self, prefix: &Repository) -> Result<Repository, InvalidRepository> {
        format!("{prefix}/{self}").parse()
    }

    /// What follows `prefix/` in this name; `None` when it is not below it.
    pub fn strip_prefix(&self, prefix: &Repository) -> Option<Repository> {
        let rest = self.0.strip_prefix(&*prefix.0)?.strip_prefix('/')?;
        rest.parse().ok()
    }

    /// Splits the first component off: `a/b/c` gives (`a`, `b/c`).
    pub fn split_first(&self) -> Option<(&str, Repository)> {
        let (first, rest) = self.0.split_once('/')?;
        Some((first, rest.parse().ok()?))
    }
}

impl FromStr for Repository {
    type Err = InvalidRepository;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() <= MAX_LEN && text.split('/').all(is_component) {
            Ok(Repository(text.into()))
        } else {
            Err(InvalidRepository)
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let mut separator = "";
    let mut rest = text;
    loop {
        let word = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).len();
        let well_separated = matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
        if word == 0 || !well_separated {
            return false;
        }
        rest = rest.get(word..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
        let gap = rest.len() - rest.trim_start_matches(['.', '_', '-']).len();
        if gap == 0 {
            return false;
        }
        separator = rest.get(..gap).unwrap_or_default();
        rest = rest.get(gap..).unwrap_or_default();
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_the_specification_parse() {
        for name in ["a", "library/alpine", "a/b/c/d", "a.b_c__d-e---f", "v2", "manifests", "a/manifests/b", "0/1"] {
            assert_eq!(name.parse::<Repository>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for name in [
            "", "/", "a/", "/a", "a//b", "A", "a/B", "-a", "a-", "_a", "a_", ".a", "a.", "a..b", "a___b", "a._b",
            "a__ _b", "a/../b", "..", ".", "a\\b", "ä", "😀", "a b", "a:b", "a@b", "a%2fb", "a\0b",
        ] {
            assert_eq!(name.parse::<Repository>(), Err(InvalidRepository), "{name:?}");
        }
        assert!("a".repeat(255).parse::<Repository>().is_ok());
        assert!("a".repeat(256).parse::<Repository>().is_err());
    }

    #[test]
    fn prefixes_go_on_and_come_off_at_component_borders_only() {
        let prefix: Repository = "team".parse().unwrap();
        let name: Repository = "app/web".parse().unwrap();
        let whole = name.under(&prefix).unwrap();
        assert_eq!(whole.as_str(), "team/app/web");
        assert_eq!(whole.strip_prefix(&prefix), Some(name));
        assert_eq!("teamster/app".parse::<Repository>().unwrap().strip_prefix(&prefix), None);
        assert_eq!(prefix.strip_prefix(&prefix), None);
    }

    proptest! {
        #[test]
        fn every_generated_name_of_the_grammar_parses(
            name in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}){0,4}"
        ) {
            prop_assert!(name.parse::<Repository>().is_ok());
        }

        #[test]
        fn nothing_that_parses_could_leave_a_directory(name in "[a-zA-Z0-9./_%\\\\-]{0,40}") {
            if let Ok(repository) = name.parse::<Repository>() {
                prop_assert!(repository.components().all(|part| part != "." && part != ".." && !part.is_empty()));
            }
        }
    }
}
