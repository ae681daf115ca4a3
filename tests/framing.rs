//! Requests that are framed wrongly, too large or too slow: refused, and
//! nothing after them on the connection is a request (cases D1 to D5, D16).

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::support::digest::noise;
use crate::support::http::{self, connect, raw};
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::Upstream;

fn start() -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 1000));
    let proxy = Setup::open(&upstream).sections("[limits]\nheader_timeout = \"1s\"\n").start();
    (upstream, proxy, format!("/v2/app/blobs/{digest}"))
}

/// Sends a bad request with a good one smuggled behind it.
fn answer(proxy: &Proxy, request: &str, target: &str) -> String {
    let smuggled = format!("{request}GET {target} HTTP/1.1\r\nHost: smuggled\r\n\r\n");
    String::from_utf8_lossy(&raw(proxy.address(), smuggled.as_bytes())).into_owned()
}

#[track_caller]
fn assert_refused(requests: &[String], statuses: &[&str]) {
    let (upstream, proxy, target) = start();
    for request in requests {
        let answer = answer(&proxy, &request.replace("{target}", &target), &target);
        let status = answer.get(9..12).unwrap_or("closed");
        assert!(statuses.contains(&status), "{request:.200}: {answer:.300}");
        assert_eq!(answer.matches("HTTP/1.").count().max(1), 1, "one answer only: {answer}");
    }
    assert_eq!(upstream.connections(), 0);
}

fn with(headers: &str) -> String {
    format!("GET {{target}} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

#[test]
fn d1_d16_a_body_is_refused_and_never_becomes_a_request() {
    assert_refused(
        &[
            with("Content-Length: 5\r\n") + "hello",
            with("Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n",
            with("Content-Length: 5\r\nExpect: 100-continue\r\n"),
        ],
        &["400", "417"],
    );
}

#[test]
fn d2_d3_ambiguous_framing_is_refused() {
    assert_refused(
        &[
            with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            with("Transfer-Encoding: xchunked\r\n"),
            with("Transfer-Encoding : chunked\r\n"),
            with("Content-Length: +5\r\n") + "hello",
            with("Content-Length: 5, 6\r\n") + "hello",
            with("Content-Length: 5\r\nContent-Length: 6\r\n") + "hello!",
            with("Content-Length: 18446744073709551616\r\n"),
            "GET {target} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            with("X-Folded: a\r\n b\r\n"),
            with("X Space: a\r\n"),
            with("X-Nul: a\0b\r\n"),
            with("no colon\r\n"),
        ],
        &["400", "closed"],
    );
}

#[test]
fn d4_an_upgrade_is_not_taken_up() {
    let (_, proxy, target) = start();
    for upgrade in ["h2c", "websocket"] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n");
        let answer = String::from_utf8_lossy(&raw(proxy.address(), request.as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    }
}

#[test]
fn d5_too_much_of_everything_is_refused() {
    let many: String = (0..101).map(|n| format!("X-{n}: x\r\n")).collect();
    assert_refused(&[with(&many), with(&format!("X-Long: {}\r\n", "x".repeat(65 * 1024)))], &["431", "closed"]);
    assert_refused(
        &[format!("GET /v2/{}/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(5 * 1024))],
        &["414"],
    );
}

#[test]
fn d6_headers_that_trickle_in_are_not_waited_for() {
    let (_, proxy, target) = start();
    let mut slow = connect(proxy.address());
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost: pro").unwrap();
    let begun = Instant::now();
    // Others are served meanwhile.
    assert_eq!(proxy.get(&target).status, 200);
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
}

#[test]
fn d7_a_client_that_does_not_read_is_left_after_a_while() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(2, 32 << 20));
    let proxy = Setup::open(&upstream).sections("[limits]\nwrite_stall_timeout = \"1s\"\n").start();
    let mut idle = connect(proxy.address());
    idle.write_all(format!("GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let mut got = Vec::new();
    let _ = idle.read_to_end(&mut got);
    assert!(got.len() < 32 << 20, "{} bytes came", got.len());
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let (upstream, proxy, target) = start();
    let other = upstream.blob("app", b"other");
    let requests = format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n\
         GET /v2/app/blobs/{other} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(proxy.address(), requests.as_bytes());
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3);
    assert!(text.ends_with("other"));
}

#[test]
fn connections_beyond_the_bound_do_not_stop_the_others() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections("[limits]\nmax_connections_per_client = 4\n").start();
    let idle: Vec<_> = (0..8).map(|_| connect(proxy.address())).collect();
    std::thread::sleep(Duration::from_millis(200));
    drop(idle);
    assert!(crate::support::proxy::eventually(|| {
        String::from_utf8_lossy(&raw(
            proxy.address(),
            b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        ))
        .starts_with("HTTP/1.1 200")
    }));
}

#[test]
fn f44_clients_that_reset_their_connections_anywhere_leave_nothing_behind() {
    let upstream = Upstream::start();
    let digests: Vec<_> = (0..4).map(|n| upstream.blob("app", &noise(n, 4 << 20))).collect();
    let proxy = Setup::open(&upstream).start();
    let target = |n: usize| format!("/v2/app/blobs/{}", digests[n % digests.len()]);
    http::get(proxy.address(), &target(0)).assert_content(&digests[0]);
    let files = proxy.open_files();
    let mut random = fastrand::Rng::with_seed(44);
    for n in 0..1000 {
        let stream = connect(proxy.address());
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", target(n));
        // Anywhere in the request, or in what comes back.
        let sent = random.usize(..=request.len());
        (&stream).write_all(&request.as_bytes()[..sent]).unwrap();
        if sent == request.len() {
            let mut taken = vec![0; random.usize(1..200_000)];
            let _ = (&stream).read(&mut taken);
        }
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
    // Each blob that is open by now is a file.
    assert!(eventually(|| proxy.open_files() <= files + digests.len()), "{} of {files}", proxy.open_files());
    for digest in &digests {
        http::get(proxy.address(), &format!("/v2/app/blobs/{digest}")).assert_content(digest);
        assert_eq!(upstream.count("GET", digest), 1);
    }
}
