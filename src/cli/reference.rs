//! `transship ref`: the reference that pulls an image through this proxy.

use std::process::ExitCode;

use super::Outcome;
use super::known::{Known, refused};
use crate::cli::terminal::outln;

/// Arguments of `ref`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image, as a spec names it: `ghcr.io/example-org/app:1`
    image: String,
    /// The registry it is pulled with, as a spec names it in `containerRegistry`
    ///
    /// Without it, the image goes through the registry that is configured for its host, the longest prefix first; an
    /// image of Docker Hub that none covers goes through the default registry.
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    #[command(flatten)]
    known: Known,
}

pub(super) fn run(args: &Args) -> Outcome {
    let through = args.known.through()?;
    let reference = through.reference(args.image.trim(), args.registry.as_deref().map(str::trim));
    outln!("{}", reference.map_err(|error| refused(&error))?);
    Ok(ExitCode::SUCCESS)
}
