//! `transship rewrite`: the images of workflow specs, compose files and
//! manifests, turned to go through the proxy.
//!
//! All files are read and turned before any is written: one mistake anywhere,
//! and none is.

mod diff;
mod file;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use miette::miette;

use self::diff::Diff;
use self::file::Input;
use super::Outcome;
use super::known::Known;
use crate::cli::terminal::errln;
use crate::printable::one_line;
use crate::rewrite::{Pairs, Remark, Rewritten, rewrite};

/// Arguments of `rewrite`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Workflow specs, compose files, Kubernetes manifests, Helm values; YAML or JSON; `-` reads standard input and
    /// writes standard output
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write nothing; show what would change, and exit with 1 if anything would
    #[arg(long)]
    check: bool,
    /// Write nothing; show what would change
    #[arg(long, conflicts_with = "check")]
    diff: bool,
    /// Let `containerRegistry` stay beside a rewritten image
    ///
    /// It is taken out otherwise: the proxy holds the credential, and the platform would show the connection's to the
    /// proxy in vain.
    #[arg(long)]
    keep_registry: bool,
    #[command(flatten)]
    known: Known,
}

/// A file, turned.
struct Turned {
    input: Input,
    rewritten: Rewritten,
}

pub(super) fn run(args: &Args) -> Outcome {
    let through = args.known.through()?;
    let pairs = if args.keep_registry { Pairs::Keep } else { Pairs::Resolve };
    let (mut turned, mut mistakes): (Vec<Turned>, usize) = (Vec::new(), 0);
    for path in &args.files {
        let input = match Input::read(path) {
            Ok(input) => input,
            Err(error) => {
                errln!("{error}");
                mistakes += 1;
                continue;
            }
        };
        // A file that is named twice, or by a link too, is one file.
        if turned.iter().any(|earlier| earlier.input.same_file(&input)) {
            continue;
        }
        match rewrite(&input.text, &through, pairs) {
            Ok(rewritten) => turned.push(Turned { input, rewritten }),
            Err(found) => {
                mistakes += found.len();
                found.iter().for_each(|mistake| tell(&input.name, "", mistake));
            }
        }
    }
    if mistakes > 0 {
        let count = if mistakes == 1 { "1 mistake".to_owned() } else { format!("{mistakes} mistakes") };
        errln!("\n{count}; nothing was written");
        return Ok(ExitCode::FAILURE);
    }
    for Turned { input, rewritten } in &turned {
        rewritten.notes.iter().for_each(|note| tell(&input.name, "note: ", note));
    }
    finish(args, &turned)
}

/// Shows what changes, and changes it.
fn finish(args: &Args, turned: &[Turned]) -> Outcome {
    let looks_only = args.check || args.diff;
    let mut out = std::io::stdout().lock();
    let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (mut files, mut images) = (0_usize, 0_usize);
    for Turned { input, rewritten } in turned {
        let said = if input.is_standard() && !looks_only {
            out.write_all(rewritten.text.as_bytes())
        } else {
            write!(out, "{}", Diff { name: &input.name, old: &input.text, edits: &rewritten.edits, coloured })
        };
        said.map_err(|error| miette!("standard output cannot be written: {error}"))?;
        if !rewritten.edits.is_empty() {
            files += 1;
            images += rewritten.edits.iter().filter(|edit| !edit.text.is_empty()).count();
        }
    }
    out.flush().map_err(|error| miette!("standard output cannot be written: {error}"))?;
    if !looks_only {
        for Turned { input, rewritten } in turned.iter().filter(|turned| !turned.rewritten.edits.is_empty()) {
            input.write(&rewritten.text).map_err(|error| miette!("{error}"))?;
        }
    }
    let total = turned.len();
    errln!("{}", summary(looks_only, files, images, total));
    Ok(if args.check && files > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn summary(looks_only: bool, files: usize, values: usize, total: usize) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    match (files, looks_only) {
        (0, _) => format!("nothing to change in {}", count(total, "file")),
        (_, true) => format!("{} would change in {}", count(values, "value"), count(files, "file")),
        (_, false) => format!("{} changed in {}", count(values, "value"), count(files, "file")),
    }
}

fn tell(name: &str, sort: &str, remark: &Remark) {
    let Remark { line, column, message, fix } = remark;
    errln!("{name}:{line}:{column}: {sort}{}", one_line(message));
    if let Some(fix) = fix {
        errln!("  help: {}", one_line(fix));
    }
}
