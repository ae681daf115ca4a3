//! `test`: the real thing, tried.

use std::process::ExitCode;

use super::super::{Outcome, Output};
use super::backend::Backend;
use crate::cli::terminal::outln;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The registry
    name: String,
    /// An image of it to read: `repository:tag`, as behind the registry's name or in full
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(backend: &Backend, args: &Args) -> Outcome {
    let report = backend.test(Some(&args.name), None, args.image.clone()).await?;
    match args.output {
        Output::Table => super::print(&report),
        Output::Json => outln!("{:#}", serde_json::json!(report)),
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
