//! Compares this build with other servers on the same data.
//!
//! `cargo bench --bench compare -- --help` says how to use it. The report, its
//! figures as JSON and a picture go to a directory; a run of some questions
//! leaves the answers to the others there as they were.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bench;
#[path = "../harness/mod.rs"]
mod harness;
mod plot;
mod question;
mod questions;
mod record;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bench::{Bench, Options};
use clap::{Parser, Subcommand};
use harness::servers::Kind;
use question::Question;
use record::{Answer, Machine, Record};

/// Compares this build with nginx, docker-registry and drayage
#[derive(Debug, Parser)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Given by `cargo bench` to every benchmark.
    #[arg(long, global = true, hide = true)]
    bench: bool,
    /// hits, tls, manifests, miss, storm, segments, restart, one part of one (storm-32), or all
    questions: Vec<String>,
    /// Rounds of each question
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each turn, where that is to be chosen
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// MiB of the blob
    #[arg(long, default_value_t = 256)]
    size: u64,
    /// Blobs in the cache before a restart
    #[arg(long, default_value_t = 100_000)]
    blobs: usize,
    /// Where results.json, README.md and overview.svg go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks"))]
    output: PathBuf,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The sample upstream, which the comparison starts by itself
    Upstream(harness::upstream::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(Part::Upstream(arguments)) => harness::upstream::serve(arguments),
        // `cargo test --benches` runs it too, with nothing to do.
        None if arguments.questions.is_empty() => {
            println!("compare: no question; see `cargo bench --bench compare -- --help`");
            Ok(())
        }
        None => match harness::netns::enter() {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(_)) => return ExitCode::FAILURE,
            Some(Err(error)) => Err(error),
            None => compare(&arguments),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> io::Result<()> {
    let (all, mut chosen) = (questions::all(), Vec::new());
    for wanted in &arguments.questions {
        let fits = |question: &&Question| {
            wanted == "all" || question.name == wanted || question.name.split('-').next() == Some(wanted)
        };
        if !all.iter().any(|question| fits(&question)) {
            let names: Vec<&str> = all.iter().map(|question| question.name).collect();
            return Err(io::Error::other(format!("there is no `{wanted}`; there are {}", names.join(", "))));
        }
        chosen.extend(all.iter().filter(fits).map(|question| question.name));
    }
    let machine = machine()?;
    eprintln!("congestion control of loopback: {}", machine.congestion_control);
    let bench = Bench::prepare(Options {
        rounds: arguments.rounds.max(1),
        duration: Duration::from_secs_f64(arguments.seconds),
        size: arguments.size << 20,
        blobs: arguments.blobs.max(1),
    })?;
    let file = arguments.output.join("results.json");
    let kept = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    let mut answers: Vec<Answer> = kept.map_or_else(Vec::new, |kept| kept.answers);
    for question in all.iter().filter(|question| chosen.contains(&question.name)) {
        match question::ask(question, &bench) {
            Ok(answer) => {
                answers.retain(|earlier| earlier.name != answer.name);
                answers.push(answer);
                answers.sort_by_key(|answer| all.iter().position(|question| question.name == answer.name));
                // Each at once: a run that is cut short loses only the rest.
                let record = Record { machine: machine.clone(), versions: versions(), answers: answers.clone() };
                write(&arguments.output, &record)?;
            }
            Err(error) => eprintln!("{}: {error}", question.name),
        }
    }
    println!("{}", fs::read_to_string(arguments.output.join("README.md")).unwrap_or_default());
    Ok(())
}

fn versions() -> BTreeMap<String, String> {
    Kind::ALL.iter().filter_map(|kind| Some((kind.name().to_owned(), kind.version()?))).collect()
}

fn write(directory: &Path, record: &Record) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut json = serde_json::to_vec_pretty(record)?;
    json.push(b'\n');
    fs::write(directory.join("results.json"), json)?;
    fs::write(directory.join("overview.svg"), plot::svg(record))?;
    fs::write(directory.join("README.md"), report::markdown(record))
}

fn machine() -> io::Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    Ok(Machine {
        processor: processor.unwrap_or_else(|| "unknown processor".to_owned()),
        cores: std::thread::available_parallelism()?.get(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        congestion_control: harness::netns::congestion_control()?,
    })
}
