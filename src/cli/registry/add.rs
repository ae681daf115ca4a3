//! `add`: a registry more.

use std::process::ExitCode;

use miette::miette;
use serde_json::{Map, Value};

use super::super::Outcome;
use super::backend::Backend;
use super::fields::{Fields, ask, ask_form, is_interactive};
use super::{Trial, listing};
use crate::admin::document::RegistryForm;
use crate::cli::terminal::{errln, outln};
use crate::registry::{FieldKind, Kind, RegistryName};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The display name, for example My-Example-GHCR
    name: Option<String>,
    /// What stands for it in image names; proposed from the name otherwise
    #[arg(long)]
    address: Option<String>,
    /// The provider's kind: docker-hub, ghcr, google, digitalocean, azure, ecr, quay, ngc, gitlab, generic
    #[arg(long, value_parser = kind)]
    kind: Option<Kind>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    trial: Trial,
}

fn kind(text: &str) -> Result<Kind, String> {
    text.parse().map_err(|()| format!("the kinds are {}", Kind::ALL.map(Kind::as_str).join(", ")))
}

pub(super) async fn run(backend: &mut Backend, args: &Args) -> Outcome {
    let interactive = is_interactive() && !args.fields_are_complete();
    let name = match &args.name {
        Some(name) => name.clone(),
        None if interactive => ask("Display name", None)?.ok_or_else(|| miette!("a registry needs a name"))?,
        None => return Err(miette!("a registry needs a name: transship registry add NAME --kind KIND …")),
    };
    name.parse::<RegistryName>().map_err(|error| miette!("`{name}`: {error}"))?;
    let kind = match args.kind {
        Some(kind) => kind,
        None if interactive => {
            errln!("Kinds: {}", Kind::ALL.map(Kind::as_str).join(", "));
            let answer = ask("Kind", None)?.unwrap_or_default();
            self::kind(&answer).map_err(|error| miette!("there is no kind `{answer}`; {error}"))?
        }
        None => return Err(miette!("name its kind: --kind {}", Kind::ALL.map(Kind::as_str).join("|"))),
    };
    let mut settings = Map::new();
    settings.insert("name".to_owned(), Value::String(name.clone()));
    if let Some(address) = &args.address {
        settings.insert("address".to_owned(), Value::String(address.clone()));
    }
    settings.insert("kind".to_owned(), Value::String(kind.to_string()));
    let mut secrets = args.fields.fill(kind, &mut settings)?;
    if interactive {
        ask_form(kind, &mut settings, &mut secrets, false)?;
    }
    let told = settings.contains_key("url");
    let missing: Vec<String> = kind
        .fields()
        .iter()
        .filter(|field| field.required && field.kind == FieldKind::Text && !settings.contains_key(field.name))
        .filter(|field| !(told && matches!(field.name, "region" | "account_id")))
        .map(|field| format!("{} (--{} …)", field.label, field.name.replace('_', "-")))
        .collect();
    if !missing.is_empty() {
        return Err(miette!("the form of `{kind}` needs: {}", missing.join(", ")));
    }
    let form = RegistryForm { settings: Some(settings), secrets };
    if let Some(code) = args.trial.run(backend, None, &form).await? {
        return Ok(code);
    }
    let added = backend.add(form).await?;
    outln!("stored {}; pull through {}/…", added.name, added.address);
    listing::notes(&added);
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// With a name, a kind and any field, nothing is asked for.
    fn fields_are_complete(&self) -> bool {
        self.name.is_some() && self.kind.is_some() && !self.fields.is_empty()
    }
}
