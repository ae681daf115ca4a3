//! `transship cache`: look at what a running proxy has cached, and manage it.
//!
//! Everything goes through the admin API: the process that owns the cache
//! directory is the only one that changes it.

mod listing;
mod pin;
mod remove;
mod verify;

use clap::Subcommand;
use indicatif::BinaryBytes;

use super::Outcome;
use super::admin_client::Target;

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the cached blobs, the largest first
    Ls(listing::LsArgs),
    /// Show how much of the cache each registry uses
    Du(listing::DuArgs),
    /// Remove blobs from the cache; the next pull fetches them again
    Rm(remove::Args),
    /// Keep an image in the cache, whatever else has to go; without an image: list the pins
    Pin(pin::PinArgs),
    /// Let a pinned image go when there is no room
    Unpin(pin::UnpinArgs),
    /// Hash cached blobs; damaged ones are taken out of service, and the exit code is 1
    Verify(verify::Args),
}

pub(super) fn run(args: &Args) -> Outcome {
    let client = args.target.client()?;
    super::runtime()?.block_on(async {
        match &args.command {
            Command::Ls(args) => listing::ls(&client, args).await,
            Command::Du(args) => listing::du(&client, args).await,
            Command::Rm(args) => remove::run(&client, args).await,
            Command::Pin(args) => pin::pin(&client, args).await,
            Command::Unpin(args) => pin::unpin(&client, args).await,
            Command::Verify(args) => verify::run(&client, args).await,
        }
    })
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// So many blobs.
fn blobs(count: usize) -> String {
    if count == 1 { "1 blob".to_owned() } else { format!("{count} blobs") }
}
