//! Where a secret comes from. The configuration names a source, never the
//! secret; no message and no rendered line shows one.

use toml::de::DeValue;

use super::problem::Place;
use super::section::{Environment, Found, Section};
use crate::registry::Secret;

/// Where to take secrets from.
pub(super) struct Sources<'a> {
    pub(super) environment: &'a Environment,
    /// Only addresses are asked for: whoever asks may not have the secrets, nor
    /// the other files that the configuration names.
    pub(super) withheld: bool,
}

impl Sources<'_> {
    /// Takes the secret of `key` from its source. `plain_allowed`: a secret in
    /// clear is accepted.
    pub(super) fn take(
        &self,
        section: &Section<'_>,
        owner: &str,
        key: &'static str,
        plain_allowed: bool,
    ) -> Option<Secret> {
        let Found { value, place } = section.value(key)?;
        let problems = section.problems;
        let table = match value {
            DeValue::Table(table) => table,
            DeValue::String(text) if plain_allowed && text.is_empty() => {
                problems.add(&place, format!("{owner}: `{key}` is empty"), None);
                return None;
            }
            DeValue::String(text) if plain_allowed => return Some(Secret::new(text.to_string())),
            _ => {
                problems.add(
                    &place.hidden(),
                    format!("{owner}: `{key}` is a secret and must not stand in the file"),
                    format!(
                        "name its source: `{key} = {{ env = \"NAME\" }}` or `{key} = {{ file = \"/run/secrets/name\" }}`; a kind = \"generic\" \
                         registry for development may say `allow_plaintext = true`"
                    ),
                );
                return None;
            }
        };
        let mut entries = table.iter();
        let (Some((source, argument)), None) = (entries.next(), entries.next()) else {
            problems.add(
                &place.hidden(),
                format!("{owner}: `{key}` needs one source"),
                format!("for example `{key} = {{ env = \"NAME\" }}`"),
            );
            return None;
        };
        let source: &str = source.get_ref();
        let argument_text = argument.get_ref().as_str();
        match (source, argument_text) {
            // The value written where its name should be must not be repeated.
            ("env", Some(name)) if !is_variable_name(name) => {
                let message = format!("{owner}: what `{key}` is taken from is no name of an environment variable");
                problems.add(&place.hidden(), message, format!("write it as `{key} = {{ env = \"NAME\" }}`"));
                None
            }
            ("file", Some(path)) if path.contains(|c: char| c.is_control() || c == '{') => {
                let message = format!("{owner}: what `{key}` is taken from is no path of a file");
                problems.add(&place.hidden(), message, format!("write it as `{key} = {{ file = \"/path\" }}`"));
                None
            }
            ("env" | "file", Some(_)) if self.withheld => Some(Secret::new("-".to_owned())),
            ("env", Some(name)) => self.in_environment(section, owner, key, name, &place),
            ("file", Some(path)) => in_file(section, owner, key, path, &place),
            ("env" | "file", None) => {
                problems.add(&place.hidden(), format!("{owner}: the {source} of `{key}` has to be text"), None);
                None
            }
            ("stored" | "helper" | "docker_config", _) => {
                let message = format!("{owner}: the source `{source}` of `{key}` is not supported by this version");
                problems.add(&place.hidden(), message, "use `env` or `file`".to_owned());
                None
            }
            _ => {
                problems.add(
                    &place.hidden(),
                    format!("{owner}: `{source}` is no source of secrets"),
                    "use `env` or `file`".to_owned(),
                );
                None
            }
        }
    }

    fn in_environment(
        &self,
        section: &Section<'_>,
        owner: &str,
        key: &str,
        name: &str,
        place: &Place,
    ) -> Option<Secret> {
        match self.environment.get(name).map(|value| trimmed(value)) {
            Some(value) if !value.is_empty() => Some(Secret::new(value.to_owned())),
            found => {
                let state = if found.is_some() { "empty" } else { "not set" };
                let message =
                    format!("{owner}: the environment variable {name}, which `{key}` is taken from, is {state}");
                section.problems.add(place, message, format!("set {name} before starting, or name another source"));
                None
            }
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn in_file(section: &Section<'_>, owner: &str, key: &str, path: &str, place: &Place) -> Option<Secret> {
    let problem = |what: String| {
        let message = format!("{owner}: the file {path}, which `{key}` is taken from, {what}");
        section.problems.add(place, message, "check the path and its permissions, or name another source".to_owned());
        None
    };
    match std::fs::read_to_string(path) {
        Ok(text) if trimmed(&text).is_empty() => problem("is empty".to_owned()),
        Ok(text) => Some(Secret::new(trimmed(&text).to_owned())),
        Err(error) => problem(format!("cannot be read: {error}")),
    }
}

/// Editors and `echo` end a file with a newline that is not part of the
/// secret; all else, inner newlines of a JSON key too, is kept byte for byte.
fn trimmed(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::trimmed;

    #[test]
    fn only_the_final_newline_is_no_part_of_a_secret() {
        assert_eq!(trimmed("token\n"), "token");
        assert_eq!(trimmed("token\r\n"), "token");
        assert_eq!(trimmed("{\n \"a\": 1\n}\n\n"), "{\n \"a\": 1\n}\n");
        assert_eq!(trimmed(" p w "), " p w ");
    }
}
