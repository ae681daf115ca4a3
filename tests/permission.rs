//! A cached blob is served only through a repository whose credential was
//! shown to read it, and only to whoever was granted that (cases C1 to C12).

use crate::support::digest::{noise, sha256};
use crate::support::http::{self, Response};
use crate::support::process::{Outcome, bounded};
use crate::support::proxy::{Proxy, Setup, credential, eventually};
use crate::support::upstream::{Answer, Event, Gate, MANIFEST, Upstream};

const ALICE: &str = "token-of-alice";
const BOB: &str = "token-of-bob";

/// Two tenants, each with a registry and an upstream of its own.
struct Tenants {
    alices: Upstream,
    bobs: Upstream,
    proxy: Proxy,
    digest: String,
}

fn client(name: &str, token: &str, grant: &str) -> String {
    let hash = &sha256(token.as_bytes())["sha256:".len()..];
    format!("[[client]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\ngrants = [\"{grant}\"]\n")
}

fn tenants() -> Tenants {
    let (alices, bobs) = (Upstream::start(), Upstream::start());
    let digest = alices.blob("app", &noise(1, 200_000));
    let proxy = Setup::new()
        .sections("[cache]\nnot_found_ttl = \"50ms\"\n")
        .registry("alices", &alices, &credential())
        .registry("bobs", &bobs, &credential())
        .text(&client("alice", ALICE, "alices/**"))
        .text(&client("bob", BOB, "bobs/**"))
        .start();
    Tenants { alices, bobs, proxy, digest }
}

impl Tenants {
    fn ask(&self, token: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        let bearer = format!("Bearer {token}");
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        http::send(self.proxy.address(), method, target, &all)
    }

    fn alice_pulls(&self) {
        self.ask(ALICE, "GET", &format!("/v2/alices/app/blobs/{}", self.digest), &[]).assert_content(&self.digest);
        self.proxy.wait_for_blobs(1);
    }

    fn bob_asks(&self) -> Response {
        self.ask(BOB, "GET", &format!("/v2/bobs/app/blobs/{}", self.digest), &[])
    }
}

#[test]
fn c1_without_credentials_a_private_registry_challenges_for_everything_cached_or_not() {
    let tenants = tenants();
    let manifest = tenants.alices.image("app", "1", &[]);
    assert_eq!(tenants.ask(ALICE, "GET", "/v2/alices/app/manifests/1", &[]).body, manifest);
    tenants.alice_pulls();
    tenants.alices.forget();
    let digest = &tenants.digest;
    let targets = [
        format!("/v2/alices/app/blobs/{digest}"),
        format!("/v2/alices/app/blobs/{}", sha256(b"unknown")),
        "/v2/alices/app/manifests/1".into(),
        format!("/v2/alices/app/manifests/{}", sha256(&manifest)),
        "/v2/alices/app/tags/list".into(),
        format!("/v2/alices/app/referrers/{digest}"),
        "/v2/nobody/app/manifests/1".into(),
    ];
    for target in targets {
        for method in ["GET", "HEAD"] {
            let answer = http::send(tenants.proxy.address(), method, &target, &[]);
            assert_eq!(answer.status, 401, "{method} {target}");
            assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer realm=")));
            for name in ["etag", "docker-content-digest", "content-range"] {
                assert_eq!(answer.header(name), None, "{target} {name}");
            }
        }
    }
    assert_eq!(tenants.alices.connections(), 0);
}

#[test]
fn c2_malformed_credentials_are_no_credentials() {
    let tenants = tenants();
    tenants.alice_pulls();
    let target = format!("/v2/alices/app/blobs/{}", tenants.digest);
    let long = format!("Bearer {}", "a".repeat(8000));
    for value in ["x", "Basic", "Basic ", "Basic !!!", "Basic YWJj", "Bearer", "Bearer  ", "Digest a=b", &long] {
        let answer = tenants.proxy.get_with(&target, &[("Authorization", value)]);
        assert_eq!(answer.status, 401, "{value:.40}");
    }
    let bearer = format!("Bearer {ALICE}");
    let twice = tenants.proxy.get_with(&target, &[("Authorization", &bearer), ("Authorization", &bearer)]);
    assert_eq!(twice.status, 401);
}

