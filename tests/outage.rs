//! When upstream is in trouble, what is known serves for a while and says so;
//! a refusal is no trouble. Offline, nothing is asked at all.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::ReadableTable as _;

use crate::support::digest::sha256;
use crate::support::http::Response;
use crate::support::proxy::{Proxy, Setup, credential, eventually};
use crate::support::upstream::{Answer, Gate, Upstream};

fn start(cache: &str) -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections(&format!("[cache]\n{cache}\n")).start();
    (upstream, proxy)
}

fn tag(repository: &str) -> String {
    format!("/v2/{repository}/manifests/1")
}

/// Fails unless the answer says that it is stale, and says nothing of where upstream is.
#[track_caller]
fn assert_stale(answer: &Response, reason: &str) {
    assert_eq!(answer.status, 200);
    let warning = answer.header("warning").expect("a warning");
    assert!(warning.starts_with("299 - \"stale: ") && warning.ends_with('"'), "{warning}");
    assert!(warning.contains(reason) && !warning.contains("127.0.0.1"), "{warning}");
}

/// Every question is answered like this.
fn fails(upstream: &Upstream, status: u16) {
    upstream.clear_rules();
    upstream.rule(move |_, _| Answer::status(status));
}

#[test]
fn f21_trouble_of_upstream_is_bridged_with_a_warning() {
    type Break = fn(&Upstream);
    let troubles: [(&str, Break); 8] = [
        ("is failing", |upstream| fails(upstream, 500)),
        ("is failing", |upstream| fails(upstream, 502)),
        ("is failing", |upstream| fails(upstream, 503)),
        ("is failing", |upstream| fails(upstream, 504)),
        ("rate limit", |upstream| fails(upstream, 429)),
        ("cannot be reached", |upstream| {
            upstream.clear_rules();
            upstream.rule(|_, _| Answer::raw(""));
        }),
        ("does not answer", |upstream| {
            upstream.clear_rules();
            let closed = Gate::new();
            upstream.rule(move |_, answer| {
                closed.pass();
                answer
            });
        }),
        ("cannot be reached", Upstream::stop),
    ];
    for (reason, trouble) in troubles {
        // What an upstream has been through must not colour what comes next.
        let (upstream, proxy) = start("tag_ttl = \"0s\"");
        let (manifest, list) = (upstream.image("app", "1", &[]), "/v2/app/tags/list");
        for target in [&tag("app"), list] {
            assert_eq!(proxy.get(target).header("warning"), None);
        }
        trouble(&upstream);
        let answer = proxy.get(&tag("app"));
        assert_stale(&answer, reason);
        assert_eq!(answer.body, manifest);
        let head = proxy.head(&tag("app"));
        assert_stale(&head, reason);
        assert_eq!(head.header("docker-content-digest"), Some(sha256(&manifest).as_str()));
        assert_stale(&proxy.get(list), reason);
        let etag = format!("\"{}\"", sha256(&manifest));
        let unchanged = proxy.get_with(&tag("app"), &[("If-None-Match", &etag)]);
        assert!(unchanged.status == 304 && unchanged.header("warning").is_some());
        // The bytes are what they always were.
        let by_digest = proxy.get(&format!("/v2/app/manifests/{}", sha256(&manifest)));
        assert_eq!((by_digest.status, by_digest.header("warning")), (200, None));
        assert_eq!(proxy.metric("transship_stale_answers_total"), 4.0, "{reason}");
    }
}

#[test]
fn a_refusal_is_never_bridged_and_ends_what_was_known() {
    for (theirs, ours) in [(401, (403, "DENIED")), (403, (403, "DENIED")), (404, (404, "MANIFEST_UNKNOWN"))] {
        let (upstream, proxy) = start("tag_ttl = \"0s\"\nnot_found_ttl = \"0s\"");
        upstream.image("app", "1", &[]);
        upstream.image("app", "2", &[]);
        let list = "/v2/app/tags/list";
        for target in [tag("app"), list.to_owned()] {
            assert_eq!(proxy.get(&target).status, 200);
        }
        fails(&upstream, theirs);
        assert_eq!(proxy.get(&tag("app")).verdict(), (ours.0, ours.1.to_owned()));
        assert_eq!(proxy.head(&tag("app")).status, ours.0);
        assert_eq!(proxy.get(list).status, ours.0);
        // The last answer is that it is refused, whatever was before.
        fails(&upstream, 503);
        for target in [tag("app"), list.to_owned()] {
            let answer = proxy.get(&target);
            assert!(matches!(answer.status, 502 | 503), "{theirs} {target}: {}", answer.status);
            assert_eq!(answer.header("warning"), None, "{theirs} {target}");
        }
    }
}

