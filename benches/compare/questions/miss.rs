//! `miss`: one client pulls a blob that is not cached.

use super::{SERVER_CPU, THROUGHPUT, UPSTREAM, at_least, at_most, no_more, sample};
use crate::bench::{measure, one_pull};
use crate::harness::servers::Kind;
use crate::harness::upstream;
use crate::question::{Metric, Question};

const FIRST_BYTE: Metric = Metric { key: "first_byte_ms", title: "first byte, ms" };

pub(super) fn questions() -> Vec<Question> {
    vec![Question {
        name: "miss",
        about: "One client pulls a blob that is not cached; work that goes on after the pull is counted.",
        servers: &[Kind::Transship, Kind::NginxCache, Kind::DockerRegistry, Kind::Drayage],
        metrics: &[THROUGHPUT, SERVER_CPU, FIRST_BYTE, UPSTREAM],
        targets: vec![
            at_least(THROUGHPUT, Kind::NginxCache, 1.0, 0.85),
            at_most(SERVER_CPU, Kind::NginxCache, 1.35, 1.6),
            at_most(SERVER_CPU, Kind::DockerRegistry, 0.35, 0.45),
            no_more(UPSTREAM, 1.0, 1.0),
        ],
        prepare: |bench, _| {
            Ok(Box::new(move |kind| {
                let path = bench.blob.blob_path();
                let server = bench.cold(kind, &bench.setup())?;
                let before = upstream::count(bench.upstream, &path)?.bytes;
                let (outcome, usage) = measure(&server, &one_pull(&server, &path))?;
                let fetched = upstream::count(bench.upstream, &path)?.bytes - before;
                let mut sample = sample(&outcome, &usage);
                let first = outcome.clients.first().and_then(|client| client.first_byte).unwrap_or_default();
                sample.insert(FIRST_BYTE.key, first.as_secs_f64() * 1e3);
                sample.insert(UPSTREAM.key, fetched as f64 / bench.blob.size as f64);
                Ok(sample)
            }))
        },
    }]
}
