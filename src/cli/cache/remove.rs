//! `rm`: some blobs, or what only one registry or repository is linked to.

use std::process::ExitCode;

use http::StatusCode;

use super::super::Outcome;
use super::super::admin_client::{AdminClient, Answer};
use super::{blobs, size};
use crate::admin::document::{BlobEntry, Blobs};
use crate::cli::terminal::{errln, outln};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The blobs to remove
    #[arg(value_name = "DIGEST", required_unless_present = "registry", conflicts_with = "registry")]
    digests: Vec<String>,
    /// Remove what is linked to this registry and to no other
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// Only what is linked to this repository of it, and nowhere else
    #[arg(long, value_name = "REPOSITORY", requires = "registry")]
    repository: Option<String>,
    /// Remove it also where others are linked to it
    #[arg(long, requires = "registry")]
    shared: bool,
}

pub(super) async fn run(client: &AdminClient, args: &Args) -> Outcome {
    match &args.registry {
        Some(registry) => all_of(client, registry, args).await,
        None => these(client, &args.digests).await,
    }
}

async fn these(client: &AdminClient, digests: &[String]) -> Outcome {
    let mut code = ExitCode::SUCCESS;
    for digest in digests {
        match client.delete(&format!("cache/blobs/{digest}")).await? {
            Answer::Done(()) => outln!("removed {digest}"),
            Answer::Refused(_, reason) => {
                errln!("{reason}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn all_of(client: &AdminClient, registry: &str, args: &Args) -> Outcome {
    let everything = usize::MAX.to_string();
    let mut query = vec![("limit", everything.as_str()), ("registry", registry)];
    query.extend(args.repository.as_deref().map(|name| ("repository", name)));
    let listed: Blobs = client.get("cache/blobs", &query).await?;
    let (mut removed, mut bytes, mut pinned, mut shared) = (0, 0, 0, 0);
    for blob in &listed.blobs {
        if blob.pinned {
            pinned += 1;
        } else if !args.shared && is_shared(blob, &listed) {
            shared += 1;
        } else {
            match client.delete(&format!("cache/blobs/{}", blob.digest)).await? {
                Answer::Done(()) => {
                    removed += 1;
                    bytes += blob.size;
                }
                // It went by itself, or was pinned, since it was listed.
                Answer::Refused(StatusCode::NOT_FOUND, _) => {}
                Answer::Refused(StatusCode::CONFLICT, _) => pinned += 1,
                refused => refused.or_fail()?,
            }
        }
    }
    outln!("removed {}, {}", blobs(removed), size(bytes));
    if pinned > 0 {
        outln!("kept {}: pinned", blobs(pinned));
    }
    if shared > 0 {
        outln!("kept {}: linked elsewhere too (--shared removes them too)", blobs(shared));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether it is linked to something that was not asked about.
fn is_shared(blob: &BlobEntry, asked: &Blobs) -> bool {
    blob.links.iter().any(|link| {
        asked.registry.as_ref() != Some(&link.registry)
            || asked.repository.as_ref().is_some_and(|repository| *repository != link.repository)
    })
}
