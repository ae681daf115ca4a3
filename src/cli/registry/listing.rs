//! `list` and `show`.

use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};

use super::super::{Outcome, Output};
use super::backend::Backend;
use crate::admin::document::{RegistryEntry, RetiredEntry};
use crate::cli::terminal::outln;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// How to show them
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The registry
    name: String,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn list(backend: &Backend, args: &ListArgs) -> Outcome {
    let all = backend.list().await?;
    match args.output {
        Output::Json => outln!("{:#}", serde_json::json!(all)),
        Output::Table => {
            let mut table = Table::new();
            table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
            table.set_header(["registry", "pull as", "kind", "upstream", "prefix", "credential", "access", "from"]);
            for entry in &all.registries {
                table.add_row([
                    entry.name.as_str(),
                    &entry.address,
                    &entry.kind,
                    &entry.upstream,
                    entry.prefix.as_deref().unwrap_or("-"),
                    &credential(entry),
                    &entry.access,
                    if entry.stored { "store" } else { "file" },
                ]);
            }
            outln!("{table}");
            for RetiredEntry { address, until } in &all.retired {
                outln!("`{address}` was taken away: {address}/… is answered 404 until {until}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(backend: &Backend, args: &ShowArgs) -> Outcome {
    let entry = backend.show(&args.name).await?;
    if args.output == Output::Json {
        outln!("{:#}", serde_json::json!(entry));
        return Ok(ExitCode::SUCCESS);
    }
    let line = |label: &str, value: &str| outln!("{label:<11} {value}");
    line("name", &entry.name);
    line("address", &entry.address);
    line("kind", &entry.kind);
    line("upstream", &entry.upstream);
    line("prefix", entry.prefix.as_deref().unwrap_or("-"));
    line("access", &entry.access);
    line("default", if entry.default { "yes" } else { "no" });
    line("credential", &credential(&entry));
    for secret in &entry.secrets {
        line("secret", &format!("{}: fingerprint {}, stored {}", secret.field, secret.fingerprint, secret.updated_at));
    }
    line("from", if entry.stored { "the store" } else { "the configuration file" });
    notes(&entry);
    Ok(ExitCode::SUCCESS)
}

fn credential(entry: &RegistryEntry) -> String {
    match (entry.has_credential, entry.secrets.first()) {
        (false, _) => "none".to_owned(),
        (true, Some(secret)) => format!("stored ({})", secret.fingerprint),
        (true, None) => "from elsewhere".to_owned(),
    }
}

/// What has to happen before anybody pulls.
pub(super) fn notes(entry: &RegistryEntry) {
    if entry.access == "grants" {
        outln!(
            "note: only clients with a grant pull through it: transship client add NAME --grant '{}/**'",
            entry.address
        );
    }
    if let Some(default) = &entry.hides {
        outln!(
            "note: {0}/… now means it, and hides the namespace `{0}` of the default registry `{default}`; with \
             `mirror_listen` in [server], that one has an address of its own",
            entry.address
        );
    }
}
