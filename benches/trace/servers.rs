//! The trace through real servers: what each makes of the same requests, the
//! same upstream and, where it can be told, the same room.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use super::harness::data::{Data, Item};
use super::harness::http::Url;
use super::harness::meter::{Meter, Usage};
use super::harness::netns;
use super::harness::others::Others;
use super::harness::servers::{Kind, Server, Setup};
use super::harness::upstream::{self, Manners};
use super::replay::{self, Seen};
use super::waves::{Shape, Trace};

#[derive(Debug, Clone, clap::Args, serde::Serialize)]
pub(super) struct Options {
    /// Seed of the trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Zipf's exponent of the images' popularity
    #[arg(long, default_value_t = 0.9)]
    skew: f64,
    /// Nodes
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Images at the start
    #[arg(long, default_value_t = 200)]
    images: usize,
    /// Waves and single pulls
    #[arg(long, default_value_t = 50)]
    events: u32,
    /// Layers are smaller by this
    #[arg(long, default_value_t = 8)]
    divisor: u64,
    /// What takes a second in the trace takes so much less here
    #[arg(long, default_value_t = 1000.0)]
    faster: f64,
    /// Nodes that pull at a time
    #[arg(long, default_value_t = 32)]
    width: usize,
    /// Room in the cache, in hundredths of the distinct bytes
    #[arg(long, value_delimiter = ',', default_values_t = [30])]
    percent: Vec<u64>,
    /// Milliseconds before each answer of the upstream
    #[arg(long, default_value_t = 30)]
    delay: u64,
    /// Bytes a second of each connection to the upstream: 1 Gbit/s
    #[arg(long, default_value_t = 125_000_000)]
    limit: u64,
    /// In the run with faults, one in so many answers of the upstream is reset in its middle
    #[arg(long, default_value_t = 7)]
    reset_every: u64,
    /// In the run with faults, one in so many answers of the upstream has a wrong bit
    #[arg(long, default_value_t = 11)]
    wrong_every: u64,
    /// Where trace-servers.md and trace-servers.json go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks"))]
    output: PathBuf,
}

/// Whom the nodes ask.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    /// Absent: the upstream itself.
    server: Option<(Kind, Option<&'static str>)>,
}

const WAYS: [Way; 5] = [
    Way { name: "transship, s3-fifo", server: Some((Kind::Transship, Some("s3-fifo"))) },
    Way { name: "transship, lru", server: Some((Kind::Transship, Some("lru"))) },
    Way { name: "nginx proxy_cache", server: Some((Kind::NginxCache, None)) },
    Way { name: "docker-registry", server: Some((Kind::DockerRegistry, None)) },
    Way { name: "none", server: None },
];

/// What came out of one way, one size and one kind of upstream.
#[derive(Debug, serde::Serialize)]
struct Row {
    way: &'static str,
    cache_percent: u64,
    faults: bool,
    seen: Seen,
    upstream_gets: u64,
    upstream_bytes: u64,
    /// Requests that cost no GET at upstream, as a part of all.
    object_hit_ratio: f64,
    byte_hit_ratio: f64,
    wave_p50: f64,
    wave_p99: f64,
    seconds: f64,
    server_cpu_per_gb: f64,
    anonymous_bytes: u64,
    resident_bytes: u64,
    /// Cores that others used meanwhile.
    others: f64,
}

/// What was measured, and how.
#[derive(serde::Serialize)]
struct Report<'a> {
    options: &'a Options,
    congestion_control: String,
    requests: usize,
    layers: usize,
    distinct_bytes: u64,
    rows: Vec<Row>,
}

/// Makes the data, runs every way, writes the report.
pub(super) fn compare(options: &Options) -> io::Result<()> {
    let Options { nodes, images, events, .. } = *options;
    let shape = Shape { nodes, images, events_per_day: events, days: 1 };
    let trace = Trace::generate(options.seed, shape, options.skew);
    let wanted: BTreeSet<u32> = trace.pulls.iter().flat_map(|pull| pull.layers.iter().copied()).collect();
    let dir = tempfile::Builder::new().prefix("transship-bench-").tempdir()?;
    let data = Data::create(&dir.path().join("data"))?;
    let mut items: Vec<Option<Item>> = vec![None; trace.sizes.len()];
    let mut distinct = 0;
    for &layer in &wanted {
        let size = (trace.sizes[layer as usize] / options.divisor).max(16);
        distinct += size;
        items[layer as usize] = Some(data.blob(u64::from(layer) + 1, size)?);
    }
    let mut report = Report {
        options,
        congestion_control: netns::congestion_control()?,
        requests: trace.pulls.iter().map(|pull| pull.layers.len()).sum(),
        layers: wanted.len(),
        distinct_bytes: distinct,
        rows: Vec::new(),
    };
    eprintln!("{} requests, {} layers, {:.2} GB distinct", report.requests, report.layers, distinct as f64 / 1e9);
    for faults in [false, true] {
        // Faults have nothing to do with room.
        let percents = if faults { &options.percent[..1] } else { &options.percent[..] };
        for &percent in percents {
            for way in WAYS {
                let installed = way.server.is_none_or(|(kind, _)| kind.program().is_some());
                // Size says nothing to those that have no bound, or no cache.
                let bounded = !matches!(way.server, None | Some((Kind::DockerRegistry, _)));
                if !installed || !bounded && percent != percents[0] {
                    continue;
                }
                let row = measure(options, way, (percent, distinct), faults, &trace, &items, &data)?;
                eprintln!("{} at {percent} %, faults: {faults}: {:.1} s", row.way, row.seconds);
                report.rows.push(row);
            }
        }
    }
    let text = markdown(&report);
    println!("{text}");
    fs::create_dir_all(&options.output)?;
    fs::write(options.output.join("trace-servers.md"), text)?;
    fs::write(options.output.join("trace-servers.json"), serde_json::to_string_pretty(&report)? + "\n")
}

