//! Where a secret comes from. The configuration names a source, never the
//! secret; no message and no rendered line shows one.

use toml::de::DeValue;

use super::problem::Place;
use super::section::{Environment, Found, Section};
use crate::registry::{HelperName, RegistryName, Secret, Source, Value};

/// The secret that a store keeps for a registry's field.
pub(super) type Stored<'a> = &'a dyn Fn(&RegistryName, &str) -> Option<Secret>;

/// Where to take secrets from.
pub(super) struct Sources<'a> {
    pub(super) environment: &'a Environment,
    /// The store; `None` where there is none.
    pub(super) stored: Option<Stored<'a>>,
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
        (owner, name): (&str, Option<&RegistryName>),
        key: &'static str,
        plain_allowed: bool,
    ) -> Option<Value> {
        let Found { value, place } = section.value(key)?;
        let problems = section.problems;
        let table = match value {
            DeValue::Table(table) => table,
            DeValue::String(text) if plain_allowed && text.is_empty() => {
                problems.add(&place, format!("{owner}: `{key}` is empty"), None);
                return None;
            }
            DeValue::String(text) if plain_allowed => return Some(Value::Secret(Secret::new(text.to_string()))),
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
            ("file" | "docker_config", Some(path)) if path.contains(|c: char| c.is_control() || c == '{') => {
                let message = format!("{owner}: what `{key}` is taken from is no path of a file");
                problems.add(&place.hidden(), message, format!("write it as `{key} = {{ {source} = \"/path\" }}`"));
                None
            }
            ("env" | "file", Some(_)) | ("stored", None) if self.withheld => {
                Some(Value::Secret(Secret::new("-".to_owned())))
            }
            // Where a login comes from as a whole, its user name need not be told.
            ("docker_config", Some(_)) if self.withheld => "withheld".parse().ok().map(Value::Helper),
            ("env", Some(name)) => self.in_environment(section, owner, key, name, &place).map(Value::Secret),
            ("file", Some(path)) => in_file(section, owner, key, path, &place).map(Value::Source),
            ("docker_config", Some(path)) => in_file(section, owner, key, path, &place).map(Value::DockerConfig),
            ("helper", Some(name)) => match name.parse::<HelperName>() {
                Ok(name) => Some(Value::Helper(name)),
                Err(error) => {
                    let message = format!("{owner}: what `{key}` is taken from {error}");
                    let help = format!(
                        "`{key} = {{ helper = \"ecr-login\" }}` runs the program docker-credential-ecr-login of PATH"
                    );
                    problems.add(&place.hidden(), message, help);
                    None
                }
            },
            ("env" | "file" | "docker_config" | "helper", None) => {
                problems.add(&place.hidden(), format!("{owner}: the {source} of `{key}` has to be text"), None);
                None
            }
            ("stored", _) => self.in_store(section, (owner, name), key, argument.get_ref(), &place),
            _ => {
                problems.add(
                    &place.hidden(),
                    format!("{owner}: `{source}` is no source of secrets"),
                    "use `env`, `file`, `docker_config` or `helper`".to_owned(),
                );
                None
            }
        }
    }

    fn in_store(
        &self,
        section: &Section<'_>,
        (owner, name): (&str, Option<&RegistryName>),
        key: &str,
        argument: &DeValue<'_>,
        place: &Place,
    ) -> Option<Value> {
        let problems = section.problems;
        let Some(stored) = self.stored else {
            let message = format!("{owner}: the source `stored` of `{key}` is not supported by this version");
            problems.add(&place.clone().hidden(), message, "use `env` or `file`".to_owned());
            return None;
        };
        if argument.as_bool() != Some(true) {
            let message = format!("{owner}: the store knows by itself what is `{key}`");
            problems.add(&place.clone().hidden(), message, format!("write it as `{key} = {{ stored = true }}`"));
            return None;
        }
        // A registry without a name has been told of.
        let found = stored(name?, key);
        if found.is_none() {
            let message = format!("{owner}: nothing is stored for `{key}`");
            let help = format!("store it with `transship registry edit {}`, or name another source", name?);
            problems.add(place, message, help);
        }
        found.map(Value::Secret)
    }

    fn in_environment(
        &self,
        section: &Section<'_>,
        owner: &str,
        key: &str,
        name: &str,
        place: &Place,
    ) -> Option<Secret> {
        let found = self.environment.get(name);
        match found.and_then(|value| Secret::of_file(value)) {
            Some(secret) => Some(secret),
            None => {
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

fn in_file(section: &Section<'_>, owner: &str, key: &str, path: &str, place: &Place) -> Option<Source> {
    let problem = |what: String| {
        let message = format!("{owner}: the file {path}, which `{key}` is taken from, {what}");
        section.problems.add(place, message, "check the path and its permissions, or name another source".to_owned());
        None
    };
    match std::fs::read_to_string(path).map(|text| Secret::of_file(&text)) {
        Ok(None) => problem("is empty".to_owned()),
        Ok(Some(last)) => Some(Source::File { path: path.into(), last }),
        Err(error) => problem(format!("cannot be read: {error}")),
    }
}
