//! What the API can change of a running proxy. Behind it is the wiring, which
//! knows the configuration; the API does not.

use std::sync::Arc;

use super::caller::Caller;
use super::document::{RegistryEntry, Reloaded, RetiredEntry};
use crate::access::Client;
use crate::registry::{Registry, Secret};

/// A registry as it is to be.
#[derive(Default)]
pub struct RegistryChange {
    /// The keys of its `[[registry]]`; absent: they stay.
    pub keys: Option<toml::Table>,
    /// Its secrets by field; without one, the stored one is forgotten.
    pub secrets: Vec<(String, Option<Secret>)>,
}

/// Why something was not done; nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What it is about is not there.
    #[error("{0}")]
    Unknown(String),
    /// It is not to be changed, or is there already.
    #[error("{0}")]
    Conflict(String),
    /// It would not be sound.
    #[error("{0}")]
    Unsound(String),
    /// The disk or the store did not play along.
    #[error("{0}")]
    Failed(String),
}

/// Changes registries and clients while the proxy runs. Its methods wait for the disk: not
/// for a thread of the runtime.
pub trait Operator: Send + Sync {
    /// All registries in force, in the order in which they are looked through.
    fn registries(&self) -> Vec<RegistryEntry>;

    /// Names that were taken away not long ago.
    fn retired_names(&self) -> Vec<RetiredEntry>;

    /// One of them.
    ///
    /// # Errors
    /// When it is not there.
    fn registry(&self, name: &str) -> Result<RegistryEntry, Refused>;

    /// Adds one; in force and durable when it returns. `by` is who
    /// asked for it.
    ///
    /// # Errors
    /// As [`Refused`] says.
    fn add_registry(&self, change: RegistryChange, by: &Caller) -> Result<RegistryEntry, Refused>;

    /// Changes one; in force and durable when it returns.
    ///
    /// # Errors
    /// As [`Refused`] says.
    fn replace_registry(&self, name: &str, change: RegistryChange, by: &Caller) -> Result<RegistryEntry, Refused>;

    /// Removes one; gone for good when it returns.
    ///
    /// # Errors
    /// As [`Refused`] says.
    fn remove_registry(&self, name: &str, by: &Caller) -> Result<(), Refused>;

    /// The registry that `change` would make, of `name` where it is one of
    /// those in force; nothing is changed.
    ///
    /// # Errors
    /// As [`Refused`] says.
    fn candidate(&self, name: Option<&str>, change: RegistryChange) -> Result<Arc<Registry>, Refused>;

    /// All clients; with each, whether the configuration file says so.
    fn clients(&self) -> Vec<(Client, bool)>;

    /// Adds a client, or with `replace` puts it in the place of another;
    /// whether there was one. In force and durable when it returns.
    ///
    /// # Errors
    /// As [`Refused`] says.
    fn put_client(&self, client: &Client, replace: bool, by: &Caller) -> Result<bool, Refused>;

    /// Removes a client: its next request is a stranger's.
    ///
    /// # Errors
    /// As [`Refused`] says.
    fn remove_client(&self, name: &str, by: &Caller) -> Result<(), Refused>;

    /// Reads the configuration file anew.
    ///
    /// # Errors
    /// As [`Refused`] says.
    fn reload(&self) -> Result<Reloaded, Refused>;
}
