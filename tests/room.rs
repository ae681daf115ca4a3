//! What transfers may take of the disk: as much as has come, and never the
//! place of what is stored for what cannot be kept anyhow.

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Event, Gate, Length, Upstream};

const MIB: usize = 1 << 20;
const SMALL_CACHE: &str = "[cache]\nmax_size = \"200MiB\"\nmin_free = \"0\"\n";

fn pull(proxy: &Proxy, digest: &str) {
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest);
}

/// A proxy with ten stored blobs of 4 MiB.
fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections(SMALL_CACHE).start();
    for n in 0..10 {
        pull(&proxy, &upstream.blob("app", &noise(n, 4 * MIB)));
    }
    proxy.wait_for_blobs(10);
    (upstream, proxy)
}

fn evicted(proxy: &Proxy) -> f64 {
    proxy.metric("transship_evicted_blobs_total")
}

#[test]
fn a_blob_that_is_larger_than_the_cache_passes_through_and_evicts_nothing() {
    let (upstream, proxy) = start();
    let large = upstream.blob("app", &noise(100, 220 * MIB));
    pull(&proxy, &large);
    assert_eq!((proxy.blobs().len(), evicted(&proxy)), (10, 0.0));
    // Where its length shows only as it comes, it might have fitted for a while.
    upstream.on("GET", "/blobs/", |_, mut answer| {
        answer.length = Length::Untold;
        answer
    });
    pull(&proxy, &large);
    assert!(eventually(|| proxy.partials().is_empty()));
    assert!(proxy.blobs().len() <= 10, "it is not kept");
}

#[test]
fn what_upstream_only_claims_to_send_takes_no_room() {
    let (upstream, proxy) = start();
    let digest = upstream.blob("app", &noise(100, MIB));
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, mut answer: Answer| {
        answer.length = Length::Claimed(120 << 20);
        answer.at(1000, Event::Wait(closed.clone()))
    });
    let waiting: Vec<_> =
        (0..1).map(|_| http::open(proxy.address(), "GET", &format!("/v2/app/blobs/{digest}"), &[])).collect();
    upstream.clear_rules();
    // Something else needs room meanwhile, and there is some.
    pull(&proxy, &upstream.blob("app", &noise(101, 4 * MIB)));
    proxy.wait_for_blobs(11);
    assert_eq!(evicted(&proxy), 0.0);
    gate.open();
    drop(waiting);
}

#[test]
fn what_broken_transfers_leave_is_bounded_and_goes_before_what_is_stored() {
    let (upstream, mut proxy) = start();
    upstream.on("GET", "/blobs/", |_, answer| answer.at(12 * MIB, Event::Reset));
    for n in 0..8 {
        let digest = upstream.blob("app", &noise(200 + n, 24 * MIB));
        upstream.on("GET", &digest, |request, answer| {
            if request.range().is_some() { Answer::status(404) } else { answer.at(12 * MIB, Event::Reset) }
        });
        assert!(!proxy.get(&format!("/v2/app/blobs/{digest}")).complete);
    }
    // A quarter of what layers may have.
    let taken = |proxy: &Proxy| -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        proxy.partials().iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
    };
    assert!(eventually(|| taken(&proxy) <= 40 * MIB as u64), "{}", taken(&proxy));
    assert!(taken(&proxy) >= 12 * MIB as u64, "the latest are worth keeping");
    assert_eq!((proxy.blobs().len(), evicted(&proxy)), (10, 0.0));
    // The next process counts them too.
    proxy.restart();
    upstream.clear_rules();
    pull(&proxy, &upstream.blob("app", &noise(300, 80 * MIB)));
    assert!(eventually(|| taken(&proxy) <= 12 * MIB as u64), "{}", taken(&proxy));
    assert_eq!(evicted(&proxy), 0.0);
}
