//! `transship admin-token`: who may use the admin API over the network.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use miette::IntoDiagnostic as _;

use super::admin_client::{AdminClient, Answer, Target};
use super::{Outcome, Output};
use crate::admin::Role;
use crate::admin::document::{AdminTokenAdded, AdminTokens, NewAdminToken};
use crate::cli::terminal::{errln, outln};

/// Arguments of `admin-token`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token; it is printed once
    Add {
        /// What it is called in the audit trail
        name: String,
        /// What it may do: read, or write
        #[arg(long, default_value_t = Role::Read)]
        role: Role,
    },
    /// The tokens that there are
    #[command(visible_alias = "ls")]
    List {
        /// How they are printed
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Take a token back: it opens nothing from then on
    Rm {
        /// Its name
        name: String,
    },
}

pub(super) fn run(args: &Args) -> Outcome {
    let client = args.target.client()?;
    super::runtime()?.block_on(async {
        match &args.command {
            Command::Add { name, role } => add(&client, name, *role).await,
            Command::List { output } => list(&client, *output).await,
            Command::Rm { name } => {
                client.delete(&format!("admin-tokens/{name}")).await?.or_fail()?;
                outln!("removed the admin token {}", name.escape_debug());
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn add(client: &AdminClient, name: &str, role: Role) -> Outcome {
    let answer: Answer<AdminTokenAdded> =
        client.put_document(&format!("admin-tokens/{name}"), &NewAdminToken { role }).await?;
    let AdminTokenAdded { token } = answer.or_fail()?;
    errln!("this token may {role}; it is shown once:");
    outln!("{token}");
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &AdminClient, output: Output) -> Outcome {
    let AdminTokens { tokens } = client.get("admin-tokens", &[]).await?;
    if output == Output::Json {
        outln!("{}", serde_json::to_string_pretty(&AdminTokens { tokens }).into_diagnostic()?);
        return Ok(ExitCode::SUCCESS);
    }
    if tokens.is_empty() {
        outln!("no named admin tokens; make one with `transship admin-token add NAME`");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["name", "role", "created"]);
    for token in &tokens {
        table.add_row([&token.name, &token.role.to_string(), &token.created]);
    }
    outln!("{table}");
    Ok(ExitCode::SUCCESS)
}