#[test]
fn c5_a_bearer_token_is_believed_for_nothing_that_stands_in_it() {
    let tenants = tenants();
    let target = "/v2/alices/app/manifests/1";
    let part = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    let claims =
        part("{\"sub\":\"alice\",\"access\":[{\"type\":\"repository\",\"name\":\"app\",\"actions\":[\"pull\"]}]}");
    for header in ["{\"alg\":\"none\"}", "{\"alg\":\"HS256\",\"jwk\":{\"kty\":\"oct\",\"k\":\"AA\"}}"] {
        for signature in ["", "AA"] {
            let token = format!("{}.{claims}.{signature}", part(header));
            assert_eq!(tenants.ask(&token, "GET", target, &[]).status, 401, "{header}");
        }
    }
    // Nor for a token of another place, or ours with something added.
    for token in [format!("{ALICE}x"), ALICE.to_uppercase(), format!("{ALICE}\u{e9}"), sha256(ALICE.as_bytes())] {
        assert_eq!(tenants.ask(&token, "GET", target, &[]).status, 401);
    }
    assert_eq!(tenants.alices.connections(), 0);
}

#[test]
fn c6_what_another_registry_cached_has_to_be_shown_by_ones_own_upstream() {
    let tenants = tenants();
    tenants.alice_pulls();
    let answer = tenants.bob_asks();
    assert_eq!(answer.verdict(), (404, "BLOB_UNKNOWN".into()));
    // An upstream that says yes to everything has shown nothing, nor has one that
    // has something else of the same length.
    for lie in [
        Answer::status(200).header("Docker-Content-Digest", &tenants.digest),
        Answer::status(307).header("Location", "/login"),
    ] {
        tenants.bobs.clear_rules();
        tenants.bobs.on("HEAD", "/blobs/", move |_, _| lie.clone());
        assert_eq!(tenants.bob_asks().status, 404);
    }
    tenants.bobs.clear_rules();
    let other = noise(2, 200_000);
    tenants.bobs.on("GET", "/blobs/", move |request, _| match request.range() {
        Some((start, end)) => Answer::status(206)
            .header("Content-Range", format!("bytes {start}-{end}/200000"))
            .body(other[start..=end].to_vec()),
        None => Answer::status(200).body(other.clone()),
    });
    assert_ne!(tenants.bob_asks().status, 200);
    // With the blob in his registry too, a few bytes show it.
    tenants.bobs.clear_rules();
    tenants.bobs.blob("app", &noise(1, 200_000));
    tenants.bobs.forget();
    assert!(crate::support::proxy::eventually(|| tenants.bob_asks().status == 200));
    let asked: Vec<_> = tenants.bobs.requests().iter().filter_map(|request| request.range()).collect();
    assert!(asked.len() >= 2 && asked.iter().all(|(start, end)| end - start < 10_000), "{asked:?}");
    // From then on it is only asked whether he may still have it.
    tenants.bobs.forget();
    assert_eq!(tenants.bob_asks().status, 200);
    assert_eq!(tenants.bobs.count("GET", &tenants.digest), 0);
}

#[test]
fn c7_without_an_answer_from_ones_own_upstream_nothing_is_served() {
    let tenants = tenants();
    tenants.alice_pulls();
    tenants.bobs.rule(|_, _| Answer::status(503));
    let answer = tenants.bob_asks();
    assert!(matches!(answer.status, 502..=504), "{}", answer.status);
    assert!(answer.body.len() < 1000);
}

#[test]
fn c8_a_manifest_that_names_a_private_digest_gives_nobody_the_right_to_it() {
    let tenants = tenants();
    tenants.alice_pulls();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": tenants.digest, "size": 200_000 },
        "layers": [{ "mediaType": "a/b", "digest": tenants.digest, "size": 200_000 }],
    });
    tenants.bobs.manifest("app", "evil", MANIFEST, manifest.to_string().as_bytes());
    assert_eq!(tenants.ask(BOB, "GET", "/v2/bobs/app/manifests/evil", &[]).status, 200);
    assert_eq!(tenants.bob_asks().verdict(), (404, "BLOB_UNKNOWN".into()));
    // Nor does the manifest itself wander from repository to repository.
    let digest = sha256(manifest.to_string().as_bytes());
    assert_eq!(tenants.ask(ALICE, "GET", &format!("/v2/alices/app/manifests/{digest}"), &[]).status, 404);
}

