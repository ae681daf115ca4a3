//! Parts of blobs, of cached ones and of ones still on their way, by RFC 9110
//! (cases D10 to D14).

use crate::support::digest::{noise, sha256};
use crate::support::http;
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Event, Gate, Upstream};

const SIZE: usize = 1_000_000;

fn start() -> (Upstream, Proxy, String, Vec<u8>) {
    let upstream = Upstream::start();
    let bytes = noise(1, SIZE);
    let digest = upstream.blob("app", &bytes);
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy, format!("/v2/app/blobs/{digest}"), bytes)
}

fn range(proxy: &Proxy, target: &str, range: &str) -> http::Response {
    proxy.get_with(target, &[("Range", range)])
}

#[test]
fn a_part_of_a_cached_blob_is_that_part() {
    let (_, proxy, target, bytes) = start();
    assert_eq!(proxy.get(&target).status, 200);
    let cases = [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=500000-", 500_000, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-5000", SIZE - 5000, SIZE),
        ("bytes=999999-2000000", SIZE - 1, SIZE),
        ("bytes=65535-65537", 65_535, 65_538),
        ("bytes=-2000000", 0, SIZE),
        ("BYTES=10-19", 10, 20),
    ];
    for (header, start, end) in cases {
        let answer = range(&proxy, &target, header);
        assert_eq!(answer.status, 206, "{header}");
        assert!(answer.complete && answer.body == bytes[start..end], "{header}");
        assert_eq!(answer.header("content-range"), Some(format!("bytes {start}-{}/{SIZE}", end - 1).as_str()));
        assert_eq!(answer.header("content-length"), Some((end - start).to_string().as_str()));
    }
}

#[test]
fn d10_what_is_no_set_of_byte_ranges_is_ignored() {
    let (_, proxy, target, bytes) = start();
    for header in ["bytes=0-0,x", "bytes=abc", "lines=1-2", "bytes=5-2", "bytes=", "bytes", "bytes=--1", "bytes=1.5-2"]
    {
        let answer = range(&proxy, &target, header);
        assert!(answer.status == 200 && answer.body == bytes, "{header}: {}", answer.status);
    }
    let twice = proxy.get_with(&target, &[("Range", "bytes=0-1"), ("Range", "bytes=2-3")]);
    assert_eq!(twice.status, 200);
}

#[test]
fn d11_d12_a_range_outside_the_content_cannot_be_satisfied() {
    let (_, proxy, target, _) = start();
    assert_eq!(proxy.get(&target).status, 200);
    for header in ["bytes=1000000-", "bytes=1000000-1000001", "bytes=18446744073709551616-", "bytes=-0"] {
        let answer = range(&proxy, &target, header);
        assert_eq!(answer.verdict(), (416, "RANGE_INVALID".into()), "{header}");
        assert_eq!(answer.header("content-range"), Some("bytes */1000000"));
    }
}

#[test]
fn d13_conditions_are_about_the_digest() {
    let (_, proxy, target, _) = start();
    let etag = proxy.head(&target).header("etag").unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", target.rsplit('/').next().unwrap()));
    let ask = |headers: &[(&str, &str)]| proxy.get_with(&target, headers).status;
    assert_eq!(ask(&[("Range", "bytes=0-9"), ("If-Range", &etag)]), 206);
    assert_eq!(ask(&[("Range", "bytes=0-9"), ("If-Range", "\"other\"")]), 200);
    assert_eq!(ask(&[("Range", "bytes=0-9"), ("If-Range", &format!("W/{etag}"))]), 200, "not a strong one");
    assert_eq!(ask(&[("Range", "bytes=0-9"), ("If-Range", "Tue, 01 Jan 2030 00:00:00 GMT")]), 200);
    assert_eq!(ask(&[("If-None-Match", &etag)]), 304);
    assert_eq!(ask(&[("If-None-Match", &format!("\"a\", W/{etag}"))]), 304);
    assert_eq!(ask(&[("If-None-Match", "*")]), 304);
    assert_eq!(ask(&[("If-None-Match", "\"other\"")]), 200);
    let unknown = format!("/v2/app/blobs/{}", sha256(b"nowhere"));
    assert_eq!(proxy.get_with(&unknown, &[("If-None-Match", "*")]).status, 404);
}

#[test]
fn d14_a_range_of_a_manifest_is_ignored() {
    let (upstream, proxy, _, _) = start();
    let manifest = upstream.image("app", "1", &[]);
    let answer = range(&proxy, "/v2/app/manifests/1", "bytes=0-9");
    assert!(answer.status == 200 && answer.body == manifest);
    let digest = sha256(&manifest);
    let cached = proxy.get_with("/v2/app/manifests/1", &[("If-None-Match", &format!("\"{digest}\""))]);
    assert_eq!(cached.status, 304);
}

#[test]
fn the_empty_blob_has_no_parts() {
    let (upstream, proxy, _, _) = start();
    let digest = upstream.blob("app", b"");
    for _ in 0..2 {
        let answer = range(&proxy, &format!("/v2/app/blobs/{digest}"), "bytes=0-");
        assert!(matches!(answer.status, 200 | 416), "{}", answer.status);
    }
}

#[test]
fn parts_of_a_blob_on_its_way_come_as_it_does_and_cost_no_second_transfer() {
    let (upstream, proxy, target, bytes) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let whole = http::open(proxy.address(), "GET", &target, &[]);
    gate.wait_until_reached();
    let present = range(&proxy, &target, "bytes=1000-1999");
    assert!(present.status == 206 && present.body == bytes[1000..2000]);
    let later = http::open(proxy.address(), "GET", &target, &[("Range", "bytes=400000-599999")]);
    assert_eq!(later.head.status, 206);
    gate.open();
    assert_eq!(later.finish().body, bytes[400_000..600_000]);
    assert_eq!(whole.finish().body, bytes);
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[test]
fn parallel_parts_of_a_cold_blob_make_up_the_whole() {
    let (upstream, proxy, target, bytes) = start();
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (proxy, target) = (&proxy, &target);
                scope.spawn(move || range(proxy, target, &format!("bytes={}-{}", n * SIZE / 8, (n + 1) * SIZE / 8 - 1)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(parts.iter().all(|part| part.status == 206 && part.complete));
    assert_eq!(parts.iter().flat_map(|part| part.body.clone()).collect::<Vec<_>>(), bytes);
    let whole = upstream
        .requests()
        .iter()
        .filter(|request| request.is("GET", "/blobs/"))
        .filter(|request| request.range().is_none())
        .count();
    assert_eq!(whole, 1, "one transfer of the whole: {:?}", upstream.requests());
}
