//! `[store]`, and what the store holds in the form of a file.

use std::path::PathBuf;

use toml::de::DeValue;

use super::problem::Place;
use super::section::{Found, Section};
use crate::registry::RegistryName;
use crate::store::{Contents, KeySource, StoreSettings};

/// Reads `[store]`.
pub(super) fn read(section: Section<'_>) -> StoreSettings {
    let default = StoreSettings::default();
    let key = section.value("key").and_then(|found| source(&section, &found));
    let previous = section.value("previous_keys").map_or_else(Vec::new, |Found { value, place }| match value {
        DeValue::Array(keys) => keys
            .iter()
            .filter_map(|key| source(&section, &Found { value: key.get_ref(), place: Place::Span(key.span()) }))
            .collect(),
        _ => {
            let example = "write it as `previous_keys = [{ file = \"/path\" }]`".to_owned();
            section.problems.add(&place.hidden(), "`previous_keys` has to be a list", example);
            Vec::new()
        }
    });
    let settings = StoreSettings {
        file: section.text("file").map_or(default.file, |found| PathBuf::from(found.value)),
        key,
        previous_keys: previous,
        allow_rollback: false,
    };
    section.finish(|_| None);
    settings
}

/// One source of a key.
fn source(section: &Section<'_>, found: &Found<&DeValue<'_>>) -> Option<KeySource> {
    let entry = found.value.as_table().filter(|table| table.len() == 1).and_then(|table| table.iter().next());
    let named = entry.and_then(|(kind, name)| Some((&**kind.get_ref(), name.get_ref().as_str()?)));
    match named {
        Some(("file", path)) if !path.is_empty() => Some(KeySource::File(path.into())),
        Some(("env", name)) if !name.is_empty() => Some(KeySource::Environment(name.to_owned())),
        Some(("credential", name)) if !name.is_empty() && !name.contains('/') => {
            Some(KeySource::Credential(name.to_owned()))
        }
        _ => {
            let help = "write it as `{ file = \"/path\" }`, `{ env = \"NAME\" }` or `{ credential = \"name\" }`";
            section.problems.add(&found.place.clone().hidden(), "a key is named by its source", help.to_owned());
            None
        }
    }
}

/// What is stored, as a configuration file would say it: secrets are named,
/// not told.
pub(super) fn sections(contents: &Contents) -> String {
    let mut text = String::new();
    for registry in &contents.registries {
        let mut keys = registry.keys.clone();
        if let Ok(name) = registry.name().parse::<RegistryName>() {
            for (field, _) in contents.secrets_of(name.slug()) {
                keys.insert(
                    field.to_owned(),
                    toml::Value::Table([("stored".to_owned(), true.into())].into_iter().collect()),
                );
            }
        }
        text.push_str(&section("registry", keys));
    }
    for client in &contents.clients {
        text.push_str(&section("client", client.keys.clone()));
    }
    text
}

fn section(title: &str, keys: toml::Table) -> String {
    let list = toml::Value::Array(vec![toml::Value::Table(keys)]);
    let document: toml::Table = [(title.to_owned(), list)].into_iter().collect();
    // A table of plain values can always be written.
    toml::to_string(&document).unwrap_or_default()
}
