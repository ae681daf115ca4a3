//! `pin` and `unpin`: images that stay in the cache.

use std::process::ExitCode;

use comfy_table::Cell;
use miette::miette;

use super::super::admin_client::{AdminClient, Answer};
use super::super::{Outcome, Output};
use super::listing::{json, new_table, right};
use super::{blobs, size};
use crate::admin::document::{PinEntry, Pins};
use crate::cli::terminal::{errln, outln};

#[derive(Debug, clap::Args)]
pub(super) struct PinArgs {
    /// The images to keep, as `registry/repository:tag` or `registry/repository@digest`
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// How to show the pins
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct UnpinArgs {
    /// The images, as `pin` lists them
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

pub(super) async fn pin(client: &AdminClient, args: &PinArgs) -> Outcome {
    if args.images.is_empty() {
        return list(client, args.output).await;
    }
    let (mut done, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for image in &args.images {
        match client.put::<PinEntry>(&path(image)?).await? {
            Answer::Done(pin) => {
                if args.output == Output::Table {
                    said(&pin);
                }
                done.push(pin);
            }
            Answer::Refused(_, reason) => {
                errln!("{reason}");
                code = ExitCode::FAILURE;
            }
        }
    }
    if args.output == Output::Json {
        json(&Pins { pins: done })?;
    }
    Ok(code)
}

fn said(pin: &PinEntry) {
    outln!("pinned {} {}", pin.image, pin.digest.as_deref().unwrap_or_default());
    let missing = pin.blobs.saturating_sub(pin.stored_blobs);
    if missing > 0 {
        outln!("{} of {} stored so far; the others stay once they are", pin.stored_blobs, blobs(pin.blobs));
    }
}

pub(super) async fn unpin(client: &AdminClient, args: &UnpinArgs) -> Outcome {
    let mut code = ExitCode::SUCCESS;
    for image in &args.images {
        match client.delete(&path(image)?).await? {
            Answer::Done(()) => outln!("unpinned {image}"),
            Answer::Refused(_, reason) => {
                errln!("{reason}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn list(client: &AdminClient, output: Output) -> Outcome {
    let all: Pins = client.get("cache/pins", &[]).await?;
    if output == Output::Json {
        return json(&all);
    }
    let mut table = new_table(&["image", "digest", "blobs", "stored", "size", "by"]);
    for pin in &all.pins {
        let by = if pin.configured { "configuration" } else { "command" };
        table.add_row([
            Cell::new(&pin.image),
            Cell::new(pin.digest.as_deref().unwrap_or("not seen yet")),
            right(pin.blobs),
            right(pin.stored_blobs),
            right(size(pin.stored_bytes)),
            Cell::new(by),
        ]);
    }
    outln!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn path(image: &str) -> miette::Result<String> {
    if image.contains('/') {
        return Ok(format!("cache/pins/{image}"));
    }
    Err(miette!("`{image}` names no registry: write it as registry/repository:tag"))
}
