//! `storm`: many clients ask for one cold blob at the same moment.

use std::io;

use super::{ANONYMOUS, THROUGHPUT, UPSTREAM, at_least, no_more, sample};
use crate::bench::{Bench, measure, one_pull};
use crate::harness::data::Item;
use crate::harness::pull::Load;
use crate::harness::servers::Kind;
use crate::harness::stats::median;
use crate::harness::upstream;
use crate::question::{Metric, Question, Sample, Turn};

/// Of what one client pulls alone, each of a thousand pulls this part.
const PART: u64 = 16;

const FIRST: Metric = Metric { key: "first_byte_ms", title: "first byte, ms (median client)" };
const LATEST: Metric = Metric { key: "last_first_byte_ms", title: "first byte, ms (last client)" };
const LAST: Metric = Metric { key: "last_client_ms", title: "last client done, ms" };
const SPREAD: Metric = Metric { key: "slowest_to_fastest", title: "slowest / fastest client" };
const RESIDENT: Metric = Metric { key: "resident_mb", title: "resident memory, MB" };

const SERVERS: &[Kind] = &[Kind::Transship, Kind::NginxCache, Kind::DockerRegistry, Kind::Drayage];
const METRICS: &[Metric] = &[THROUGHPUT, FIRST, LATEST, LAST, SPREAD, UPSTREAM, ANONYMOUS, RESIDENT];

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question {
            name: "storm-32",
            about: "32 clients pull one blob that is not cached.",
            servers: SERVERS,
            metrics: METRICS,
            targets: vec![
                no_more(UPSTREAM, 1.0, 1.0),
                no_more(FIRST, 10.0, 50.0),
                at_least(THROUGHPUT, Kind::NginxCache, 1.2, 1.0),
            ],
            prepare: |bench, _| turns(bench, bench.blob.clone(), 32),
        },
        Question {
            name: "storm-1000",
            about: "1000 clients pull one blob that is not cached, of a sixteenth of the size.",
            servers: SERVERS,
            metrics: METRICS,
            targets: vec![no_more(UPSTREAM, 1.0, 1.0), no_more(ANONYMOUS, 300.0, 300.0), no_more(SPREAD, 1.5, 1.5)],
            prepare: |bench, _| turns(bench, bench.data.blob(3, bench.options.size / PART)?, 1000),
        },
    ]
}

fn turns(bench: &Bench, blob: Item, connections: usize) -> io::Result<Turn<'_>> {
    let path = blob.blob_path();
    Ok(Box::new(move |kind| {
        let server = bench.cold(kind, &bench.setup())?;
        let before = upstream::count(bench.upstream, &path)?.bytes;
        let load = Load { connections, ..one_pull(&server, &path) };
        let (outcome, usage) = measure(&server, &load)?;
        let fetched = upstream::count(bench.upstream, &path)?.bytes - before;
        let firsts: Vec<f64> =
            outcome.clients.iter().filter_map(|client| Some(client.first_byte?.as_secs_f64() * 1e3)).collect();
        let totals = outcome.clients.iter().map(|client| client.total.as_secs_f64() * 1e3);
        let (slowest, fastest) = (totals.clone().fold(0.0, f64::max), totals.fold(f64::INFINITY, f64::min));
        let mut all = sample(&outcome, &usage);
        all.extend(Sample::from([
            (UPSTREAM.key, fetched as f64 / blob.size as f64),
            (FIRST.key, median(&firsts).unwrap_or(f64::NAN)),
            (LATEST.key, firsts.iter().copied().fold(0.0, f64::max)),
            (LAST.key, slowest),
            (SPREAD.key, slowest / fastest),
            (RESIDENT.key, usage.resident as f64 / 1e6),
        ]));
        Ok(all)
    }))
}
