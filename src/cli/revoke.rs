//! `transship revoke`: take back what upstream was seen to allow.

use std::process::ExitCode;

use super::Outcome;
use super::admin_client::{Answer, Target};
use crate::admin::document::Revoked;
use crate::cli::terminal::outln;

/// Arguments of `revoke`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    /// The registry
    registry: String,
    /// Only this repository of it, named as behind the registry's name in an address
    repository: Option<String>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let client = args.target.client()?;
    let mut path = format!("links/{}", args.registry);
    if let Some(repository) = &args.repository {
        path = format!("{path}/{repository}");
    }
    let answer = super::runtime()?.block_on(client.delete_for::<Revoked>(&path))?;
    match answer {
        Answer::Done(Revoked { links, unwritten }) => {
            let links = if links == 1 { "1 link".to_owned() } else { format!("{links} links") };
            outln!("revoked {links}: upstream is asked before anything cached is served through them again");
            if let Some(reason) = unwritten {
                outln!(
                    "in force, could not be written: {reason}; it is tried again while the proxy runs, and a restart \
                     before it is written brings the links back"
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(_, reason) => Err(miette::miette!("{reason}")),
    }
}
