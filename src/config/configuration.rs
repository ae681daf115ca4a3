//! The configuration of a process over its life: the file, the environment and
//! the store together, reloaded and changed as a whole.
//!
//! Whatever is to be in force, is checked in company with all the rest before
//! it counts; what does not pass changes nothing.

use std::path::{Path, PathBuf};

use super::problem::{Place, Problems};
use super::section::Environment;
use super::{ConfigErrors, Settings, environment, load};
use crate::store::{Contents, Store, StoreError, StoreSettings};

/// File, environment and store.
pub struct Configuration {
    path: Option<PathBuf>,
    /// The file as it was when it was last good.
    text: Text,
    environment: Environment,
    store: Store,
    current: Names,
}

/// What is in force is called so.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) registries: Vec<String>,
    pub(super) clients: Vec<String>,
}

impl Names {
    fn of(settings: &Settings) -> Names {
        Names {
            registries: settings.registries.iter().map(|registry| registry.name.display().to_owned()).collect(),
            clients: settings.clients.iter().map(|client| client.name.clone()).collect(),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Mistakes in it.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E: std::error::Error + 'static> {
    /// Whoever wanted it thought better of it.
    #[error(transparent)]
    Refused(E),
    /// The whole would not be sound with it.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Configuration {
    /// Reads `file`, or without one the defaults, with the environment of this
    /// process and what is stored; with `allow_rollback`, also what an older
    /// store holds than the last one seen.
    ///
    /// # Errors
    /// All mistakes, each with its place; or what is wrong with the store.
    pub fn open(file: Option<&Path>, allow_rollback: bool) -> Result<(Configuration, Settings), OpenError> {
        let (text, environment) = (read(file)?, environment());
        let store = StoreSettings { allow_rollback, ..load::store(text.as_source(), &environment)? };
        let store = Store::open(store)?;
        let settings = load::settings(text.as_source(), &environment, store.contents())?;
        let current = Names::of(&settings);
        Ok((Configuration { path: file.map(Path::to_owned), text, environment, store, current }, settings))
    }

    /// Reads the file anew.
    ///
    /// # Errors
    /// All mistakes; the old text counts on then.
    pub fn reload(&mut self) -> Result<Settings, ConfigErrors> {
        let text = read(self.path.as_deref())?;
        let settings = load::settings(text.as_source(), &self.environment, self.store.contents())?;
        (self.text, self.current) = (text, Names::of(&settings));
        Ok(settings)
    }

    /// The configuration file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What is stored.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn current(&self) -> &Names {
        &self.current
    }

    /// What would be in force if the store held `contents`.
    ///
    /// # Errors
    /// All mistakes.
    pub fn with(&self, contents: &Contents) -> Result<Settings, ConfigErrors> {
        load::settings(self.text.as_source(), &self.environment, contents)
    }

    /// Changes what is stored; gives what `change` gave, and what is in force
    /// from now on.
    ///
    /// # Errors
    /// As [`ChangeError`] says; nothing is changed then.
    pub fn change<T, E: std::error::Error + 'static>(
        &mut self,
        change: impl FnOnce(&mut Contents) -> Result<T, E>,
    ) -> Result<(T, Settings), ChangeError<E>> {
        self.store.prepare()?;
        let mut contents = self.store.contents().clone();
        let value = change(&mut contents).map_err(ChangeError::Refused)?;
        let settings = self.with(&contents)?;
        self.store.replace(contents)?;
        self.current = Names::of(&settings);
        Ok((value, settings))
    }
}

/// A configuration file's text, if there is a file.
#[derive(Clone, Default)]
pub(super) struct Text(Option<(String, String)>);

impl Text {
    pub(super) fn as_source(&self) -> load::Source<'_> {
        self.0.as_ref().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

/// Reads `file`, where one is named.
pub(super) fn read(file: Option<&Path>) -> Result<Text, ConfigErrors> {
    let Some(path) = file else { return Ok(Text::default()) };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Text(Some((name, text)))),
        Err(error) => {
            let problems = Problems::of(None);
            let message = format!("the configuration file {name} cannot be read: {error}");
            problems.add(&Place::Nowhere, message, "check the path and its permissions".to_owned());
            problems.settle(None)
        }
    }
}
