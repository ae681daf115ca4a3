//! Rate limits of upstream and bounds of our own: what is read, what is not
//! asked any more, and what one client may take from others.

use std::time::{Duration, Instant};

use crate::support::digest::{noise, sha256};
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Event, Gate, Upstream};

/// What Docker Hub says with an answer.
fn counted(answer: Answer, remaining: u32) -> Answer {
    answer
        .header("ratelimit-limit", "100;w=21600")
        .header("RateLimit-Remaining", format!("{remaining};w=21600"))
        .header("docker-ratelimit-source", "c4nary-account")
}

/// What Docker Hub answers when no pull is left.
fn no_pull_left() -> Answer {
    let words = "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit";
    let document = serde_json::json!({ "errors": [{ "code": "TOOMANYREQUESTS", "message": words }] });
    Answer::status(429).header("Content-Type", "application/json").body(document.to_string())
}

fn start() -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    upstream.image("app", "1", &[]);
    let digest = upstream.blob("app", &noise(1, 100_000));
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy, digest)
}

fn limits(proxy: &Proxy) -> serde_json::Value {
    let answer = http::get(proxy.admin(), "/api/v1/limits");
    assert_eq!(answer.status, 200);
    serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()["registries"][0].clone()
}

#[test]
fn the_pull_limit_is_shown_to_the_operator_and_to_no_client() {
    let (upstream, proxy, _) = start();
    assert_eq!(limits(&proxy)["pull_limit"], serde_json::Value::Null);
    upstream.rule(|_, answer| counted(answer, 76));
    for answer in [proxy.get("/v2/app/manifests/1"), proxy.head("/v2/app/manifests/1")] {
        assert_eq!(answer.status, 200);
        assert!(!format!("{:?}", answer.headers).contains("ratelimit"), "{:?}", answer.headers);
    }
    let shown = limits(&proxy);
    let read = &shown["pull_limit"];
    assert_eq!((&read["limit"], &read["remaining"]), (&100.into(), &76.into()), "{shown}");
    assert_eq!((&read["window_seconds"], &read["source"]), (&21600.into(), &"c4nary-account".into()));
    assert_eq!(proxy.metric("transship_upstream_pull_limit"), 100.0);
    assert_eq!(proxy.metric("transship_upstream_pulls_remaining"), 76.0);
    assert!(!proxy.log().contains("c4nary-account"));
    assert_eq!(shown["endpoints"][0]["left_alone"], false);
}

#[test]
fn the_last_pulls_are_spared_and_what_counts_as_the_last_is_configured() {
    for (keys, at_ten) in [("", true), ("rate_limit_reserve = \"5%\"", false), ("rate_limit_reserve = \"0%\"", false)] {
        let upstream = Upstream::start();
        upstream.image("app", "1", &[]);
        let proxy =
            Setup::new().registry("sample", &upstream, &format!("default = true\ntag_ttl = \"0s\"\n{keys}")).start();
        for (remaining, sparing) in [(76, false), (10, at_ten)] {
            upstream.clear_rules();
            upstream.rule(move |_, answer| counted(answer, remaining));
            assert_eq!(proxy.head("/v2/app/manifests/1").status, 200);
            assert_eq!(limits(&proxy)["sparing"], sparing, "{keys} {remaining}");
        }
    }
}

#[test]
fn of_the_last_pulls_none_is_spent_on_a_tag_that_can_be_answered() {
    let upstream = Upstream::start();
    let first = upstream.image("app", "1", &[]);
    let proxy = Setup::new().registry("sample", &upstream, "default = true\ntag_ttl = \"0s\"").start();
    assert_eq!(proxy.get("/v2/app/manifests/1").body, first);
    upstream.rule(|_, answer| counted(answer, 10));
    assert_eq!(proxy.head("/v2/app/manifests/1").status, 200);
    let moved = upstream.image("app", "1", &[b"another"]);
    upstream.forget();
    let answer = proxy.get("/v2/app/manifests/1");
    assert!(answer.body == first && answer.header("warning").unwrap().contains("rate limit"));
    assert_eq!(upstream.count("GET", "/manifests/"), 0);
    upstream.image("app", "2", &[]);
    assert_eq!(proxy.get("/v2/app/manifests/2").status, 200, "what is not cached is what the rest is for");
    upstream.clear_rules();
    upstream.rule(|_, answer| counted(answer, 90));
    assert!(eventually(|| proxy.get("/v2/app/manifests/1").body == moved), "when there are pulls again");
}

#[test]
fn when_no_pull_is_left_no_manifest_is_asked_for_and_everything_else_goes_on() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/manifests/", |_, _| counted(no_pull_left(), 0));
    let first = proxy.get("/v2/app/manifests/1");
    assert_eq!(first.verdict(), (429, "TOOMANYREQUESTS".into()));
    assert!(!String::from_utf8_lossy(&first.body).contains("docker.com"), "upstream's words are its own");
    for n in 0..5 {
        let again = proxy.get(&format!("/v2/app/manifests/{n}"));
        assert_eq!(again.status, 429);
        let wait: u64 = again.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    assert_eq!(upstream.count("GET", "/manifests/"), 1, "each would only be counted too");
    assert_eq!(proxy.head("/v2/app/manifests/1").status, 200, "a HEAD is no pull");
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    let shown = limits(&proxy);
    assert_eq!((&shown["pull_limit_reached"], &shown["other_limit_reached"]), (&1.into(), &0.into()));
}