#[test]
fn without_a_window_every_failure_is_told_as_it_is() {
    for (theirs, ours) in [(429, 429), (500, 502), (502, 502), (503, 502), (504, 502), (0, 502)] {
        let (upstream, proxy) = start("tag_ttl = \"0s\"\nstale_if_error = \"0s\"");
        upstream.image("app", "1", &[]);
        proxy.get(&tag("app"));
        match theirs {
            0 => upstream.stop(),
            status => fails(&upstream, status),
        }
        // Whoever has not answered for a while is left alone for a moment.
        let told = |status| if status == 503 { 502 } else { status };
        let answers = (told(proxy.get(&tag("app")).status), told(proxy.head(&tag("app")).status));
        assert_eq!(answers, (ours, ours), "{theirs}");
        assert_eq!(proxy.metric("transship_stale_answers_total"), 0.0);
    }
}

#[test]
fn after_the_window_the_failure_is_told() {
    let (upstream, proxy) = start("tag_ttl = \"0s\"\nstale_if_error = \"5s\"");
    upstream.image("app", "1", &[]);
    proxy.get(&tag("app"));
    fails(&upstream, 503);
    assert_stale(&proxy.get(&tag("app")), "is failing");
    assert!(eventually(|| proxy.get(&tag("app")).status == 502));
}

#[test]
fn a_registry_may_have_a_window_of_its_own() {
    let upstream = Upstream::start();
    let keys = "default = true\ntag_ttl = \"0s\"\nstale_if_error = \"0s\"";
    let proxy =
        Setup::new().registry("strict", &upstream, keys).registry("lenient", &upstream, "tag_ttl = \"0s\"").start();
    upstream.image("app", "1", &[]);
    assert_eq!((proxy.get(&tag("strict/app")).status, proxy.get(&tag("lenient/app")).status), (200, 200));
    upstream.stop();
    assert_eq!((proxy.get(&tag("strict/app")).status, proxy.get(&tag("lenient/app")).status), (502, 200));
}

#[test]
fn an_upstream_that_takes_its_time_is_not_waited_for_and_its_answer_serves_later() {
    let (upstream, proxy) = start("tag_ttl = \"0s\"\n[limits]\nrevalidate_timeout = \"500ms\"");
    let old = upstream.image("app", "1", &[b"old"]);
    proxy.get(&tag("app"));
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.first(1, "HEAD", "/manifests/", move |_, answer| {
        closed.pass();
        answer
    });
    let new = upstream.image("app", "1", &[b"new"]);
    upstream.forget();
    // The gate is closed all the while.
    for _ in 0..5 {
        let answer = proxy.get(&tag("app"));
        assert_stale(&answer, "does not answer");
        assert_eq!(answer.body, old);
    }
    gate.wait_until_reached();
    assert_eq!(upstream.requests().len(), 1, "the question is under way already");
    gate.open();
    assert!(eventually(|| {
        let answer = proxy.get(&tag("app"));
        answer.body == new && answer.header("warning").is_none()
    }));
}

#[test]
fn nobody_asks_an_upstream_that_has_just_failed() {
    let (upstream, proxy) = start("tag_ttl = \"0s\"");
    upstream.image("app", "1", &[]);
    proxy.get(&tag("app"));
    upstream.rule(|_, _| Answer::status(429).header("Retry-After", "60"));
    upstream.forget();
    for _ in 0..20 {
        assert_stale(&proxy.get(&tag("app")), "rate limit");
    }
    assert_eq!(upstream.requests().len(), 1);
    // Who has nothing to fall back on may ask.
    assert_eq!(proxy.get("/v2/app/manifests/2").status, 429);
}

