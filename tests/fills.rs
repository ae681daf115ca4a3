//! One transfer from upstream for any number of clients, which begins at once,
//! survives their leaving and continues where upstream breaks it.

use std::time::{Duration, Instant};

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Event, Gate, Guard, Upstream};

const SIZE: usize = 4_000_000;

fn start() -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy, digest)
}

/// As [`start`], with a proxy that gives a stall one second. Only for tests in
/// which upstream stalls: on a busy machine a second passes by itself, and
/// what counts questions would count one too many.
fn start_impatient() -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    let proxy = Setup::open(&upstream).sections("[limits]\nupstream_idle_timeout = \"1s\"\n").start();
    (upstream, proxy, digest)
}

fn target(digest: &str) -> String {
    format!("/v2/app/blobs/{digest}")
}

#[test]
fn the_first_bytes_reach_every_client_before_upstream_has_sent_the_rest() {
    let (upstream, proxy, digest) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let mut clients: Vec<_> = (0..8).map(|_| http::open(proxy.address(), "GET", &target(&digest), &[])).collect();
    let expected = noise(1, SIZE);
    for client in &mut clients {
        assert_eq!(client.head.status, 200);
        assert_eq!(client.read(SIZE / 2), expected[..SIZE / 2]);
    }
    gate.open();
    for client in clients {
        let rest = client.finish();
        assert!(rest.complete && rest.body == expected[SIZE / 2..]);
    }
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[test]
fn a_hundred_clients_cost_one_transfer() {
    let (upstream, proxy, digest) = start();
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| proxy.get(&target(&digest)).assert_content(&digest));
        }
    });
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
    assert_eq!(upstream.count("HEAD", "/blobs/"), 0, "the transfer itself shows that all of them may read it");
    assert_eq!(proxy.wait_for_blobs(1), 1);
}

#[test]
fn f30_a_thousand_clients_of_one_cold_blob_cost_one_transfer_and_little_memory() {
    use sha2::Digest as _;
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    // So many clients may take longer to come than a stall is given elsewhere.
    let proxy = Setup::open(&upstream).start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let mut clients: Vec<_> = (0..1000).map(|_| http::open(proxy.address(), "GET", &target(&digest), &[])).collect();
    gate.wait_until_reached();
    gate.open();
    std::thread::scope(|scope| {
        for some in clients.chunks_mut(50) {
            scope.spawn(|| {
                for client in some {
                    let mut hasher = sha2::Sha256::new();
                    loop {
                        let part = client.read(256 * 1024);
                        if part.is_empty() {
                            break;
                        }
                        hasher.update(part);
                    }
                    assert_eq!(format!("sha256:{}", hex::encode(hasher.finalize())), digest);
                }
            });
        }
    });
    let memory = proxy.private_memory();
    assert!(memory < 300 * 1024, "{memory} KiB");
    assert_eq!((upstream.count("GET", "/blobs/"), upstream.count("HEAD", "/blobs/")), (1, 0));
}

#[test]
fn a_second_pull_asks_upstream_for_nothing() {
    let (upstream, proxy, digest) = start();
    proxy.get(&target(&digest)).assert_content(&digest);
    upstream.forget();
    proxy.get(&target(&digest)).assert_content(&digest);
    assert_eq!(proxy.head(&target(&digest)).header("content-length"), Some(SIZE.to_string().as_str()));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn f17_resets_anywhere_are_healed_by_asking_for_the_rest() {
    for at in [0, 1, SIZE / 2, SIZE - 1] {
        let (upstream, proxy, digest) = start();
        upstream.first(1, "GET", "/blobs/", move |_, answer| answer.at(at, Event::Reset));
        proxy.get(&target(&digest)).assert_content(&digest);
        assert!(upstream.count("GET", "/blobs/") >= 2);
    }
}

#[test]
fn f17_twenty_resets_in_one_transfer_cost_little_more_than_the_content() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |_, answer| {
        // Each answer brings a twentieth of the whole.
        let at = answer.body.len().min(SIZE / 20);
        if at == answer.body.len() {
            return answer;
        }
        // A reset takes with it what has not been read yet.
        answer.at(at, Event::Sleep(Duration::from_millis(100))).at(at, Event::Reset)
    });
    proxy.get(&target(&digest)).assert_content(&digest);
    let mut asked: Vec<_> = upstream.requests().iter().map(|request| request.range_start().unwrap_or(0)).collect();
    asked.dedup();
    let again: usize = asked.windows(2).map(|pair| (pair[0] + SIZE / 20).saturating_sub(pair[1])).sum();
    assert!(again <= 20 * 64 * 1024, "{again} bytes were sent twice: {asked:?}");
}