fn measure(
    options: &Options,
    way: Way,
    (percent, distinct): (u64, u64),
    faults: bool,
    trace: &Trace,
    items: &[Option<Item>],
    data: &Data,
) -> io::Result<Row> {
    let dir = tempfile::Builder::new().prefix("transship-bench-").tempdir()?;
    let manners = Manners {
        limit: Some(options.limit),
        delay: options.delay,
        reset_every: faults.then_some(options.reset_every),
        wrong_every: faults.then_some(options.wrong_every),
    };
    let (_upstream, port) = upstream::start("upstream", data.root(), dir.path(), manners)?;
    let max_size = Some(distinct / 100 * percent);
    let server = match way.server {
        Some((kind, policy)) => {
            Some(Server::start(kind, &Setup { max_size, policy, ..Setup::new(data.root(), port) })?)
        }
        None => None,
    };
    let url = match &server {
        Some(server) => server.url("/"),
        None => Url { tls: false, host: "127.0.0.1".to_owned(), port, path: "/".to_owned() },
    };
    let (others, began) = (Others::now(), Instant::now());
    let meter = server.as_ref().map(|server| Meter::start(&server.process));
    let seen = replay::run(trace, items, &url, options.width, options.faster);
    let usage = meter.map_or_else(Usage::default, Meter::stop);
    let (seconds, others) = (began.elapsed().as_secs_f64(), others.cores());
    let (mut gets, mut bytes) = (0, 0);
    for count in upstream::counts(port)?.values() {
        gets += count.gets;
        bytes += count.bytes;
    }
    Ok(Row {
        way: way.name,
        cache_percent: percent,
        faults,
        upstream_gets: gets,
        upstream_bytes: bytes,
        object_hit_ratio: 1.0 - gets as f64 / seen.requests as f64,
        byte_hit_ratio: 1.0 - bytes as f64 / seen.bytes as f64,
        wave_p50: seen.quantile(0.5),
        wave_p99: seen.quantile(0.99),
        seconds,
        server_cpu_per_gb: usage.cpu / (seen.bytes as f64 / 1e9),
        anonymous_bytes: usage.anonymous,
        resident_bytes: usage.resident,
        others,
        seen,
    })
}

fn markdown(report: &Report<'_>) -> String {
    let Options { seed, skew, nodes, images, events, divisor, faster, width, delay, limit, .. } = report.options;
    let Options { reset_every, wrong_every, .. } = report.options;
    let mut text = format!(
        "# The trace through real servers\n\n\
         `sudo cargo bench --bench trace -- servers`; generator, replay and parameters: `benches/trace/`, figures: \
         `trace-servers.json`. Seed {seed}, Zipf {skew}, {nodes} nodes, {images} images, {events} events, layers \
         {divisor} times smaller and pauses {faster} times shorter than in the [simulation](trace.md), up to {width} \
         nodes at a time: {} requests for {} layers of {:.2} GB. The upstream answers after {delay} ms and sends each \
         connection {} MB/s. Loopback, {}. Every node checks every layer and asks up to four times for one that is not \
         right. Only layers are pulled: no manifests.\n\n\
         docker-registry has no bound on its cache: it keeps all, and its hit ratios are those of a cache as large as \
         the content. nginx looks after its bound now and then and may exceed it meanwhile. Hits count GETs: a request \
         that costs two GETs at upstream counts as two misses, and \"none\" shows what the trace asks for.\n",
        report.requests,
        report.layers,
        report.distinct_bytes as f64 / 1e9,
        limit / 1_000_000,
        report.congestion_control,
    );
    text += "\n## An honest upstream\n\n\
             | server | room | hits | hits by bytes | upstream GETs | upstream GB | wave p50 s | p99 s | all s | \
             CPU s/GB | memory MB | resident MB | not right |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for row in report.rows.iter().filter(|row| !row.faults) {
        let Row { way, seen, .. } = row;
        let room = match *way {
            "none" => "none".to_owned(),
            "docker-registry" => "all".to_owned(),
            _ => format!("{} %", row.cache_percent),
        };
        let _ = writeln!(
            text,
            "| {way} | {room} | {:.3} | {:.3} | {} | {:.2} | {:.3} | {:.3} | {:.1} | {:.2} | {:.0} | {:.0} | {} |",
            row.object_hit_ratio,
            row.byte_hit_ratio,
            row.upstream_gets,
            row.upstream_bytes as f64 / 1e9,
            row.wave_p50,
            row.wave_p99,
            row.seconds,
            row.server_cpu_per_gb,
            row.anonymous_bytes as f64 / 1e6,
            row.resident_bytes as f64 / 1e6,
            seen.broken + seen.wrong + seen.missing,
        );
    }
    let _ = writeln!(
        text,
        "\n## An upstream that fails\n\n\
         One in {reset_every} answers is reset in its middle, one in {wrong_every} has a wrong bit.\n\n\
         | server | answers that broke off | complete and wrong | layers never got | upstream GETs | upstream GB | \
         wave p99 s |\n|---|---|---|---|---|---|---|"
    );
    for row in report.rows.iter().filter(|row| row.faults) {
        let Row { way, seen, .. } = row;
        let _ = writeln!(
            text,
            "| {way} | {} | {} | {} | {} | {:.2} | {:.3} |",
            seen.broken,
            seen.wrong,
            seen.missing,
            row.upstream_gets,
            row.upstream_bytes as f64 / 1e9,
            row.wave_p99
        );
    }
    if report.rows.iter().any(|row| row.others > 0.2) {
        text += "\nOther processes used the machine meanwhile: times are worth little.\n";
    }
    text
}