#[test]
fn when_upstream_is_back_it_is_believed_again() {
    let (upstream, proxy) = start("tag_ttl = \"0s\"");
    upstream.image("app", "1", &[b"old"]);
    proxy.get(&tag("app"));
    upstream.stop();
    assert_stale(&proxy.get(&tag("app")), "cannot be reached");
    let new = upstream.image("app", "1", &[b"new"]);
    upstream.resume();
    assert!(eventually(|| proxy.get(&tag("app")).body == new));
    assert_eq!(proxy.get(&tag("app")).header("warning"), None);
}

#[test]
fn a_restart_in_the_middle_of_an_outage_forgets_nothing() {
    let (upstream, mut proxy) = start("tag_ttl = \"0s\"");
    let manifest = upstream.image("app", "1", &[]);
    proxy.get(&tag("app"));
    upstream.stop();
    proxy.restart();
    let answer = proxy.get(&tag("app"));
    assert_stale(&answer, "cannot be reached");
    assert_eq!(answer.body, manifest);
}

#[test]
fn what_is_cached_by_digest_never_waits_for_upstream() {
    let (upstream, proxy) = start("");
    let manifest = upstream.image("app", "1", &[b"layer"]);
    let (layer, config) = (sha256(b"layer"), sha256(br#"{"architecture":"amd64","os":"linux"}"#));
    proxy.get(&tag("app"));
    let targets = [layer, config].map(|digest| (format!("/v2/app/blobs/{digest}"), digest));
    targets.iter().for_each(|(target, digest)| proxy.get(target).assert_content(digest));
    proxy.wait_for_blobs(3);
    upstream.stop();
    upstream.forget();
    targets.iter().for_each(|(target, digest)| proxy.get(target).assert_content(digest));
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{}", sha256(&manifest))).body, manifest);
    assert_eq!(proxy.get(&tag("app")).body, manifest);
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn another_registrys_outage_opens_nothing() {
    let (ours, theirs) = (Upstream::start(), Upstream::start());
    let anyone = format!("access = \"anyone\"\n{}", credential());
    let proxy = Setup::new().registry("ours", &ours, &anyone).registry("theirs", &theirs, &anyone).start();
    let manifest = ours.image("app", "1", &[]);
    assert_eq!(proxy.get("/v2/ours/app/manifests/1").status, 200);
    theirs.stop();
    for reference in ["1", &sha256(&manifest)] {
        let status = proxy.get(&format!("/v2/theirs/app/manifests/{reference}")).status;
        assert!(matches!(status, 502 | 503), "{status}");
    }
    proxy.set_offline(true);
    for reference in ["1", &sha256(&manifest)] {
        assert_eq!(proxy.get(&format!("/v2/theirs/app/manifests/{reference}")).status, 504);
    }
}

#[test]
fn offline_what_is_cached_is_served_and_nobody_is_asked() {
    let (upstream, proxy) = start("tag_ttl = \"0s\"");
    let manifest = upstream.image("app", "1", &[b"layer"]);
    let layer = sha256(b"layer");
    let blob = format!("/v2/app/blobs/{layer}");
    proxy.get(&tag("app"));
    proxy.get(&blob).assert_content(&layer);
    proxy.get("/v2/app/tags/list");
    proxy.wait_for_blobs(2);
    proxy.set_offline(true);
    upstream.forget();
    let answer = proxy.get(&tag("app"));
    assert_stale(&answer, "offline");
    assert_eq!(answer.body, manifest);
    assert_stale(&proxy.head(&tag("app")), "offline");
    assert_stale(&proxy.get("/v2/app/tags/list"), "offline");
    proxy.get(&blob).assert_content(&layer);
    assert_eq!(proxy.head(&blob).header("content-length"), Some("5"));
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{}", sha256(&manifest))).body, manifest);
    let nothing = sha256(b"nothing");
    for target in [
        "/v2/app/manifests/2".to_owned(),
        format!("/v2/app/manifests/{nothing}"),
        format!("/v2/app/blobs/{nothing}"),
        format!("/v2/app/referrers/{nothing}"),
        "/v2/other/tags/list".to_owned(),
    ] {
        let answer = proxy.get(&target);
        assert_eq!(answer.verdict(), (504, "UNAVAILABLE".into()), "{target}");
        assert!(String::from_utf8_lossy(&answer.body).contains("offline"));
        assert_eq!(proxy.head(&target).status, 504, "{target}");
    }
    assert_eq!((upstream.requests().len(), proxy.metric("transship_offline")), (0, 1.0));
    proxy.set_offline(false);
    assert_eq!(proxy.get(&tag("app")).header("warning"), None);
    assert_eq!(upstream.count("HEAD", "/manifests/"), 1);
}

#[test]
fn one_registry_may_be_offline_and_so_may_all_from_the_start() {
    let upstream = Upstream::start();
    upstream.image("app", "1", &[]);
    let proxy = Setup::new().registry("here", &upstream, "").registry("gone", &upstream, "offline = true").start();
    assert_eq!((proxy.get(&tag("here/app")).status, proxy.get(&tag("gone/app")).status), (200, 504));
    let proxy = Setup::open(&upstream).sections("[cache]\noffline = true\n").start();
    upstream.forget();
    assert_eq!(proxy.get(&tag("app")).status, 504);
    assert_eq!(upstream.connections(), 0);
}

/// Makes every link so many days older.
fn age_links(index: &Path, days: u64) {
    const LINKS: redb::TableDefinition<'_, &str, (u64, Option<u64>, &str)> = redb::TableDefinition::new("links");
    let seen_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - days * 86_400;
    let database = redb::Database::open(index).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(LINKS).unwrap();
        let links: Vec<(String, Option<u64>, String)> = table
            .iter()
            .unwrap()
            .map(|entry| {
                let (key, value) = entry.unwrap();
                (key.value().to_owned(), value.value().1, value.value().2.to_owned())
            })
            .collect();
        assert!(!links.is_empty());
        for (key, size, media_type) in &links {
            table.insert(key.as_str(), (seen_at, *size, media_type.as_str())).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn a_permission_that_ran_out_is_renewed_by_head_and_in_an_outage_lasts_a_while_longer() {
    // Links to public content hold for seven days.
    for (days, grace, outage) in [(8, "48h", 200), (8, "0s", 502), (10, "48h", 502)] {
        let upstream = Upstream::start();
        let keys = format!("default = true\nlink_stale_if_error = \"{grace}\"");
        let mut proxy = Setup::new().registry("sample", &upstream, &keys).start();
        let manifest = upstream.image("app", "1", &[b"layer"]);
        let layer = sha256(b"layer");
        let targets = [format!("/v2/app/manifests/{}", sha256(&manifest)), format!("/v2/app/blobs/{layer}")];
        targets.iter().for_each(|target| assert_eq!(proxy.get(target).status, 200));
        proxy.wait_for_blobs(2);
        for is_out in [true, false] {
            proxy.stop();
            age_links(&proxy.cache().join("links.redb"), days);
            if is_out {
                upstream.stop();
            } else {
                upstream.resume();
            }
            proxy.restart();
            upstream.forget();
            for target in &targets {
                let answer = proxy.get(target);
                // An upstream that has failed often enough is not asked any more.
                let status = if answer.status == 503 { 502 } else { answer.status };
                assert_eq!(status, if is_out { outage } else { 200 }, "{days} {grace} {target}");
                let head = proxy.head(target).status;
                assert_eq!(if head == 503 { 502 } else { head }, status);
            }
        }
        let heads = upstream.count("HEAD", "/v2/app/");
        assert_eq!((heads, upstream.count("GET", "/v2/app/")), (2, 0), "permission is asked for, bytes are not");
    }
}

#[test]
fn a_permission_that_is_withdrawn_is_gone_for_good() {
    for theirs in [403, 404] {
        let (upstream, mut proxy) = start("not_found_ttl = \"0s\"");
        let manifest = upstream.image("app", "1", &[b"layer"]);
        let layer = sha256(b"layer");
        let targets = [format!("/v2/app/manifests/{}", sha256(&manifest)), format!("/v2/app/blobs/{layer}")];
        targets.iter().for_each(|target| assert_eq!(proxy.get(target).status, 200));
        proxy.wait_for_blobs(2);
        proxy.stop();
        age_links(&proxy.cache().join("links.redb"), 8);
        proxy.restart();
        fails(&upstream, theirs);
        targets.iter().for_each(|target| assert_eq!(proxy.get(target).status, theirs));
        upstream.stop();
        for target in &targets {
            let status = proxy.get(target).status;
            assert!(matches!(status, 502 | 503), "{theirs} {target}: {status}");
        }
    }
}
