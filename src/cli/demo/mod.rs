//! `transship demo`: a tour that needs nothing but this program.
//!
//! A private registry, the proxy and its clients, all in this process and on
//! loopback. Whatever the tour claims it checks, from what the clients received
//! and what the registry counted; a claim that does not hold fails it.

mod client;
mod progress;
mod registry;
mod report;
mod sample;
mod scratch;
mod stage;
mod tour;

use std::process::ExitCode;
use std::time::Duration;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use tokio::signal::unix::{SignalKind, signal};

use self::report::{Report, bytes};
use self::sample::Image;
use self::scratch::Scratch;
use self::stage::Stage;
use super::Outcome;
use crate::cli::terminal::outln;

/// Longer than any machine needs: the tour ends, whatever happens.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `demo`: none.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Outcome {
    let scratch = Scratch::make()
        .into_diagnostic()
        .wrap_err_with(|| format!("no directory can be made in {}", std::env::temp_dir().display()))?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(bounded(&scratch));
    // Nobody writes there any more when the directory goes.
    drop(runtime);
    drop(scratch);
    let report = outcome?;
    report.print();
    outln!("\nNext: `transship serve` is a Docker Hub mirror at once, without configuration;");
    outln!("README.md says how to store credentials and how to point Docker at the proxy.");
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tour, unless it takes too long or somebody wants it to end.
async fn bounded(scratch: &Scratch) -> miette::Result<Report> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).into_diagnostic()?, signal(SignalKind::terminate()).into_diagnostic()?);
    tokio::select! {
        report = tokio::time::timeout(PATIENCE, demo(scratch)) => {
            report.map_err(|_| miette!("the tour has not ended within {} s", PATIENCE.as_secs()))?
        }
        _ = interrupt.recv() => Err(miette!("interrupted")),
        _ = terminate.recv() => Err(miette!("asked to end")),
    }
}

async fn demo(scratch: &Scratch) -> miette::Result<Report> {
    outln!("Private images for clients that hold no credential.");
    outln!("All of this is in one process on loopback; nothing is downloaded, nothing stays.\n");
    let stage = Stage::set_up(scratch.path()).await?;
    let megabits = registry::BYTES_PER_SECOND / 1_000_000 * 8;
    outln!("   sample registry  {}, private, as if behind {megabits} Mbit/s", stage.upstream.api());
    outln!("   its blobs        {}, by redirects to signed addresses", stage.upstream.storage());
    for image in [&stage.image, &stage.storm_image] {
        let Image { repository, tag, blobs, .. } = image;
        outln!("   an image         {repository}:{tag}, {} layers, {}", blobs.len() - 1, bytes(image.size()));
    }
    outln!("   proxy            {}, holds the registry's credential\n", stage.proxy_address);
    let report = tour::take(&stage).await;
    stage.proxy.shutdown().await;
    report
}
