//! Only what is configured exists: nobody can make the proxy talk to another
//! host, and what is unknown looks like what is forbidden (cases B1 to B11).

use std::io::{Read as _, Write as _};
use std::time::Instant;

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, credential};
use crate::support::upstream::Upstream;

/// `registry` is configured; `evil` is not.
fn start() -> (Upstream, Upstream, Proxy, String) {
    let (upstream, evil) = (Upstream::start(), Upstream::start());
    let digest = upstream.blob("app", &noise(1, 1000));
    evil.blob("app", &noise(1, 1000));
    let proxy = Setup::open(&upstream).start();
    (upstream, evil, proxy, digest)
}

#[test]
fn b1_a_namespace_nobody_configured_is_unknown_and_nothing_is_sent() {
    let (upstream, evil, proxy, digest) = start();
    let hosts = ["169.254.169.254", "localhost:6379", "evil.example", &evil.address().to_string(), "[::1]:80"];
    for host in hosts {
        for path in [format!("app/blobs/{digest}"), "app/manifests/1".into(), "app/tags/list".into()] {
            let answer = proxy.get(&format!("/v2/{path}?ns={host}"));
            assert_eq!(answer.verdict(), (404, "NAME_UNKNOWN".into()), "{host} {path}");
        }
        let answer = proxy.get(&format!("/{host}/v2/app/blobs/{digest}"));
        assert_eq!(answer.status, if host.starts_with('[') { 400 } else { 404 }, "{host}");
    }
    assert_eq!((upstream.connections(), evil.connections()), (0, 0));
}

#[test]
fn b2_a_namespace_that_is_no_host_is_refused() {
    let (upstream, evil, proxy, digest) = start();
    let odd = [
        "http://evil/",
        "user:p@docker.io",
        "docker.io/../x",
        "docker.io%0d%0aX:1",
        "docker.io&ns=ghcr.io",
        "docker.io%00",
        "",
        "a:99999",
    ];
    for ns in odd {
        let answer = proxy.get(&format!("/v2/app/blobs/{digest}?ns={ns}"));
        assert_eq!(answer.verdict(), (400, "NAME_INVALID".into()), "{ns}");
    }
    assert_eq!((upstream.connections(), evil.connections()), (0, 0));
}

#[test]
fn b3_what_is_forbidden_answers_as_what_does_not_exist() {
    let private = Upstream::start();
    let digest = private.blob("app", &noise(2, 1000));
    let token = "a-client-with-no-grants";
    let hash = crate::support::digest::sha256(token.as_bytes())["sha256:".len()..].to_owned();
    let proxy = Setup::new()
        .registry("private", &private, &credential())
        .text(&format!("[[client]]\nname = \"ci\"\ntoken_hash = \"{hash}\"\n"))
        .start();
    let bearer = format!("Bearer {token}");
    let ask = |target: String| proxy.get_with(&target, &[("Authorization", &bearer)]);
    let forbidden = ask(format!("/v2/app/blobs/{digest}?ns={}", private.address()));
    let unknown = ask(format!("/v2/app/blobs/{digest}?ns=evil.example"));
    assert_eq!(forbidden.verdict(), (404, "NAME_UNKNOWN".into()));
    assert_eq!(forbidden.body, unknown.body);
    let without_date = |response: &http::Response| {
        response.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>()
    };
    assert_eq!(without_date(&forbidden), without_date(&unknown));
    assert_eq!(ask(format!("/v2/private/app/blobs/{digest}")).body, unknown.body);
    assert_eq!(private.connections(), 0);
}

