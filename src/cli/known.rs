//! What references through the proxy are made of, for the commands that make
//! some.

use miette::miette;

use super::admin_client::Target;
use crate::admin::document::Registries;
use crate::config::Addresses;
use crate::registry::{Through, TurnError};

/// Which proxy the references go through: its configuration file, whose secrets
/// are not needed, and where it runs what is stored there.
#[derive(Debug, clap::Args)]
pub(super) struct Known {
    #[command(flatten)]
    target: Target,
}

impl Known {
    /// What turns images into references.
    pub(super) fn through(&self) -> miette::Result<Through> {
        let stored = super::runtime()?.block_on(self.stored())?;
        let Addresses { public_url, registries } = Addresses::load(self.target.config(), stored)?;
        Through::new(&public_url, registries).map_err(|error| {
            miette!(
                help = "set `public_url` in [server] to scheme, host and port: `https://proxy.example.com`",
                "{error}"
            )
        })
    }

    /// The registries that are stored, if the proxy runs.
    async fn stored(&self) -> miette::Result<Vec<toml::Table>> {
        let client = self.target.client()?;
        if !client.is_there().await {
            return Ok(Vec::new());
        }
        let all: Registries = client.get("registries", &[]).await?;
        let keys = all.registries.into_iter().filter_map(|entry| {
            let mut keys = entry.settings?;
            for secret in entry.secrets {
                keys.insert(secret.field, serde_json::json!({ "stored": true }));
            }
            serde_json::from_value(keys.into()).ok()
        });
        Ok(keys.collect())
    }
}

/// A refusal, for a terminal.
pub(super) fn refused(error: &TurnError) -> miette::Report {
    match error.fix() {
        Some(fix) => miette!(help = fix, "{error}"),
        None => miette!("{error}"),
    }
}
