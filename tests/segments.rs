//! Several connections for one blob, where one is slow: each byte is still
//! asked for once, and the content is still checked as a whole.

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Event, Gate, Request, Upstream};

const MIB: usize = 1 << 20;
const SIZE: usize = 80 * MIB;
/// What each connection brings in a second.
const RATE: usize = 30_000_000;

fn start() -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    upstream.on("GET", "/blobs/", |_, answer| answer.throttled(RATE));
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy, format!("/v2/app/blobs/{digest}"))
}

fn digest_of(target: &str) -> &str {
    target.rsplit('/').next().unwrap()
}

/// A part whose answer is long in coming may be asked for again.
#[track_caller]
fn assert_hardly_twice(parts: &[(usize, usize)]) {
    let asked: usize = parts.iter().map(|(start, end)| end + 1 - start).sum();
    assert!(asked <= SIZE + SIZE / 4, "{parts:?}");
}

fn parts(upstream: &Upstream) -> Vec<(usize, usize)> {
    let mut parts: Vec<_> = upstream.requests().iter().filter_map(Request::range).collect();
    parts.sort_unstable();
    parts
}

#[test]
fn a_slow_connection_gets_company_and_no_part_is_asked_for_twice() {
    let (upstream, proxy, target) = start();
    proxy.get(&target).assert_content(digest_of(&target));
    let parts = parts(&upstream);
    assert!(parts.len() >= 4, "{parts:?}");
    assert_hardly_twice(&parts);
    assert_eq!(parts.last().unwrap().1, SIZE - 1);
    assert!(upstream.connections() >= 4);
    proxy.wait_for_blobs(1);
    proxy.assert_cache_is_sound();
}

#[test]
fn one_connection_is_enough_where_the_operator_says_so() {
    let (upstream, _, target) = start();
    let proxy = Setup::open(&upstream).sections("[limits]\nmax_segments = 1\n").start();
    proxy.get(&target).assert_content(digest_of(&target));
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_upstream_that_gives_no_parts_is_read_to_the_end_by_one_connection() {
    let (upstream, proxy, target) = start();
    let whole = noise(1, SIZE);
    upstream.on("GET", "/blobs/", move |_, _| Answer::status(200).body(whole.clone()).throttled(RATE));
    proxy.get(&target).assert_content(digest_of(&target));
    proxy.wait_for_blobs(1);
    proxy.assert_cache_is_sound();
}

#[test]
fn a_part_that_breaks_is_continued_and_a_wrong_one_spoils_the_whole() {
    let (upstream, proxy, target) = start();
    upstream.on("GET", "/blobs/", |request, answer| match request.range() {
        // Each part breaks once, in its middle.
        Some((start, end)) if start % (8 * MIB) == 0 || end - start + 1 == 8 * MIB => {
            let half = answer.body.len() / 2;
            answer.at(half, Event::Reset)
        }
        _ => answer,
    });
    proxy.get(&target).assert_content(digest_of(&target));

    let (upstream, proxy, target) = start();
    upstream.on("GET", "/blobs/", |request, answer| if request.range().is_some() { answer.flip(5) } else { answer });
    let answer = proxy.get(&target);
    assert!(!answer.complete);
    assert!(answer.body.len() < SIZE);
    assert_eq!(proxy.blobs().len(), 0);
    upstream.clear_rules();
    proxy.get(&target).assert_content(digest_of(&target));
}

#[test]
fn a_part_far_behind_what_is_there_does_not_wait_for_its_turn() {
    let (upstream, proxy, target) = start();
    upstream.clear_rules();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |request, answer| {
        if request.range().is_none() { answer.at(MIB, Event::Wait(closed.clone())) } else { answer }
    });
    let expected = noise(1, SIZE);
    // Nothing has been asked for before: the range begins the transfer.
    let far = proxy.get_with(&target, &[("Range", "bytes=60000000-69999999")]);
    assert_eq!(far.status, 206);
    assert!(far.complete && far.body == expected[60_000_000..70_000_000]);
    // The end waits until the whole is known to be right.
    let end = http::open(proxy.address(), "GET", &target, &[("Range", "bytes=-1000")]);
    assert_eq!(end.head.status, 206);
    let whole = http::open(proxy.address(), "GET", &target, &[]);
    gate.open();
    assert_eq!(whole.finish().body, expected);
    assert_eq!(end.finish().body, expected[SIZE - 1000..]);
    assert_hardly_twice(&parts(&upstream));
    proxy.wait_for_blobs(1);
    proxy.assert_cache_is_sound();
}

#[test]
fn what_came_ahead_of_its_turn_is_kept_over_a_kill() {
    let (upstream, mut proxy, target) = start();
    upstream.clear_rules();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |request, answer| {
        if request.range().is_none() { answer.at(MIB, Event::Wait(closed.clone())) } else { answer.throttled(RATE) }
    });
    let client = http::open(proxy.address(), "GET", &target, &[]);
    // The head waits; all else is what others bring.
    let came = || proxy.metric("transship_upstream_bytes_total") as usize;
    assert!(eventually(|| came() >= 30 * MIB), "{}", came());
    let came = came();
    proxy.kill();
    gate.open();
    drop(client);
    let asked = parts(&upstream).len();
    proxy.restart();
    proxy.get(&target).assert_content(digest_of(&target));
    let again = proxy.metric("transship_upstream_bytes_total") as usize;
    // Of what was under way, each connection loses no more than it had not
    // handed on, and less than one unit.
    assert!(again <= SIZE - came + (asked + 1) * 256 * 1024, "{again} of {SIZE} bytes came again, {came} had come");
    proxy.wait_for_blobs(1);
    proxy.assert_cache_is_sound();
}
