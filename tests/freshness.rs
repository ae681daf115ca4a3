//! Tags, lists and refusals are believed for a while, and then upstream is
//! asked, once for everybody and as cheaply as it goes.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::digest::sha256;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Event, Gate, INDEX, MANIFEST, Upstream};

const TAG: &str = "/v2/app/manifests/1";

fn start(cache: &str) -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections(&format!("[cache]\n{cache}\n")).start();
    (upstream, proxy)
}

/// GETs and HEADs of manifests that upstream has seen.
fn asked(upstream: &Upstream) -> (usize, usize) {
    (upstream.count("GET", "/manifests/"), upstream.count("HEAD", "/manifests/"))
}

#[test]
fn within_its_time_a_tag_is_answered_without_asking() {
    let (upstream, proxy) = start("");
    let manifest = upstream.image("app", "1", &[]);
    for _ in 0..5 {
        assert_eq!(proxy.get(TAG).body, manifest);
        let head = proxy.head(TAG);
        assert_eq!(head.header("docker-content-digest"), Some(sha256(&manifest).as_str()));
        assert_eq!(head.header("content-length"), Some(manifest.len().to_string().as_str()));
        assert_eq!(head.header("warning"), None);
    }
    assert_eq!(asked(&upstream), (1, 0));
    assert_eq!(proxy.metric("transship_tag_requests_total"), 10.0);
}

#[test]
fn when_its_time_is_over_a_tag_is_asked_for_again() {
    let (upstream, proxy) = start("tag_ttl = \"300ms\"");
    upstream.image("app", "1", &[b"old"]);
    proxy.get(TAG);
    let new = upstream.image("app", "1", &[b"new"]);
    assert!(eventually(|| proxy.get(TAG).body == new));
    assert!(eventually(|| proxy.head(TAG).header("docker-content-digest") == Some(&sha256(&new))));
}

#[test]
fn an_unchanged_tag_costs_a_head_and_a_changed_one_a_get() {
    let (upstream, proxy) = start("tag_ttl = \"0s\"");
    let old = upstream.image("app", "1", &[b"old"]);
    assert_eq!((proxy.get(TAG).body, asked(&upstream)), (old.clone(), (1, 0)));
    assert_eq!((proxy.get(TAG).body, asked(&upstream)), (old.clone(), (1, 1)));
    let new = upstream.image("app", "1", &[b"new"]);
    assert_eq!((proxy.get(TAG).body, asked(&upstream)), (new.clone(), (2, 2)));
    assert_eq!((proxy.get(TAG).body, asked(&upstream)), (new, (2, 3)));
    // What it names now has been here before: its bytes need not come again.
    upstream.manifest("app", "1", MANIFEST, &old);
    assert_eq!((proxy.get(TAG).body, asked(&upstream)), (old, (2, 4)));
}

#[test]
fn where_head_tells_nothing_a_get_does() {
    let silent: [fn(Answer) -> Answer; 2] = [
        |_| Answer::status(405),
        |mut answer| {
            answer.headers.retain(|(name, _)| name != "Docker-Content-Digest");
            answer
        },
    ];
    for silence in silent {
        let (upstream, proxy) = start("tag_ttl = \"0s\"");
        upstream.on("HEAD", "/manifests/", move |_, answer| silence(answer));
        for layer in [b"a", b"b"] {
            let manifest = upstream.image("app", "1", &[layer]);
            assert_eq!(proxy.get(TAG).body, manifest);
            assert_eq!(proxy.head(TAG).header("docker-content-digest"), Some(sha256(&manifest).as_str()));
        }
    }
}

