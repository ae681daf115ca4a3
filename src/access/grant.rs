//! Grants: registry × repository pattern.

use std::fmt;
use std::str::FromStr;

use crate::oci::Repository;
use crate::registry::Registry;

/// `registry/pattern`: the repositories of one registry that may be pulled.
///
/// The pattern speaks of names relative to the registry's prefix. `*` stays
/// within one path component, `**` crosses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    registry: String,
    pattern: Vec<String>,
}

/// Why a text is no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a grant as `registry/pattern`, for example `docker-hub/library/*` or `My-Registry/**`")]
pub struct InvalidGrant;

impl Grant {
    /// The registry's name as written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether `repository` (its full upstream name) of `registry` is granted.
    pub fn covers(&self, registry: &Registry, repository: &Repository) -> bool {
        if !registry.name.matches(&self.registry) {
            return false;
        }
        let relative = match &registry.prefix {
            Some(prefix) => match repository.strip_prefix(prefix) {
                Some(relative) => relative,
                None => return false,
            },
            None => repository.clone(),
        };
        let components: Vec<&str> = relative.components().collect();
        matches_path(&self.pattern, &components)
    }
}

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (registry, pattern) = text.split_once('/').ok_or(InvalidGrant)?;
        let pattern: Vec<String> = pattern.split('/').map(str::to_owned).collect();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-*".contains(c);
        let sound =
            |part: &String| !part.is_empty() && part.chars().all(allowed) && (part == "**" || !part.contains("**"));
        if registry.is_empty() || !pattern.iter().all(sound) {
            return Err(InvalidGrant);
        }
        Ok(Grant { registry: registry.to_owned(), pattern })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.pattern.join("/"))
    }
}

fn matches_path(pattern: &[String], components: &[&str]) -> bool {
    match pattern.split_first() {
        None => components.is_empty(),
        Some((first, rest)) if first == "**" => {
            (0..=components.len()).any(|skipped| components.get(skipped..).is_some_and(|left| matches_path(rest, left)))
        }
        Some((first, rest)) => match components.split_first() {
            Some((component, left)) => matches_component(first, component) && matches_path(rest, left),
            None => false,
        },
    }
}

/// Glob with `*` only; leftmost literals first, so linear in practice and at
/// most quadratic in a name of 255 bytes.
fn matches_component(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &str, name: &str) -> bool {
        let grant: Grant = format!("r/{pattern}").parse().unwrap();
        let components: Vec<&str> = name.split('/').collect();
        matches_path(&grant.pattern, &components)
    }

    #[test]
    fn one_star_stays_in_its_component_and_two_cross() {
        assert!(glob("library/*", "library/alpine"));
        assert!(!glob("library/*", "library/a/b"));
        assert!(!glob("library/*", "other/alpine"));
        assert!(glob("**", "a/b/c"));
        assert!(glob("a/**", "a/b/c") && glob("a/**/c", "a/c") && glob("a/**/c", "a/b/b/c"));
        assert!(!glob("a/**/c", "a/b"));
        assert!(glob("app-*-web", "app-eu-web") && !glob("app-*-web", "app-web"));
        assert!(glob("a*b*c", "abbc") && !glob("a*b*c", "acb"));
        assert!(!glob("app", "application") && glob("app*", "app"));
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        for text in ["", "registry", "/x", "r/", "r//x", "r/A", "r/a**", "r/../x y"] {
            assert_eq!(text.parse::<Grant>(), Err(InvalidGrant), "{text}");
        }
    }
}
