//! The names operators give to registries.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A display name (`My-Example-GHCR`) and the lower-case form of it that can
/// stand in an address (`my-example-ghcr`).
///
/// Equality and hashing go by the address form: two names that differ in case
/// only would be one registry on the wire.
#[derive(Clone)]
pub struct RegistryName {
    display: Arc<str>,
    slug: Arc<str>,
}

/// Why a text cannot name a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing of it could stand in an address.
    #[error("a name needs at least one letter or digit")]
    Empty,
    /// Would be mistaken for an upstream host.
    #[error("a name must not contain a dot or colon: it would be mistaken for a host")]
    LooksLikeHost,
    /// Means something else in an address.
    #[error("this name is reserved: it has a meaning of its own in addresses")]
    Reserved,
    /// Longer than 64 bytes.
    #[error("a name is at most 64 bytes long")]
    TooLong,
}

impl RegistryName {
    /// The name as the operator wrote it.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// The name as it stands in addresses.
    pub fn slug(&self) -> &str {
        &self.slug
    }

    /// Whether a path component means this registry.
    pub fn matches(&self, component: &str) -> bool {
        self.slug.eq_ignore_ascii_case(component)
    }
}

impl FromStr for RegistryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 64 {
            return Err(InvalidName::TooLong);
        }
        if text.contains(['.', ':']) {
            return Err(InvalidName::LooksLikeHost);
        }
        let words: Vec<String> = text
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        let slug = words.join("-");
        match slug.as_str() {
            "" => Err(InvalidName::Empty),
            "v2" | "localhost" => Err(InvalidName::Reserved),
            _ => Ok(RegistryName { display: text.into(), slug: slug.into() }),
        }
    }
}

impl PartialEq for RegistryName {
    fn eq(&self, other: &Self) -> bool {
        self.slug == other.slug
    }
}

impl Eq for RegistryName {}

impl std::hash::Hash for RegistryName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.slug.hash(state);
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display)
    }
}

impl fmt::Debug for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.display, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Repository;

    #[test]
    fn a_display_name_has_one_form_for_addresses() {
        for (name, slug) in
            [("My-Example-GHCR", "my-example-ghcr"), ("Team registry (EU)", "team-registry-eu"), ("a_b", "a-b")]
        {
            let parsed: RegistryName = name.parse().unwrap();
            assert_eq!((parsed.display(), parsed.slug()), (name, slug));
            assert!(slug.parse::<Repository>().is_ok());
        }
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        assert_eq!("v2".parse::<RegistryName>(), Err(InvalidName::Reserved));
        assert_eq!("ghcr.io".parse::<RegistryName>(), Err(InvalidName::LooksLikeHost));
        assert_eq!("--".parse::<RegistryName>(), Err(InvalidName::Empty));
        assert_eq!("x".repeat(65).parse::<RegistryName>(), Err(InvalidName::TooLong));
    }
}
