//! The command line: one file per command, or one folder. A command parses its
//! arguments, asks the library, and says what came of it.

mod admin_client;
mod admin_token;
mod cache;
mod check;
mod client;
mod demo;
mod known;
mod reference;
mod registry;
mod revoke;
mod rewrite;
mod serve;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use self::terminal::errln;
use crate::config::{ConfigErrors, Configuration, OpenError, Settings};

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
    /// Show in a few seconds what this is for, without network, root or Docker
    ///
    /// Starts a small private registry and the proxy on loopback, and pulls
    /// through the proxy as a client without a credential: an image once cold,
    /// once warm, and another by 16 clients at once. Ends with a table of what
    /// the clients received and what the registry saw. Nothing is configured,
    /// and nothing stays. Exit code 1 if anything was not as promised.
    Demo(demo::Args),
    /// Run the proxy; without a configuration file: a Docker Hub mirror on loopback
    Serve(serve::Args),
    /// Validate the configuration and show what it amounts to
    Check(check::Args),
    /// Look at what a running proxy has cached, and manage it
    Cache(cache::Args),
    /// Print the reference that pulls an image through this proxy
    Ref(reference::Args),
    /// Rewrite the images of workflow specs, compose files and manifests to go through this proxy
    ///
    /// Shows what changes as a diff, and writes it. Every byte outside the changed values stays as it is. When
    /// anything is wrong, all mistakes are told, and nothing is written.
    Rewrite(rewrite::Args),
    /// Store registry connections, change them, try them
    Registry(Box<registry::Args>),
    /// Say who may pull through a running proxy, and what
    Client(client::Args),
    /// Say who may use the admin API over the network, and what
    AdminToken(admin_token::Args),
    /// Ask upstream again before cached content of a registry is served
    ///
    /// Forgets what upstream was seen to allow the registry's credential, for
    /// the whole registry or one repository. Cached bytes stay; the next pull
    /// of each blob asks upstream whether it may still be read.
    Revoke(revoke::Args),
}

/// How a listing is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// How a command ended.
type Outcome = miette::Result<ExitCode>;

impl Cli {
    /// Runs the command; gives the exit code: 0 done, 1 failed. (2, wrong
    /// usage, is the parser's.)
    pub fn run(self) -> ExitCode {
        terminal::draw_errors_plainly();
        if let Err(error) = crate::kernel::keep_memory_private() {
            errln!("warning: secrets in memory may get into a core dump: {error}");
        }
        let outcome = match self.command {
            Command::Demo(args) => demo::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Cache(args) => cache::run(&args),
            Command::Ref(args) => reference::run(&args),
            Command::Rewrite(args) => rewrite::run(&args),
            Command::Registry(args) => registry::run(&args),
            Command::Client(args) => client::run(&args),
            Command::AdminToken(args) => admin_token::run(&args),
            Command::Revoke(args) => revoke::run(&args),
        };
        outcome.unwrap_or_else(|report| {
            match report.downcast_ref::<ConfigErrors>() {
                Some(errors) => errln!("{}", errors.render()),
                None => errln!("{report:?}"),
            }
            ExitCode::FAILURE
        })
    }
}

/// The configuration of `file`, with what is stored.
fn configuration(file: Option<&Path>, allow_rollback: bool) -> miette::Result<(Configuration, Settings)> {
    Configuration::open(file, allow_rollback).map_err(|error| match error {
        OpenError::Config(errors) => errors.into(),
        OpenError::Store(error) => miette::miette!("{error}"),
    })
}

/// A runtime with a thread for each core.
fn runtime() -> miette::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| miette::miette!("the runtime cannot be started: {error}"))
}
