//! Which eviction policy suits container images: the policies of the cache, on
//! a synthetic trace of deployment waves.
//!
//! `cargo bench --bench trace` (a minute or so; no network, no disk). It drives
//! the very code that the cache runs, and prints object and byte hit ratios for
//! caches of several sizes. `--write DIR` keeps the table and the figures.
//!
//! `cargo bench --bench trace -- servers` replays a smaller trace of the same
//! kind through real servers: this build with either policy, others, and none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

#[path = "../harness/mod.rs"]
#[allow(dead_code)]
mod harness;
mod images;
mod replay;
mod servers;
mod waves;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use transship::cache::eviction::PolicyKind;
use transship::oci::Digest;

use self::waves::{Shape, Trace};

/// Hit ratios of the eviction policies on a synthetic trace.
#[derive(Parser)]
#[command(name = "trace", args_conflicts_with_subcommands = true)]
struct Args {
    /// Seed of the trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated days
    #[arg(long, default_value_t = 20)]
    days: u32,
    /// Skews of popularity (Zipf's exponent)
    #[arg(long, value_delimiter = ',', default_values_t = [0.8, 0.9, 1.0])]
    skews: Vec<f64>,
    /// Where to keep `trace.md` and `trace.json`
    #[arg(long)]
    write: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, global = true, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The same trace, smaller, through real servers
    Servers(servers::Options),
    /// The sample upstream, which the comparison starts by itself
    Upstream(harness::upstream::Arguments),
}

/// One request of a node for a layer.
#[derive(Clone, Copy)]
struct Request {
    at: Duration,
    layer: u32,
}

/// What a policy made of a trace.
#[derive(serde::Serialize)]
struct Outcome {
    skew: f64,
    policy: &'static str,
    cache_percent: u64,
    object_hit_ratio: f64,
    byte_hit_ratio: f64,
    /// Bytes fetched a second time or more, as a part of the distinct bytes.
    fetched_again: f64,
}

fn digest(layer: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&layer.to_be_bytes());
    Digest::Sha256(bytes)
}

fn run(trace: &Trace, requests: &[Request], kind: PolicyKind, capacity: u64, distinct: u64) -> [f64; 3] {
    let mut policy = kind.build(capacity);
    let mut cached: HashSet<u32> = HashSet::new();
    let (mut hits, mut hit_bytes, mut bytes) = (0_u64, 0_u64, 0_u64);
    for request in requests {
        let size = trace.sizes[request.layer as usize];
        bytes += size;
        if cached.contains(&request.layer) {
            hits += 1;
            hit_bytes += size;
            policy.touch(&digest(request.layer), request.at);
            continue;
        }
        cached.insert(request.layer);
        policy.insert(digest(request.layer), size, request.at);
        while policy.bytes() > capacity {
            let Some((Digest::Sha256(gone), _)) = policy.evict() else { break };
            cached.remove(&u32::from_be_bytes(gone[..4].try_into().unwrap()));
        }
    }
    let again = (bytes - hit_bytes - distinct) as f64 / distinct as f64;
    [hits as f64 / requests.len() as f64, hit_bytes as f64 / bytes as f64, again]
}

/// The policies alone, on the trace of a fleet.
fn simulate(args: &Args) {
    let mut outcomes = Vec::new();
    let mut text = String::from(
        "# Eviction on a synthetic trace\n\n`cargo bench --bench trace`; generator and parameters: `benches/trace/`. \
         The parameters come from published studies of 2016 to 2023 and are scaled to a run of a minute; ratios \
         between policies mean more than their absolute values. Within a wave nearly every request hits whatever the \
         policy: what tells policies apart is what has to be fetched again.\n",
    );
    for &skew in &args.skews {
        let trace = Trace::generate(args.seed, Shape::fleet(args.days), skew);
        let requests = trace.requests();
        let distinct: HashSet<u32> = requests.iter().map(|request| request.layer).collect();
        let total: u64 = distinct.iter().map(|layer| trace.sizes[*layer as usize]).sum();
        writeln!(
            text,
            "\n## Zipf {skew}: {} requests, {} layers, {:.1} GB distinct, seed {}\n\n\
             | cache, of distinct bytes | hits: S3-FIFO | LRU | hits by bytes: S3-FIFO | LRU | \
             fetched again, of distinct bytes: S3-FIFO | LRU |\n|---|---|---|---|---|---|---|",
            requests.len(),
            distinct.len(),
            total as f64 / 1e9,
            args.seed
        )
        .unwrap();
        for percent in [2, 5, 10, 20, 50] {
            let mut row = Vec::new();
            for (name, kind) in [("s3-fifo", PolicyKind::S3Fifo), ("lru", PolicyKind::Lru)] {
                let [objects, bytes, again] = run(&trace, &requests, kind, total / 100 * percent, total);
                row.push((objects, bytes, again));
                outcomes.push(Outcome {
                    skew,
                    policy: name,
                    cache_percent: percent,
                    object_hit_ratio: objects,
                    byte_hit_ratio: bytes,
                    fetched_again: again,
                });
            }
            writeln!(
                text,
                "| {percent} % | {:.4} | {:.4} | {:.4} | {:.4} | {:.2} | {:.2} |",
                row[0].0, row[1].0, row[0].1, row[1].1, row[0].2, row[1].2
            )
            .unwrap();
        }
    }
    println!("{text}");
    if let Some(dir) = &args.write {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("trace.md"), text).unwrap();
        std::fs::write(dir.join("trace.json"), serde_json::to_string_pretty(&outcomes).unwrap()).unwrap();
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.part {
        None => {
            simulate(&args);
            Ok(())
        }
        Some(Part::Upstream(arguments)) => harness::upstream::serve(arguments),
        Some(Part::Servers(options)) => match harness::netns::enter() {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(_)) => return ExitCode::FAILURE,
            Some(Err(error)) => Err(error),
            None => servers::compare(options),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trace: {error}");
            ExitCode::FAILURE
        }
    }
}
