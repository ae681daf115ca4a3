//! What each client does with each error answer of a registry or mirror: how
//! often it asks, how long it goes on, where it turns then, what it says.
//!
//! The table in `docs/errors.md` is what this prints:
//!
//! ```text
//! cargo test --test promises -- --ignored --nocapture what_clients_do
//! ```

use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use crate::support::process::Outcome;
use crate::support::real::available;
use crate::support::real::containerd::Containerd;
use crate::support::real::dockerd::Docker;
use crate::support::real::images::{Flavour, Image, app};
use crate::support::real::podman::Podman;
use crate::support::real::skopeo::Skopeo;
use crate::support::upstream::{Answer, Event, Upstream};

/// The registry that a client turns to after its mirror.
const BEHIND: &str = "registry.example";

/// One answer, in place of the content.
#[derive(Clone, Copy)]
struct Trouble {
    name: &'static str,
    status: u16,
    code: &'static str,
    retry_after: Option<u32>,
}

const fn trouble(name: &'static str, status: u16, code: &'static str) -> Trouble {
    Trouble { name, status, code, retry_after: None }
}

const TROUBLES: [Trouble; 11] = [
    trouble("401", 401, "UNAUTHORIZED"),
    trouble("403", 403, "DENIED"),
    trouble("404", 404, "UNKNOWN"),
    trouble("429", 429, "TOOMANYREQUESTS"),
    Trouble { retry_after: Some(3), ..trouble("429, Retry-After: 3", 429, "TOOMANYREQUESTS") },
    trouble("500", 500, "UNAVAILABLE"),
    trouble("502", 502, "UNAVAILABLE"),
    trouble("503", 503, "UNAVAILABLE"),
    Trouble { retry_after: Some(3), ..trouble("503, Retry-After: 3", 503, "UNAVAILABLE") },
    trouble("504", 504, "UNAVAILABLE"),
    // Not an answer: the connection is reset in the middle of the body.
    trouble("reset", 0, ""),
];

/// What of the image is in trouble.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Manifest,
    Layer,
}

/// The times at which a mirror was asked for what is in trouble.
type Asked = Arc<Mutex<Vec<Instant>>>;

fn registry(image: &Image) -> Upstream {
    let upstream = Upstream::start();
    for blob in &image.blobs {
        upstream.blob_as("team/app", &blob.digest, &blob.bytes);
    }
    upstream.manifest("team/app", "1", image.manifest.media_type, &image.manifest.bytes);
    upstream
}

/// Brings `of` into `trouble`.
fn spoil(upstream: &Upstream, image: &Image, of: Of, trouble: Trouble) -> Asked {
    let asked = Asked::default();
    let times = Arc::clone(&asked);
    let (part, middle) = match of {
        Of::Manifest => ("/manifests/".to_owned(), image.manifest.bytes.len() / 2),
        // The large one.
        Of::Layer => (format!("/blobs/{}", image.blobs[2].digest), image.blobs[2].bytes.len() / 2),
    };
    let code = match (trouble.code, of) {
        ("UNKNOWN", Of::Manifest) => "MANIFEST_UNKNOWN",
        ("UNKNOWN", Of::Layer) => "BLOB_UNKNOWN",
        (code, _) => code,
    };
    upstream.rule(move |request, answer| {
        if !request.target.contains(&part) || !matches!(answer.status, 200 | 206) {
            return answer;
        }
        times.lock().unwrap().push(Instant::now());
        if trouble.status == 0 {
            return answer.at(middle.saturating_sub(request.range_start().unwrap_or(0)), Event::Reset);
        }
        let document = json!({"errors": [{"code": code, "message": "the words of the mirror"}]});
        let answer = Answer::status(trouble.status).header("Content-Type", "application/json");
        let answer = match trouble.retry_after {
            Some(seconds) => answer.header("Retry-After", seconds.to_string()),
            None => answer,
        };
        answer.body(document.to_string())
    });
    asked
}

