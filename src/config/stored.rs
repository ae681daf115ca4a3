//! Changes of what is stored: registries and clients added, replaced, removed.
//!
//! Used by the admin API of a running proxy, and by the commands where none
//! runs. What the configuration file says is the file's to change; of its
//! registries only secrets can be stored.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::problem::nearest;
use super::{ChangeError, Configuration, Settings};
use crate::registry::{FieldKind, Kind, Registry, RegistryName, Secret};
use crate::store::{Contents, Section, SectionKind, StoredSecret};

/// Secrets to store by field; without one, what is stored is forgotten.
pub type Secrets = Vec<(String, Option<Secret>)>;

/// Why a change is refused that would not even be tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is there already.
    #[error("there is a {what} `{name}` already: edit it, or take another name")]
    Exists {
        /// `registry` or `client`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It is nowhere.
    #[error("there is no {what} `{name}`{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    Unknown {
        /// `registry` or `client`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// One that is there.
        near: Option<String>,
    },
    /// It is not the store's to change.
    #[error("{what} `{name}` stands in the configuration file: change it there")]
    OfFile {
        /// `registry` or `client`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A secret where it would be shown.
    #[error("`{0}` is a secret: it is given apart from the other fields")]
    SecretInClear(String),
    /// A secret for a field that has none.
    #[error("`{field}` is no secret of a registry of kind `{kind}`; its secrets are {}", secrets_of(*kind))]
    NoSecret {
        /// The field.
        field: String,
        /// The registry's kind.
        kind: Kind,
    },
    /// A document may name a value or what is stored, nothing that this process
    /// can read and its author may not.
    #[error("`{0}` names a source of secrets, which only the configuration file may do: give the secret itself")]
    Source(String),
    /// What is stored would leave for where it has never been.
    #[error(
        "`{changed}` decides where or how {} sent: give {} again with this change, or `null` to forget it",
        quoted(fields), if fields.len() == 1 { "it" } else { "them" }
    )]
    Moved {
        /// The key that changed.
        changed: String,
        /// The secrets that are stored.
        fields: Vec<String>,
    },
    /// Not even its name is known.
    #[error("it needs a `name`, for example `My-Registry`")]
    Nameless,
}

/// What came of a change.
pub type Changed<T = ()> = Result<(T, Settings), ChangeError<Refusal>>;

/// Keys that decide neither where a secret is sent nor how. Any other that
/// changes, changes that.
const STAYS: [&str; 22] = [
    "name",
    "address",
    "default",
    "hosts",
    "access",
    "offline",
    "quota",
    "tag_ttl",
    "stale_if_error",
    "link_ttl",
    "link_stale_if_error",
    "immutable_tags",
    "max_connections",
    "max_bandwidth",
    "rate_limit_reserve",
    "namespace",
    "organization",
    "project",
    "team",
    "registry_name",
    "email",
    "username",
];

/// Ways to name a secret by what this process can read.
const SOURCES: [&str; 4] = ["file", "env", "docker_config", "helper"];

fn quoted(fields: &[String]) -> String {
    let all = fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
    format!("{all} {}", if fields.len() == 1 { "is" } else { "are" })
}

fn secrets_of(kind: Kind) -> String {
    let fields = kind.fields().iter().filter(|field| field.kind == FieldKind::Secret);
    fields.map(|field| format!("`{}`", field.name)).collect::<Vec<_>>().join(", ")
}

impl Configuration {
    /// Adds a registry: the keys of a `[[registry]]`, and its secrets.
    ///
    /// # Errors
    /// As [`ChangeError`] says; nothing is changed then.
    pub fn add_registry(&mut self, keys: toml::Table, secrets: Secrets) -> Changed {
        let known = self.registry_names();
        self.change(|contents| add_registry(contents, &known, keys, secrets))
    }

    /// Replaces what is known of the registry `name`: its keys, where some are
    /// given, and the secrets that are given. Its other secrets stay.
    ///
    /// # Errors
    /// As [`ChangeError`] says; nothing is changed then.
    pub fn replace_registry(&mut self, name: &str, keys: Option<toml::Table>, secrets: Secrets) -> Changed {
        let known = self.registry_names();
        self.change(|contents| replace_registry(contents, &known, name, keys, secrets))
    }

