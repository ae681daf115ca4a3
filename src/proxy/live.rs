//! The configuration in force: changed by the admin API, read anew on SIGHUP.
//!
//! A change counts at once for what is asked from then on; what runs, runs to
//! its end. A change that is not sound as a whole changes nothing.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::names::Names;
use crate::access::{Client, ClientRecord, Gate, ProofRecord};
use crate::admin::document::{RegistryEntry, Reloaded, RetiredEntry, SecretEntry};
use crate::admin::{Caller, Operator, Refused, RegistryChange};
use crate::config::{ChangeError, ConfigErrors, Configuration, Refusal, Settings};
use crate::pull::Puller;
use crate::registry::{AccessMode, Directory, Registry, RetiredName};
use crate::store::SectionKind;
use crate::telemetry::{Audit, Event};

/// What can change while the proxy runs.
pub(super) struct Live {
    /// One change at a time. Absent where settings were given without a
    /// configuration to change.
    configuration: Mutex<Option<Configuration>>,
    directory: Arc<ArcSwap<Directory>>,
    /// What serves by it; absent where only the store is worked on.
    running: Option<Running>,
    /// What counts only from the start on, as it is in force.
    fixed: Vec<(&'static str, String)>,
}

/// What serves.
pub(super) struct Running {
    pub(super) puller: Arc<Puller>,
    pub(super) gate: Arc<Gate>,
    pub(super) audit: Arc<Audit>,
    pub(super) names: Mutex<Names>,
    /// The listeners, which a reload does not move, can be reached from other
    /// machines.
    pub(super) is_beyond_loopback: bool,
}

/// What a change of takes a restart, by what it is called.
pub(super) fn fixed(settings: &Settings) -> Vec<(&'static str, String)> {
    vec![
        ("[server]", format!("{:?} {}", settings.server, settings.public_url)),
        ("[admin] or [metrics]", format!("{:?}", settings.admin)),
        ("[cache]", format!("{:?} {:?}", settings.cache, settings.freshness)),
        ("pin", format!("{:?}", settings.pins)),
        ("[limits] of logins", format!("{:?}", settings.gate)),
        ("[store]", format!("{:?}", settings.store)),
        ("[log]", format!("{:?}", settings.log)),
    ]
}

impl Live {
    pub(super) fn new(
        configuration: Option<Configuration>,
        directory: Arc<ArcSwap<Directory>>,
        running: Option<Running>,
        fixed: Vec<(&'static str, String)>,
    ) -> Live {
        Live { configuration: Mutex::new(configuration), directory, running, fixed }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Configuration>> {
        self.configuration.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts registries and clients in force.
    fn apply(&self, settings: Settings) -> Result<(), Refused> {
        let Settings { registries, clients, expose_private, .. } = settings;
        let mut retired = Vec::new();
        if let Some(Running { puller, gate, names, is_beyond_loopback, .. }) = &self.running {
            // What the file says of the listeners counts after a restart.
            let is_exposed =
                |registry: &&Arc<Registry>| registry.access == AccessMode::Anyone && registry.is_known_upstream();
            if *is_beyond_loopback
                && !expose_private
                && let Some(exposed) = registries.iter().find(is_exposed)
            {
                return Err(Refused::Unsound(format!(
                    "registry `{}` has a credential and would be open to anyone, and the listener that runs is not on \
                     loopback: use `access = \"grants\"`, write `expose_private = true` in [server], or restart with \
                     `listen` on loopback",
                    exposed.name
                )));
            }
            let replaced = puller.replace_registries(&registries);
            replaced.map_err(|(registry, cause)| Refused::Unsound(format!("registry `{registry}`: {cause}")))?;
            gate.replace(clients);
            retired = names.lock().unwrap_or_else(PoisonError::into_inner).update(&registries, SystemTime::now());
        }
        // Where it listens counts from the start on.
        let mirrored = self.directory.load().is_mirrored();
        self.directory.store(Arc::new(Directory::new(registries).mirrored(mirrored).without(retired)));
        Ok(())
    }

    fn entry(&self, configuration: &Configuration, registry: &Registry) -> RegistryEntry {
        let contents = configuration.store().contents();
        let name = registry.name.display();
        let section = contents.registries.iter().find(|section| section.name() == name);
        let secret = |(field, stored): (&str, &crate::store::StoredSecret)| SecretEntry {
            field: field.to_owned(),
            fingerprint: configuration.store().fingerprint(&stored.secret).unwrap_or_default(),
            updated_at: crate::admin::timestamp(stored.updated_at),
        };
        RegistryEntry {
            name: name.to_owned(),
            address: registry.name.address().to_owned(),
            kind: registry.kind.to_string(),
            upstream: registry.origin.to_string(),
            prefix: registry.prefix.as_ref().map(ToString::to_string),
            access: match registry.access {
                AccessMode::Anyone => "anyone".to_owned(),
                AccessMode::Grants => "grants".to_owned(),
            },
            default: registry.is_default,
            hides: self.directory.load().hidden_by(registry).map(|default| default.name.display().to_owned()),
            has_credential: !registry.credential.is_anonymous(),
            stored: section.is_some(),
            settings: section.and_then(|section| serde_json::to_value(&section.keys).ok()?.as_object().cloned()),
            secrets: contents.secrets_of(registry.name.slug()).map(secret).collect(),
        }
    }

    fn found(&self, configuration: &Configuration, name: &str) -> Result<RegistryEntry, Refused> {
        let directory = self.directory.load();
        let registry =
            directory.called(name).ok_or_else(|| Refused::Unknown(format!("there is no registry `{name}`")))?;
        Ok(self.entry(configuration, registry))
    }

    /// The display name of the registry that `name` means, in any of its forms.
    fn display_of(&self, name: &str) -> String {
        self.directory.load().called(name).map_or_else(|| name.to_owned(), |found| found.name.display().to_owned())
    }

    fn note_client(&self, event: &'static str, client: &str, by: &Caller) {
        let event = Event {
            event,
            outcome: "success",
            by: Some(&by.name),
            peer: by.address,
            principal: Some(client),
            ..Event::default()
        };
        self.audit(&event);
    }

    fn note(&self, event: &'static str, registry: &str, by: &Caller) {
        let event = Event {
            event,
            outcome: "success",
            by: Some(&by.name),
            peer: by.address,
            registry: Some(registry),
            ..Event::default()
        };
        self.audit(&event);
    }

    fn audit(&self, event: &Event<'_>) {
        if let Some(Running { audit, .. }) = &self.running {
            audit.operator(event);
        }
    }
}

/// A client as `[[client]]` has it.
fn client_keys(client: &Client) -> toml::Table {
    let ClientRecord { name, proof, grants } = ClientRecord::from(client);
    let texts = |list: Vec<String>| toml::Value::Array(list.into_iter().map(toml::Value::from).collect());
    let (key, proof) = match proof {
        ProofRecord::PasswordHash(hash) => ("password_hash", hash.into()),
        ProofRecord::TokenHash(hash) => ("token_hash", hash.into()),
        ProofRecord::Certificate(name) => ("certificate", name.into()),
        ProofRecord::Networks(networks) => ("networks", texts(networks)),
    };
    [("name", name.into()), (key, proof), ("grants", texts(grants))]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn no_configuration() -> Refused {
    Refused::Unsound("this proxy was started without a configuration that could be changed".to_owned())
}

fn refused(error: ChangeError<Refusal>) -> Refused {
    match error {
        ChangeError::Refused(refusal) => match &refusal {
            Refusal::Unknown { .. } => Refused::Unknown(refusal.to_string()),
            Refusal::Exists { .. } | Refusal::OfFile { .. } => Refused::Conflict(refusal.to_string()),
            Refusal::SecretInClear(_)
            | Refusal::NoSecret { .. }
            | Refusal::Source(_)
            | Refusal::Moved { .. }
            | Refusal::Nameless => Refused::Unsound(refusal.to_string()),
        },
        ChangeError::Config(errors) => Refused::Unsound(told(&errors)),
        ChangeError::Store(error) => Refused::Failed(error.to_string()),
    }
}

/// All mistakes in one line each, with what to do.
fn told(errors: &ConfigErrors) -> String {
    let told = errors.problems.iter().map(|problem| {
        let place = problem.line_and_column().map_or_else(String::new, |(line, column)| format!("{line}:{column}: "));
        let fix = problem.fix().map_or_else(String::new, |fix| format!(" ({fix})"));
        format!("{place}{}{fix}", problem.message())
    });
    told.collect::<Vec<_>>().join("; ")
}

impl Operator for Live {
    fn registries(&self) -> Vec<RegistryEntry> {
        let guard = self.lock();
        let Some(configuration) = guard.as_ref() else { return Vec::new() };
        self.directory.load().registries().iter().map(|registry| self.entry(configuration, registry)).collect()
    }

    fn retired_names(&self) -> Vec<RetiredEntry> {
        let directory = self.directory.load();
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let entry = |retired: &RetiredName| RetiredEntry {
            address: retired.slug.clone(),
            until: crate::admin::timestamp(seconds(retired.until)),
        };
        directory.retired().iter().map(entry).collect()
    }

    fn registry(&self, name: &str) -> Result<RegistryEntry, Refused> {
        let guard = self.lock();
        self.found(guard.as_ref().ok_or_else(no_configuration)?, name)
    }

    fn add_registry(&self, change: RegistryChange, by: &Caller) -> Result<RegistryEntry, Refused> {
        let mut guard = self.lock();
        let configuration = guard.as_mut().ok_or_else(no_configuration)?;
        let keys = change.keys.ok_or_else(|| Refused::Unsound("`settings` are missing".to_owned()))?;
        let name = keys.get("name").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
        let ((), settings) = configuration.add_registry(keys, change.secrets).map_err(refused)?;
        self.apply(settings)?;
        self.note("registry_added", &name, by);
        self.found(configuration, &name)
    }

    fn replace_registry(&self, name: &str, change: RegistryChange, by: &Caller) -> Result<RegistryEntry, Refused> {
        let mut guard = self.lock();
        let configuration = guard.as_mut().ok_or_else(no_configuration)?;
        let new = change.keys.as_ref().and_then(|keys| keys.get("name")?.as_str().map(str::to_owned));
        let (keys, secrets) = (change.keys.is_some(), !change.secrets.is_empty());
        let ((), settings) =
            configuration.replace_registry(&self.display_of(name), change.keys, change.secrets).map_err(refused)?;
        self.apply(settings)?;
        let name = new.as_deref().unwrap_or(name);
        for (event, happened) in [("registry_changed", keys), ("credential_changed", secrets)] {
            if happened {
                self.note(event, name, by);
            }
        }
        self.found(configuration, name)
    }

    fn remove_registry(&self, name: &str, by: &Caller) -> Result<(), Refused> {
        let mut guard = self.lock();
        let configuration = guard.as_mut().ok_or_else(no_configuration)?;
        let ((), settings) = configuration.remove_registry(&self.display_of(name)).map_err(refused)?;
        self.apply(settings)?;
        self.note("registry_removed", name, by);
        Ok(())
    }

    fn candidate(&self, name: Option<&str>, change: RegistryChange) -> Result<Arc<Registry>, Refused> {
        let guard = self.lock();
        let configuration = guard.as_ref().ok_or_else(no_configuration)?;
        configuration
            .candidate(name.map(|name| self.display_of(name)).as_deref(), change.keys, change.secrets)
            .map_err(refused)
    }

    fn clients(&self) -> Vec<(Client, bool)> {
        let guard = self.lock();
        let is_stored = |name: &str| guard.as_ref().is_some_and(|all| all.is_stored(SectionKind::Client, name));
        let all = self.running.as_ref().map(|running| running.gate.clients()).unwrap_or_default();
        all.into_iter().map(|client| (Client::clone(&client), !is_stored(&client.name))).collect()
    }

    fn put_client(&self, client: &Client, replace: bool, by: &Caller) -> Result<bool, Refused> {
        let mut guard = self.lock();
        let configuration = guard.as_mut().ok_or_else(no_configuration)?;
        let (keys, name) = (client_keys(client), client.name.as_str());
        let replaces = replace && configuration.is_stored(SectionKind::Client, name);
        let changed = match replaces {
            true => configuration.replace_client(name, keys),
            false => configuration.add_client(keys),
        };
        let ((), settings) = changed.map_err(refused)?;
        self.apply(settings)?;
        self.note_client(if replaces { "client_changed" } else { "client_added" }, name, by);
        Ok(replaces)
    }

    fn remove_client(&self, name: &str, by: &Caller) -> Result<(), Refused> {
        let mut guard = self.lock();
        let configuration = guard.as_mut().ok_or_else(no_configuration)?;
        let ((), settings) = configuration.remove_client(name).map_err(refused)?;
        self.apply(settings)?;
        self.note_client("client_removed", name, by);
        Ok(())
    }

    fn reload(&self) -> Result<Reloaded, Refused> {
        let mut guard = self.lock();
        let configuration = guard.as_mut().ok_or_else(no_configuration)?;
        let settings = configuration.reload().map_err(|errors| {
            warn!(mistakes = errors.problems.len(), "the configuration was not reloaded: the old one counts");
            for problem in &errors.problems {
                let (line, column) = problem.line_and_column().unzip();
                let (file, fix) = (configuration.path().map(Path::display), problem.fix());
                warn!(file = file.map(tracing::field::display), line, column, fix, "{}", problem.message());
            }
            Refused::Unsound(format!("the configuration was not reloaded: {}", told(&errors)))
        })?;
        let now = fixed(&settings);
        let after_restart: Vec<String> = now
            .iter()
            .zip(&self.fixed)
            .filter(|((_, now), (_, then))| now != then)
            .map(|((what, _), _)| (*what).to_owned())
            .collect();
        if let Err(refused) = self.apply(settings) {
            warn!(error = %refused, "the configuration was not reloaded: the old one counts");
            return Err(refused);
        }
        if after_restart.is_empty() {
            info!("the configuration was reloaded");
        } else {
            warn!(
                after_restart = after_restart.join(", "),
                "the configuration was reloaded; some of it counts after a restart"
            );
        }
        Ok(Reloaded { after_restart })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_asked_for_only_where_something_fixed_has_changed() {
        let parse = |text: &str| fixed(&Settings::parse("t.toml", text, &Default::default()).unwrap());
        let differing = |text: &str| {
            let (one, other) = (parse(""), parse(text));
            one.iter().zip(&other).filter(|(a, b)| a != b).map(|((what, _), _)| *what).collect::<Vec<_>>()
        };
        assert_eq!(differing("[[registry]]\nname = \"a\"\nkind = \"quay\"\n"), Vec::<&str>::new());
        assert_eq!(differing("[server]\nlisten = \"127.0.0.1:1\"\n"), ["[server]"]);
        assert_eq!(differing("[cache]\ntag_ttl = \"1s\"\nmax_size = \"1GiB\"\n"), ["[cache]"]);
    }
}
