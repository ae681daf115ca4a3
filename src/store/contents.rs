//! What is in the store: sections as the configuration file has them, and
//! secrets.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::registry::Secret;

/// Which sections of the configuration can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// `[[registry]]`
    Registry,
    /// `[[client]]`
    Client,
}

/// One `[[registry]]` or `[[client]]`, its secrets left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Its keys, as in the file; `name` is one of them.
    pub keys: toml::Table,
    /// When it was stored last; seconds since 1970.
    pub updated_at: u64,
}

impl Section {
    /// Its `name`.
    pub fn name(&self) -> &str {
        self.keys.get("name").and_then(toml::Value::as_str).unwrap_or_default()
    }
}

/// A secret, and when it was stored.
#[derive(Clone)]
pub struct StoredSecret {
    /// The secret.
    pub secret: Secret,
    /// Seconds since 1970.
    pub updated_at: u64,
}

/// All that is stored. Sections are in the order they were added in.
#[derive(Clone, Default)]
pub struct Contents {
    /// `[[registry]]`
    pub registries: Vec<Section>,
    /// `[[client]]`
    pub clients: Vec<Section>,
    /// Secrets of registries, stored ones and those of the configuration file,
    /// by address form and field.
    pub secrets: BTreeMap<(String, String), StoredSecret>,
}

impl Contents {
    /// The sections of one kind.
    pub fn sections(&self, kind: SectionKind) -> &Vec<Section> {
        match kind {
            SectionKind::Registry => &self.registries,
            SectionKind::Client => &self.clients,
        }
    }

    /// The sections of one kind, to change.
    pub fn sections_mut(&mut self, kind: SectionKind) -> &mut Vec<Section> {
        match kind {
            SectionKind::Registry => &mut self.registries,
            SectionKind::Client => &mut self.clients,
        }
    }

    /// The secrets of the registry with the address form `slug`, by field.
    pub fn secrets_of<'a>(&'a self, slug: &'a str) -> impl Iterator<Item = (&'a str, &'a StoredSecret)> {
        self.secrets.iter().filter(move |((of, _), _)| of == slug).map(|((_, field), secret)| (field.as_str(), secret))
    }

    /// Forgets every secret of that registry.
    pub fn forget_secrets(&mut self, slug: &str) {
        self.secrets.retain(|(of, _), _| of != slug);
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.registries.is_empty() && self.clients.is_empty() && self.secrets.is_empty()
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |sections: &[Section]| sections.iter().map(|section| section.name().to_owned()).collect::<Vec<_>>();
        f.debug_struct("Contents")
            .field("registries", &names(&self.registries))
            .field("clients", &names(&self.clients))
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// The contents as they are sealed; the only form of a secret that serialises,
/// and it does not leave this folder.
#[derive(Serialize, Deserialize)]
pub(super) struct Plain {
    /// How often the store was written; stores of old do not say.
    #[serde(default)]
    pub(super) generation: u64,
    registries: Vec<Section>,
    clients: Vec<Section>,
    secrets: Vec<PlainSecret>,
}

#[derive(Serialize, Deserialize)]
struct PlainSecret {
    registry: String,
    field: String,
    secret: Zeroizing<String>,
    updated_at: u64,
}

impl Plain {
    pub(super) fn new(contents: &Contents, generation: u64) -> Plain {
        let secrets = contents.secrets.iter().map(|((registry, field), stored)| PlainSecret {
            registry: registry.clone(),
            field: field.clone(),
            secret: Zeroizing::new(stored.secret.expose().to_owned()),
            updated_at: stored.updated_at,
        });
        let (registries, clients) = (contents.registries.clone(), contents.clients.clone());
        Plain { generation, registries, clients, secrets: secrets.collect() }
    }
}

impl From<Plain> for Contents {
    fn from(plain: Plain) -> Contents {
        let secrets = plain.secrets.into_iter().map(|PlainSecret { registry, field, secret, updated_at }| {
            ((registry, field), StoredSecret { secret: Secret::new(secret.as_str().to_owned()), updated_at })
        });
        Contents { registries: plain.registries, clients: plain.clients, secrets: secrets.collect() }
    }
}