    /// The registry that adding it, or replacing `name`, would make. Nothing is
    /// changed.
    ///
    /// # Errors
    /// As [`ChangeError`] says.
    pub fn candidate(
        &self,
        name: Option<&str>,
        keys: Option<toml::Table>,
        secrets: Secrets,
    ) -> Result<Arc<Registry>, ChangeError<Refusal>> {
        let known = self.registry_names();
        let mut contents = self.store().contents().clone();
        let called = keys.as_ref().and_then(name_of).or_else(|| name.map(str::to_owned));
        let called = called.ok_or(ChangeError::Refused(Refusal::Nameless))?;
        let changed = match (name, keys) {
            (Some(name), keys) => replace_registry(&mut contents, &known, name, keys, secrets),
            (None, Some(keys)) => add_registry(&mut contents, &known, keys, secrets),
            (None, None) => Err(Refusal::Nameless),
        };
        changed.map_err(ChangeError::Refused)?;
        let found = self.with(&contents)?.registries.into_iter().find(|registry| same(registry.name.slug(), &called));
        found.ok_or_else(|| ChangeError::Refused(unknown("registry", &called, &known)))
    }

    /// Removes a stored registry, or the stored secrets of one of the file.
    ///
    /// # Errors
    /// As [`ChangeError`] says; nothing is changed then.
    pub fn remove_registry(&mut self, name: &str) -> Changed {
        let known = self.registry_names();
        self.change(|contents| {
            let removed = contents.registries.iter().find(|section| same(section.name(), name));
            let removed = removed.map(|section| full_name(&section.keys));
            contents.registries.retain(|section| !same(section.name(), name));
            let Some(removed) = removed else {
                return Err(match known.iter().find(|known| same(known, name)) {
                    Some(of_file) => Refusal::OfFile { what: "registry", name: of_file.clone() },
                    None => unknown("registry", name, &known),
                });
            };
            contents.forget_secrets(&slug(name));
            // Another of that name must not find grants that were not meant for it.
            if let Some(removed) = removed {
                regrant(contents, &removed, None);
            }
            Ok(())
        })
    }

    /// Adds a client: the keys of a `[[client]]`.
    ///
    /// # Errors
    /// As [`ChangeError`] says; nothing is changed then.
    pub fn add_client(&mut self, keys: toml::Table) -> Changed {
        let known = self.client_names();
        self.change(|contents| {
            let name = name_of(&keys).ok_or(Refusal::Nameless)?;
            if known.contains(&name) {
                return Err(Refusal::Exists { what: "client", name });
            }
            contents.clients.push(Section { keys, updated_at: now() });
            Ok(())
        })
    }

    /// Replaces the keys of a stored client.
    ///
    /// # Errors
    /// As [`ChangeError`] says; nothing is changed then.
    pub fn replace_client(&mut self, name: &str, keys: toml::Table) -> Changed {
        let known = self.client_names();
        self.change(|contents| {
            let Some(section) = contents.clients.iter_mut().find(|section| section.name() == name) else {
                return Err(not_stored("client", name, &known));
            };
            let new = name_of(&keys).ok_or(Refusal::Nameless)?;
            if new != name && known.contains(&new) {
                return Err(Refusal::Exists { what: "client", name: new });
            }
            *section = Section { keys, updated_at: now() };
            Ok(())
        })
    }

    /// Removes a stored client.
    ///
    /// # Errors
    /// As [`ChangeError`] says; nothing is changed then.
    pub fn remove_client(&mut self, name: &str) -> Changed {
        let known = self.client_names();
        self.change(|contents| {
            let before = contents.clients.len();
            contents.clients.retain(|section| section.name() != name);
            if contents.clients.len() == before { Err(not_stored("client", name, &known)) } else { Ok(()) }
        })
    }

    /// Where a registry or client stands: in the store, or in the file.
    pub fn is_stored(&self, kind: SectionKind, name: &str) -> bool {
        self.store().contents().sections(kind).iter().any(|section| match kind {
            SectionKind::Registry => same(section.name(), name),
            SectionKind::Client => section.name() == name,
        })
    }

    fn registry_names(&self) -> Vec<String> {
        self.current().registries.clone()
    }

