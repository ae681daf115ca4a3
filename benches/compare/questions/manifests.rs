//! `manifests`: many small requests for a cached manifest.

use std::io;

use super::{at_least, at_most};
use crate::bench::{Bench, settle};
use crate::harness::meter::Meter;
use crate::harness::requests;
use crate::harness::servers::{Kind, Server};
use crate::question::{Metric, Question, Sample, Turn};

const CONNECTIONS: usize = 32;

const RATE: Metric = Metric { key: "requests_per_second", title: "requests/s" };
const P50: Metric = Metric { key: "p50_ms", title: "p50, ms" };
const P99: Metric = Metric { key: "p99_ms", title: "p99, ms" };
const CPU: Metric = Metric { key: "server_cpu_us", title: "server CPU, µs/request" };

pub(super) fn questions() -> Vec<Question> {
    vec![Question {
        name: "manifests",
        about: "A cached manifest of about 2 KiB by its digest, 32 connections that stay open.",
        servers: &Kind::ALL,
        metrics: &[RATE, P50, P99, CPU],
        targets: vec![
            at_least(RATE, Kind::NginxStatic, 1.2, 1.0),
            at_least(RATE, Kind::DockerRegistry, 50.0, 30.0),
            at_most(P99, Kind::NginxStatic, 1.5, 2.0),
        ],
        prepare,
    }]
}

fn prepare<'a>(bench: &'a Bench, kinds: &[Kind]) -> io::Result<Turn<'a>> {
    let manifest = bench.data.manifest()?;
    let mut servers = Vec::new();
    for kind in kinds {
        let server = Server::start(*kind, &bench.setup())?;
        servers.push((server, ()));
    }
    let path = [manifest.manifest_path()];
    let headers = [format!("Accept: {}", crate::harness::data::MANIFEST_TYPE)];
    for (server, ()) in &servers {
        requests::run(&server.url(&path[0]), &path, &headers, 1, None)
            .map_err(|error| io::Error::other(format!("{}: {error}", server.kind.name())))?;
        settle(server);
    }
    Ok(Box::new(move |kind| {
        let (server, ()) = super::of(&servers, kind)?;
        let meter = Meter::start(&server.process);
        let duration = Some(bench.options.duration);
        let outcome = requests::run(&server.url(&path[0]), &path, &headers, CONNECTIONS, duration)?;
        let usage = meter.stop();
        let milliseconds = |part| outcome.quantile(part).as_secs_f64() * 1e3;
        Ok(Sample::from([
            (RATE.key, outcome.rate()),
            (P50.key, milliseconds(0.5)),
            (P99.key, milliseconds(0.99)),
            (CPU.key, usage.cpu * 1e6 / outcome.latencies.len() as f64),
        ]))
    }))
}
