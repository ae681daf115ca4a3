//! File and environment → [`Settings`].
//!
//! Every mistake is found, not only the first, and told with its place and its
//! fix; what the file does not say has the default that `config/transship.toml`
//! shows. No message shows a secret. Relative paths are relative to the
//! working directory.

mod admin;
mod client;
mod configuration;
mod excerpt;
mod load;
mod mask;
mod outbound;
mod problem;
mod registries;
mod registry;
mod secret;
mod section;
mod store;
mod stored;
mod units;

pub use configuration::{ChangeError, Configuration, OpenError};
pub use mask::mask;
pub use problem::{ConfigErrors, Problem};
pub use stored::{Changed, Refusal, Secrets};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::access::{Client, GateSettings};
use crate::admin::AdminSettings;
use crate::cache::CacheSettings;
use crate::pull::{Freshness, ImageName};
use crate::registry::Registry;
use crate::server::ServerSettings;
use crate::store::{Contents, Section, StoreSettings};
use crate::telemetry::LogSettings;

/// Everything a proxy needs to know.
#[derive(Debug)]
pub struct Settings {
    /// Credentials may be open to everybody who reaches the listeners.
    pub expose_private: bool,
    /// Where the proxy is administered.
    pub admin: AdminSettings,
    /// Listeners and their bounds.
    pub server: ServerSettings,
    /// How clients reach the proxy.
    pub public_url: url::Url,
    /// Whether the operator has said so, or it is a guess.
    pub public_url_is_given: bool,
    /// The cache.
    pub cache: CacheSettings,
    /// Images that stay in the cache.
    pub pins: Vec<ImageName>,
    /// When upstream is asked again, and when not.
    pub freshness: Freshness,
    /// The named registries, in the file's order.
    pub registries: Vec<Arc<Registry>>,
    /// The clients, in the file's order.
    pub clients: Vec<Client>,
    /// The store.
    pub store: StoreSettings,
    /// How their logins are treated.
    pub gate: GateSettings,
    /// The log.
    pub log: LogSettings,
}

/// What a reference through the proxy is made of: all that `ref` and `rewrite`
/// need to know, on machines that have none of the secrets.
#[derive(Debug)]
pub struct Addresses {
    /// How clients reach the proxy.
    pub public_url: url::Url,
    /// The named registries, in the file's order. Their credentials and
    /// authorities are stand-ins: nothing can be pulled with them.
    pub registries: Vec<Arc<Registry>>,
}

impl Addresses {
    /// Reads `file`, or without one the defaults, and the keys of registries
    /// that are `stored`. Secrets are not taken and files that it names are not
    /// read.
    ///
    /// # Errors
    /// All mistakes in what is read, each with its place.
    pub fn load(file: Option<&Path>, stored: Vec<toml::Table>) -> Result<Addresses, ConfigErrors> {
        let registries = stored.into_iter().map(|keys| Section { keys, updated_at: 0 }).collect();
        let contents = Contents { registries, ..Contents::default() };
        load::addresses(configuration::read(file)?.as_source(), &environment(), &contents)
    }
}

impl Settings {
    /// Where the proxy of `file`, or of the defaults, is administered. The rest of
    /// the file need not be sound here: its secrets may be elsewhere.
    ///
    /// # Errors
    /// The mistakes about it, each with its place.
    pub fn administration(file: Option<&Path>) -> Result<AdminSettings, ConfigErrors> {
        let text = configuration::read(file)?;
        load::administration(text.as_source(), &environment())
    }

    /// Reads configuration text, and nothing that is stored; `name` is what its file is called in messages.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn parse(name: &str, text: &str, environment: &BTreeMap<String, String>) -> Result<Settings, ConfigErrors> {
        load::settings(Some((name, text)), environment, &Contents::default())
    }
}

fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests;
