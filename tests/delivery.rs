//! The same bytes whichever way they take to the client, with TLS and without.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};

use crate::support::digest::{noise, sha256};
use crate::support::http;
use crate::support::proxy::Setup;
use crate::support::upstream::Upstream;

/// Every size at which something changes: held in memory, one window of each
/// kind, several.
const SIZES: [usize; 6] = [1, 65_536, 65_537, 300_000, 4 << 20, 9_000_001];

#[test]
fn every_method_delivers_the_same_bytes_cold_and_warm() {
    for method in ["auto", "splice", "mmap", "read"] {
        let upstream = Upstream::start();
        let proxy = Setup::open(&upstream).environment("TRANSSHIP_SERVER_BODY", method).start();
        for size in SIZES {
            let bytes = noise(size as u64, size);
            let digest = upstream.blob("app", &bytes);
            let target = format!("/v2/app/blobs/{digest}");
            for _ in 0..3 {
                proxy.get(&target).assert_content(&digest);
            }
            let part = proxy.get_with(&target, &[("Range", &format!("bytes={}-", size / 2))]);
            assert_eq!(part.body, bytes[size / 2..], "{method} {size}");
        }
    }
}

#[test]
fn many_clients_at_once_each_get_their_own_bytes() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    let digests: Vec<_> = (0..8).map(|n| upstream.blob("app", &noise(n, 5_000_000))).collect();
    std::thread::scope(|scope| {
        for n in 0..64 {
            let (proxy, digest) = (&proxy, &digests[n % digests.len()]);
            scope.spawn(move || {
                for _ in 0..3 {
                    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest);
                }
            });
        }
    });
}

#[test]
fn several_blobs_on_one_connection_do_not_mix() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    let blobs: Vec<_> = (0..12).map(|n| noise(n, 200_000 + 1000 * n as usize)).collect();
    let targets: Vec<_> = blobs.iter().map(|bytes| format!("/v2/app/blobs/{}", upstream.blob("app", bytes))).collect();
    for target in &targets {
        assert_eq!(proxy.get(target).status, 200);
    }
    // All requests at once, before any answer is read.
    let mut wire = http::connect(proxy.address());
    for target in &targets {
        wire.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    }
    for expected in &blobs {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            wire.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let mut body = vec![0; expected.len()];
        wire.read_exact(&mut body).unwrap();
        assert!(body == *expected);
    }
}

/// Writes a certificate for 127.0.0.1 and its key; gives the certificate.
pub(crate) fn write_certificate(dir: &Path) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
    fs::write(dir.join("server.crt"), certificate.pem()).unwrap();
    certificate.der().clone()
}

/// GET over TLS; what was answered, and the certificate that was shown.
pub(crate) fn get(
    address: SocketAddr,
    trusted: &[CertificateDer<'static>],
    target: &str,
) -> std::io::Result<(Vec<u8>, CertificateDer<'static>)> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut wire = rustls::StreamOwned::new(connection, stream);
    write!(wire, "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let _ = wire.read_to_end(&mut answer);
    let shown = wire.conn.peer_certificates().unwrap()[0].clone().into_owned();
    Ok((answer, shown))
}

#[test]
fn d9_what_is_no_tls_on_a_tls_listener_is_closed_and_the_next_client_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = write_certificate(dir.path());
    let upstream = Upstream::start();
    let tls =
        format!("[server.tls]\ncertificate = \"{0}/server.crt\"\nkey = \"{0}/server.key\"\n", dir.path().display());
    let proxy = Setup::open(&upstream).sections(&tls).sections("[limits]\ntls_handshake_timeout = \"1s\"\n").start();
    let garbage = noise(1, 1000);
    // A record of one byte, and the first bytes of a hello that never ends.
    let hello: &[&[u8]] =
        &[b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", &garbage, b"\x16\x03\x01\x00\x01\x01", b"\x16"];
    for bytes in hello {
        let answer = http::raw(proxy.address(), bytes);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert!(get(proxy.address(), &[certificate], "/v2/").unwrap().0.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn over_tls_the_bytes_are_the_same_and_a_renewed_certificate_is_shown_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = write_certificate(dir.path());
    let upstream = Upstream::start();
    let tls =
        format!("[server.tls]\ncertificate = \"{0}/server.crt\"\nkey = \"{0}/server.key\"\n", dir.path().display());
    let proxy = Setup::open(&upstream).sections(&tls).start();
    for size in SIZES {
        let digest = upstream.blob("app", &noise(size as u64, size));
        for _ in 0..2 {
            let (answer, shown) =
                get(proxy.address(), std::slice::from_ref(&first), &format!("/v2/app/blobs/{digest}")).unwrap();
            assert_eq!(shown, first);
            let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            assert_eq!(sha256(&answer[body..]), digest);
        }
    }
    // Half a renewal is no renewal.
    let second = write_certificate(dir.path());
    let new_key = fs::read(dir.path().join("server.key")).unwrap();
    fs::write(dir.path().join("server.key"), "no key at all").unwrap();
    std::thread::sleep(Duration::from_secs(6));
    let both = [first.clone(), second.clone()];
    assert_eq!(get(proxy.address(), &both, "/v2/").unwrap().1, first);
    fs::write(dir.path().join("server.key"), new_key).unwrap();
    let begun = Instant::now();
    while get(proxy.address(), &both, "/v2/").unwrap().1 != second {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", proxy.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}
