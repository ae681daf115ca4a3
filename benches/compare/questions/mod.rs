//! The questions, one file each.

mod hits;
mod manifests;
mod miss;
mod restart;
mod segments;
mod storm;
mod tls;

use std::io;

use crate::harness::meter::Usage;
use crate::harness::pull::Outcome;
use crate::harness::servers::{Kind, Server};
use crate::question::{Metric, Question, Sample, Target};

/// All, in the order of the report.
pub(crate) fn all() -> Vec<Question> {
    let groups = [
        hits::questions(),
        tls::questions(),
        manifests::questions(),
        miss::questions(),
        storm::questions(),
        segments::questions(),
        restart::questions(),
    ];
    groups.into_iter().flatten().collect()
}

const THROUGHPUT: Metric = Metric { key: "gb_per_second", title: "GB/s" };
const SERVER_CPU: Metric = Metric { key: "server_cpu_per_gb", title: "server CPU s/GB" };
const TOTAL_CPU: Metric = Metric { key: "total_cpu_per_gb", title: "server and client CPU s/GB" };
const ANONYMOUS: Metric = Metric { key: "anonymous_mb", title: "anonymous memory, MB" };
const UPSTREAM: Metric = Metric { key: "upstream_factor", title: "upstream bytes / blob" };

/// What [`THROUGHPUT`] and the like say of a turn.
fn sample(outcome: &Outcome, usage: &Usage) -> Sample {
    let gigabytes = outcome.bytes() as f64 / 1e9;
    Sample::from([
        (THROUGHPUT.key, outcome.throughput()),
        (SERVER_CPU.key, usage.cpu / gigabytes),
        (TOTAL_CPU.key, (usage.cpu + outcome.cpu()) / gigabytes),
        (ANONYMOUS.key, usage.anonymous as f64 / 1e6),
    ])
}

/// Ours divided by theirs is to be at least this.
fn at_least(metric: Metric, against: Kind, target: f64, floor: f64) -> Target {
    Target { metric: metric.key, against: Some(against), at_least: true, target, floor }
}

/// Ours divided by theirs is to be at most this.
fn at_most(metric: Metric, against: Kind, target: f64, floor: f64) -> Target {
    Target { metric: metric.key, against: Some(against), at_least: false, target, floor }
}

/// Our own figure is to be at most this.
fn no_more(metric: Metric, target: f64, floor: f64) -> Target {
    Target { metric: metric.key, against: None, at_least: false, target, floor }
}

/// The server of this kind, and what goes with it.
fn of<T>(servers: &[(Server, T)], kind: Kind) -> io::Result<(&Server, &T)> {
    let found = servers.iter().find(|(server, _)| server.kind == kind);
    found.map(|(server, with)| (server, with)).ok_or_else(|| io::Error::other("it has not been started"))
}
