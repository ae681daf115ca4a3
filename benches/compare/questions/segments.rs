//! `segments`: the upstream sends no connection more than 50 MB/s. Whoever
//! fetches over several connections is faster than a direct pull.

use std::rc::Rc;

use super::{THROUGHPUT, UPSTREAM, sample};
use crate::bench::{measure, one_pull};
use crate::harness::http::Url;
use crate::harness::pull::{self, Load};
use crate::harness::servers::{Kind, Setup};
use crate::harness::upstream;
use crate::question::{Metric, Question, Target};

/// Bytes a second on one connection.
const LIMIT: u64 = 50_000_000;

const TIMES_DIRECT: Metric = Metric { key: "times_direct", title: "× a direct pull" };

pub(super) fn questions() -> Vec<Question> {
    vec![Question {
        name: "segments",
        about: "One client pulls a blob that is not cached; the upstream sends 50 MB/s on each connection.",
        servers: &[Kind::Transship, Kind::NginxCache, Kind::DockerRegistry, Kind::Drayage],
        metrics: &[THROUGHPUT, TIMES_DIRECT, UPSTREAM],
        targets: vec![Target { metric: TIMES_DIRECT.key, against: None, at_least: true, target: 6.0, floor: 3.0 }],
        prepare: |bench, _| {
            let (process, port) = bench.limited_upstream(LIMIT)?;
            // Held for as long as the turns go on.
            let process = Rc::new(process);
            let path = bench.blob.blob_path();
            let url = Url { tls: false, host: "127.0.0.1".to_owned(), port, path: path.clone() };
            let load = Load { url, headers: Vec::new(), connections: 1, duration: None, verify: None, tls: None };
            let direct = pull::run(&load)?.throughput();
            Ok(Box::new(move |kind| {
                let _held = &process;
                let server = bench.cold(kind, &Setup { upstream: port, ..bench.setup() })?;
                let before = upstream::count(port, &path)?.bytes;
                let (outcome, usage) = measure(&server, &one_pull(&server, &path))?;
                let fetched = upstream::count(port, &path)?.bytes - before;
                let mut sample = sample(&outcome, &usage);
                sample.insert(TIMES_DIRECT.key, outcome.throughput() / direct);
                sample.insert(UPSTREAM.key, fetched as f64 / bench.blob.size as f64);
                Ok(sample)
            }))
        },
    }]
}
