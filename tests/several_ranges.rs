//! Several ranges in one request, as clients that pull lazily ask: the parts
//! and nothing else, in their order.

use crate::support::digest::noise;
use crate::support::http::{self, Response};
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Answer, Event, Gate, Upstream};

const SIZE: usize = 8 << 20;

fn start() -> (Upstream, Proxy, String, Vec<u8>) {
    let upstream = Upstream::start();
    let bytes = noise(1, SIZE);
    let digest = upstream.blob("app", &bytes);
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy, format!("/v2/app/blobs/{digest}"), bytes)
}

fn header(ranges: &[(usize, usize)]) -> String {
    let ranges: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    format!("bytes={}", ranges.join(","))
}

/// The parts of a multipart answer: first and last byte, and what they are.
fn parts(answer: &Response) -> Vec<((usize, usize), Vec<u8>)> {
    assert_eq!((answer.status, answer.complete), (206, true));
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    let media_type = answer.header("content-type").unwrap();
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let mut parts = Vec::new();
    let mut rest = answer.body.strip_prefix(delimiter.as_bytes()).unwrap();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let end = part.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&part[..end]).unwrap();
        let range = head.lines().find_map(|line| line.strip_prefix("Content-Range: bytes ")).unwrap();
        let (range, total) = range.split_once('/').unwrap();
        assert_eq!(total, SIZE.to_string());
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let (bytes, behind) = part[end + 4..].split_at(last + 1 - first);
        parts.push(((first, last), bytes.to_vec()));
        rest = behind.strip_prefix(delimiter.as_bytes()).unwrap();
    }
    assert_eq!(rest, b"--\r\n");
    parts
}

#[track_caller]
fn assert_parts(answer: &Response, bytes: &[u8], expected: &[(usize, usize)]) {
    let parts = parts(answer);
    assert_eq!(parts.iter().map(|(range, _)| *range).collect::<Vec<_>>(), expected);
    for ((first, last), part) in parts {
        assert!(part == bytes[first..=last], "{first}-{last}");
    }
}

#[test]
fn the_parts_of_a_cached_blob_come_in_the_order_in_which_they_were_asked_for() {
    let (upstream, proxy, target, bytes) = start();
    assert_eq!(proxy.get(&target).body, bytes);
    proxy.wait_for_blobs(1);
    upstream.forget();
    for asked in [
        &[(0, 99), (1_000_000, 1_000_999), (5_000_000, 5_000_099)][..],
        // Table of contents and tar-split of zstd:chunked: one behind the other.
        &[(SIZE - 600_000, SIZE - 200_001), (SIZE - 200_000, SIZE - 1)],
        &[(7_000_000, 7_000_000), (0, 0), (4_000_000, 6_999_999)],
    ] {
        let answer = proxy.get_with(&target, &[("range", &header(asked))]);
        assert_parts(&answer, &bytes, asked);
    }
    // What overlaps is sent once; what lies outside is left out.
    let answer = proxy.get_with(&target, &[("range", "bytes=0-99,50-149,99999999-")]);
    assert_parts(&answer, &bytes, &[(0, 149)]);
    assert_eq!(proxy.get_with(&target, &[("range", "bytes=99999999-,88888888-")]).status, 416);
    // What is not a set of ranges is ignored.
    assert_eq!(proxy.get_with(&target, &[("range", "bytes=0-1,x")]).status, 200);
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn as_many_as_any_client_asks_for_are_answered_and_more_are_a_bad_request() {
    let (_upstream, proxy, target, bytes) = start();
    assert_eq!(proxy.get(&target).body, bytes);
    let asked: Vec<_> = (0..1024).map(|n| (n * 8000, n * 8000 + 3000)).collect();
    let answer = proxy.get_with(&target, &[("range", &header(&asked))]);
    assert_parts(&answer, &bytes, &asked);
    // Long numbers, so that it is a long header too.
    let long = format!("bytes={}", vec!["0000000000000000000000000000000000000000000000000001-2"; 1025].join(","));
    assert!(long.len() > 50_000);
    assert_eq!(proxy.get_with(&target, &[("range", &long)]).verdict(), (400, "RANGE_INVALID".into()));
    assert_eq!(proxy.get(&target).body, bytes, "the connection or another goes on");
}

#[test]
fn the_parts_of_a_blob_that_is_on_its_way_come_from_its_fill() {
    let (upstream, proxy, target, bytes) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |request, answer: Answer| {
        if request.range().is_none() { answer.at(SIZE / 2, Event::Wait(closed.clone())) } else { answer }
    });
    let whole = http::open(proxy.address(), "GET", &target, &[]);
    let asked = [(0, 999), (2_000_000, 2_000_999), (SIZE - 10, SIZE - 1)];
    let answer = http::open(proxy.address(), "GET", &target, &[("range", &header(&asked))]);
    assert_eq!(answer.head.status, 206);
    gate.open();
    assert_parts(&answer.finish(), &bytes, &asked);
    assert_eq!(whole.finish().body, bytes);
}

#[test]
fn a_condition_that_does_not_hold_makes_it_the_whole() {
    let (_upstream, proxy, target, bytes) = start();
    let ranges = ("range", "bytes=0-1,4-5");
    let answer = proxy.get_with(&target, &[ranges, ("if-range", "\"something else\"")]);
    assert_eq!((answer.status, answer.body == bytes), (200, true));
    let digest = format!("\"{}\"", target.rsplit('/').next().unwrap());
    let answer = proxy.get_with(&target, &[ranges, ("if-range", &digest)]);
    assert_parts(&answer, &bytes, &[(0, 1), (4, 5)]);
}
