//! A client that sends exactly what it is told and hides nothing of what it
//! gets: a body that ends early is not an error here, it is a fact.

use base64::Engine as _;
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use crate::support::digest::sha256;

/// No answer of the proxy takes longer, short of a hang.
const PATIENCE: Duration = Duration::from_secs(40);

/// A complete answer, or what there was of it.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Header lines, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, as far as it came.
    pub(crate) body: Vec<u8>,
    /// Whether the body had the length that the headers promise.
    pub(crate) complete: bool,
}

impl Response {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The code of the first error in an error document, or "".
    pub(crate) fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        document["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and error code.
    pub(crate) fn verdict(&self) -> (u16, String) {
        (self.status, self.code())
    }

    /// Fails unless this is a complete 200 with content of this digest.
    #[track_caller]
    pub(crate) fn assert_content(&self, digest: &str) {
        assert_eq!(self.status, 200, "{:?}", String::from_utf8_lossy(&self.body[..self.body.len().min(500)]));
        assert!(self.complete, "the body ended after {} bytes", self.body.len());
        assert_eq!(sha256(&self.body), digest);
    }
}

/// A connection on which one request was sent and the head of the answer read.
pub(crate) struct Exchange {
    wire: BufReader<TcpStream>,
    /// Status, headers and no body.
    pub(crate) head: Response,
    left: Option<u64>,
}

impl Exchange {
    /// Reads `n` bytes of the body, or fewer where it ends.
    pub(crate) fn read(&mut self, n: usize) -> Vec<u8> {
        let n = self.left.map_or(n, |left| n.min(usize::try_from(left).unwrap()));
        let mut bytes = Vec::new();
        let _ = self.wire.by_ref().take(n as u64).read_to_end(&mut bytes);
        self.left = self.left.map(|left| left - bytes.len() as u64);
        bytes
    }

    /// Reads the rest.
    pub(crate) fn finish(mut self) -> Response {
        let left = self.left;
        let mut body = Vec::new();
        let ended = match left {
            Some(left) => self.wire.by_ref().take(left).read_to_end(&mut body),
            None => self.wire.read_to_end(&mut body),
        };
        let mut response = self.head;
        let chunked = response.header("transfer-encoding").is_some();
        if chunked {
            let (decoded, complete) = dechunk(&body);
            return Response { body: decoded, complete, ..response };
        }
        response.complete = left.map_or(ended.is_ok(), |left| left == body.len() as u64);
        response.body = body;
        response
    }
}

fn dechunk(mut raw: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = raw.windows(2).position(|pair| pair == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        raw = &raw[end + 2..];
        if size == 0 {
            return (body, true);
        }
        if raw.len() < size + 2 {
            return (body, false);
        }
        body.extend_from_slice(&raw[..size]);
        raw = &raw[size + 2..];
    }
}

/// The admin tokens of the proxies that run, by where their API is.
static ADMIN_TOKENS: Mutex<BTreeMap<SocketAddr, String>> = Mutex::new(BTreeMap::new());

/// Requests to the admin API at `address` show this token from now on.
pub(crate) fn show_admin_token(address: SocketAddr, token: &str) {
    ADMIN_TOKENS.lock().unwrap().insert(address, token.trim().to_owned());
}

/// The line that shows the token, for a request to an admin API that shows
/// nothing else.
fn admin_line(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> String {
    let shows = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let tokens = ADMIN_TOKENS.lock().unwrap();
    match tokens.get(&address).filter(|_| target.starts_with("/api/") && !shows) {
        Some(token) => format!("Authorization: Bearer {token}\r\n"),
        None => String::new(),
    }
}

/// Sends a request and reads the head of the answer.
#[track_caller]
pub(crate) fn open(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Exchange {
    let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &admin_line(address, target, headers);
    request += "\r\n";
    let stream = connect(address);
    (&stream).write_all(request.as_bytes()).unwrap();
    let mut wire = BufReader::new(stream);
    let head = head(&mut wire).unwrap_or_else(|| panic!("{method} {target}: no answer"));
    let bodiless = method == "HEAD" || matches!(head.status, 204 | 304);
    let left = if bodiless { Some(0) } else { head.header("content-length").map(|length| length.parse().unwrap()) };
    Exchange { wire, head, left }
}

/// Sends a request and reads the whole answer.
#[track_caller]
pub(crate) fn send(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    open(address, method, target, headers).finish()
}

/// Sends a JSON document and reads the whole answer.
#[track_caller]
pub(crate) fn send_json(address: SocketAddr, method: &str, target: &str, document: &str) -> Response {
    exchange_json(address, method, target, document).unwrap_or_else(|| panic!("{method} {target}: no answer"))
}

/// As [`send_json`]; gives the status, unless the other side is gone.
pub(crate) fn try_send_json(address: SocketAddr, method: &str, target: &str, document: &str) -> Option<u16> {
    exchange_json(address, method, target, document).map(|answer| answer.status)
}

fn exchange_json(address: SocketAddr, method: &str, target: &str, document: &str) -> Option<Response> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {}Content-Length: {}\r\n\r\n{document}",
        admin_line(address, target, &[]),
        document.len()
    );
    (&stream).write_all(request.as_bytes()).ok()?;
    let mut wire = BufReader::new(stream);
    let head = head(&mut wire)?;
    let left =
        if head.status == 204 { Some(0) } else { head.header("content-length").map(|length| length.parse().unwrap()) };
    Some(Exchange { wire, head, left }.finish())
}

/// A login, as the header has it.
pub(crate) fn basic(user: &str, password: &str) -> String {
    let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {login}")
}

/// GET.
#[track_caller]
pub(crate) fn get(address: SocketAddr, target: &str) -> Response {
    send(address, "GET", target, &[])
}

/// Sends these bytes, and gives all that comes back until the connection ends
/// or nothing comes for a second.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let stream = connect(address);
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // The proxy may answer and close before it has read everything.
    let _ = (&stream).write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n) = (&stream).read(&mut chunk) {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&chunk[..n]);
    }
    answer
}

/// A connection to the proxy.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn head(wire: &mut impl std::io::BufRead) -> Option<Response> {
    let mut line = String::new();
    wire.read_line(&mut line).ok()?;
    let status = line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        wire.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Response { status, headers, body: Vec::new(), complete: true })
}