/// Pulls, and gives the line of the table.
fn measure(
    client: &str,
    (of, trouble): (Of, Trouble),
    mirror: (&Upstream, &Image),
    pull: impl FnOnce() -> Outcome,
) -> String {
    mirror.0.clear_rules();
    let asked = spoil(mirror.0, mirror.1, of, trouble);
    let begun = Instant::now();
    let outcome = pull();
    let took = begun.elapsed().as_secs_f64();
    let asked = asked.lock().unwrap();
    let at_it = match (asked.first(), asked.last()) {
        (Some(first), Some(last)) => last.duration_since(*first).as_secs_f64(),
        _ => 0.0,
    };
    let said = format!("{}\n{}", outcome.text(), outcome.stderr);
    let said = if outcome.ok { "pulled" } else { said.trim().lines().last().unwrap_or_default() };
    let mut said = said.replace('|', "\\|");
    if let Some(cut) = said.char_indices().nth(300).map(|(at, _)| at) {
        said.truncate(cut);
    }
    let part = if of == Of::Manifest { "manifest" } else { "layer" };
    let line = format!("| {client} | {part} | {} | {} | {at_it:.1} | {took:.1} | {said} |", trouble.name, asked.len());
    println!("{line}");
    line
}

fn rows() -> impl Iterator<Item = (Of, Trouble)> {
    [Of::Manifest, Of::Layer].into_iter().flat_map(|of| TROUBLES.map(|trouble| (of, trouble)))
}

fn docker(name: &str, image: &Image, is_mirror: bool) -> Vec<String> {
    let mirror = registry(image);
    let settings = if is_mirror { json!({"registry-mirrors": [mirror.origin()]}) } else { json!({}) };
    let reference = if is_mirror { "team/app:1".to_owned() } else { format!("{}/team/app:1", mirror.address()) };
    let docker = Docker::start(&settings);
    rows().map(|row| measure(name, row, (&mirror, image), || docker.docker(&["pull", "--quiet", &reference]))).collect()
}

fn containerd(image: &Image) -> Vec<String> {
    let (mirror, behind) = (registry(image), registry(image));
    rows()
        .map(|row| {
            let containerd = Containerd::start();
            containerd.mirror_before(BEHIND, &mirror.origin(), &behind.origin());
            let reference = format!("{BEHIND}/team/app:1");
            measure("containerd 1.6, mirror", row, (&mirror, image), || containerd.pull(&reference, &[]))
        })
        .collect()
}

fn podman(image: &Image) -> Vec<String> {
    let (mirror, behind) = (registry(image), registry(image));
    rows()
        .map(|row| {
            let podman = Podman::new(&format!(
                "[[registry]]\nprefix = '{BEHIND}'\nlocation = '{}'\ninsecure = true\n\
                 [[registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
                behind.address(),
                mirror.address()
            ));
            let pull = || podman.podman(&["pull", "--quiet", &format!("{BEHIND}/team/app:1")]);
            measure("podman 4.3, mirror", row, (&mirror, image), pull)
        })
        .collect()
}

fn skopeo(image: &Image) -> Vec<String> {
    let registry = registry(image);
    let reference = format!("{}/team/app:1", registry.address());
    rows()
        .map(|row| measure("skopeo 1.9, direct", row, (&registry, image), || Skopeo::new().copy(&reference, &[]).0))
        .collect()
}

#[test]
#[ignore = "measures the clients, not the proxy; takes minutes"]
fn what_clients_do_with_each_answer() {
    if !available() {
        return;
    }
    let image = app(Flavour::Docker);
    let tables = std::thread::scope(|scope| {
        let image = &image;
        let clients = [
            scope.spawn(move || docker("docker 20.10, mirror", image, true)),
            scope.spawn(move || docker("docker 20.10, direct", image, false)),
            scope.spawn(move || containerd(image)),
            scope.spawn(move || podman(image)),
            scope.spawn(move || skopeo(image)),
        ];
        clients.map(|client| client.join().unwrap())
    });
    println!("\n| client | of | answer | asked | for s | pull took s | end |\n|---|---|---|---|---|---|---|");
    for line in tables.iter().flatten() {
        println!("{line}");
    }
    assert!(tables.iter().all(|lines| lines.len() == 2 * TROUBLES.len()));
}
