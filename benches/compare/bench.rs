//! What all questions need: options, test data, the sample upstream, and the
//! few steps that every measurement is made of.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::data::{Data, Item};
use crate::harness::meter::{Meter, Usage};
use crate::harness::process::{CpuTime, Process};
use crate::harness::pull::{self, Load, Outcome};
use crate::harness::servers::{Kind, Server, Setup};
use crate::harness::tls::Certificate;
use crate::harness::upstream::{self, Manners};

/// A server that has used less than this in [`QUIET`] has nothing left to do.
const IDLE: f64 = 0.005;
const QUIET: Duration = Duration::from_millis(150);

/// Nobody is waited for longer than this to become idle.
const SETTLE: Duration = Duration::from_secs(30);

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Rounds of each question.
    pub(crate) rounds: usize,
    /// How long each turn takes, where that is to be chosen.
    pub(crate) duration: Duration,
    /// Bytes of a blob.
    pub(crate) size: u64,
    /// Blobs in the cache before a restart.
    pub(crate) blobs: usize,
}

/// The stage on which the servers appear.
pub(crate) struct Bench {
    /// How much is measured.
    pub(crate) options: Options,
    /// The test data.
    pub(crate) data: Data,
    /// The blob that is pulled.
    pub(crate) blob: Item,
    /// One of 64 KiB, to get a server going with.
    small: Item,
    /// The sample upstream: its port.
    pub(crate) upstream: u16,
    /// What TLS servers show.
    pub(crate) certificate: Certificate,
    _process: Process,
    dir: TempDir,
}

impl Bench {
    /// Makes the data and starts the upstream.
    pub(crate) fn prepare(options: Options) -> io::Result<Bench> {
        let dir = tempfile::Builder::new().prefix("transship-bench-").tempdir()?;
        let data = Data::create(&dir.path().join("data"))?;
        let (blob, small) = (data.blob(1, options.size)?, data.blob(2, 64 << 10)?);
        let certificate = Certificate::create(dir.path())?;
        let (process, upstream) = upstream::start("upstream", data.root(), dir.path(), Manners::default())?;
        Ok(Bench { options, data, blob, small, upstream, certificate, _process: process, dir })
    }

    /// An upstream of one's own that sends each connection `limit` bytes a
    /// second.
    pub(crate) fn limited_upstream(&self, limit: u64) -> io::Result<(Process, u16)> {
        let manners = Manners { limit: Some(limit), ..Manners::default() };
        upstream::start("limited-upstream", self.data.root(), self.dir.path(), manners)
    }

    /// How a server is started unless the question wants it otherwise.
    pub(crate) fn setup(&self) -> Setup {
        Setup::new(self.data.root(), self.upstream)
    }

    /// A server with nothing cached but a small blob: its code is in memory
    /// and it has met the upstream.
    pub(crate) fn cold(&self, kind: Kind, setup: &Setup) -> io::Result<Server> {
        let server = Server::start(kind, setup)?;
        let outcome = pull::run(&one_pull(&server, &self.small.blob_path()))?;
        outcome.failures().map_or(Ok(()), |failures| Err(io::Error::other(failures)))?;
        settle(&server);
        Ok(server)
    }

    /// Pulls `item` through `server` and compares it with its digest, until
    /// the upstream is asked no more.
    pub(crate) fn warm(&self, server: &Server, load: &Load, item: &Item) -> io::Result<()> {
        let path = item.blob_path();
        let load = Load { connections: 1, duration: None, verify: Some(item.digest.clone()), ..load.clone() };
        for _ in 0..20 {
            let before = upstream::count(self.upstream, &path)?;
            let outcome = pull::run(&load)?;
            outcome.failures().map_or(Ok(()), |failures| Err(io::Error::other(failures)))?;
            settle(server);
            if upstream::count(self.upstream, &path)? == before {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("{} does not keep the blob", server.kind.name())))
    }
}

/// Each client pulls `path` again and again.
pub(crate) fn load(server: &Server, path: &str, connections: usize, duration: Duration) -> Load {
    let url = server.url(path);
    Load { url, headers: Vec::new(), connections, duration: Some(duration), verify: None, tls: None }
}

/// One client pulls `path` once.
pub(crate) fn one_pull(server: &Server, path: &str) -> Load {
    Load { duration: None, ..load(server, path, 1, Duration::ZERO) }
}

/// Runs `load` on `server`, and what the server used for it, including what
/// it went on to do after the last answer.
pub(crate) fn measure(server: &Server, load: &Load) -> io::Result<(Outcome, Usage)> {
    let meter = Meter::start(&server.process);
    let outcome = pull::run(load)?;
    settle(server);
    let usage = meter.stop();
    match outcome.failures() {
        Some(failures) => Err(io::Error::other(failures)),
        None => Ok((outcome, usage)),
    }
}

/// Waits until the server has nothing to do.
pub(crate) fn settle(server: &Server) {
    let (began, pids) = (Instant::now(), server.process.pids());
    while began.elapsed() < SETTLE {
        let before = CpuTime::of(&pids);
        thread::sleep(QUIET);
        if CpuTime::of(&pids).since(&before) < IDLE {
            return;
        }
    }
}
