//! `rm`: registries that are there no more.

use std::process::ExitCode;

use super::super::Outcome;
use super::backend::Backend;
use super::fields::{ask, is_interactive};
use crate::cli::terminal::{errln, outln};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The registries to remove
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(backend: &mut Backend, args: &Args) -> Outcome {
    if !args.yes && is_interactive() {
        let names = args.names.join(", ");
        let answer = ask(&format!("Remove {names} and the stored secrets? Type yes"), None)?;
        if answer.as_deref() != Some("yes") {
            outln!("nothing was removed");
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match backend.remove(name).await {
            Ok(()) => outln!("removed {name}"),
            Err(error) => {
                errln!("{error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
