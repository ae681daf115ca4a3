//! `transship check`: validate the configuration and show what it amounts to.

use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};

use super::{Outcome, Output};
use crate::access::{Client, Proof};
use crate::cli::terminal::outln;
use crate::config::{Settings, mask};
use crate::registry::{AccessMode, Directory, Registry};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "TRANSSHIP_CONFIG")]
    config: Option<PathBuf>,
    /// How to show what it amounts to
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (_, settings) = super::configuration(args.config.as_deref(), false)?;
    match args.output {
        Output::Table => table(&settings),
        Output::Json => json(&settings),
    }
    Ok(ExitCode::SUCCESS)
}

fn access(registry: &Registry) -> &'static str {
    match registry.access {
        AccessMode::Anyone => "anyone",
        AccessMode::Grants => "grants",
    }
}

fn credential(registry: &Registry) -> &'static str {
    if registry.credential.is_anonymous() { "none" } else { "stored" }
}

fn table(settings: &Settings) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["registry", "pull as", "kind", "upstream", "prefix", "credential", "access", "default"]);
    for registry in &settings.registries {
        table.add_row([
            &*mask(registry.name.display()),
            &*mask(registry.name.address()),
            registry.kind.as_str(),
            &*mask(&registry.origin.to_string()),
            &*mask(registry.prefix.as_ref().map_or("-", |prefix| prefix.as_str())),
            credential(registry),
            access(registry),
            if registry.is_default { "yes" } else { "" },
        ]);
    }
    outln!("{table}");
    let listen: Vec<String> = settings.server.listen.iter().map(ToString::to_string).collect();
    outln!(
        "pulls on {}, administration on {} and at {}",
        listen.join(", "),
        settings.admin.listen,
        settings.admin.socket.display()
    );
    if let Some(note) = in_clear(settings) {
        outln!("note: {note}");
    }
    for registry in settings.registries.iter().filter(|registry| registry.access == AccessMode::Grants) {
        let granted = settings
            .clients
            .iter()
            .any(|client| client.grants.iter().any(|grant| registry.name.matches(grant.registry())));
        if !granted {
            outln!(
                "note: nobody may pull through `{}`: grant it to a [[client]], or say `access = \"anyone\"`",
                registry.name
            );
        }
    }
    let directory = Directory::new(settings.registries.clone()).mirrored(!settings.server.mirror_listen.is_empty());
    if let Some(note) = hidden(&directory) {
        outln!("{note}");
    }
    outln!("{}", docker_hub(&directory));
    outln!("the configuration is valid");
}

/// What is to be said of secrets of clients that go over a network in clear.
pub(super) fn in_clear(settings: &Settings) -> Option<String> {
    let shows_secret = |client: &&Client| matches!(client.proof, Proof::Password { .. } | Proof::Token { .. });
    let client = settings.clients.iter().find(shows_secret)?;
    if settings.server.tls.is_some() || !settings.server.is_beyond_loopback() {
        return None;
    }
    Some(format!(
        "clients as `{}` show passwords and tokens to a listener beyond loopback without TLS, so they go over the \
         network in clear: give it a certificate with [server.tls], unless something in front of it encrypts",
        client.name
    ))
}

/// Which namespaces of the default registry cannot be pulled by their name,
/// because a registry has it.
fn hidden(directory: &Directory) -> Option<String> {
    let hiding: Vec<_> = directory
        .registries()
        .iter()
        .filter_map(|registry| directory.hidden_by(registry).map(|default| (registry.name.address(), default)))
        .collect();
    let (_, default) = hiding.first()?;
    let names: Vec<String> = hiding.iter().map(|(name, _)| format!("{name}/…")).collect();
    Some(format!(
        "note: names of registries hide {} of the default registry `{}`; with `mirror_listen` in [server], it has an \
         address of its own and nothing is hidden there",
        names.join(", "),
        default.name
    ))
}

/// What a mirror request for docker.io is answered with.
fn docker_hub(directory: &Directory) -> String {
    match directory.of_docker_hub() {
        Some(registry) => {
            let below = registry.prefix.as_ref().map(|prefix| format!(", below `{prefix}` only")).unwrap_or_default();
            format!("docker.io is answered by registry `{}`{below}", registry.name)
        }
        None => "docker.io is not answered: no registry serves it, and none is the default".to_owned(),
    }
}

fn json(settings: &Settings) {
    let registries: Vec<_> = settings
        .registries
        .iter()
        .map(|registry| {
            serde_json::json!({
                "name": registry.name.display(),
                "address": registry.name.address(),
                "kind": registry.kind.as_str(),
                "upstream": registry.origin.to_string(),
                "prefix": registry.prefix.as_ref().map(|prefix| prefix.as_str()),
                "credential": credential(registry),
                "access": access(registry),
                "default": registry.is_default,
            })
        })
        .collect();
    let listen: Vec<String> = settings.server.listen.iter().map(ToString::to_string).collect();
    let document = serde_json::json!({
        "listen": listen,
        "admin": settings.admin.listen.to_string(),
        "public_url": settings.public_url.as_str(),
        "docker_hub": Directory::new(settings.registries.clone()).of_docker_hub().map(|registry| registry.name.slug()),
        "registries": registries,
        "clients": settings.clients.iter().map(|client| &client.name).collect::<Vec<_>>(),
    });
    outln!("{}", mask(&format!("{document:#}")));
}