#[test]
fn c9_a_transfer_of_another_registry_is_not_joined_without_permission() {
    let tenants = tenants();
    let gate = Gate::new();
    let closed = gate.clone();
    tenants.alices.on("GET", "/blobs/", move |_, answer| answer.at(100_000, Event::Wait(closed.clone())));
    let bearer = format!("Bearer {ALICE}");
    let target = format!("/v2/alices/app/blobs/{}", tenants.digest);
    let alices = http::open(tenants.proxy.address(), "GET", &target, &[("Authorization", &bearer)]);
    gate.wait_until_reached();
    assert_eq!(tenants.bob_asks().verdict(), (404, "BLOB_UNKNOWN".into()));
    gate.open();
    alices.finish().assert_content(&tenants.digest);
}

/// Alice has the beginning of a blob when her grant is taken away; gives how
/// much she has of how much in the end.
fn alice_loses_her_grant(sections: &str) -> (Proxy, usize, usize) {
    let upstream = Upstream::start();
    // More than the connection holds.
    let length = 48 << 20;
    let digest = upstream.blob("app", &noise(1, length));
    let proxy = Setup::new()
        .sections(sections)
        .registry("alices", &upstream, &credential())
        .text(&client("alice", ALICE, "alices/**"))
        .start();
    let target = format!("/v2/alices/app/blobs/{digest}");
    let bearer = format!("Bearer {ALICE}");
    let headers = [("Authorization", bearer.as_str())];
    http::send(proxy.address(), "GET", &target, &headers).assert_content(&digest);
    let mut running = http::open(proxy.address(), "GET", &target, &headers);
    let begun = running.read(100_000).len();
    let config = proxy.cache().parent().unwrap().join("transship.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("alices/**", "alices/other/**")).unwrap();
    assert_eq!(http::send_json(proxy.admin(), "POST", "/api/v1/reload", "null").status, 200);
    let after = http::send(proxy.address(), "GET", &target, &headers);
    assert_eq!(after.verdict(), (404, "NAME_UNKNOWN".into()));
    (proxy, begun + running.finish().body.len(), length)
}

#[test]
fn c10_a_grant_that_is_removed_ends_with_the_running_response() {
    let (proxy, had, length) = alice_loses_her_grant("");
    assert_eq!(had, length);
    assert!(!proxy.log().contains("\"outcome\":\"cut\""));
}

#[test]
fn c10_with_cut_on_revoke_a_grant_that_is_removed_ends_the_running_response() {
    let (proxy, had, length) = alice_loses_her_grant("[server]\ncut_on_revoke = true\n");
    assert!(had < length / 2, "{had} of {length} bytes went out");
    assert!(proxy.log().contains("\"outcome\":\"cut\""), "{}", proxy.log());
}

/// `transship revoke ARGS…`, at this proxy.
fn revoke(proxy: &Proxy, args: &[&str]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let mut command = bounded(env!("CARGO_BIN_EXE_transship"), home.path());
    Outcome::of(command.arg("revoke").env("TRANSSHIP_ADMIN_SOCKET", proxy.admin_socket()).args(args))
}

#[test]
fn c11_what_was_revoked_is_asked_of_upstream_again_though_others_hold_it() {
    let tenants = tenants();
    tenants.bobs.blob("app", &noise(1, 200_000));
    tenants.alice_pulls();
    tenants.bob_asks().assert_content(&tenants.digest);
    let said = revoke(&tenants.proxy, &["alices", "app"]).expect_ok().text();
    assert!(said.starts_with("revoked 1 link:"), "{said}");
    tenants.alices.forget();
    tenants.bobs.forget();
    // Upstream has changed its mind: what is cached is not served any more.
    tenants.alices.on("HEAD", "/blobs/", |_, _| Answer::status(403));
    tenants.alices.on("GET", "/blobs/", |_, _| Answer::status(403));
    let target = format!("/v2/alices/app/blobs/{}", tenants.digest);
    assert_eq!(tenants.ask(ALICE, "GET", &target, &[]).verdict(), (403, "DENIED".into()));
    assert_eq!(tenants.alices.count("HEAD", &tenants.digest), 1);
    // Bob's own permission is untouched.
    tenants.bob_asks().assert_content(&tenants.digest);
    assert_eq!(tenants.bobs.connections(), 0);
    tenants.alices.clear_rules();
    // A no is remembered for a moment.
    assert!(eventually(|| tenants.ask(ALICE, "GET", &target, &[]).status == 200));
    tenants.ask(ALICE, "GET", &target, &[]).assert_content(&tenants.digest);
    // A byte of it tells what a refused HEAD may not.
    let requests = tenants.alices.requests();
    let travelled = requests.iter().filter(|request| {
        request.method == "GET" && request.target.contains(&tenants.digest) && request.range() != Some((0, 0))
    });
    assert_eq!(travelled.count(), 0, "the bytes need not travel again");

    assert!(revoke(&tenants.proxy, &["alices"]).expect_ok().text().starts_with("revoked 1 link:"));
    assert!(revoke(&tenants.proxy, &["alices"]).expect_ok().text().starts_with("revoked 0 links:"));
    assert!(revoke(&tenants.proxy, &["nobody"]).expect_error().contains("no registry `nobody` is configured"));
    let told = tenants.proxy.log().lines().filter(|line| line.contains("\"event\":\"links_revoked\"")).count();
    assert_eq!(told, 3);
}

/// A proxy whose links hold for as long as `keys` say, with one blob pulled.
fn pulled_with(keys: &str) -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(7, 100_000));
    let keys = format!("default = true\naccess = \"anyone\"\n{keys}\n{}", credential());
    let proxy = Setup::new().registry("sample", &upstream, &keys).start();
    let target = format!("/v2/app/blobs/{digest}");
    proxy.get(&target).assert_content(&digest);
    proxy.wait_for_blobs(1);
    proxy.wait_for_fills();
    upstream.forget();
    (upstream, proxy, target)
}

#[test]
fn c7_with_a_strict_link_ttl_upstream_is_asked_every_time_and_its_silence_is_a_no() {
    let (upstream, proxy, target) = pulled_with("link_ttl = \"0s\"");
    for asked in 1..=3 {
        assert_eq!(proxy.get(&target).status, 200);
        assert_eq!(upstream.count("HEAD", "/blobs/"), asked);
    }
    assert_eq!(upstream.count("GET", "/blobs/"), 0);
    upstream.rule(|_, _| Answer::status(503));
    let answer = proxy.get(&target);
    assert!(matches!(answer.status, 502..=504) && answer.body.len() < 1000, "{}", answer.status);
}

#[test]
fn a_link_past_its_time_stands_in_while_upstream_is_in_trouble_but_not_after_its_no() {
    let (upstream, proxy, target) = pulled_with("link_ttl = \"1s\"\nlink_stale_if_error = \"1h\"");
    // The time of links is in whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    upstream.rule(|_, _| Answer::status(503));
    assert_eq!(proxy.get(&target).status, 200);
    assert!(upstream.count("HEAD", "/blobs/") >= 1, "it was asked");
    upstream.clear_rules();
    upstream.rule(|_, _| Answer::status(403));
    // Trouble is remembered for a moment.
    assert!(eventually(|| proxy.get(&target).status == 403));
    upstream.clear_rules();
    upstream.rule(|_, _| Answer::status(503));
    assert!(eventually(|| proxy.get(&target).status != 403), "a no is remembered for a moment too");
    let answer = proxy.get(&target);
    assert!(matches!(answer.status, 502..=504), "{}", answer.status);
}

#[test]
fn c12_no_form_of_asking_tells_more_than_another() {
    let tenants = tenants();
    tenants.alice_pulls();
    let target = format!("/v2/bobs/app/blobs/{}", tenants.digest);
    let etag = format!("\"{}\"", tenants.digest);
    for (method, headers) in [
        ("GET", vec![]),
        ("HEAD", vec![]),
        ("GET", vec![("Range", "bytes=0-0")]),
        ("GET", vec![("Range", "bytes=999999999-")]),
        ("GET", vec![("If-None-Match", etag.as_str())]),
        ("GET", vec![("If-None-Match", "*")]),
        ("HEAD", vec![("If-None-Match", etag.as_str())]),
    ] {
        let answer = tenants.ask(BOB, method, &target, &headers);
        assert_eq!(answer.status, 404, "{method} {headers:?}");
        for name in ["etag", "docker-content-digest", "content-range"] {
            assert_eq!(answer.header(name), None, "{method} {headers:?} {name}");
        }
    }
}

#[test]
fn a_grant_ends_where_its_pattern_ends() {
    let upstream = Upstream::start();
    let proxy =
        Setup::new().registry("hub", &upstream, &credential()).text(&client("ci", ALICE, "hub/library/*")).start();
    let bearer = format!("Bearer {ALICE}");
    for repository in ["library/alpine", "library/sub/alpine", "other/alpine", "library"] {
        upstream.image(repository, "1", &[]);
        let answer = proxy.get_with(&format!("/v2/hub/{repository}/manifests/1"), &[("Authorization", &bearer)]);
        let allowed = repository == "library/alpine";
        assert_eq!(answer.status, if allowed { 200 } else { 404 }, "{repository}");
    }
    assert!(upstream.requests().iter().all(|request| request.target.contains("/library/alpine/")));
}

#[test]
fn permission_that_upstream_once_gave_survives_a_restart() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(4, 100_000));
    let mut proxy = Setup::stored(&upstream).start();
    let target = format!("/v2/app/blobs/{digest}");
    proxy.get(&target).assert_content(&digest);
    proxy.wait_for_blobs(1);
    proxy.restart();
    upstream.forget();
    proxy.get(&target).assert_content(&digest);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_name_that_is_pointed_elsewhere_opens_nothing_that_its_old_place_allowed() {
    let (old, new) = (Upstream::start(), Upstream::start());
    let secret = old.blob("app", &noise(1, 100_000));
    let before = old.image("app", "v1", &[b"old"]);
    let after = new.image("app", "v1", &[b"new"]);
    let keys = format!("default = true\naccess = \"anyone\"\nimmutable_tags = [\"v*\"]\n{}", credential());
    let mut first = Setup::new().registry("team", &old, &keys).start();
    first.get(&format!("/v2/app/blobs/{secret}")).assert_content(&secret);
    assert_eq!(first.get("/v2/app/manifests/v1").body, before);
    first.wait_for_blobs(2);
    first.stop();
    let cache = first.cache().display().to_string();
    let second = Setup::new().registry("team", &new, &keys).environment("TRANSSHIP_CACHE_DIR", &cache).start();
    assert_eq!(second.get(&format!("/v2/app/blobs/{secret}")).status, 404);
    assert_eq!(second.head(&format!("/v2/app/blobs/{secret}")).status, 404);
    assert_eq!(second.get("/v2/app/manifests/v1").body, after, "the tag, too, is the new place's");
    // And back again: what the old place allowed is remembered.
    drop(second);
    old.forget();
    first.restart();
    first.get(&format!("/v2/app/blobs/{secret}")).assert_content(&secret);
    assert_eq!(old.count("GET", "/blobs/"), 0);
}

#[test]
fn what_another_registry_was_sent_of_an_unfinished_blob_is_given_to_nobody_else() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let bytes = noise(1, 4 << 20);
    let digest = a.blob("app", &bytes);
    let keys = format!("access = \"anyone\"\n{}", credential());
    let mut proxy = Setup::new().registry("a", &a, &keys).registry("b", &b, &keys).start();
    let gate = Gate::new();
    let closed = gate.clone();
    a.on("GET", "/blobs/", move |_, answer| answer.at(2 << 20, Event::Wait(closed.clone())));
    let mut client = http::open(proxy.address(), "GET", &format!("/a/v2/app/blobs/{digest}"), &[]);
    client.read(2 << 20);
    // B says that it has the content, and sends nothing of it.
    let silent = Gate::new();
    let never = silent.clone();
    let claimed = bytes.clone();
    b.on("GET", "/blobs/", move |_, _| Answer::status(200).body(claimed.clone()).at(0, Event::Wait(never.clone())));
    for restarted in [false, true] {
        if restarted {
            proxy.kill();
            gate.open();
            proxy.restart();
        }
        let stream = http::connect(proxy.address());
        stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let request = format!("GET /b/v2/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        std::io::Write::write_all(&mut &stream, request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut &stream, &mut answer);
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| answer.len() - at - 4);
        assert!(body < 1000, "{body} bytes came, restarted: {restarted}");
    }
    silent.open();
}

#[test]
fn no_number_of_refusals_keeps_a_login_out_of_the_audit_trail() {
    let tenants = tenants();
    // From the same address, in the same minute.
    for n in 0..40 {
        assert_ne!(tenants.ask(BOB, "GET", &format!("/v2/alices/made-up-{n}/manifests/1"), &[]).status, 200);
    }
    tenants.alice_pulls();
    let audited = |event: &str, who: &str| {
        let log = tenants.proxy.log();
        log.lines().any(|line| line.contains(&format!("\"event\":\"{event}\"")) && line.contains(&format!("\"{who}\"")))
    };
    assert!(eventually(|| audited("login", "alice")), "{}", tenants.proxy.log());
}
