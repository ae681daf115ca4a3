//! `hits`: how fast a cached blob is served.

use std::io;
use std::process::{Command, Stdio};

use super::{ANONYMOUS, SERVER_CPU, THROUGHPUT, TOTAL_CPU, at_least, at_most, no_more, sample};
use crate::bench::{Bench, load, measure};
use crate::harness::servers::{Kind, Server, Setup};
use crate::question::{Question, Turn};

pub(super) fn questions() -> Vec<Question> {
    let question = Question {
        name: "",
        about: "",
        servers: &Kind::ALL,
        metrics: &[THROUGHPUT, SERVER_CPU, TOTAL_CPU, ANONYMOUS],
        targets: vec![],
        prepare: prepare::<8>,
    };
    vec![
        Question {
            name: "hits-8",
            about: "One cached blob, plain HTTP/1.1, 8 connections.",
            targets: vec![
                at_least(THROUGHPUT, Kind::NginxStatic, 1.6, 1.2),
                at_most(SERVER_CPU, Kind::NginxStatic, 0.65, 0.85),
                at_least(THROUGHPUT, Kind::DockerRegistry, 4.0, 3.0),
                at_most(SERVER_CPU, Kind::DockerRegistry, 0.2, 0.33),
            ],
            ..question
        },
        Question {
            name: "hits-64",
            about: "The same, 64 connections.",
            targets: vec![at_least(THROUGHPUT, Kind::NginxStatic, 1.6, 1.2), no_more(ANONYMOUS, 40.0, 100.0)],
            prepare: prepare::<64>,
            ..question
        },
        Question {
            name: "hits-1",
            about: "The same, 1 connection.",
            targets: vec![at_least(THROUGHPUT, Kind::NginxStatic, 0.9, 0.75)],
            prepare: prepare::<1>,
            ..question
        },
        Question {
            name: "hits-core",
            about: "The same, 8 connections, server and client on one core.",
            targets: vec![
                at_most(SERVER_CPU, Kind::NginxStatic, 0.6, 0.75),
                at_most(TOTAL_CPU, Kind::NginxStatic, 0.8, 1.0),
            ],
            prepare: prepare_one_core,
            ..question
        },
    ]
}

fn prepare<'a, const CONNECTIONS: usize>(bench: &'a Bench, kinds: &[Kind]) -> io::Result<Turn<'a>> {
    turns(bench, kinds, &bench.setup(), CONNECTIONS)
}

fn prepare_one_core<'a>(bench: &'a Bench, kinds: &[Kind]) -> io::Result<Turn<'a>> {
    let mut turn = turns(bench, kinds, &Setup { one_core: true, ..bench.setup() }, 8)?;
    let cores = format!("0-{}", std::thread::available_parallelism()?.get() - 1);
    Ok(Box::new(move |kind| {
        pin("0")?;
        let sample = turn(kind);
        pin(&cores)?;
        sample
    }))
}

fn turns<'a>(bench: &'a Bench, kinds: &[Kind], setup: &Setup, connections: usize) -> io::Result<Turn<'a>> {
    let mut servers = Vec::new();
    for kind in kinds {
        let server = Server::start(*kind, setup)?;
        let load = load(&server, &bench.blob.blob_path(), connections, bench.options.duration);
        bench.warm(&server, &load, &bench.blob)?;
        servers.push((server, load));
    }
    Ok(Box::new(move |kind| {
        let (server, load) = super::of(&servers, kind)?;
        let (outcome, usage) = measure(server, load)?;
        Ok(sample(&outcome, &usage))
    }))
}

/// Puts this process on `cores`; its clients are born there.
fn pin(cores: &str) -> io::Result<()> {
    let this = std::process::id().to_string();
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", cores, &this]).stdout(Stdio::null());
    if command.status()?.success() { Ok(()) } else { Err(io::Error::other("taskset cannot choose the core")) }
}