    fn client_names(&self) -> Vec<String> {
        self.current().clients.clone()
    }
}

fn add_registry(contents: &mut Contents, known: &[String], keys: toml::Table, secrets: Secrets) -> Result<(), Refusal> {
    let name = name_of(&keys).ok_or(Refusal::Nameless)?;
    if let Some(earlier) = known.iter().find(|known| same(known, &name)) {
        return Err(Refusal::Exists { what: "registry", name: earlier.clone() });
    }
    check_sources(&keys, None)?;
    check_secrets(&keys, &secrets)?;
    put_secrets(contents, &name, secrets);
    contents.registries.push(Section { keys, updated_at: now() });
    Ok(())
}

fn replace_registry(
    contents: &mut Contents,
    known: &[String],
    name: &str,
    keys: Option<toml::Table>,
    secrets: Secrets,
) -> Result<(), Refusal> {
    let Some(section) = contents.registries.iter_mut().find(|section| same(section.name(), name)) else {
        let of_file = known.iter().find(|known| same(known, name));
        let of_file = of_file.ok_or_else(|| unknown("registry", name, known))?;
        if keys.is_some() {
            return Err(Refusal::OfFile { what: "registry", name: of_file.clone() });
        }
        put_secrets(contents, of_file, secrets);
        return Ok(());
    };
    let old = section.keys.clone();
    if let Some(keys) = keys {
        let new = name_of(&keys).ok_or(Refusal::Nameless)?;
        if !same(&new, name) && known.iter().any(|known| same(known, &new)) {
            return Err(Refusal::Exists { what: "registry", name: new });
        }
        (section.keys, section.updated_at) = (keys, now());
    }
    let keys = section.keys.clone();
    let moved = moved(&old, &keys);
    check_sources(&keys, Some(&old).filter(|_| moved.is_none()))?;
    if let Some(changed) = moved {
        let is_kept = |field: &str| {
            kind_of(&keys).is_some_and(|kind| is_secret_of(kind, field))
                && !secrets.iter().any(|(given, _)| given == field)
        };
        let slug = slug(name);
        let stored = contents.secrets_of(&slug).map(|(field, _)| field.to_owned());
        let fields: Vec<String> = stored.filter(|field| is_kept(field)).collect();
        if !fields.is_empty() {
            return Err(Refusal::Moved { changed, fields });
        }
    }
    check_secrets(&keys, &secrets)?;
    let new = name_of(&keys).unwrap_or_default();
    rename_secrets(contents, name, &new);
    if let Some(old) = full_name(&old).filter(|_| !same(name, &new) || old.get("address") != keys.get("address")) {
        regrant(contents, &old, Some(&new));
    }
    drop_strangers(contents, &keys);
    put_secrets(contents, &new, secrets);
    Ok(())
}

fn name_of(keys: &toml::Table) -> Option<String> {
    keys.get("name").and_then(toml::Value::as_str).map(str::to_owned)
}

/// The name with its address, as `[[registry]]` has them.
fn full_name(keys: &toml::Table) -> Option<RegistryName> {
    let name: RegistryName = name_of(keys)?.parse().ok()?;
    match keys.get("address").and_then(toml::Value::as_str) {
        Some(address) => name.at(address).ok(),
        None => Some(name),
    }
}

fn slug(name: &str) -> String {
    name.parse::<RegistryName>().map_or_else(|_| name.to_ascii_lowercase(), |name| name.slug().to_owned())
}

fn same(a: &str, b: &str) -> bool {
    slug(a) == slug(b)
}

fn unknown(what: &'static str, name: &str, known: &[String]) -> Refusal {
    let slugs: Vec<String> = known.iter().map(|known| slug(known)).collect();
    let near = nearest(&slug(name), slugs.iter().map(String::as_str));
    let near = near.and_then(|near| known.iter().find(|known| slug(known) == near)).cloned();
    Refusal::Unknown { what, name: name.to_owned(), near }
}

fn not_stored(what: &'static str, name: &str, known: &[String]) -> Refusal {
    match known.iter().find(|known| *known == name) {
        Some(name) => Refusal::OfFile { what, name: name.clone() },
        None => unknown(what, name, known),
    }
}

