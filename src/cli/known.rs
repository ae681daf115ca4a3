//! What references through the proxy are made of, for the commands that make
//! some.

use std::path::PathBuf;
use std::sync::Arc;

use miette::miette;

use crate::config::Addresses;
use crate::registry::{Registry, Through, TurnError};

/// Which proxy the references go through.
#[derive(Debug, clap::Args)]
pub(super) struct Known {
    /// The proxy's configuration file; its secrets are not needed
    #[arg(long, value_name = "FILE", env = "TRANSSHIP_CONFIG")]
    config: Option<PathBuf>,
}

impl Known {
    /// What turns images into references.
    pub(super) fn through(&self) -> miette::Result<Through> {
        let Addresses { public_url, registries } = Addresses::load(self.config.as_deref(), Vec::new())?;
        Through::new(&public_url, all(registries)).map_err(|error| {
            miette!(
                help = "set `public_url` in [server] to scheme, host and port: `https://proxy.example.com`",
                "{error}"
            )
        })
    }
}

/// Every registry that the proxy has: those of the file, in its order.
fn all(configured: Vec<Arc<Registry>>) -> Vec<Arc<Registry>> {
    configured
}

/// A refusal, for a terminal.
pub(super) fn refused(error: &TurnError) -> miette::Report {
    match error.fix() {
        Some(fix) => miette!(help = fix, "{error}"),
        None => miette!("{error}"),
    }
}
