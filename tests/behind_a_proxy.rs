//! Behind a load balancer or reverse proxy that is trusted, a client is who the
//! proxy says; anybody else's word is nothing.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use crate::support::digest::noise;
use crate::support::http::{self, connect, raw};
use crate::support::proxy::{Proxy, Setup, credential, eventually};
use crate::support::upstream::Upstream;

const TARGET: &str = "/v2/sample/app/manifests/1";

/// A proxy whose only client is known by its network, behind `trusted`.
fn start(trusted: &str, limits: &str) -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    upstream.image("app", "1", &[&noise(1, 1000)]);
    let proxy = Setup::new()
        .sections(&format!("[server]\ntrusted_proxies = [{trusted}]\n[limits]\n{limits}"))
        .registry("sample", &upstream, &credential())
        .text("[[client]]\nname = \"rack\"\nnetworks = [\"192.0.2.0/24\"]\ngrants = [\"sample/**\"]\n")
        .start();
    (upstream, proxy)
}

fn request(target: &str, header: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n").into_bytes()
}

fn status(address: SocketAddr, bytes: &[u8]) -> String {
    String::from_utf8_lossy(&raw(address, bytes)).split(' ').nth(1).unwrap_or("none").to_owned()
}

/// PROXY protocol version 2, over TCP and IPv4.
fn version_2(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend(source);
    header.extend([10, 0, 0, 2, 0x12, 0x67, 0x13, 0x88]);
    header
}

#[test]
fn the_headers_of_a_trusted_proxy_name_the_client() {
    let (_upstream, proxy) = start("\"127.0.0.0/8\"", "");
    for (name, value, wanted) in [
        ("X-Forwarded-For", "192.0.2.7", 200),
        ("X-Forwarded-For", "198.51.100.1, 192.0.2.7", 200),
        ("X-Forwarded-For", "192.0.2.7, 198.51.100.1", 401),
        ("X-Forwarded-For", "192.0.2.7, unknown", 401),
        ("Forwarded", "for=192.0.2.7;proto=https", 200),
        ("Forwarded", "for=\"[::ffff:192.0.2.7]:4711\"", 200),
        ("Forwarded", "for=198.51.100.1", 401),
        ("Forwarded", "for=\"192.0.2.7", 400),
        ("Via", "1.1 192.0.2.7", 401),
    ] {
        assert_eq!(proxy.get_with(TARGET, &[(name, value)]).status, wanted, "{name}: {value}");
    }
    let both = [("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=192.0.2.8")];
    let answer = proxy.get_with(TARGET, &both);
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8_lossy(&answer.body).contains("name different clients"));
    assert!(proxy.log().contains("\"peer\":\"192.0.2.7\""), "the audit trail has the client");
}

#[test]
fn the_proxy_protocol_of_a_trusted_proxy_names_the_client() {
    let (_upstream, proxy) = start("\"127.0.0.0/8\"", "");
    let get = request(TARGET, "");
    for (header, wanted) in [
        (b"PROXY TCP4 192.0.2.7 10.0.0.2 4711 5000\r\n".to_vec(), "200"),
        (b"PROXY TCP4 198.51.100.1 10.0.0.2 4711 5000\r\n".to_vec(), "401"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "401"),
        (version_2([192, 0, 2, 7]), "200"),
        (version_2([198, 51, 100, 1]), "401"),
        (Vec::new(), "401"),
        (b"PROXY TCP4 nobody\r\n".to_vec(), "none"),
    ] {
        assert_eq!(status(proxy.address(), &[&header[..], &get].concat()), wanted, "{header:?}");
    }
    // A client that the load balancer has named has no say itself.
    let claims = request(TARGET, "X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(status(proxy.address(), &[version_2([198, 51, 100, 1]), claims].concat()), "401");
    // Bytes that come one at a time are put together.
    let mut slow = connect(proxy.address());
    slow.set_nodelay(true).unwrap();
    for byte in [version_2([192, 0, 2, 7]), get].concat() {
        slow.write_all(&[byte]).unwrap();
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn nobody_elses_word_counts() {
    for trusted in ["", "\"10.0.0.0/8\""] {
        let (_upstream, proxy) = start(trusted, "");
        assert_eq!(proxy.get_with(TARGET, &[("X-Forwarded-For", "192.0.2.7")]).status, 401);
        assert_eq!(proxy.get_with(TARGET, &[("Forwarded", "for=\"")]).status, 401);
        for header in [b"PROXY TCP4 192.0.2.7 10.0.0.2 4711 5000\r\n".to_vec(), version_2([192, 0, 2, 7])] {
            let answer = status(proxy.address(), &[header, request(TARGET, "")].concat());
            assert!(answer == "400" || answer == "none", "{answer}");
        }
    }
}

#[test]
fn what_one_client_behind_the_proxy_does_is_not_the_others_loss() {
    let (_upstream, proxy) = start("\"127.0.0.1\"", "max_connections_per_client = 2\nmax_wrong_logins = 3\n");
    let wrong = |client: &str| {
        let headers = [("X-Forwarded-For", client), ("Authorization", "Bearer wrong")];
        proxy.get_with(TARGET, &headers).status
    };
    assert!((0..20).map(|_| wrong("198.51.100.1")).any(|status| status == 429));
    assert_eq!(wrong("198.51.100.2"), 401);
    assert_eq!(proxy.get_with(TARGET, &[("X-Forwarded-For", "192.0.2.7")]).status, 200);
    // Connections of a proxy are bounded by client where it names it, and else
    // only in all.
    let announced = |source| {
        let mut stream = connect(proxy.address());
        stream.write_all(&version_2(source)).unwrap();
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).is_ok().then_some(stream)
    };
    let held: Vec<_> = (0..2).map(|_| announced([198, 51, 100, 1]).unwrap()).collect();
    assert!(announced([198, 51, 100, 1]).is_none());
    assert!(announced([198, 51, 100, 2]).is_some());
    drop(held);
    assert!(eventually(|| announced([198, 51, 100, 1]).is_some()));
    let many: Vec<_> = (0..8).map(|_| connect(proxy.address())).collect();
    assert_eq!(http::send(proxy.address(), "GET", "/v2/", &[("X-Forwarded-For", "192.0.2.7")]).status, 200);
    drop(many);
}

#[test]
fn a_web_page_cannot_pass_for_a_proxy_on_loopback() {
    let (_upstream, proxy) = start("\"127.0.0.1\"", "");
    let rebound = b"GET /v2/ HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n";
    assert_eq!(status(proxy.address(), rebound), "403");
}