#[test]
fn b4_b5_it_is_no_forward_proxy() {
    let (upstream, evil, proxy, digest) = start();
    for target in ["evil:443", "auth.docker.io:443", &evil.address().to_string()] {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        let answer = String::from_utf8_lossy(&http::raw(proxy.address(), request.as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "nothing after it is a request: {answer}");
    }
    let request = format!("GET {}/v2/app/blobs/{digest} HTTP/1.1\r\nHost: {}\r\n\r\n", evil.origin(), evil.address());
    let answer = String::from_utf8_lossy(&http::raw(proxy.address(), request.as_bytes())).into_owned();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert_eq!((upstream.connections(), evil.connections()), (0, 0));
}

#[test]
fn b6_headers_that_speak_of_another_host_are_ignored() {
    let (upstream, evil, proxy, digest) = start();
    let host = evil.address().to_string();
    let url = format!("{}/v2/app/blobs/{digest}", evil.origin());
    let answer = proxy.get_with(
        &format!("/v2/app/blobs/{digest}"),
        &[
            ("X-Forwarded-Host", &host),
            ("X-Original-URL", &url),
            ("X-Rewrite-URL", &url),
            ("X-Dragonfly-Registry", &evil.origin()),
            ("Forwarded", &format!("host={host}")),
        ],
    );
    answer.assert_content(&digest);
    assert_eq!(evil.connections(), 0);
    let passed_on = upstream.requests().iter().any(|request| {
        request.headers.iter().any(|(name, value)| {
            name.starts_with("x-") || name == "forwarded" || (name != "host" && value.contains(&host))
        })
    });
    assert!(!passed_on, "{:?}", upstream.requests());
}

#[test]
fn b7_a_request_names_one_host() {
    let (_, _, proxy, _) = start();
    for headers in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: user@a\r\n", "Host: localhost/b\r\n"] {
        let request = format!("GET /v2/ HTTP/1.1\r\n{headers}\r\n");
        let answer = String::from_utf8_lossy(&http::raw(proxy.address(), request.as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{headers:?}: {answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

#[test]
fn b8_there_is_nothing_to_write_to() {
    let (upstream, _, proxy, digest) = start();
    let writes = [
        ("POST", "/v2/app/blobs/uploads/".to_owned()),
        ("POST", format!("/v2/app/blobs/uploads/?mount={digest}&from=secret/app")),
        ("PATCH", "/v2/app/blobs/uploads/1234".into()),
        ("PUT", "/v2/app/manifests/1".into()),
        ("DELETE", format!("/v2/app/blobs/{digest}")),
        ("DELETE", "/v2/app/manifests/1".into()),
        ("POST", "/v2/".into()),
    ];
    for (method, target) in writes {
        let answer = http::send(proxy.address(), method, &target, &[("Content-Length", "1000000")]);
        assert_eq!(answer.verdict(), (405, "UNSUPPORTED".into()), "{method} {target}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn b9_other_methods_are_refused_and_never_echoed() {
    let (_, _, proxy, _) = start();
    let requests = [
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "TRACE /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Marker: marker\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "get /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ];
    for request in requests {
        let answer = String::from_utf8_lossy(&http::raw(proxy.address(), request.as_bytes())).into_owned();
        let status = answer.get(9..12).unwrap_or_default();
        assert!(["400", "405"].contains(&status) || answer.is_empty(), "{request:?}: {answer:?}");
        assert!(!answer.contains("marker"), "{answer}");
    }
}

#[test]
fn b10_the_catalog_of_upstream_is_never_read() {
    let (upstream, _, proxy, _) = start();
    for target in ["/v2/_catalog", "/v2/_catalog?n=10", "/sample/v2/_catalog"] {
        assert_eq!(proxy.get(target).verdict(), (404, "UNSUPPORTED".into()), "{target}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn b11_data_and_administration_do_not_share_a_door() {
    let (_, _, proxy, digest) = start();
    for target in ["/healthz", "/readyz", "/metrics", "/api/v1/registries", "/"] {
        assert_eq!(proxy.get(target).status, 404, "{target}");
    }
    for target in ["/v2/".to_owned(), format!("/v2/app/blobs/{digest}")] {
        assert_eq!(http::get(proxy.admin(), &target).status, 404, "{target}");
    }
    assert_eq!(http::get(proxy.admin(), "/healthz").status, 200);
    assert_eq!(http::get(proxy.admin(), "/readyz").status, 200);
}

/// Requests for each of two targets.
const SAMPLES: usize = 10_000;

/// How many standard deviations the ranks of `one` lie from where they would be
/// if both came from one distribution (Mann and Whitney's test).
fn deviation(one: &[u64], other: &[u64]) -> f64 {
    let mut all: Vec<(u64, bool)> = one.iter().map(|time| (*time, true)).collect();
    all.extend(other.iter().map(|time| (*time, false)));
    all.sort_unstable();
    let ranks: f64 = all.iter().enumerate().filter(|(_, (_, is_one))| *is_one).map(|(rank, _)| rank as f64 + 1.0).sum();
    let (n, m) = (one.len() as f64, other.len() as f64);
    (ranks - n * (n + m + 1.0) / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}

/// The times of [`SAMPLES`] requests for each of two targets, by turns in no order
/// that the proxy could get used to.
fn times(
    proxy: &Proxy,
    (method, end): (&str, &[u8]),
    bearer: &str,
    mut targets: impl FnMut(usize) -> [String; 2],
) -> [Vec<u64>; 2] {
    let mut stream = http::connect(proxy.address());
    stream.set_nodelay(true).unwrap();
    let mut times = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
    let mut answer = vec![0; 64 << 10];
    for turn in 0..SAMPLES {
        let pair = targets(turn);
        let first = (turn.wrapping_mul(0x9e37_79b9) >> 7) & 1;
        for which in [first, 1 - first] {
            let request = format!(
                "{method} {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n\r\n",
                pair[which]
            );
            let begun = Instant::now();
            stream.write_all(request.as_bytes()).unwrap();
            let mut read = 0;
            while !answer[..read].ends_with(end) {
                let more = stream.read(&mut answer[read..]).unwrap();
                assert!(more > 0, "{}", String::from_utf8_lossy(&answer[..read]));
                read += more;
            }
            times[which].push(u64::try_from(begun.elapsed().as_nanos()).unwrap());
            assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer[..read]));
        }
    }
    times
}

fn judge(what: &str, [one, other]: [Vec<u64>; 2]) {
    let median = |times: &[u64]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let deviation = deviation(&one, &other);
    println!("{what}: medians {} ns and {} ns, {deviation:+.2} standard deviations", median(&one), median(&other));
    // Chance alone goes so far once in fifteen thousand runs.
    assert!(deviation.abs() < 4.0, "{what}");
}

/// `cargo test --release --test promises -- --ignored --nocapture the_time_of`
#[test]
#[ignore = "measures; wants a machine that does nothing else"]
fn b12_the_time_of_an_answer_tells_nothing() {
    let (private, mine) = (Upstream::start(), Upstream::start());
    let token = "a-client-of-one-registry";
    let hash = crate::support::digest::sha256(token.as_bytes())["sha256:".len()..].to_owned();
    let proxy = Setup::new()
        .sections("[cache]\nnot_found_ttl = \"0s\"\n[log]\nlevel = \"error\"\n")
        .registry("private", &private, &credential())
        .registry("mine", &mine, "access = \"grants\"")
        .text(&format!(
            "[[client]]\nname = \"other\"\ntoken_hash = \"{hash}\"\ngrants = [\"mine/**\"]\n\
             [[client]]\nname = \"owner\"\nnetworks = [\"127.0.0.1/32\"]\ngrants = [\"private/**\"]\n"
        ))
        .start();
    let cached: Vec<String> = (0..64).map(|n| private.blob("app", &noise(100 + n, 2000))).collect();
    for digest in &cached {
        proxy.get(&format!("/v2/private/app/blobs/{digest}")).assert_content(digest);
    }
    proxy.wait_for_blobs(cached.len());
    let absent: Vec<String> = (0..64).map(|n| crate::support::digest::sha256(&noise(500 + n, 2000))).collect();
    // A registry that exists, and one that does not.
    let names = |turn: usize| {
        let digest = &absent[turn % 64];
        [format!("/v2/private/app/blobs/{digest}"), format!("/v2/nothing/app/blobs/{digest}")]
    };
    // What others have in the cache, and what nobody has, through a registry
    // whose upstream has neither.
    let digests = |turn: usize| [&cached, &absent].map(|digests| format!("/v2/mine/app/blobs/{}", digests[turn % 64]));
    for asked in [("HEAD", &b"\r\n\r\n"[..]), ("GET", &b"}]}"[..])] {
        judge(&format!("{} of a registry of others, and of none", asked.0), times(&proxy, asked, token, names));
        judge(&format!("{} of content that others have, and nobody", asked.0), times(&proxy, asked, token, digests));
    }
}
