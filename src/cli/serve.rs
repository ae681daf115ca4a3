//! `transship serve`: run the proxy until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::Outcome;
use crate::config::{Configuration, Settings};
use crate::kernel;
use crate::proxy::Proxy;
use crate::telemetry;

/// Threads that are still at work when everything else has ended get so long.
const LAST_THREADS: Duration = Duration::from_millis(200);

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file (TOML); `config/transship.toml` shows every key
    #[arg(long, value_name = "FILE", env = "TRANSSHIP_CONFIG")]
    config: Option<PathBuf>,
    /// Take a store that is older than the last one seen, as after a copy was restored
    #[arg(long)]
    allow_rollback: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    // Whatever is made from here on is this user's alone.
    kernel::keep_files_private();
    let (configuration, settings) = super::configuration(args.config.as_deref(), args.allow_rollback)?;
    telemetry::start(&settings.log).map_err(|error| miette::miette!("{error}"))?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(serve(settings, configuration));
    // A thread that waits for the disk may wait for ever.
    runtime.shutdown_timeout(LAST_THREADS);
    outcome
}

async fn serve(settings: Settings, configuration: Configuration) -> Outcome {
    if let Some(note) = super::check::in_clear(&settings) {
        warn!("{note}");
    }
    for registry in &settings.registries {
        info!(
            registry = %registry.name,
            kind = %registry.kind,
            origin = %registry.origin,
            credential = if registry.credential.is_anonymous() { "none" } else { "stored" },
            "registry"
        );
    }
    let failed = |error: std::io::Error| miette::miette!("signals cannot be received: {error}");
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
    // A file that may not grow further is an error of its write, not the end.
    let _file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map_err(failed)?;
    let proxy = Proxy::start(settings, Some(configuration)).await.map_err(|error| miette::miette!("{error}"))?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => proxy.reload().await,
        }
    }
    info!("stopping: running transfers may finish");
    proxy.shutdown().await;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}