#[test]
fn f20_a_transfer_that_stalls_is_continued_elsewhere() {
    let (upstream, proxy, digest) = start_impatient();
    let never = Gate::new();
    let closed = never.clone();
    upstream.first(1, "GET", "/blobs/", move |_, answer| answer.at(SIZE / 3, Event::Wait(closed.clone())));
    let begun = Instant::now();
    proxy.get(&target(&digest)).assert_content(&digest);
    assert!(begun.elapsed() >= Duration::from_millis(900), "the time a stall is given is configured");
    assert_eq!(upstream.requests().last().unwrap().range_start(), Some(SIZE / 3));
    never.open();
}

#[test]
fn f21_trouble_of_upstream_is_tried_again_before_a_client_hears_of_it() {
    for status in [500, 502, 503, 504, 429] {
        let (upstream, proxy, digest) = start();
        upstream.first(2, "GET", "/blobs/", move |_, _| Answer::status(status));
        proxy.get(&target(&digest)).assert_content(&digest);
        assert_eq!(upstream.count("GET", "/blobs/"), 3);
    }
}

#[test]
fn f24_a_token_that_expires_in_the_middle_is_renewed_and_the_transfer_goes_on() {
    let (upstream, proxy, digest) = {
        let upstream = Upstream::start();
        upstream.guard(Guard::Token);
        let digest = upstream.blob("app", &noise(1, SIZE));
        (upstream.clone(), Setup::stored(&upstream).start(), digest)
    };
    let gate = Gate::new();
    let closed = gate.clone();
    // The first answer with content: the very first one is the challenge.
    upstream.first(2, "GET", "/blobs/", move |_, answer| {
        if answer.status != 200 {
            return answer;
        }
        answer.at(SIZE / 2, Event::Wait(closed.clone())).at(SIZE / 2, Event::Close)
    });
    let client = http::open(proxy.address(), "GET", &target(&digest), &[]);
    gate.wait_until_reached();
    upstream.revoke_tokens();
    gate.open();
    client.finish().assert_content(&digest);
    assert_eq!(upstream.count("GET", "/token"), 2);
    let last = upstream.requests().last().unwrap().clone();
    assert_eq!(last.range_start(), Some(SIZE / 2));
}

#[test]
fn f25_an_address_that_expires_in_the_middle_is_asked_for_again() {
    let (upstream, storage) = (Upstream::start(), Upstream::start());
    let bytes = noise(1, SIZE);
    let digest = upstream.blob("app", &bytes);
    storage.blob("app", &bytes);
    upstream.redirect_blobs(&storage);
    storage.first(1, "GET", "/storage/", |_, answer| answer.at(SIZE / 2, Event::Reset));
    let asked = std::sync::atomic::AtomicUsize::new(0);
    storage.on("GET", "/storage/", move |_, answer| {
        // The second use finds the signature expired.
        if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 { Answer::status(403) } else { answer }
    });
    let keys = format!("default = true\nredirect_origins = [\"{}\"]", storage.origin());
    let proxy = Setup::new().registry("sample", &upstream, &keys).start();
    proxy.get(&target(&digest)).assert_content(&digest);
    assert_eq!(upstream.count("GET", "/blobs/"), 3, "each try begins at the registry");
}

#[test]
fn f27_the_client_that_began_a_transfer_may_leave() {
    let (upstream, proxy, digest) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let mut first = http::open(proxy.address(), "GET", &target(&digest), &[]);
    first.read(1000);
    gate.wait_until_reached();
    let others: Vec<_> = (0..10).map(|_| http::open(proxy.address(), "GET", &target(&digest), &[])).collect();
    drop(first);
    gate.open();
    for other in others {
        other.finish().assert_content(&digest);
    }
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[test]
fn f28_a_transfer_that_nobody_follows_any_more_is_finished_when_little_is_left() {
    let (upstream, proxy, digest) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let mut client = http::open(proxy.address(), "GET", &target(&digest), &[]);
    client.read(1000);
    gate.wait_until_reached();
    drop(client);
    gate.open();
    assert_eq!(proxy.wait_for_blobs(1), 1);
    upstream.forget();
    proxy.get(&target(&digest)).assert_content(&digest);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn what_upstream_does_not_have_is_told_as_such_and_asked_again_later() {
    let (upstream, proxy, _) = start();
    let bytes = noise(9, 1000);
    let digest = crate::support::digest::sha256(&bytes);
    assert_eq!(proxy.get(&target(&digest)).verdict(), (404, "BLOB_UNKNOWN".into()));
    upstream.blob("app", &bytes);
    assert!(eventually(|| proxy.get(&target(&digest)).status == 200));
}

#[test]
fn a_slow_client_slows_nobody_else() {
    let (upstream, proxy, _) = start();
    let digest = upstream.blob("app", &noise(7, 16 << 20));
    let mut slow = http::open(proxy.address(), "GET", &target(&digest), &[]);
    slow.read(100);
    proxy.get(&target(&digest)).assert_content(&digest);
    assert_eq!(proxy.wait_for_blobs(1), 1, "the transfer does not wait for the slow one");
    assert_eq!(slow.finish().body.len(), (16 << 20) - 100);
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}
