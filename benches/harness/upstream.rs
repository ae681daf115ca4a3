//! The sample upstream: a registry that serves the test data to anonymous
//! clients as fast as the kernel can, one thread per connection, with
//! `sendfile`. It runs as a process of its own, so that its work is charged
//! neither to the client nor to the server that is measured; it counts what it
//! was asked for, can limit how fast each connection is, let an answer wait,
//! and break or spoil some of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::data::MANIFEST_TYPE;
use super::http::invalid;
use super::process::{Process, free_port};
use super::servers::contained;

/// Sent at a time where nothing is limited.
const PIECE: usize = 4 << 20;

/// GETs and bytes of one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// GETs answered with content, ranges included.
    pub(crate) gets: u64,
    /// Bytes of body that were sent.
    pub(crate) bytes: u64,
}

/// How it behaves.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Manners {
    /// Bytes a second on each connection
    #[arg(long)]
    pub(crate) limit: Option<u64>,
    /// Milliseconds before each answer
    #[arg(long, default_value_t = 0)]
    pub(crate) delay: u64,
    /// Of so many answers with a blob, one is reset in its middle
    #[arg(long)]
    pub(crate) reset_every: Option<u64>,
    /// Of so many answers with a blob, one has a wrong bit in its middle
    #[arg(long)]
    pub(crate) wrong_every: Option<u64>,
}

/// The command line of the process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// The directory to serve
    #[arg(long)]
    data: PathBuf,
    /// Where to listen
    #[arg(long)]
    port: u16,
    #[command(flatten)]
    manners: Manners,
}

/// Starts this very program as an upstream of `data`, its log in `dir`; gives
/// the port too. The program hands its arguments to [`serve`].
pub(crate) fn start(name: &'static str, data: &Path, dir: &Path, manners: Manners) -> io::Result<(Process, u16)> {
    let port = free_port()?;
    let mut command = contained(&std::env::current_exe()?, false);
    command.arg("upstream").arg("--data").arg(data).arg("--port").arg(port.to_string());
    let Manners { limit, delay, reset_every, wrong_every } = manners;
    let options =
        [("--limit", limit), ("--delay", Some(delay)), ("--reset-every", reset_every), ("--wrong-every", wrong_every)];
    for (name, value) in options {
        if let Some(value) = value {
            command.arg(name).arg(value.to_string());
        }
    }
    let mut process = Process::start(name, command, dir)?;
    process.wait_for(port)?;
    Ok((process, port))
}

/// What all connections share.
struct Shared {
    root: PathBuf,
    manners: Manners,
    counts: Mutex<BTreeMap<String, Count>>,
    blobs: AtomicU64,
}

/// Serves until the process is ended.
pub(crate) fn serve(Arguments { data, port, manners }: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?;
    let shared = Shared { root: data.clone(), manners: *manners, counts: Mutex::default(), blobs: AtomicU64::new(0) };
    let shared = Arc::new(shared);
    for stream in listener.incoming() {
        let (shared, stream) = (Arc::clone(&shared), stream?);
        // A connection that ends ends its thread; there is nobody to tell.
        thread::Builder::new().stack_size(128 << 10).spawn(move || converse(stream, &shared))?;
    }
    Ok(())
}

/// What the upstream on `port` has counted for `path` so far.
pub(crate) fn count(port: u16, path: &str) -> io::Result<Count> {
    Ok(counts(port)?.get(path).copied().unwrap_or_default())
}

/// What it has counted for every path.
pub(crate) fn counts(port: u16) -> io::Result<BTreeMap<String, Count>> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    write!(stream, "GET /counts HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        let path = words.next().filter(|path| path.starts_with('/'))?.to_owned();
        Some((path, Count { gets: words.next()?.parse().ok()?, bytes: words.next()?.parse().ok()? }))
    };
    Ok(text.lines().filter_map(line).collect())
}

struct Request {
    method: String,
    path: String,
    range: Option<(u64, Option<u64>)>,
    close: bool,
}

fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer)? {
        answer(&mut stream, &request, shared)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    buffer.clear();
    let mut chunk = [0; 4096];
    while !buffer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            count => buffer.extend_from_slice(&chunk[..count]),
        }
    }
    let text = std::str::from_utf8(buffer).map_err(|_| invalid("a request that is no text"))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().replace("%3A", ":");
    let header = |wanted: &str| {
        let found =
            lines.clone().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let range = header("range").and_then(|value| {
        let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    });
    let close = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(Request { method, path, range, close }))
}