#[test]
fn where_only_a_get_tells_an_unchanged_tag_comes_without_its_bytes() {
    let (upstream, proxy) = start("tag_ttl = \"0s\"");
    upstream.on("HEAD", "/manifests/", |_, _| Answer::status(405));
    let unchanged = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&unchanged);
    upstream.on("GET", "/manifests/", move |request, answer| {
        let named = format!("\"{}\"", sha256(&answer.body));
        if request.header("if-none-match") != Some(named.as_str()) {
            return answer;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        Answer::status(304).header("ETag", named)
    });
    let old = upstream.image("app", "1", &[b"old"]);
    for times in 0..3 {
        assert_eq!(proxy.get(TAG).body, old);
        assert_eq!((asked(&upstream).0, unchanged.load(Ordering::SeqCst)), (times + 1, times));
    }
    let new = upstream.image("app", "1", &[b"new"]);
    assert_eq!(proxy.get(TAG).body, new);
    assert_eq!(unchanged.load(Ordering::SeqCst), 2, "what has changed comes whole");
}

#[test]
fn the_time_of_one_registry_is_not_that_of_another() {
    let upstream = Upstream::start();
    let proxy = Setup::new().registry("eager", &upstream, "tag_ttl = \"0s\"").registry("lazy", &upstream, "").start();
    upstream.image("app", "1", &[]);
    for _ in 0..3 {
        proxy.get("/v2/eager/app/manifests/1");
        proxy.get("/v2/lazy/app/manifests/1");
    }
    assert_eq!(asked(&upstream), (2, 2));
}

#[test]
fn a_tag_that_never_moves_is_asked_for_once_and_a_signature_is_not_such_a_tag() {
    let upstream = Upstream::start();
    let keys = "default = true\ntag_ttl = \"0s\"\nimmutable_tags = [\"v*\", \"sha256-*\"]";
    let mut proxy = Setup::new().registry("sample", &upstream, keys).start();
    let (fixed, moving) = (upstream.image("app", "v1", &[b"1"]), upstream.image("app", "latest", &[b"1"]));
    let signature = format!("sha256-{}.sig", &sha256(&fixed)["sha256:".len()..]);
    upstream.image("app", &signature, &[b"signed once"]);
    let get = |proxy: &Proxy, tag: &str| proxy.get(&format!("/v2/app/manifests/{tag}")).body;
    assert_eq!((get(&proxy, "v1"), get(&proxy, "latest")), (fixed.clone(), moving));
    get(&proxy, &signature);
    upstream.image("app", "v1", &[b"2"]);
    let moved = upstream.image("app", "latest", &[b"2"]);
    let signed_twice = upstream.image("app", &signature, &[b"signed once", b"signed twice"]);
    for _ in 0..2 {
        upstream.forget();
        assert_eq!(get(&proxy, "v1"), fixed);
        assert_eq!(upstream.requests().len(), 0);
        assert_eq!(get(&proxy, "latest"), moved);
        assert_eq!(get(&proxy, &signature), signed_twice);
        proxy.restart();
    }
}

#[test]
fn f31_a_thousand_clients_ask_for_one_tag_and_upstream_is_asked_once() {
    let (upstream, proxy) = start("");
    let manifest = upstream.image("app", "1", &[]);
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/manifests/", move |_, answer| answer.at(0, Event::Wait(closed.clone())));
    let (address, digest) = (proxy.address(), sha256(&manifest));
    std::thread::scope(|scope| {
        for n in 0..1000 {
            let (manifest, digest) = (&manifest, &digest);
            let client = move || {
                let method = if n % 10 == 9 { "HEAD" } else { "GET" };
                let answer = http::send(address, method, TAG, &[]);
                assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
                assert!(method == "HEAD" || answer.body == *manifest);
            };
            std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, client).unwrap();
        }
        gate.wait_until_reached();
        gate.open();
    });
    let (gets, heads) = asked(&upstream);
    assert!(gets == 1 && heads <= 1, "{gets} {heads}");
}

