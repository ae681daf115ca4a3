//! `verify`: hash what is stored, and say what is damaged.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use super::super::Outcome;
use super::super::admin_client::AdminClient;
use super::{blobs, size};
use crate::admin::document::{Blobs, Soundness, Verification};
use crate::cli::terminal::outln;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The blobs to hash; without any: all of them
    #[arg(value_name = "DIGEST")]
    digests: Vec<String>,
}

/// What is to be hashed; the size, where it is known.
type Work = Vec<(String, Option<u64>)>;

pub(super) async fn run(client: &AdminClient, args: &Args) -> Outcome {
    let all = args.digests.is_empty();
    let work: Work = if all {
        let listed: Blobs = client.get("cache/blobs", &[("limit", &usize::MAX.to_string())]).await?;
        listed.blobs.into_iter().map(|blob| (blob.digest, Some(blob.size))).collect()
    } else {
        args.digests.iter().map(|digest| (digest.clone(), None)).collect()
    };
    let progress = Progress::begin(&work);
    let (mut sound, mut damaged, mut absent) = (0, 0, 0);
    for (digest, bytes) in &work {
        let checked: Verification = client.put(&format!("cache/blobs/{digest}/verification")).await?.or_fail()?;
        match checked.verdict {
            Soundness::Sound => {
                sound += 1;
                progress.passed(&format!("sound    {digest}"), *bytes);
            }
            Soundness::Damaged => {
                damaged += 1;
                progress.noted(&format!("damaged  {digest}"), *bytes);
            }
            Soundness::Absent => {
                absent += 1;
                progress.noted(&format!("absent   {digest}"), *bytes);
            }
        }
    }
    progress.end();
    let total: u64 = work.iter().filter_map(|(_, bytes)| *bytes).sum();
    outln!("{} sound, {damaged} damaged, {absent} absent{}", blobs(sound), if all { of(total) } else { String::new() });
    if damaged > 0 {
        outln!("the damaged ones have been taken out of service: the next pull fetches them again");
    }
    // A blob that was asked for by name should be there; of a listing, some
    // may have been evicted meanwhile.
    let failed = damaged > 0 || (!all && absent > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn of(total: u64) -> String {
    format!(" ({})", size(total))
}

/// A bar on a terminal, a line for each blob elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn begin(work: &Work) -> Progress {
        let total: Option<u64> = work.iter().map(|(_, bytes)| *bytes).sum();
        let bar = total.filter(|_| std::io::stderr().is_terminal()).map(|total| {
            let style =
                ProgressStyle::with_template("{bar:40.cyan/dim} {binary_bytes:>11} of {binary_total_bytes} {eta}");
            let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.tick();
            bar
        });
        Progress { bar }
    }

    /// Nothing that the user of a bar needs to see.
    fn passed(&self, line: &str, bytes: Option<u64>) {
        match &self.bar {
            Some(bar) => bar.inc(bytes.unwrap_or_default()),
            None => outln!("{line}"),
        }
    }

    fn noted(&self, line: &str, bytes: Option<u64>) {
        match &self.bar {
            Some(bar) => {
                bar.suspend(|| outln!("{line}"));
                bar.inc(bytes.unwrap_or_default());
            }
            None => outln!("{line}"),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
