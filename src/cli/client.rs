//! `transship client`: who may pull, with which grants.
//!
//! Everything goes through the admin API of the running proxy, which knows a
//! client from the moment the command ends.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use clap::Subcommand;
use comfy_table::{Table, presets};
use miette::{IntoDiagnostic as _, miette};
use zeroize::Zeroizing;

use super::admin_client::{AdminClient, Answer, Target};
use super::{Outcome, Output};
use crate::admin::document::{ClientAdded, Clients, NewClient, NewProof};
use crate::cli::terminal::{errln, outln};

/// Arguments of `client`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a client; a password or token that is made for it is shown once
    Add(AddArgs),
    /// Remove clients: their next request is a stranger's
    Rm(RmArgs),
    /// List the clients and what they may pull
    List(ListArgs),
}

#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("proof").args(["token", "certificate", "network"]))]
pub(super) struct AddArgs {
    /// Its name, and its user name where it has a password
    name: String,
    /// What it may pull, as `registry/pattern`; may be given several times
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<String>,
    /// It is known by a bearer token, not by a password
    #[arg(long)]
    token: bool,
    /// It is known by its TLS certificate: `CN=ci`, a whole subject, or `DNS:…`, `URI:…`, `email:…`
    #[arg(long, value_name = "NAME")]
    certificate: Option<String>,
    /// It is known by coming from this network; may be given several times
    #[arg(long = "network", value_name = "NETWORK")]
    network: Vec<String>,
    /// Read the password, or with --token the token, from standard input
    #[arg(long, conflicts_with_all = ["certificate", "network"])]
    password_stdin: bool,
    /// Take the place of a client of that name
    #[arg(long)]
    replace: bool,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// The clients to remove
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// How to show them
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Outcome {
    let client = args.target.client()?;
    super::runtime()?.block_on(async {
        match &args.command {
            Command::Add(args) => add(&client, args).await,
            Command::Rm(args) => rm(&client, args).await,
            Command::List(args) => list(&client, args).await,
        }
    })
}

async fn add(client: &AdminClient, args: &AddArgs) -> Outcome {
    let secret = if args.password_stdin { Some(from_stdin()?) } else { None };
    let added = ask(client, args, secret).await?;
    if args.output == Output::Json {
        return json(&added);
    }
    outln!("client `{}` may pull {}", added.client.name, granted(&added.client.grants));
    if let Some(secret) = &added.secret {
        outln!("{}: {secret}", added.client.proof);
        errln!("It is not shown again.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &AdminClient, args: &AddArgs, secret: Option<Zeroizing<String>>) -> miette::Result<ClientAdded> {
    let proof = match &args.certificate {
        Some(name) => NewProof::Certificate(name.clone()),
        None if !args.network.is_empty() => NewProof::Networks(args.network.clone()),
        None if args.token => NewProof::Token,
        None => NewProof::Password,
    };
    let new = NewClient { proof, secret, grants: args.grants.clone(), replace: args.replace };
    match client.put_document::<ClientAdded>(&path(&args.name)?, &new).await? {
        Answer::Done(added) => Ok(added),
        Answer::Refused(status, reason) if status == http::StatusCode::CONFLICT && !args.replace => {
            Err(miette!(help = "with --replace it takes the other's place", "{reason}"))
        }
        Answer::Refused(_, reason) => Err(miette!("{reason}")),
    }
}

/// What a secret is taken from that nobody types: one line, without its end.
fn from_stdin() -> miette::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        return Err(miette!("--password-stdin reads a pipe or a file, not a terminal"));
    }
    std::io::stdin().take(4096).read_to_string(&mut text).into_diagnostic()?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

fn granted(grants: &[String]) -> String {
    if grants.is_empty() { "what is open to anyone".to_owned() } else { grants.join(", ") }
}

async fn rm(client: &AdminClient, args: &RmArgs) -> Outcome {
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match client.delete(&path(name)?).await? {
            Answer::Done(()) => outln!("removed {name}"),
            Answer::Refused(_, reason) => {
                errln!("{reason}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn list(client: &AdminClient, args: &ListArgs) -> Outcome {
    let all: Clients = client.get("clients", &[]).await?;
    if args.output == Output::Json {
        return json(&all);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["client", "known by", "grants", "by"]);
    for entry in &all.clients {
        let known = if entry.detail.is_empty() { &entry.proof } else { &entry.detail };
        let by = if entry.configured { "configuration" } else { "command" };
        table.add_row([entry.name.as_str(), known, &entry.grants.join("\n"), by]);
    }
    outln!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn json(document: &impl serde::Serialize) -> Outcome {
    outln!("{}", serde_json::to_string_pretty(document).into_diagnostic()?);
    Ok(ExitCode::SUCCESS)
}

/// A name is one segment of a path.
fn path(name: &str) -> miette::Result<String> {
    if name.contains('/') {
        return Err(miette!("a client's name has no `/` here: `{name}`"));
    }
    Ok(format!("clients/{name}"))
}
