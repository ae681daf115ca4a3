//! Lost, short, long, wrong, slow and stalled bytes, at every place of a blob
//! where something changes: the client gets all of it, or learns that it did
//! not.

use std::sync::Arc;
use std::time::Duration;

use crate::support::digest::{noise, sha256};
use crate::support::http::Response;
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Answer, Event, Gate, Length, Upstream};

const SIZE: usize = 2_500_000;
/// What is held back until the digest is known to be right.
const HELD_BACK: usize = 64 * 1024;
/// First and last bytes, and both sides of what is held back.
const PLACES: [usize; 8] =
    [0, 1, SIZE / 2, SIZE - HELD_BACK - 1, SIZE - HELD_BACK, SIZE - HELD_BACK + 1, SIZE - 1, SIZE];

/// Pulls a blob for each place, the first answer for it being changed by `spoil`; gives what came.
fn pull_each(spoil: impl Fn(usize, Answer) -> Answer + Send + Sync + 'static) -> (Proxy, Upstream, Vec<Response>) {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections("[limits]\nupstream_idle_timeout = \"1s\"\n").start();
    let spoil = Arc::new(spoil);
    let digests = PLACES.map(|place| {
        let digest = upstream.blob("app", &noise(place as u64, SIZE));
        let spoil = Arc::clone(&spoil);
        upstream.first(1, "GET", digest.clone(), move |_, answer| spoil(place, answer));
        digest
    });
    let answers = std::thread::scope(|scope| {
        let pulls = digests.map(|digest| {
            let proxy = &proxy;
            scope.spawn(move || proxy.get(&format!("/v2/app/blobs/{digest}")))
        });
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    (proxy, upstream, answers)
}

/// Everybody has everything, and nothing was asked for more than twice.
#[track_caller]
fn assert_healed((proxy, upstream, answers): (Proxy, Upstream, Vec<Response>)) {
    for (place, answer) in PLACES.into_iter().zip(answers) {
        let digest = sha256(&noise(place as u64, SIZE));
        assert!(answer.complete, "{place}: the body ended after {} bytes", answer.body.len());
        answer.assert_content(&digest);
        assert!(upstream.count("GET", &digest) <= 2, "{place}");
    }
    proxy.wait_for_blobs(PLACES.len());
    proxy.assert_cache_is_sound();
}

#[test]
fn lost_bytes_are_asked_for_again() {
    assert_healed(pull_each(|place, answer| answer.at(place, Event::Reset)));
}

#[test]
fn short_bodies_are_continued() {
    assert_healed(pull_each(|place, answer| answer.at(place, Event::Close)));
}

#[test]
fn slow_bytes_are_waited_for() {
    assert_healed(pull_each(|place, answer| answer.at(place, Event::Sleep(Duration::from_millis(500)))));
}

#[test]
fn stalled_bytes_are_asked_for_elsewhere() {
    let never = Gate::new();
    let gate = never.clone();
    assert_healed(pull_each(move |place, answer| {
        // Behind the last byte nobody waits, and the connection would be used again.
        if place < SIZE { answer.at(place, Event::Wait(gate.clone())) } else { answer }
    }));
    never.open();
}

#[test]
fn bytes_beyond_the_end_are_not_part_of_the_content() {
    assert_healed(pull_each(|place, mut answer| {
        answer.length = Length::Claimed(SIZE as u64);
        answer.body.extend(noise(99, place + 1));
        answer
    }));
}

#[test]
fn a_length_that_is_wrong_never_completes_and_is_not_kept() {
    let (proxy, _upstream, answers) = pull_each(|place, mut answer| {
        // All but the full length are announced and sent in full.
        answer.body.truncate(place);
        if place == SIZE {
            answer.body.push(0);
        }
        answer
    });
    for (place, answer) in PLACES.into_iter().zip(answers) {
        let right = sha256(&answer.body) == sha256(&noise(place as u64, SIZE));
        assert!(answer.status >= 500 || !answer.complete || right, "{place}: {} bytes", answer.body.len());
    }
    proxy.assert_cache_is_sound();
}

#[test]
fn wrong_bytes_never_complete_and_are_not_kept() {
    let (proxy, upstream, answers) = pull_each(|place, answer| if place < SIZE { answer.flip(place) } else { answer });
    for (place, answer) in PLACES.into_iter().zip(answers) {
        if place < SIZE {
            assert!(!answer.complete && answer.body.len() <= SIZE - HELD_BACK, "{place}: {}", answer.body.len());
        }
        let digest = sha256(&noise(place as u64, SIZE));
        proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
        assert_eq!(upstream.count("GET", &digest), if place < SIZE { 2 } else { 1 }, "{place}");
    }
    proxy.wait_for_blobs(PLACES.len());
    proxy.assert_cache_is_sound();
}

#[test]
fn wrong_bytes_behind_a_break_never_complete_either() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    for place in [SIZE / 2, SIZE - HELD_BACK, SIZE - 1] {
        let digest = upstream.blob("app", &noise(place as u64, SIZE));
        upstream.on("GET", digest.clone(), move |request, answer| match request.range_start() {
            None | Some(0) => answer.at(SIZE / 3, Event::Reset),
            Some(start) => answer.flip(place - start),
        });
        let target = format!("/v2/app/blobs/{digest}");
        assert!(!proxy.get(&target).complete, "{place}");
        assert_eq!(proxy.blobs().len(), 0);
        upstream.clear_rules();
        proxy.get(&target).assert_content(&digest);
        proxy.wait_for_blobs(1);
        std::fs::remove_file(proxy.blobs().pop().unwrap()).unwrap();
    }
}
