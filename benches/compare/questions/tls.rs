//! `tls`: a cached blob over TLS 1.3.

use std::io;

use super::{SERVER_CPU, THROUGHPUT, TOTAL_CPU, at_least, at_most, sample};
use crate::bench::{Bench, load, measure, settle};
use crate::harness::http2;
use crate::harness::meter::Meter;
use crate::harness::pull::Load;
use crate::harness::servers::{Kind, Server, Setup};
use crate::harness::tls;
use crate::question::{Question, Turn};

const CONNECTIONS: usize = 8;

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question {
            name: "tls-http1",
            about: "One cached blob over TLS 1.3, HTTP/1.1, 8 connections; the clients do not decrypt.",
            servers: &[Kind::Transship, Kind::NginxStatic, Kind::DockerRegistry],
            metrics: &[THROUGHPUT, SERVER_CPU, TOTAL_CPU],
            targets: vec![
                at_least(THROUGHPUT, Kind::NginxStatic, 2.5, 2.0),
                at_most(SERVER_CPU, Kind::NginxStatic, 0.4, 0.5),
            ],
            prepare: |bench, kinds| {
                let servers = start(bench, kinds)?;
                Ok(Box::new(move |kind| {
                    let (server, load) = super::of(&servers, kind)?;
                    let (outcome, usage) = measure(server, load)?;
                    Ok(sample(&outcome, &usage))
                }))
            },
        },
        Question {
            name: "tls-http2",
            about: "The same over HTTP/2, 8 connections with one stream each; the clients decrypt.",
            servers: &[Kind::Transship, Kind::NginxStatic, Kind::DockerRegistry],
            metrics: &[THROUGHPUT, SERVER_CPU, TOTAL_CPU],
            targets: vec![at_most(SERVER_CPU, Kind::NginxStatic, 0.6, 0.75)],
            prepare: prepare_http2,
        },
    ]
}

fn prepare_http2<'a>(bench: &'a Bench, kinds: &[Kind]) -> io::Result<Turn<'a>> {
    let servers = start(bench, kinds)?;
    let config = tls::client(Some(&bench.certificate.certificate), "h2")?;
    Ok(Box::new(move |kind| {
        let (server, load) = super::of(&servers, kind)?;
        let meter = Meter::start(&server.process);
        let outcome = http2::run(&load.url, &config, CONNECTIONS, bench.options.duration)?;
        settle(server);
        let usage = meter.stop();
        outcome.failures().map_or(Ok(()), |failures| Err(io::Error::other(failures)))?;
        Ok(sample(&outcome, &usage))
    }))
}

fn start(bench: &Bench, kinds: &[Kind]) -> io::Result<Vec<(Server, Load)>> {
    let setup = Setup { tls: Some(bench.certificate.clone()), ..bench.setup() };
    let config = tls::client(Some(&bench.certificate.certificate), "http/1.1")?;
    let mut servers = Vec::new();
    for kind in kinds {
        let server = Server::start(*kind, &setup)?;
        let mut load = load(&server, &bench.blob.blob_path(), CONNECTIONS, bench.options.duration);
        load.tls = Some(config.clone());
        bench.warm(&server, &load, &bench.blob)?;
        servers.push((server, load));
    }
    Ok(servers)
}
