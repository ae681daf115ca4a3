//! The sample upstream: a registry that serves the test data to anonymous
//! clients as fast as the kernel can, one thread per connection, with
//! `sendfile`. It runs as a process of its own, so that its work is charged
//! neither to the client nor to the server that is measured; it counts what it
//! was asked for and can limit how fast each connection is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::data::MANIFEST_TYPE;
use super::http::invalid;

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

type Counts = Arc<Mutex<BTreeMap<String, Count>>>;

/// Serves `root` on `port` until the process is ended; each connection is sent
/// no more than `limit` bytes a second.
pub(crate) fn serve(root: &Path, port: u16, limit: Option<u64>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let counts = Counts::default();
    for stream in listener.incoming() {
        let (root, counts, stream) = (root.to_owned(), Arc::clone(&counts), stream?);
        // A connection that ends ends its thread; there is nobody to tell.
        thread::Builder::new().stack_size(128 << 10).spawn(move || converse(stream, &root, &counts, limit))?;
    }
    Ok(())
}

/// What the upstream on `port` has counted for `path` so far.
pub(crate) fn count(port: u16, path: &str) -> io::Result<Count> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    write!(stream, "GET /counts HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix(path)?.strip_prefix(' '));
    let mut numbers = line.unwrap_or("0 0").split(' ').map(|number| number.parse().unwrap_or(0));
    Ok(Count { gets: numbers.next().unwrap_or(0), bytes: numbers.next().unwrap_or(0) })
}

struct Request {
    method: String,
    path: String,
    range: Option<(u64, Option<u64>)>,
    close: bool,
}

fn converse(mut stream: TcpStream, root: &Path, counts: &Counts, limit: Option<u64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer)? {
        answer(&mut stream, &request, root, counts, limit)?;
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

fn answer(
    stream: &mut TcpStream,
    request: &Request,
    root: &Path,
    counts: &Counts,
    limit: Option<u64>,
) -> io::Result<()> {
    if request.path == "/counts" {
        let lines = counts
            .lock()
            .unwrap()
            .iter()
            .map(|(path, count)| format!("{path} {} {}\n", count.gets, count.bytes))
            .collect::<String>();
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{lines}", lines.len());
    }
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
    let sent = send(stream, &file, first, last, limit);
    let mut counts = counts.lock().unwrap();
    let count = counts.entry(request.path.clone()).or_default();
    count.gets += 1;
    // What the client did not take of it was not transferred.
    count.bytes += sent.as_ref().map_or_else(|(_, sent)| *sent, |sent| *sent);
    sent.map(|_| ()).map_err(|(error, _)| error)
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