fn answer(stream: &mut TcpStream, request: &Request, shared: &Shared) -> io::Result<()> {
    let Shared { root, manners, counts, blobs } = shared;
    if request.path == "/counts" {
        let lines = counts
            .lock()
            .unwrap()
            .iter()
            .map(|(path, count)| format!("{path} {} {}\n", count.gets, count.bytes))
            .collect::<String>();
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{lines}", lines.len());
    }
    thread::sleep(Duration::from_millis(manners.delay));
    if matches!(request.path.as_str(), "/v2" | "/v2/") {
        let head = "Docker-Distribution-Api-Version: registry/2.0\r\nContent-Type: application/json\r\n";
        return write!(stream, "HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\n{{}}");
    }
    let opened = root.join(request.path.trim_start_matches('/'));
    let opened = if request.path.contains("..") { None } else { File::open(opened).ok() };
    let Some(file) = opened else {
        let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"not in the test data"}]}"#;
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    };
    let size = file.metadata()?.len();
    let (first, last) = match request.range {
        Some((first, last)) if first < size => (first, last.map_or(size, |last| size.min(last + 1))),
        Some(_) => return write!(stream, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n"),
        None => (0, size),
    };
    let status = match request.range {
        Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{size}", last - 1),
        None => "200 OK".to_owned(),
    };
    let (media_type, digest) = if request.path.contains("/manifests/") {
        let digest = Sha256::digest(std::fs::read(root.join(request.path.trim_start_matches('/')))?);
        (MANIFEST_TYPE, format!("sha256:{}", hex::encode(digest)))
    } else {
        ("application/octet-stream", request.path.rsplit('/').next().unwrap_or_default().to_owned())
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\nAccept-Ranges: bytes\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nContent-Length: {}\r\n\r\n",
        last - first
    )?;
    if request.method != "GET" {
        return Ok(());
    }
    let (mut until, mut wrong) = (last, None);
    if request.path.contains("/blobs/") {
        let number = blobs.fetch_add(1, Ordering::Relaxed) + 1;
        let is_one_of = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
        let middle = first + (last - first) / 2;
        if is_one_of(manners.reset_every) {
            until = middle;
        } else if is_one_of(manners.wrong_every) {
            wrong = Some(middle);
        }
    }
    let sent = match wrong {
        None => send(stream, &file, first, until, manners.limit),
        Some(wrong) => send_wrong(stream, &file, (first, last), wrong),
    };
    let mut counts = counts.lock().unwrap();
    let count = counts.entry(request.path.clone()).or_default();
    count.gets += 1;
    // What the client did not take of it was not transferred.
    count.bytes += sent.as_ref().map_or_else(|(_, sent)| *sent, |sent| *sent);
    drop(counts);
    sent.map_err(|(error, _)| error)?;
    if until < last {
        // Closing with this set sends a reset.
        rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO))?;
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(())
}

/// Sends a part of the file with one wrong bit.
fn send_wrong(
    mut stream: &TcpStream,
    file: &File,
    (first, last): (u64, u64),
    wrong: u64,
) -> Result<u64, (io::Error, u64)> {
    let mut bytes = vec![0; (last - first) as usize];
    file.read_exact_at(&mut bytes, first).map_err(|error| (error, 0))?;
    if let Some(byte) = bytes.get_mut((wrong - first) as usize) {
        *byte ^= 1;
    }
    stream.write_all(&bytes).map_err(|error| (error, 0))?;
    Ok(last - first)
}

/// Sends a part of the file; the bytes that were sent are also told on failure.
fn send(stream: &TcpStream, file: &File, first: u64, last: u64, limit: Option<u64>) -> Result<u64, (io::Error, u64)> {
    let (began, mut at) = (Instant::now(), first);
    // A limited connection sends a hundred small pieces a second, on time.
    let piece = limit.map_or(PIECE, |limit| (limit / 100).clamp(1, PIECE as u64) as usize);
    while at < last {
        let count = piece.min((last - at) as usize);
        match rustix::fs::sendfile(stream, file, Some(&mut at), count) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err((error.into(), at - first)),
        }
        if let Some(limit) = limit {
            let due = Duration::from_secs_f64((at - first) as f64 / limit as f64);
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    Ok(at - first)
}
