//! `transship registry`: the stored registry connections.
//!
//! A running proxy is changed through its admin API, and serves by the change
//! from the moment the command ends. Where none runs, the store itself is
//! changed, under its lock.

mod add;
mod backend;
mod edit;
mod fields;
mod listing;
mod remove;
mod test;

use std::process::ExitCode;

use clap::Subcommand;

use self::backend::Backend;
use super::Outcome;
use super::admin_client::Target;
use crate::admin::document::{RegistryForm, TestReport};
use crate::cli::terminal::{errln, outln};
use crate::printable::one_line;

/// Arguments of `registry`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store a registry connection; without options, asks for its kind's form
    ///
    /// Secrets are asked for without echo, or read with --password-stdin or --secret-file; never given as
    /// an argument. The connection is tried before it is stored.
    Add(add::Args),
    /// Change a stored registry connection, or rotate its secret
    ///
    /// What is not named stays. A new secret is in use at once; running pulls go on.
    Edit(edit::Args),
    /// Remove stored registry connections
    Rm(remove::Args),
    /// List the registries, stored ones and those of the configuration file
    List(listing::ListArgs),
    /// Show a registry, and how to pull through it
    Show(listing::ShowArgs),
    /// Try a registry: reach it, sign in, and with --image read an image; exit code 1 if anything fails
    Test(test::Args),
}

pub(super) fn run(args: &Args) -> Outcome {
    super::runtime()?.block_on(async {
        let mut backend = Backend::open(&args.target).await?;
        match &args.command {
            Command::Add(args) => add::run(&mut backend, args).await,
            Command::Edit(args) => edit::run(&mut backend, args).await,
            Command::Rm(args) => remove::run(&mut backend, args).await,
            Command::List(args) => listing::list(&backend, args).await,
            Command::Show(args) => listing::show(&backend, args).await,
            Command::Test(args) => test::run(&backend, args).await,
        }
    })
}

/// Whether a connection is tried before it is stored.
#[derive(Debug, Clone, clap::Args)]
struct Trial {
    /// Store it without trying it
    #[arg(long)]
    no_test: bool,
    /// Store it although the trial fails
    #[arg(long, conflicts_with = "no_test")]
    force: bool,
    /// Try to read this image too: `repository:tag`, as behind the registry's name or in full
    #[arg(long, value_name = "IMAGE", conflicts_with = "no_test")]
    image: Option<String>,
}

impl Trial {
    /// Tries `form`; `Some` is how the command ends if it is not to be stored.
    async fn run(
        &self,
        backend: &Backend,
        name: Option<&str>,
        form: &RegistryForm,
    ) -> miette::Result<Option<ExitCode>> {
        if self.no_test {
            return Ok(None);
        }
        let report = backend.test(name, Some(form.clone()), self.image.clone()).await?;
        print(&report);
        if report.passed {
            return Ok(None);
        }
        if self.force {
            errln!("stored anyway (--force)");
            return Ok(None);
        }
        errln!("nothing was stored; --force stores it anyway");
        Ok(Some(ExitCode::FAILURE))
    }
}

/// A report, for a terminal.
fn print(report: &TestReport) {
    for step in &report.steps {
        outln!("{} {}: {}", if step.passed { "ok    " } else { "failed" }, step.what, one_line(&step.message));
    }
    for note in &report.notes {
        outln!("note   {}", one_line(note));
    }
}
