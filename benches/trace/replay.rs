//! Nodes that pull: event by event, each node with a few connections of its own,
//! which checks every layer and asks again for one that it did not get right,
//! as a container runtime does.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::harness::data::Item;
use super::harness::http;
use super::harness::pull::{BUFFER, connect};
use super::harness::{http::Url, process};
use super::waves::Trace;

/// Layers that a node pulls at a time: as many as docker and containerd do.
const AT_A_TIME: usize = 3;
/// A node asks so often for one layer.
const TRIES: usize = 4;

/// What the nodes saw.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub(super) struct Seen {
    /// Layers that were asked for, without those asked for again.
    pub(super) requests: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Answers that broke off, or were no 200.
    pub(super) broken: u64,
    /// Answers that were complete and had another digest.
    pub(super) wrong: u64,
    /// Layers that a node never got.
    pub(super) missing: u64,
    /// From the start of each wave to the end of its last node, in seconds; the
    /// shortest first.
    #[serde(skip)]
    pub(super) waves: Vec<f64>,
    /// Processor time of the nodes, in seconds.
    pub(super) cpu: f64,
}

/// Pulls everything in `trace` from `server`: at most `width` nodes at a time,
/// and what took a second there takes one `faster`th of it here.
pub(super) fn run(trace: &Trace, items: &[Option<Item>], server: &Url, width: usize, faster: f64) -> Seen {
    let mut seen = Seen::default();
    let mut pulls: Vec<_> = trace.pulls.iter().collect();
    pulls.sort_by(|a, b| (a.began, a.offset).partial_cmp(&(b.began, b.offset)).unwrap());
    for event in pulls.chunk_by(|a, b| a.event == b.event) {
        let (began, next, total) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Seen::default()));
        thread::scope(|scope| {
            for _ in 0..width.min(event.len()) {
                scope.spawn(|| {
                    while let Some(pull) = event.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let due = Duration::from_secs_f64(pull.offset / faster);
                        thread::sleep(due.saturating_sub(began.elapsed()));
                        let seen = pull_image(server, &pull.layers, items);
                        total.lock().unwrap().add(&seen);
                    }
                });
            }
        });
        seen.add(&total.into_inner().unwrap());
        if event.len() > 1 {
            seen.waves.push(began.elapsed().as_secs_f64());
        }
    }
    seen.waves.sort_by(f64::total_cmp);
    seen
}

/// Pulls the layers that one node needs.
fn pull_image(server: &Url, layers: &[u32], items: &[Option<Item>]) -> Seen {
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(layers.len()) {
            scope.spawn(|| {
                let before = process::thread_cpu();
                let mut seen = Seen::default();
                let mut client = Client { server, stream: None, seen: &mut seen };
                while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    client.layer(items[*layer as usize].as_ref().unwrap());
                }
                seen.cpu = process::thread_cpu() - before;
                total.lock().unwrap().add(&seen);
            });
        }
    });
    total.into_inner().unwrap()
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.broken += other.broken;
        self.wrong += other.wrong;
        self.missing += other.missing;
        self.cpu += other.cpu;
    }

    /// The time that this part of the waves stayed below.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let last = self.waves.len().saturating_sub(1);
        self.waves.get((last as f64 * part) as usize).copied().unwrap_or_default()
    }
}

struct Client<'a> {
    server: &'a Url,
    stream: Option<TcpStream>,
    seen: &'a mut Seen,
}

impl Client<'_> {
    fn layer(&mut self, item: &Item) {
        self.seen.requests += 1;
        self.seen.bytes += item.size;
        for _ in 0..TRIES {
            match self.pull(item) {
                Ok(digest) if digest == item.digest => return,
                Ok(_) => self.seen.wrong += 1,
                Err(_) => {
                    self.seen.broken += 1;
                    self.stream = None;
                }
            }
        }
        self.seen.missing += 1;
    }

    /// The digest of what the server sends, when it is as long as announced.
    fn pull(&mut self, item: &Item) -> io::Result<String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.server)?,
        };
        stream.write_all(&http::get(&self.server.host, &item.blob_path(), &[]))?;
        let mut head = Vec::new();
        let answer = http::read_head(&mut stream, &mut head)?;
        let Some(length) = answer.length.filter(|_| answer.status == 200) else {
            return Err(http::invalid("no content"));
        };
        let mut hash = Sha256::new();
        hash.update(&head[answer.end..]);
        let mut left = length - (head.len() - answer.end) as u64;
        let mut buffer = vec![0; BUFFER.min(left as usize)];
        while left > 0 {
            let room = buffer.len().min(left as usize);
            match stream.read(&mut buffer[..room])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    hash.update(&buffer[..count]);
                    left -= count as u64;
                }
            }
        }
        self.stream = Some(stream);
        Ok(format!("sha256:{}", hex::encode(hash.finalize())))
    }
}