#[test]
fn a_tag_whose_time_is_over_is_asked_for_by_one_head_for_all() {
    let (upstream, proxy) = start("tag_ttl = \"4s\"");
    let manifest = upstream.image("app", "1", &[]);
    proxy.get(TAG);
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("HEAD", "/manifests/", move |_, answer| {
        closed.pass();
        answer
    });
    upstream.forget();
    let asking = AtomicBool::new(true);
    std::thread::scope(|scope| {
        // Whoever finds the time to be over first brings the question to the gate.
        let address = proxy.address();
        let asking = &asking;
        scope.spawn(move || while asking.load(Ordering::SeqCst) && http::get(address, TAG).status == 200 {});
        gate.wait_until_reached();
        asking.store(false, Ordering::SeqCst);
        for n in 0..40 {
            let (proxy, manifest) = (&proxy, &manifest);
            scope.spawn(move || match n % 2 {
                0 => assert_eq!(proxy.get(TAG).body, *manifest),
                _ => assert_eq!(proxy.head(TAG).status, 200),
            });
        }
        gate.open();
    });
    assert_eq!(asked(&upstream), (0, 1));
}

#[test]
fn a_question_goes_on_when_its_asker_leaves() {
    let (upstream, proxy) = start("");
    let manifest = upstream.image("app", "1", &[]);
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/manifests/", move |_, answer| answer.at(0, Event::Wait(closed.clone())));
    let client = http::connect(proxy.address());
    std::io::Write::write_all(&mut &client, format!("GET {TAG} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .unwrap();
    gate.wait_until_reached();
    drop(client);
    gate.open();
    assert!(eventually(|| proxy.metric("transship_tags") == 1.0));
    assert_eq!(proxy.get(TAG).body, manifest);
    assert_eq!(asked(&upstream), (1, 0));
}

#[test]
fn a_client_that_only_watches_a_tag_costs_no_pull() {
    let (upstream, proxy) = start("");
    let manifest = upstream.image("app", "1", &[]);
    for _ in 0..3 {
        assert_eq!(proxy.head(TAG).header("docker-content-digest"), Some(sha256(&manifest).as_str()));
    }
    assert_eq!(asked(&upstream), (0, 1));
    // As containerd pulls: the digest that HEAD told, by GET.
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{}", sha256(&manifest))).body, manifest);
    assert_eq!(proxy.get(TAG).body, manifest);
    assert_eq!(asked(&upstream), (1, 1));
}

#[test]
fn a_client_with_types_of_its_own_does_not_change_what_others_get() {
    let (upstream, proxy) = start("");
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    upstream.manifest("app", "1", INDEX, index);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let image = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    upstream.on("GET", "/manifests/1", move |request, answer| match request.header("accept") {
        Some(accept) if accept == docker => Answer::status(200).header("Content-Type", docker).body(image),
        _ => answer,
    });
    for _ in 0..2 {
        assert_eq!(proxy.get(TAG).body, index);
        assert_eq!(proxy.get_with(TAG, &[("Accept", docker)]).body, image);
        assert_eq!(http::send(proxy.address(), "HEAD", TAG, &[]).header("content-type"), Some(INDEX));
    }
}

#[test]
fn a_refusal_is_remembered_for_a_while_and_for_nothing_else() {
    let (upstream, proxy) = start("not_found_ttl = \"60s\"");
    let digest = sha256(b"nothing");
    upstream.on("GET", "/denied/", |_, _| Answer::status(403));
    for target in [
        "/v2/app/manifests/none".to_owned(),
        format!("/v2/app/manifests/{digest}"),
        format!("/v2/app/blobs/{digest}"),
        "/v2/nothing/tags/list".to_owned(),
        "/v2/denied/manifests/1".to_owned(),
    ] {
        upstream.forget();
        let first = proxy.get(&target);
        assert_eq!(first.status, if target.contains("denied") { 403 } else { 404 });
        let asked = upstream.requests().len();
        for _ in 0..3 {
            let again = proxy.get(&target);
            assert_eq!((again.verdict(), again.body), (first.verdict(), first.body.clone()), "{target}");
        }
        assert!(asked > 0 && upstream.requests().len() == asked, "{target}");
    }
    upstream.image("app", "other", &[]);
    assert_eq!(proxy.get("/v2/app/manifests/other").status, 200);
    assert!(proxy.metric("transship_remembered_refusals_total") >= 15.0);
}

#[test]
fn what_was_not_found_is_found_when_its_time_has_come() {
    let (upstream, proxy) = start("not_found_ttl = \"300ms\"");
    let layer = sha256(b"layer");
    let targets = [TAG.to_owned(), format!("/v2/app/blobs/{layer}"), "/v2/app/tags/list".to_owned()];
    for target in &targets {
        assert_eq!(proxy.get(target).status, 404, "{target}");
    }
    upstream.image("app", "1", &[b"layer"]);
    for target in &targets {
        assert!(eventually(|| proxy.get(target).status == 200), "{target}");
    }
}

#[test]
fn refusals_are_not_remembered_where_that_is_ruled_out() {
    let (upstream, proxy) = start("not_found_ttl = \"0s\"");
    assert_eq!(proxy.get(TAG).status, 404);
    upstream.image("app", "1", &[]);
    assert_eq!(proxy.get(TAG).status, 200);
}

#[test]
fn a_restart_keeps_tags() {
    let (upstream, mut proxy) = start("tag_ttl = \"1h\"");
    let manifest = upstream.image("app", "1", &[]);
    proxy.get(TAG);
    proxy.restart();
    upstream.forget();
    assert_eq!(proxy.get(TAG).body, manifest);
    assert_eq!(proxy.head(TAG).header("docker-content-digest"), Some(sha256(&manifest).as_str()));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_tag_is_worth_nothing_without_permission_for_what_it_names() {
    let (upstream, mut proxy) = start("tag_ttl = \"1h\"");
    let manifest = upstream.image("app", "1", &[]);
    proxy.get(TAG);
    proxy.stop();
    std::fs::remove_file(proxy.cache().join("links.redb")).unwrap();
    proxy.restart();
    upstream.forget();
    assert_eq!(proxy.get(TAG).body, manifest);
    assert_eq!(asked(&upstream), (1, 0), "bytes are what shows permission");
    // Nor is it when upstream cannot be asked.
    proxy.stop();
    std::fs::remove_file(proxy.cache().join("links.redb")).unwrap();
    proxy.restart();
    upstream.stop();
    for answer in [proxy.get(TAG), proxy.head(TAG)] {
        assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    }
}

#[test]
fn lists_are_kept_for_a_while_each_for_its_query_and_registry() {
    let upstream = Upstream::start();
    let proxy = Setup::new().registry("one", &upstream, "").registry("two", &upstream, "").start();
    let subject = sha256(&upstream.image("app", "1", &[]));
    upstream.on("GET", "/referrers/", |_, _| {
        Answer::status(200).header("Content-Type", INDEX).body(r#"{"schemaVersion":2,"manifests":[]}"#)
    });
    for list in ["tags/list".to_owned(), format!("referrers/{subject}")] {
        let get = |target: &str| {
            upstream.forget();
            let answers = [proxy.get(target), proxy.get(target)];
            assert!(answers.iter().all(|answer| answer.status == 200), "{target}");
            assert_eq!(answers[0].body, answers[1].body);
            upstream.requests().len()
        };
        assert_eq!(get(&format!("/v2/one/app/{list}")), 1);
        assert_eq!(get(&format!("/v2/one/app/{list}")), 0);
        assert_eq!(get(&format!("/v2/one/app/{list}?last=0&artifactType=a")), 1);
        assert_eq!(get(&format!("/v2/two/app/{list}")), 1);
    }
    // What one calls it is not what another does.
    let document: serde_json::Value = serde_json::from_slice(&proxy.get("/v2/two/app/tags/list").body).unwrap();
    assert_eq!(document["name"], "two/app");
}

#[test]
fn a_list_that_many_ask_for_is_asked_for_once() {
    let (upstream, proxy) = start("");
    upstream.image("app", "1", &[]);
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/tags/list", move |_, answer| answer.at(0, Event::Wait(closed.clone())));
    // All have asked before the first is answered.
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let mut client = http::connect(proxy.address());
            client
                .write_all(b"GET /v2/app/tags/list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .unwrap();
            client
        })
        .collect();
    gate.wait_until_reached();
    gate.open();
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Some may have lain in their sockets until then.
    let asked = upstream.count("GET", "/tags/list");
    assert!(asked <= 10, "{asked}");
}

#[test]
fn a_list_that_is_too_large_to_keep_comes_through() {
    let (upstream, proxy) = start("");
    let tags = vec!["t".repeat(100); 20_000];
    let body = serde_json::json!({ "name": "app", "tags": tags }).to_string();
    upstream.on("GET", "/tags/list", move |_, _| Answer::status(200).body(body.clone()));
    for asked in 1..3 {
        assert!(proxy.get("/v2/app/tags/list").body.len() > 2_000_000);
        assert_eq!(upstream.count("GET", "/tags/list"), asked);
    }
}

#[test]
fn an_index_and_what_it_names_come_through_unaltered_and_independently() {
    let (upstream, proxy) = start("");
    let children: Vec<Vec<u8>> =
        ["amd64", "arm64"].iter().map(|platform| upstream.image("app", platform, &[platform.as_bytes()])).collect();
    let descriptor = |bytes: &Vec<u8>| {
        format!(r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}"#, sha256(bytes), bytes.len())
    };
    let index = format!(
        "{{ \"schemaVersion\":2,\n\"mediaType\":\"{INDEX}\",\"manifests\":[{} , {}], \"x\":\"\\u00e9\" }}\n",
        descriptor(&children[0]),
        descriptor(&children[1])
    );
    let digest = upstream.manifest("app", "1", INDEX, index.as_bytes());
    let answer = proxy.get(TAG);
    assert_eq!((answer.body.as_slice(), answer.header("content-type")), (index.as_bytes(), Some(INDEX)));
    // One platform is pulled; the other one need not be there for that.
    let child = format!("/v2/app/manifests/{}", sha256(&children[1]));
    assert_eq!(proxy.get(&child).body, children[1]);
    upstream.stop();
    assert_eq!(proxy.get(&child).body, children[1]);
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{digest}")).body, index.as_bytes());
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{}", sha256(&children[0]))).status, 502);
}

#[test]
fn a_signature_that_is_made_later_is_seen_soon_by_tag_and_by_referrers() {
    let (upstream, proxy) = start("tag_ttl = \"300ms\"\nnot_found_ttl = \"300ms\"");
    let subject = sha256(&upstream.image("app", "1", &[]));
    let by_tag = format!("/v2/app/manifests/{}.sig", subject.replace(':', "-"));
    let by_api = format!("/v2/app/referrers/{subject}");
    assert_eq!(proxy.get(&by_tag).status, 404);
    assert!(!String::from_utf8_lossy(&proxy.get(&by_api).body).contains("digest"));
    let signature = upstream.image("app", by_tag.rsplit('/').next().unwrap(), &[b"signature"]);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}]}}"#,
        sha256(&signature),
        signature.len()
    );
    upstream.manifest("app", &subject.replace(':', "-"), INDEX, index.as_bytes());
    assert!(eventually(|| proxy.get(&by_tag).body == signature));
    assert!(eventually(|| proxy.get(&by_api).body == index.as_bytes()));
    let layer = sha256(b"signature");
    proxy.get(&format!("/v2/app/blobs/{layer}")).assert_content(&layer);
}

#[test]
fn what_a_client_says_of_types_costs_no_question_each_time() {
    let (upstream, proxy) = start("");
    let image = upstream.image("app", "1", &[]);
    assert_eq!(proxy.get(TAG).body, image);
    upstream.forget();
    for accept in ["a/b", "text/html, x/y", "application/vnd.docker.distribution.manifest.v1+json", "b/a, a/b"] {
        for _ in 0..10 {
            assert!(proxy.get_with(TAG, &[("Accept", accept)]).status < 500, "{accept}");
        }
    }
    assert!(upstream.count("GET", "/manifests/") <= 1, "{}", upstream.count("GET", "/manifests/"));
}
