//! D8: frames that no client sends. They cost the sender its connection, and
//! nobody else notices.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};

use crate::delivery::{get, write_certificate};
use crate::support::digest::noise;
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::Upstream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What the proxy may come to hold because of one such connection, in KiB.
const GROWTH: u64 = 50 << 10;
/// Bytes written before what came back is looked at.
const STRIDE: usize = 64 << 10;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block, of which only the method (2: GET, 3: POST) and the path are told apart.
fn request(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![0x80 | method, 0x87];
    for (name, value) in [(0x04, path), (0x01, "127.0.0.1")] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.bytes());
    }
    block
}

/// An HTTP/2 connection of somebody who does not keep to the rules.
struct Abuser {
    wire: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    /// What has come and is no whole frame yet.
    received: Vec<u8>,
}

impl Abuser {
    fn connect(address: SocketAddr, certificate: &CertificateDer<'static>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connection =
            rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("127.0.0.1").unwrap()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut this = Self { wire: rustls::StreamOwned::new(connection, stream), received: Vec::new() };
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[]));
        this.wire.write_all(&hello).unwrap();
        this.wire.flush().unwrap();
        this
    }

    /// Sends `flood`, and takes what comes back now and then; after how many bytes the proxy ended
    /// the connection, if it did.
    fn send(mut self, flood: &[u8]) -> Option<usize> {
        let mut sent = 0;
        for part in flood.chunks(STRIDE) {
            if self.wire.write_all(part).and_then(|()| self.wire.flush()).is_err() || self.is_told_to_go(1) {
                return Some(sent);
            }
            sent += part.len();
        }
        self.is_told_to_go(2000).then_some(sent)
    }

    /// Whether the proxy ends the connection, in so many milliseconds.
    fn is_told_to_go(&mut self, milliseconds: u64) -> bool {
        self.wire.sock.set_read_timeout(Some(Duration::from_millis(milliseconds))).unwrap();
        let mut chunk = [0; 16 << 10];
        loop {
            match self.wire.read(&mut chunk) {
                Ok(0) => return true,
                Ok(n) => {
                    self.received.extend(&chunk[..n]);
                    while let Some(&[a, b, c, kind]) = self.received.first_chunk() {
                        let len = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                        if kind == GO_AWAY {
                            return true;
                        }
                        if self.received.len() < len {
                            break;
                        }
                        self.received.drain(..len);
                    }
                }
                Err(error) => {
                    use std::io::ErrorKind::{TimedOut, WouldBlock};
                    return !matches!(error.kind(), TimedOut | WouldBlock);
                }
            }
        }
    }
}

/// Every kind of flood, by name.
fn floods(blob: &str) -> Vec<(&'static str, Vec<u8>)> {
    let opening = |stream: u32, flags: u8, method: u8| frame(HEADERS, flags, stream, &request(method, blob));
    let streams = |count: u32| (0..count).map(|n| 2 * n + 1);
    let repeat = |start: Vec<u8>, each: Vec<u8>, count: usize| {
        let mut flood = start;
        flood.extend(each.repeat(count));
        flood
    };
    let rapid_reset = streams(10_000)
        .flat_map(|n| [opening(n, END_STREAM | END_HEADERS, 2), frame(RST_STREAM, 0, n, &8_u32.to_be_bytes())].concat())
        .collect();
    // A literal header, again and again, whose block never ends.
    let header = [&b"\x00\x04name\x7f\x80\x01"[..], &[b'a'; 255]].concat();
    vec![
        ("rapid reset", rapid_reset),
        ("too many streams", streams(10_000).flat_map(|n| opening(n, END_STREAM | END_HEADERS, 2)).collect()),
        ("headers without end", repeat(opening(1, 0, 2), frame(CONTINUATION, 0, 1, &header), 100_000)),
        ("empty continuations", repeat(opening(1, 0, 2), frame(CONTINUATION, 0, 1, &[]), 100_000)),
        ("empty data", repeat(opening(1, END_HEADERS, 3), frame(DATA, 0, 1, &[]), 100_000)),
        ("settings", repeat(Vec::new(), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), 100_000)),
        ("pings", repeat(Vec::new(), frame(PING, 0, 0, &[7; 8]), 100_000)),
        ("window updates", repeat(Vec::new(), frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()), 100_000)),
    ]
}

fn start(dir: &std::path::Path) -> (Proxy, CertificateDer<'static>, String) {
    let certificate = write_certificate(dir);
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 4 << 20));
    let tls = format!("[server.tls]\ncertificate = \"{0}/server.crt\"\nkey = \"{0}/server.key\"\n", dir.display());
    let proxy = Setup::open(&upstream).sections(&tls).environment("TRANSSHIP_LOG_LEVEL", "info").start();
    (proxy, certificate, format!("/v2/app/blobs/{digest}"))
}

#[test]
fn d8_floods_of_http2_frames_end_their_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (proxy, certificate, target) = start(dir.path());
    let trusted = std::slice::from_ref(&certificate);
    assert!(get(proxy.address(), trusted, &target).unwrap().0.len() > 4 << 20);
    let before = proxy.private_memory();
    for (name, flood) in floods(&target) {
        let end = Abuser::connect(proxy.address(), &certificate).send(&flood);
        assert!(end.is_some(), "{name}: {} bytes were taken", flood.len());
        assert!(proxy.private_memory() < before + GROWTH, "{name}");
        assert!(get(proxy.address(), trusted, &target).unwrap().0.len() > 4 << 20, "{name}");
    }
}
