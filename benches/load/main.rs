//! A load generator for registries.
//!
//! `cargo bench --bench load -- --help` says how to use it. `pull` measures
//! how fast a blob comes, `requests` how many small answers come a second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "the comparison uses the rest")]
mod harness;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use harness::http::Url;
use harness::{http2, pull, requests, stats, tls};

/// Puts load on any registry and says how it bore it.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Arguments {
    /// Given by `cargo bench` to every benchmark.
    #[arg(long, global = true, hide = true)]
    bench: bool,
    /// Clients at a time, each with a connection of its own
    #[arg(long, short, global = true, default_value_t = 8)]
    connections: usize,
    /// Seconds to go on for
    #[arg(long, short, global = true, default_value_t = 5.0)]
    seconds: f64,
    /// A header line to send, for example "Authorization: Basic ..."; may be repeated
    #[arg(long, short = 'H', global = true, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Authorities to trust for https (PEM) instead of the system's
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Pull one blob: throughput, time to first byte, the slowest client
    Pull {
        /// For example http://127.0.0.1:5000/v2/library/alpine/blobs/sha256:...
        url: Url,
        /// Each client pulls once, instead of again and again
        #[arg(long)]
        once: bool,
        /// Hash what comes and compare it with the digest at the end of the URL
        #[arg(long)]
        verify: bool,
        /// HTTP/2 (https only)
        #[arg(long, conflicts_with_all = ["once", "verify"])]
        http2: bool,
    },
    /// Ask for something small over and over on open connections (http only)
    Requests {
        /// For example http://127.0.0.1:5000/v2/library/alpine/manifests/sha256:...
        url: Url,
    },
}

fn main() -> ExitCode {
    // `cargo bench` and `cargo test --benches` run it too, with nothing to do.
    if std::env::args_os().skip(1).all(|argument| argument == "--bench") {
        println!("load: nothing to do; see `cargo bench --bench load -- --help`");
        return ExitCode::SUCCESS;
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let duration = Duration::from_secs_f64(arguments.seconds);
    match &arguments.what {
        What::Pull { url, once, verify, http2: second } => {
            let outcome = if *second {
                let config = tls::client(arguments.ca.as_deref(), "h2")?;
                http2::run(url, &config, arguments.connections, duration)?
            } else {
                let tls = url.tls.then(|| tls::client(arguments.ca.as_deref(), "http/1.1")).transpose()?;
                let digest = url.path.split('?').next().and_then(|path| path.rsplit('/').next());
                pull::run(&pull::Load {
                    url: url.clone(),
                    headers: arguments.header.clone(),
                    connections: arguments.connections,
                    duration: (!once).then_some(duration),
                    verify: digest.filter(|_| *verify).map(str::to_owned),
                    tls,
                })?
            };
            say_pull(&outcome, arguments.json);
            outcome.failures().map_or(Ok(()), |failures| Err(io::Error::other(failures)))
        }
        What::Requests { url } => {
            if url.tls {
                return Err(io::Error::other("`requests` speaks http only"));
            }
            let paths = [url.path.clone()];
            let outcome = requests::run(url, &paths, &arguments.header, arguments.connections, Some(duration))?;
            say_requests(&outcome, arguments.json);
            Ok(())
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn say_pull(outcome: &pull::Outcome, json: bool) {
    let (throughput, bytes) = (outcome.throughput(), outcome.bytes());
    let pulls: u64 = outcome.clients.iter().map(|client| client.pulls).sum();
    let firsts: Vec<f64> = outcome.clients.iter().filter_map(|client| client.first_byte.map(milliseconds)).collect();
    let totals: Vec<f64> = outcome.clients.iter().map(|client| milliseconds(client.total)).collect();
    let slowest = totals.iter().copied().fold(0.0, f64::max);
    let first = stats::median(&firsts).unwrap_or(f64::NAN);
    let cpu = outcome.cpu() / (bytes as f64 / 1e9);
    if json {
        let figures = serde_json::json!({
            "gb_per_second": throughput, "bytes": bytes, "pulls": pulls, "first_byte_ms": first,
            "slowest_client_ms": slowest, "client_cpu_seconds_per_gb": cpu,
        });
        println!("{figures}");
    } else {
        println!("{throughput:.2} GB/s: {bytes} bytes in {:.2} s, {pulls} whole pulls", outcome.wall.as_secs_f64());
        println!("first byte after {first:.2} ms (median of the clients), last client done after {slowest:.0} ms");
        println!("client CPU {cpu:.3} s/GB");
    }
}

fn say_requests(outcome: &requests::Outcome, json: bool) {
    let at = |part| milliseconds(outcome.quantile(part));
    if json {
        let figures = serde_json::json!({
            "requests_per_second": outcome.rate(), "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999),
        });
        println!("{figures}");
    } else {
        println!("{:.0} requests/s", outcome.rate());
        println!("p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, longest {:.3} ms", at(0.5), at(0.99), at(0.999), at(1.0));
    }
}
