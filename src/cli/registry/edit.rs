//! `edit`: what is named changes, the rest stays.

use std::process::ExitCode;

use miette::miette;

use super::super::Outcome;
use super::backend::Backend;
use super::fields::{Fields, ask_form, is_interactive};
use super::{Trial, listing};
use crate::admin::document::RegistryForm;
use crate::cli::terminal::outln;
use crate::registry::Kind;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The registry
    name: String,
    /// Its new display name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// What stands for it in image names from now on
    #[arg(long)]
    address: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// Go back to the default of this key; may be repeated
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    #[command(flatten)]
    trial: Trial,
}

pub(super) async fn run(backend: &mut Backend, args: &Args) -> Outcome {
    let entry = backend.show(&args.name).await?;
    let kind: Kind =
        entry.kind.parse().map_err(|()| miette!("the kind `{}` is not one of this version", entry.kind))?;
    let mut settings = entry.settings.clone().unwrap_or_default();
    let before = settings.clone();
    let mut secrets = args.fields.fill(kind, &mut settings)?;
    for key in &args.unset {
        if settings.remove(key).is_none() {
            secrets.insert(key.clone(), None);
        }
    }
    if let Some(name) = &args.rename {
        settings.insert("name".to_owned(), name.clone().into());
    }
    if let Some(address) = &args.address {
        settings.insert("address".to_owned(), address.clone().into());
    }
    let is_named = args.rename.is_some() || args.address.is_some();
    if args.fields.is_empty() && args.unset.is_empty() && !is_named {
        if !is_interactive() {
            return Err(miette!("name what is to change, for example --password-stdin or --set tag_ttl=\"5m\""));
        }
        ask_form(kind, &mut settings, &mut secrets, true)?;
    }
    let settings = (settings != before).then_some(settings);
    if settings.is_none() && secrets.is_empty() {
        outln!("nothing has changed");
        return Ok(ExitCode::SUCCESS);
    }
    let form = RegistryForm { settings, secrets };
    if let Some(code) = args.trial.run(backend, Some(&args.name), &form).await? {
        return Ok(code);
    }
    let changed = backend.replace(&args.name, form).await?;
    outln!("changed {}", changed.name);
    listing::notes(&changed);
    Ok(ExitCode::SUCCESS)
}
