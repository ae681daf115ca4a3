//! Parse the command line, run one command, choose the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use transship::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
