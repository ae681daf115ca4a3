//! `ls` and `du`: tables for people, JSON for programs.

use std::process::ExitCode;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::super::admin_client::AdminClient;
use super::super::{Outcome, Output};
use super::{blobs, size};
use crate::admin::document::{BlobEntry, Blobs, CacheStatus, RegistryUsage, Usage};
use crate::cli::terminal::outln;

/// Links that are named in a row of the table.
const NAMED: usize = 3;

#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// Only blobs that are linked to this registry
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// Only blobs that are linked to this repository of it
    #[arg(long, value_name = "REPOSITORY", requires = "registry")]
    repository: Option<String>,
    /// How many to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// How to show them
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct DuArgs {
    /// How to show it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn ls(client: &AdminClient, args: &LsArgs) -> Outcome {
    let limit = args.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(args.registry.as_deref().map(|name| ("registry", name)));
    query.extend(args.repository.as_deref().map(|name| ("repository", name)));
    let listed: Blobs = client.get("cache/blobs", &query).await?;
    if args.output == Output::Json {
        return json(&listed);
    }
    let mut table = new_table(&["digest", "size", "pinned", "linked to"]);
    for blob in &listed.blobs {
        let pinned = if blob.pinned { "yes" } else { "" };
        table.add_row([Cell::new(&blob.digest), right(size(blob.size)), Cell::new(pinned), Cell::new(links(blob))]);
    }
    outln!("{table}");
    match listed.total - listed.blobs.len().min(listed.total) {
        0 => outln!("{}, {}", blobs(listed.total), size(listed.bytes)),
        more => outln!("{} and {more} more, {} altogether", blobs(listed.blobs.len()), size(listed.bytes)),
    }
    Ok(ExitCode::SUCCESS)
}

fn links(blob: &BlobEntry) -> String {
    let named = blob.links.iter().take(NAMED).map(|link| format!("{}/{}", link.registry, link.repository));
    let mut all: Vec<String> = named.collect();
    if let Some(more) = blob.links.len().checked_sub(NAMED + 1) {
        all.push(format!("and {} more", more + 1));
    }
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

/// Both documents that `du` is made of.
#[derive(Serialize)]
struct DiskUsage<'a> {
    #[serde(flatten)]
    status: &'a CacheStatus,
    registries: &'a [RegistryUsage],
    unlinked: crate::admin::document::Amount,
}

pub(super) async fn du(client: &AdminClient, args: &DuArgs) -> Outcome {
    let status: CacheStatus = client.get("cache", &[]).await?;
    let usage: Usage = client.get("cache/usage", &[]).await?;
    if args.output == Output::Json {
        return json(&DiskUsage { status: &status, registries: &usage.registries, unlinked: usage.unlinked });
    }
    let mut table = new_table(&["registry", "repositories", "blobs", "size"]);
    for registry in &usage.registries {
        let RegistryUsage { registry, repositories, blobs, bytes } = registry;
        table.add_row([Cell::new(registry), right(repositories), right(blobs), right(size(*bytes))]);
    }
    if usage.unlinked.blobs > 0 {
        let row = [Cell::new("(linked to none)"), right("-"), right(usage.unlinked.blobs)];
        table.add_row(row.into_iter().chain([right(size(usage.unlinked.bytes))]));
    }
    outln!("{table}");
    outln!("{} stored, {} of {}", blobs(usage.total.blobs), size(usage.total.bytes), size(status.max_size));
    if status.pinned_blobs > 0 {
        outln!("{} of them pinned, {}", status.pinned_blobs, size(status.pinned_bytes));
    }
    if status.fills > 0 {
        outln!("{} on the way", blobs(status.fills));
    }
    if !status.writes {
        outln!("note: another process writes this cache directory; this one counts only what it has seen");
    }
    Ok(ExitCode::SUCCESS)
}

/// A table whose digests are never broken: they are there to be copied.
pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

pub(super) fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

pub(super) fn json(document: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(document).map_err(|error| miette::miette!("{error}"))?;
    outln!("{text}");
    Ok(ExitCode::SUCCESS)
}
