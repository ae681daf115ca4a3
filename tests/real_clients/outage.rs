//! An outage, with real clients that go on pulling: upstream works, answers
//! nothing but errors, is gone, has no pulls left, and works again. What each
//! client saw and how long it waited is the table in `docs/errors.md`:
//!
//! ```text
//! cargo test --test promises -- --ignored --nocapture an_outage_as_clients_see_it
//! ```

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::process::Outcome;
use crate::support::proxy::{Proxy, Setup};
use crate::support::real::available;
use crate::support::real::containerd::Containerd;
use crate::support::real::dockerd::Docker;
use crate::support::real::images::{Flavour, Image, unique};
use crate::support::real::podman::Podman;
use crate::support::real::skopeo::Skopeo;
use crate::support::upstream::{Answer, Upstream};

const PHASES: [&str; 5] = ["works", "answers 503", "is gone", "has no pulls left", "works again"];
const CLIENTS: [&str; 4] = ["docker 20.10", "containerd 1.6", "podman 4.3", "skopeo 1.9"];
const WHAT: [&str; 3] = ["pulled before, by tag", "pulled before, by digest", "never pulled"];

fn add(upstream: &Upstream, repository: &str, image: &Image) {
    for blob in &image.blobs {
        upstream.blob_as(repository, &blob.digest, &blob.bytes);
    }
    upstream.manifest(repository, "1", image.manifest.media_type, &image.manifest.bytes);
}

fn enter(upstream: &Upstream, phase: usize) {
    upstream.clear_rules();
    match phase {
        1 => upstream.rule(|_, _| Answer::status(503)),
        2 => upstream.rule(|_, _| Answer::raw("")),
        3 => upstream.on("GET", "/manifests/", |_, _| {
            let words = "You have reached your pull rate limit.";
            let document = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": words}]});
            let answer = Answer::status(429).header("ratelimit-limit", "100;w=21600");
            let answer = answer.header("ratelimit-remaining", "0;w=21600").header("Retry-After", "3");
            answer.header("Content-Type", "application/json").body(document.to_string())
        }),
        _ => {}
    }
}

/// Pulls as a machine would that has nothing yet.
fn pull(client: usize, docker: &Docker, proxy: &Proxy, image: &str) -> Outcome {
    let reference = format!("{}/sample/{image}", proxy.address());
    match client {
        0 => {
            let outcome = docker.docker(&["pull", "--quiet", &reference]);
            if outcome.ok {
                docker.remove(&reference);
            }
            outcome
        }
        1 => {
            let containerd = Containerd::start();
            containerd.mirror(&proxy.address().to_string(), &format!("http://{}", proxy.address()));
            containerd.pull(&reference, &[])
        }
        2 => {
            let registry = format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", proxy.address());
            Podman::new(&registry).podman(&["pull", "--quiet", &reference])
        }
        _ => Skopeo::new().copy(&reference, &[]).0,
    }
}

#[test]
#[ignore = "measures; takes minutes"]
fn an_outage_as_clients_see_it() {
    if !available() {
        return;
    }
    let upstream = Upstream::start();
    let old = unique(Flavour::Docker, "pulled before");
    add(&upstream, "old", &old);
    for phase in 0..PHASES.len() {
        for client in 0..CLIENTS.len() {
            let image = unique(Flavour::Docker, &format!("new in phase {phase} for {client}"));
            add(&upstream, &format!("new-{phase}-{client}"), &image);
        }
    }
    let proxy = Setup::open(&upstream).start();
    let docker = Docker::start(&json!({}));
    let mut rows = Vec::new();
    for (phase, name) in PHASES.into_iter().enumerate() {
        enter(&upstream, phase);
        if phase > 0 {
            // As long as it is left alone at the most: each phase is seen as it is.
            std::thread::sleep(Duration::from_secs(6));
        }
        let seen = std::thread::scope(|scope| {
            let (proxy, docker, digest) = (&proxy, &docker, &old.manifest.digest);
            let clients = [0, 1, 2, 3].map(|client| {
                scope.spawn(move || {
                    let images = ["old:1".to_owned(), format!("old@{digest}"), format!("new-{phase}-{client}:1")];
                    images.map(|image| {
                        let begun = Instant::now();
                        let outcome = pull(client, docker, proxy, &image);
                        let said = format!("{}\n{}", outcome.text(), outcome.stderr);
                        let last = said.trim().lines().last().unwrap_or_default().to_owned();
                        (outcome.ok, begun.elapsed().as_secs_f64(), last)
                    })
                })
            });
            clients.map(|client| client.join().unwrap())
        });
        for (what, kind) in WHAT.into_iter().enumerate() {
            let cells = seen.iter().map(|client| {
                let (ok, took, _) = &client[what];
                format!(" {} {took:.1} s |", if *ok { "pulled," } else { "refused," })
            });
            rows.push(format!("| {name} | {kind} |{}", cells.collect::<String>()));
        }
        for (client, seen) in CLIENTS.iter().zip(&seen) {
            for (ok, took, said) in seen {
                println!("{name}: {client}: {ok} after {took:.1} s: {said}");
            }
        }
        assert!(!matches!(phase, 0 | 4) || seen.iter().flatten().all(|(ok, ..)| *ok), "upstream {name}");
        assert!(seen.iter().all(|client| client[1].0), "a digest that is cached never waits for upstream");
    }
    println!("\n| upstream | image | {} |\n|---|---|{}", CLIENTS.join(" | "), "---|".repeat(CLIENTS.len()));
    rows.iter().for_each(|row| println!("{row}"));
}
