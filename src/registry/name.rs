//! The names operators give to registries.

use crate::printable;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A display name (`My-Example-GHCR`, `Équipe`, `团队`), the lower-case form of
/// it (`my-example-ghcr`), and what stands in addresses: that form, or another
/// that the operator has chosen.
///
/// Equality and hashing go by the lower-case form: two names that differ in
/// case only would be one registry on the wire.
#[derive(Clone)]
pub struct RegistryName {
    display: Arc<str>,
    slug: Arc<str>,
    address: Arc<str>,
}

/// Letters that are written as others in an address.
const WRITTEN_AS: &[(&str, &str)] = &[
    ("a", "àáâãäåāăą"),
    ("ae", "æ"),
    ("c", "çćĉċč"),
    ("d", "ďđð"),
    ("e", "èéêëēĕėęě"),
    ("g", "ĝğġģ"),
    ("h", "ĥħ"),
    ("i", "ìíîïĩīĭįı"),
    ("j", "ĵ"),
    ("k", "ķ"),
    ("l", "ĺļľŀł"),
    ("n", "ñńņňŉ"),
    ("o", "òóôõöøōŏő"),
    ("oe", "œ"),
    ("r", "ŕŗř"),
    ("s", "śŝşšș"),
    ("ss", "ß"),
    ("t", "ţťŧț"),
    ("th", "þ"),
    ("u", "ùúûüũūŭůűų"),
    ("w", "ŵ"),
    ("y", "ýÿŷ"),
    ("z", "źżž"),
];

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
    /// Would disturb whoever reads it.
    #[error("a name must not contain control characters or invisible ones")]
    Control,
    /// Chosen, and nothing that can stand in an address.
    #[error("an address is one part of an image name: lower-case letters and digits, with `-` or `_` between them")]
    Address,
    /// Longer than 64 bytes.
    #[error("a name is at most 64 bytes long")]
    TooLong,
}

impl RegistryName {
    /// The name as the operator wrote it.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// The lower-case form of it: what the registry is known by inside.
    pub fn slug(&self) -> &str {
        &self.slug
    }

    /// What stands in addresses.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same name, with an address of the operator's choice.
    ///
    /// # Errors
    /// When it cannot stand in one, or means something else there.
    pub fn at(self, address: &str) -> Result<RegistryName, InvalidName> {
        let words = |c: char| c == '-' || c == '_';
        let sound = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if address.len() > 64 || !address.split(words).all(sound) {
            return Err(InvalidName::Address);
        }
        if RESERVED.contains(&address) {
            return Err(InvalidName::Reserved);
        }
        Ok(RegistryName { address: address.into(), ..self })
    }

    /// Whether `text`, a path component or what a command or grant says, means
    /// this registry.
    pub fn matches(&self, text: &str) -> bool {
        [&self.address, &self.slug, &self.display].into_iter().any(|form| form.eq_ignore_ascii_case(text))
    }

    /// Whether both could be meant by one text.
    pub fn collides(&self, other: &RegistryName) -> bool {
        [&other.address, &other.slug, &other.display].into_iter().any(|form| self.matches(form))
    }
}

/// What means something else in an address.
const RESERVED: [&str; 2] = ["v2", "localhost"];

/// What can stand in an address instead of `text`.
fn proposed(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match WRITTEN_AS.iter().find(|(_, letters)| letters.contains(c)) {
            Some((letters, _)) => plain.push_str(letters),
            None => plain.push(c),
        }
    }
    let words: Vec<&str> = plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() && text.chars().any(char::is_alphanumeric) {
        // Of a script that an address has no letters for, a stand-in is made:
        // always the same one.
        let digest = crate::oci::Digest::sha256_of(text.as_bytes()).hex();
        return format!("registry-{}", digest.get(..8).unwrap_or_default());
    }
    words.join("-")
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
        if text.chars().any(printable::is_disturbing) {
            return Err(InvalidName::Control);
        }
        let slug: Arc<str> = proposed(text).into();
        match &*slug {
            "" => Err(InvalidName::Empty),
            reserved if RESERVED.contains(&reserved) => Err(InvalidName::Reserved),
            _ => Ok(RegistryName { display: text.into(), address: Arc::clone(&slug), slug }),
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
    fn names_are_free_text_and_their_addresses_may_be_chosen() {
        let parse = |text: &str| text.parse::<RegistryName>().unwrap();
        for (name, address) in [
            ("Team Registry", "team-registry"),
            ("Ünïcode", "unicode"),
            ("Straße 7", "strasse-7"),
            ("Łódź", "lodz"),
            ("团队", "registry-"),
        ] {
            let parsed = parse(name);
            assert!(parsed.address().parse::<Repository>().is_ok());
            if !address.starts_with("registry-") {
                assert_eq!(parsed.address(), address);
            }
        }
        assert_ne!(parse("团队").address(), parse("团体").address());
        let chosen = parse("团队").at("team-a").unwrap();
        assert_eq!((chosen.display(), chosen.address()), ("团队", "team-a"));
        for text in ["团队", "team-a", "TEAM-A", chosen.slug()] {
            assert!(chosen.matches(text), "{text}");
        }
        assert!(chosen.collides(&parse("Team A")) && !chosen.collides(&parse("Team B")));
        for wrong in ["", "Team", "a.b", "a/b", "a--b", "-a", "团", "a b", "a:1"] {
            assert_eq!(parse("x").at(wrong).unwrap_err(), InvalidName::Address, "{wrong}");
        }
        assert_eq!(parse("x").at("v2").unwrap_err(), InvalidName::Reserved);
        assert_eq!("a\u{7}b".parse::<RegistryName>(), Err(InvalidName::Control));
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        assert_eq!("v2".parse::<RegistryName>(), Err(InvalidName::Reserved));
        assert_eq!("ghcr.io".parse::<RegistryName>(), Err(InvalidName::LooksLikeHost));
        assert_eq!("--".parse::<RegistryName>(), Err(InvalidName::Empty));
        assert_eq!("x".repeat(65).parse::<RegistryName>(), Err(InvalidName::TooLong));
    }
}
