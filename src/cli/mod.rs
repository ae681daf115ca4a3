//! The command line: one file per command. A command parses its arguments,
//! asks the library, and says what came of it.

mod check;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigErrors;

/// A pull-through proxy that holds the registry credentials, so that container
/// runtimes need none.
#[derive(Debug, Parser)]
#[command(name = "transship", version, about, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy; without a configuration file: a Docker Hub mirror on loopback
    Serve(serve::Args),
    /// Validate the configuration and show what it amounts to
    Check(check::Args),
}

/// How a command ended.
type Outcome = miette::Result<ExitCode>;

impl Cli {
    /// Runs the command; gives the exit code: 0 done, 1 failed. (2, wrong
    /// usage, is the parser's.)
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Check(args) => check::run(&args),
        };
        outcome.unwrap_or_else(|report| {
            match report.downcast_ref::<ConfigErrors>() {
                Some(errors) => eprintln!("{}", errors.render()),
                None => eprintln!("{report:?}"),
            }
            ExitCode::FAILURE
        })
    }
}

/// A runtime with a thread for each core.
fn runtime() -> miette::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| miette::miette!("the runtime cannot be started: {error}"))
}
