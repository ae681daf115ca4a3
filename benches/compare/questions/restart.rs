//! `restart`: how soon a server is there again with a cache full of blobs.

use std::cell::RefCell;
use std::io;
use std::time::Instant;

use super::no_more;
use crate::bench::{Bench, settle};
use crate::harness::requests;
use crate::harness::servers::{Kind, Server};
use crate::question::{Metric, Question, Sample, Turn};

/// Clients that fill the cache.
const FILLERS: usize = 64;

const READY: Metric = Metric { key: "ready_ms", title: "first answer, ms after the start" };
const RESIDENT: Metric = Metric { key: "resident_mb", title: "anonymous memory then, MB" };

pub(super) fn questions() -> Vec<Question> {
    vec![Question {
        name: "restart",
        about: "Start with 100 000 cached blobs (`--blobs`), to the first answer.",
        // The others keep no index that a start would have to read.
        servers: &[Kind::Transship, Kind::NginxCache],
        metrics: &[READY, RESIDENT],
        targets: vec![no_more(READY, 1000.0, 3000.0)],
        prepare,
    }]
}

fn prepare<'a>(bench: &'a Bench, kinds: &[Kind]) -> io::Result<Turn<'a>> {
    let mut paths = Vec::new();
    for seed in 0..bench.options.blobs as u64 {
        paths.push(bench.data.blob(10_000_000 + seed, 512)?.blob_path());
    }
    let mut filled = Vec::new();
    for kind in kinds {
        let server = Server::start(*kind, &bench.setup())?;
        let filling = requests::run(&server.url(&paths[0]), &paths, &[], FILLERS, None)?;
        eprintln!("restart: {} took {} blobs in {:.1?}", kind.name(), paths.len(), filling.wall);
        settle(&server);
        filled.push((*kind, RefCell::new(Some(server.stop()))));
    }
    let setup = bench.setup();
    Ok(Box::new(move |kind| {
        let dir = filled.iter().find(|(filled, _)| *filled == kind).and_then(|(_, dir)| dir.take());
        let dir = dir.ok_or_else(|| io::Error::other("its cache is lost"))?;
        let began = Instant::now();
        let server = Server::start_in(kind, &setup, dir)?;
        requests::run(&server.url("/v2/"), &["/v2/".to_owned()], &[], 1, None)?;
        let ready = began.elapsed();
        let (anonymous, _) = crate::harness::process::memory(&server.process.pids());
        let place = filled.iter().find(|(filled, _)| *filled == kind);
        settle(&server);
        let dir = server.stop();
        if let Some((_, place)) = place {
            place.replace(Some(dir));
        }
        Ok(Sample::from([(READY.key, ready.as_secs_f64() * 1e3), (RESIDENT.key, anonymous as f64 / 1e6)]))
    }))
}
