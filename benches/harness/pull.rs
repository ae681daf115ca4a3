//! Clients that pull a blob: one thread and one connection each.
//!
//! To measure throughput the kernel discards what arrives (`MSG_TRUNC`), so
//! that the client is not the bottleneck; to check correctness the bytes are
//! hashed, and over TLS decrypted before.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use rustls::ClientConfig;
use sha2::{Digest as _, Sha256};

use super::encrypted;
use super::http::{self, Url, invalid};
use super::process::thread_cpu;
use super::tls;

/// What a client reads at a time.
pub(crate) const BUFFER: usize = 1 << 20;

/// A client that hears nothing for this long gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to pull, and how.
#[derive(Clone)]
pub(crate) struct Load {
    /// What.
    pub(crate) url: Url,
    /// Header lines besides the client's own.
    pub(crate) headers: Vec<String>,
    /// Clients at a time.
    pub(crate) connections: usize,
    /// Pull again and again for this long; `None`: each client pulls once.
    pub(crate) duration: Option<Duration>,
    /// Compare with this digest (`sha256:…`) instead of discarding.
    pub(crate) verify: Option<String>,
    /// For `https`.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// What one client saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    /// From the start to the first byte of the first body.
    pub(crate) first_byte: Option<Duration>,
    /// From the start to its end.
    pub(crate) total: Duration,
    /// Bytes of bodies.
    pub(crate) bytes: u64,
    /// Bodies that came whole.
    pub(crate) pulls: u64,
    /// Seconds of processor time.
    pub(crate) cpu: f64,
    /// What went wrong, if anything did.
    pub(crate) error: Option<String>,
}

/// What all of them saw.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Each client.
    pub(crate) clients: Vec<Client>,
    /// From the start of the first to the end of the last.
    pub(crate) wall: Duration,
}

impl Outcome {
    /// Bytes of all clients.
    pub(crate) fn bytes(&self) -> u64 {
        self.clients.iter().map(|client| client.bytes).sum()
    }

    /// GB (10⁹ bytes) a second over all clients.
    pub(crate) fn throughput(&self) -> f64 {
        self.bytes() as f64 / 1e9 / self.wall.as_secs_f64()
    }

    /// Seconds of processor time of all clients.
    pub(crate) fn cpu(&self) -> f64 {
        self.clients.iter().map(|client| client.cpu).sum()
    }

    /// Clients that failed, and what the first of them says.
    pub(crate) fn failures(&self) -> Option<String> {
        let mut errors = self.clients.iter().filter_map(|client| client.error.as_deref());
        let first = errors.next()?;
        Some(format!("{} of {} clients failed: {first}", errors.count() + 1, self.clients.len()))
    }
}

/// Runs `load` to its end.
pub(crate) fn run(load: &Load) -> io::Result<Outcome> {
    // All are there, the clock starts, all go: a client that a busy machine
    // lets go late has waited like any other.
    let (ready, go) = (Arc::new(Barrier::new(load.connections + 1)), Arc::new(Barrier::new(load.connections + 1)));
    let start = Arc::new(OnceLock::new());
    let (sender, receiver) = mpsc::channel();
    for _ in 0..load.connections {
        let (load, sender) = (load.clone(), sender.clone());
        let (ready, go, start) = (Arc::clone(&ready), Arc::clone(&go), Arc::clone(&start));
        thread::Builder::new().stack_size(256 << 10).spawn(move || {
            ready.wait();
            go.wait();
            let before = thread_cpu();
            let (began, mut client) = (*start.get_or_init(Instant::now), Client::default());
            let done = pull(&load, began, &mut client);
            client.total = began.elapsed();
            client.error = done.err().map(|error| error.to_string());
            client.cpu = thread_cpu() - before;
            let _ = sender.send(client);
        })?;
    }
    drop(sender);
    ready.wait();
    let began = *start.get_or_init(Instant::now);
    go.wait();
    let clients: Vec<Client> = receiver.iter().collect();
    let wall = clients.iter().map(|client| client.total).max().unwrap_or_else(|| began.elapsed());
    Ok(Outcome { clients, wall })
}

fn pull(load: &Load, began: Instant, client: &mut Client) -> io::Result<()> {
    match (load.url.tls, &load.tls) {
        (false, _) => repeat(&mut Plain { stream: connect(&load.url)? }, load, began, client),
        (true, None) => Err(invalid("https, and nobody to trust")),
        (true, Some(config)) if load.verify.is_none() => encrypted::pull(load, config, began, client),
        (true, Some(config)) => {
            repeat(&mut tls::wrap(connect(&load.url)?, &load.url.host, config)?, load, began, client)
        }
    }
}

/// A connection to the server, without TLS.
pub(crate) fn connect(url: &Url) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((url.host.as_str(), url.port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection whose bytes can be got rid of.
trait Connection: Read + Write {
    /// As `read`, but the bytes need not arrive in `buffer`.
    fn discard(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

struct Plain {
    stream: TcpStream,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for Plain {
    fn discard(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.stream, &mut *buffer, RecvFlags::TRUNC)?.1)
    }
}

impl Connection for rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    fn discard(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }
}

fn repeat(stream: &mut impl Connection, load: &Load, began: Instant, client: &mut Client) -> io::Result<()> {
    let request = http::get(&load.url.host, &load.url.path, &load.headers);
    let deadline = load.duration.map(|duration| began + duration);
    // Never touched where the kernel discards, so it costs no memory.
    let (mut head, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        stream.write_all(&request)?;
        stream.flush()?;
        let answer = http::read_head(stream, &mut head)?;
        if answer.status != 200 {
            return Err(invalid(&format!("status {}", answer.status)));
        }
        let Some(length) = answer.length else { return Err(invalid("no Content-Length")) };
        let mut hash = Sha256::new();
        let mut got = (head.len() - answer.end) as u64;
        client.bytes += got;
        if load.verify.is_some() {
            hash.update(&head[answer.end..]);
        }
        if got > 0 {
            client.first_byte.get_or_insert_with(|| began.elapsed());
        }
        while got < length {
            // Never beyond this body: the next head must not be discarded.
            let room = BUFFER.min((length - got) as usize);
            let part = &mut buffer[..room];
            let count = if load.verify.is_some() { stream.read(part)? } else { stream.discard(part)? };
            if count == 0 {
                return Err(invalid(&format!("the body ended after {got} of {length} bytes")));
            }
            client.first_byte.get_or_insert_with(|| began.elapsed());
            if load.verify.is_some() {
                hash.update(&part[..count]);
            }
            got += count as u64;
            client.bytes += count as u64;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
        }
        client.pulls += 1;
        if let Some(wanted) = &load.verify {
            let found = format!("sha256:{}", hex::encode(hash.finalize()));
            if found != *wanted {
                return Err(invalid(&format!("the body has digest {found}, not {wanted}")));
            }
        }
        if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
            return Ok(());
        }
    }
}