fn kind_of(keys: &toml::Table) -> Option<Kind> {
    keys.get("kind")?.as_str()?.parse().ok()
}

/// The first key that changes where or how the registry's secrets are sent.
fn moved(old: &toml::Table, new: &toml::Table) -> Option<String> {
    let mut keys = old.keys().chain(new.keys());
    let is_secret = |key: &str| kind_of(new).is_some_and(|kind| is_secret_of(kind, key));
    keys.find(|key| !STAYS.contains(&key.as_str()) && !is_secret(key) && old.get(*key) != new.get(*key)).cloned()
}

fn is_secret_of(kind: Kind, name: &str) -> bool {
    kind.fields().iter().any(|field| field.kind == FieldKind::Secret && field.name == name)
}

/// Refuses sources of secrets, except those that `old` has named all along.
fn check_sources(keys: &toml::Table, old: Option<&toml::Table>) -> Result<(), Refusal> {
    fn names_one(value: &toml::Value) -> bool {
        match value {
            toml::Value::Table(table) => {
                table.iter().any(|(key, value)| SOURCES.contains(&key.as_str()) || names_one(value))
            }
            toml::Value::Array(values) => values.iter().any(names_one),
            _ => false,
        }
    }
    let is_new = |key: &String, value| old.and_then(|old| old.get(key)) != Some(value);
    match keys.iter().find(|(key, value)| names_one(value) && is_new(key, value)) {
        Some((key, _)) => Err(Refusal::Source(key.clone())),
        None => Ok(()),
    }
}

/// A secret among the keys would be shown with them.
fn check_secrets(keys: &toml::Table, secrets: &Secrets) -> Result<(), Refusal> {
    // What has no kind is refused as a whole.
    let Some(kind) = kind_of(keys) else { return Ok(()) };
    let is_secret = |name: &str| is_secret_of(kind, name);
    if let Some((key, _)) = keys.iter().find(|(key, value)| is_secret(key) && !value.is_table()) {
        return Err(Refusal::SecretInClear(key.clone()));
    }
    match secrets.iter().find(|(field, _)| !is_secret(field)) {
        Some((field, _)) => Err(Refusal::NoSecret { field: field.clone(), kind }),
        None => Ok(()),
    }
}

fn put_secrets(contents: &mut Contents, name: &str, secrets: Secrets) {
    let slug = slug(name);
    for (field, secret) in secrets {
        let key = (slug.clone(), field);
        match secret {
            Some(secret) => contents.secrets.insert(key, StoredSecret { secret, updated_at: now() }),
            None => contents.secrets.remove(&key),
        };
    }
}

/// Grants of stored clients on the registry `old` are on `new` from now on, or
/// on nothing.
fn regrant(contents: &mut Contents, old: &RegistryName, new: Option<&str>) {
    for client in &mut contents.clients {
        let Some(toml::Value::Array(grants)) = client.keys.get_mut("grants") else { continue };
        let renamed = grants.iter().filter_map(|grant| {
            let (registry, pattern) = grant.as_str()?.split_once('/')?;
            match new {
                _ if !old.matches(registry) && !same(registry, old.display()) => Some(grant.clone()),
                Some(new) => Some(format!("{}/{pattern}", slug(new)).into()),
                None => None,
            }
        });
        *grants = renamed.collect();
    }
}

fn rename_secrets(contents: &mut Contents, old: &str, new: &str) {
    let (old, new) = (slug(old), slug(new));
    if old != new {
        let moved: Vec<_> =
            contents.secrets_of(&old).map(|(field, secret)| (field.to_owned(), secret.clone())).collect();
        contents.forget_secrets(&old);
        contents.secrets.extend(moved.into_iter().map(|(field, secret)| ((new.clone(), field), secret)));
    }
}

/// Secrets of fields that the registry's kind does not have any more, or that
/// it takes from elsewhere now.
fn drop_strangers(contents: &mut Contents, keys: &toml::Table) {
    let fields = kind_of(keys).map_or(&[][..], Kind::fields);
    let slug = slug(&name_of(keys).unwrap_or_default());
    contents.secrets.retain(|(of, field), _| {
        *of != slug || fields.iter().any(|known| known.name == field) && !keys.contains_key(field)
    });
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