#[test]
fn the_limit_for_asking_too_fast_is_another_one() {
    let (upstream, proxy, _) = start();
    upstream.first(1, "HEAD", "/manifests/", |_, _| Answer::status(429).body("Too Many Requests"));
    assert_eq!(proxy.head("/v2/app/manifests/1").status, 429);
    let shown = limits(&proxy);
    assert_eq!((&shown["pull_limit_reached"], &shown["other_limit_reached"]), (&0.into(), &1.into()));
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200, "pulls go on");
}

#[test]
fn after_the_time_that_upstream_asks_for_it_is_asked_again() {
    let (upstream, proxy, _) = start();
    upstream.first(1, "GET", "/manifests/", |_, _| no_pull_left().header("Retry-After", "2"));
    assert_eq!(proxy.get("/v2/app/manifests/1").header("retry-after"), Some("2"));
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 429);
    assert_eq!(upstream.count("GET", "/manifests/"), 1);
    assert!(eventually(|| proxy.get("/v2/app/manifests/1").status == 200));
    assert_eq!(upstream.count("GET", "/manifests/"), 2);
}

#[test]
fn a_blob_whose_upstream_wants_an_hour_is_refused_at_once() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |_, _| Answer::status(429).header("Retry-After", "3600"));
    let begun = Instant::now();
    let answer = proxy.get(&format!("/v2/app/blobs/{digest}"));
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("3600")));
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[test]
fn all_transfers_of_a_registry_together_stay_within_its_bandwidth_and_cached_content_does_not() {
    let upstream = Upstream::start();
    let digests: Vec<_> = (0..4).map(|n| upstream.blob("app", &noise(10 + n, 500_000))).collect();
    let proxy = Setup::new().registry("sample", &upstream, "default = true\nmax_bandwidth = \"1MB/s\"").start();
    let all = || {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for digest in &digests {
                let proxy = &proxy;
                scope.spawn(move || proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest));
            }
        });
        begun.elapsed()
    };
    // 2 MB, of which the last piece of each is not waited for.
    let cold = all();
    assert!(cold >= Duration::from_millis(1300), "{cold:?}");
    proxy.wait_for_blobs(4);
    upstream.forget();
    all();
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn i2_a_client_with_many_downloads_leaves_room_for_the_others() {
    let upstream = Upstream::start();
    let digests: Vec<_> = (0..4).map(|n| upstream.blob("app", &noise(20 + n, 300_000))).collect();
    let token = "a-token-of-the-other";
    let hash = sha256(token.as_bytes()).replace("sha256:", "");
    let client = format!("[[client]]\nname = \"other\"\ntoken_hash = \"{hash}\"\ngrants = [\"sample/**\"]\n");
    let limits = "[limits]\nmax_fills_per_client = 2\n";
    let proxy = Setup::open(&upstream).text(&client).sections(limits).start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(150_000, Event::Wait(closed.clone())));
    let target = |n: usize| format!("/v2/app/blobs/{}", digests[n]);
    let begun: Vec<_> = (0..2).map(|n| http::open(proxy.address(), "GET", &target(n), &[])).collect();
    let refused = proxy.get(&target(2));
    assert_eq!(refused.verdict(), (429, "TOOMANYREQUESTS".into()));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(upstream.count("GET", &digests[2]), 0);
    // To follow is free, and another client has its own share.
    let follower = http::open(proxy.address(), "GET", &target(0), &[]);
    assert_eq!(follower.head.status, 200);
    let bearer = format!("Bearer {token}");
    let other = http::open(proxy.address(), "GET", &target(3), &[("Authorization", bearer.as_str())]);
    assert_eq!(other.head.status, 200);
    gate.open();
    for (exchange, n) in begun.into_iter().zip(0..).chain([(follower, 0), (other, 3)]) {
        exchange.finish().assert_content(&digests[n]);
    }
    assert!(eventually(|| proxy.get(&target(2)).status == 200), "what ends makes room");
}

#[test]
fn one_client_never_has_all_connections_to_a_registry() {
    let upstream = Upstream::start();
    let digests: Vec<_> = (0..6).map(|n| upstream.blob("app", &noise(30 + n, 3_000_000))).collect();
    let token = "a-token-of-the-other";
    let hash = sha256(token.as_bytes()).replace("sha256:", "");
    let client = format!("[[client]]\nname = \"other\"\ntoken_hash = \"{hash}\"\ngrants = [\"sample/**\"]\n");
    let proxy = Setup::new().registry("sample", &upstream, "default = true\nmax_connections = 4").text(&client).start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(2_000_000, Event::Wait(closed.clone())));
    let target = |n: usize| format!("/v2/app/blobs/{}", digests[n]);
    std::thread::scope(|scope| {
        let mine: Vec<_> = (0..5)
            .map(|n| {
                let (proxy, target, digest) = (&proxy, target(n), &digests[n]);
                scope.spawn(move || proxy.get(&target).assert_content(digest))
            })
            .collect();
        // Three of four are held; two more have shown that they are large.
        assert!(eventually(|| upstream.count("GET", "/blobs/") == 5));
        let bearer = format!("Bearer {token}");
        let other = http::open(proxy.address(), "GET", &target(5), &[("Authorization", bearer.as_str())]);
        assert_eq!(other.head.status, 200, "the fourth is for others");
        assert_eq!(upstream.count("GET", "/blobs/"), 6);
        gate.open();
        other.finish().assert_content(&digests[5]);
        mine.into_iter().for_each(|mine| mine.join().unwrap());
    });
}
