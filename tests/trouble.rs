//! Upstreams in trouble: who waits how long, what is asked again and what is
//! not, where else it is asked, and what a client is told.

use std::time::{Duration, Instant};

use crate::support::black_hole::BlackHole;
use crate::support::digest::noise;
use crate::support::http::Response;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Event, Gate, Guard, Upstream};

/// No question about something that is not here takes longer, whatever
/// upstream does: the time of a timeout and of some tries, on a busy machine.
const A_FEW_SECONDS: Duration = Duration::from_secs(15);

fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    upstream.image("app", "1", &[&noise(1, 100_000)]);
    let proxy = Setup::open(&upstream).sections(UNREMEMBERED).start();
    (upstream, proxy)
}

/// Every answer is upstream's of now.
const UNREMEMBERED: &str = "[cache]\ntag_ttl = \"0s\"\nstale_if_error = \"0s\"\nnot_found_ttl = \"0s\"\n";

/// Everything that can be asked, with the way upstream is asked for it.
const QUESTIONS: [(&str, &str, &str); 6] = [
    ("GET", "manifests/1", "/manifests/"),
    ("HEAD", "manifests/1", "/manifests/"),
    ("GET", "blobs/", "/blobs/"),
    ("HEAD", "blobs/", "/blobs/"),
    ("GET", "tags/list", "/tags/"),
    ("GET", "referrers/", "/referrers/"),
];

fn ask(proxy: &Proxy, name: &str, (method, what, _): (&str, &str, &str), digest: &str) -> Response {
    let reference = if what.ends_with('/') { digest } else { "" };
    let target = format!("/v2/{name}/app/{what}{reference}");
    if method == "HEAD" { proxy.head(&target) } else { proxy.get(&target) }
}

#[test]
fn no_refusal_of_upstream_is_turned_into_another_whatever_was_asked() {
    let answers = [
        (401, "", 403, "DENIED"),
        (403, "", 403, "DENIED"),
        (404, "", 404, "unknown"),
        (429, "7", 429, "TOOMANYREQUESTS"),
        (429, "", 429, "TOOMANYREQUESTS"),
        (500, "", 502, "UNAVAILABLE"),
        (502, "", 502, "UNAVAILABLE"),
        (503, "", 502, "UNAVAILABLE"),
        (503, "7", 503, "UNAVAILABLE"),
        (504, "", 502, "UNAVAILABLE"),
    ];
    let upstream = Upstream::start();
    let digest = upstream.blob("app", b"content");
    // Each has its own connection, so that no limit and no circuit of one
    // concerns another.
    let mut setup = Setup::new();
    for q in 0..QUESTIONS.len() {
        for a in 0..answers.len() {
            setup = setup.registry(&format!("r{q}-{a}"), &upstream, &format!("namespace = \"q{q}-a{a}\""));
        }
    }
    upstream.rule(move |request, _| {
        let Some((_, rest)) = request.target.split_once("-a") else { return Answer::status(404) };
        let (status, retry_after, ..) = answers[rest.split('/').next().unwrap().parse::<usize>().unwrap()];
        let answer = Answer::status(status);
        if retry_after.is_empty() { answer } else { answer.header("Retry-After", retry_after) }
    });
    let proxy = setup.start();
    for (q, question) in QUESTIONS.into_iter().enumerate() {
        for (a, (theirs, retry_after, ours, code)) in answers.into_iter().enumerate() {
            // Without the API, upstream is asked for the tag that stands in: none.
            let ours = if theirs == 404 && question.1 == "referrers/" { 200 } else { ours };
            let answer = ask(&proxy, &format!("r{q}-{a}"), question, &digest);
            let what = format!("{question:?} {theirs} {retry_after}");
            assert_eq!(answer.status, ours, "{what}");
            assert_eq!(answer.header("www-authenticate"), None, "{what}");
            if question.0 == "GET" && code != "unknown" && ours != 200 {
                assert_eq!(answer.code(), code, "{what}");
            }
            let wait: Option<u64> = answer.header("retry-after").map(|wait| wait.parse().unwrap());
            match (ours, retry_after) {
                (429 | 503, "7") => assert!(wait.is_some_and(|wait| (1..=7).contains(&wait)), "{what} {wait:?}"),
                (429, _) => assert!(wait.is_some(), "{what}"),
                _ => assert_eq!(wait, None, "{what}"),
            }
        }
    }
}

#[test]
fn f21_a_question_is_asked_again_when_the_trouble_may_pass_and_only_then() {
    for (status, asked) in [(502, 3), (503, 3), (504, 3), (408, 3), (0, 3), (500, 3), (501, 1), (403, 1), (404, 1)] {
        for (method, what) in [("GET", "manifests/1"), ("HEAD", "manifests/1"), ("GET", "tags/list")] {
            // A list is not waited for.
            let asked = if status == 500 && what == "tags/list" { 1 } else { asked };
            let (upstream, proxy) = start();
            upstream.first(2, method, "/v2/app/", move |_, _| match status {
                // It hangs up without a word.
                0 => Answer::raw(""),
                status => Answer::status(status),
            });
            let target = format!("/v2/app/{what}");
            let answer = if method == "HEAD" { proxy.head(&target) } else { proxy.get(&target) };
            // What HEAD refuses GET may give.
            let is_for_get = method == "HEAD" && asked == 1;
            assert_eq!(answer.status == 200, asked == 3 || is_for_get, "{method} {what} {status}: {}", answer.status);
            assert_eq!(upstream.count(method, what), asked, "{method} {what} {status}");
        }
    }
}

#[test]
fn f21_an_upstream_that_fails_for_good_is_left_alone_and_found_again() {
    let (upstream, proxy) = start();
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    let layer = upstream.blob("app", &noise(1, 100_000));
    proxy.get(&format!("/v2/app/blobs/{layer}")).assert_content(&layer);
    upstream.rule(|_, _| Answer::status(503));
    // One image that is broken is not a registry that is.
    for _ in 0..4 {
        assert_eq!(proxy.get("/v2/app/manifests/2").status, 502);
    }
    assert_eq!(proxy.metric("transship_upstream_circuit_open"), 0.0);
    for n in 0..12 {
        let answer = proxy.get(&format!("/v2/app{n}/manifests/1"));
        assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    }
    assert_eq!(proxy.metric("transship_upstream_circuit_open"), 1.0);
    // Refused at once; what is here is served as ever.
    upstream.forget();
    let refused = proxy.get("/v2/app/tags/list");
    if upstream.requests().is_empty() {
        assert_eq!(refused.verdict(), (503, "UNAVAILABLE".into()));
        assert!(refused.header("retry-after").is_some());
    }
    proxy.get(&format!("/v2/app/blobs/{layer}")).assert_content(&layer);
    assert!(proxy.log().contains("fails again and again"));
    upstream.clear_rules();
    assert!(eventually(|| proxy.get("/v2/app/manifests/1").status == 200), "it is asked again after a while");
    assert_eq!(proxy.metric("transship_upstream_circuit_open"), 0.0);
}

#[test]
fn no_number_of_refusals_makes_an_upstream_one_that_fails() {
    for status in [401, 403, 404] {
        let (upstream, proxy) = start();
        upstream.on("GET", "/other/", move |_, _| Answer::status(status));
        for n in 0..25 {
            proxy.get(&format!("/v2/other/manifests/{n}"));
        }
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200, "{status}");
    }
}

/// A registry with a second endpoint, both with the same content.
fn two_endpoints() -> (Upstream, Upstream, Proxy, String) {
    let (first, second) = (Upstream::start(), Upstream::start());
    let layer = noise(3, 3_000_000);
    for upstream in [&first, &second] {
        upstream.image("app", "1", &[&layer]);
    }
    let keys = format!("default = true\nendpoints = [\"{}\"]", second.origin());
    let proxy = Setup::new().registry("sample", &first, &keys).sections(UNREMEMBERED).start();
    (first.clone(), second, proxy, first.blob("app", &layer))
}

#[test]
fn the_next_endpoint_is_asked_for_everything_while_the_first_is_in_trouble_and_the_first_again_after() {
    for status in [0, 500, 503] {
        let (first, second, proxy, layer) = two_endpoints();
        first.rule(move |_, _| if status == 0 { Answer::raw("") } else { Answer::status(status) });
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
        assert_eq!(proxy.head("/v2/app/manifests/1").status, 200);
        assert_eq!(proxy.head(&format!("/v2/app/blobs/{layer}")).status, 200, "the question for permission too");
        proxy.get(&format!("/v2/app/blobs/{layer}")).assert_content(&layer);
        assert_eq!(proxy.get("/v2/app/tags/list").status, 200);
        assert_eq!(first.requests().len(), 3, "then it is left alone: {:?}", first.requests());
        first.clear_rules();
        first.forget();
        assert!(eventually(|| {
            assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
            !first.requests().is_empty()
        }));
        second.forget();
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
        assert!(second.requests().is_empty(), "the first is preferred");
    }
}

#[test]
fn a_refusal_of_the_first_endpoint_is_the_answer() {
    for status in [403, 404, 429] {
        let (first, second, proxy, _) = two_endpoints();
        first.rule(move |_, _| Answer::status(status));
        assert_eq!(proxy.get("/v2/app/manifests/1").status, status);
        assert!(second.requests().is_empty());
    }
}

#[test]
fn a_transfer_that_one_endpoint_breaks_is_continued_at_the_other() {
    let (first, second, proxy, layer) = two_endpoints();
    first.first(1, "GET", "/blobs/", |_, answer| {
        answer.at(1_000_000, Event::Sleep(Duration::from_millis(100))).at(1_000_000, Event::Reset)
    });
    let broken = std::sync::atomic::AtomicUsize::new(0);
    first.on("GET", "/blobs/", move |_, answer| {
        if broken.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 { answer } else { Answer::raw("") }
    });
    proxy.get(&format!("/v2/app/blobs/{layer}")).assert_content(&layer);
    let from = second.requests().last().unwrap().range_start().unwrap();
    assert!(from > 0, "not from the start");
}

#[test]
fn an_endpoint_that_begins_every_transfer_and_ends_none_does_not_keep_it_from_the_other() {
    let (first, second, proxy, layer) = two_endpoints();
    first.on("GET", "/blobs/", |request, answer| {
        let at = 1_000_000_usize.saturating_sub(request.range_start().unwrap_or(0));
        answer.at(at, Event::Sleep(Duration::from_millis(50))).at(at, Event::Reset)
    });
    proxy.get(&format!("/v2/app/blobs/{layer}")).assert_content(&layer);
    assert!(second.requests().last().unwrap().range_start().unwrap() > 0);
    assert!(first.count("GET", "/blobs/") < 3, "{:?}", first.requests());
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    assert_eq!(first.count("GET", "/manifests/"), 1, "for questions it is the first still");
}

#[test]
fn f20_a_transfer_that_stalls_at_one_endpoint_is_continued_at_the_other() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let layer = noise(9, 1_000_000);
    let digest = first.blob("app", &layer);
    second.blob("app", &layer);
    let never = Gate::new();
    let closed = never.clone();
    first.on("GET", "/blobs/", move |_, answer| {
        let half = answer.body.len() / 2;
        answer.at(half, Event::Wait(closed.clone()))
    });
    let keys = format!("default = true\nendpoints = [\"{}\"]", second.origin());
    let limits = "[limits]\nupstream_idle_timeout = \"2s\"\n";
    let proxy = Setup::new().sections(limits).registry("sample", &first, &keys).start();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    assert_eq!(second.requests().last().unwrap().range_start(), Some(500_000));
    never.open();
}

#[test]
fn f23_an_upstream_that_swallows_everything_costs_a_timeout_and_cached_content_nothing() {
    let (upstream, hole) = (Upstream::start(), BlackHole::open());
    let digest = upstream.blob("app", &noise(4, 50_000));
    let gone = format!(
        "[[registry]]\nname = \"gone\"\nkind = \"generic\"\nurl = \"http://{}\"\ninsecure = true\nallow_private = [\"127.0.0.0/8\"]\n",
        hole.address()
    );
    let limits = "[limits]\nupstream_connect_timeout = \"1s\"\n";
    let proxy = Setup::open(&upstream).text(&gone).sections(limits).start();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    for what in ["manifests/1", &format!("blobs/{digest}"), "tags/list"] {
        let begun = Instant::now();
        assert_eq!(proxy.get(&format!("/v2/gone/app/{what}")).status, 504, "{what}");
        assert!(begun.elapsed() >= Duration::from_millis(900) && begun.elapsed() < A_FEW_SECONDS, "{what}");
    }
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
}

#[test]
fn f23_an_upstream_that_dies_in_the_middle_is_waited_for_and_the_transfer_goes_on() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(5, 2_000_000));
    let proxy = Setup::open(&upstream).start();
    let dead = Gate::new();
    let closed = dead.clone();
    upstream.first(1, "GET", "/blobs/", move |_, answer| {
        answer.at(1_000_000, Event::Wait(closed.clone())).at(1_000_000, Event::Reset)
    });
    let asked = std::sync::atomic::AtomicUsize::new(0);
    upstream.on("GET", "/blobs/", move |_, answer| {
        // Dead for the next two.
        if (1..3).contains(&asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) { Answer::raw("") } else { answer }
    });
    let mut client = crate::support::http::open(proxy.address(), "GET", &format!("/v2/app/blobs/{digest}"), &[]);
    client.read(1000);
    dead.open();
    let rest = client.finish();
    assert!(rest.complete && rest.body == noise(5, 2_000_000)[1000..]);
    assert!(upstream.count("GET", "/blobs/") >= 4);
}

#[test]
fn f22_a_name_that_does_not_resolve_is_told_soon_and_disturbs_nobody_else() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(6, 50_000));
    let gone = "[[registry]]\nname = \"gone\"\nkind = \"generic\"\nurl = \"https://registry.invalid\"\n";
    let proxy = Setup::open(&upstream).text(gone).start();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    let begun = Instant::now();
    assert_eq!(proxy.get("/v2/gone/app/manifests/1").verdict(), (502, "UNAVAILABLE".into()));
    assert!(begun.elapsed() < A_FEW_SECONDS);
    assert!(proxy.log().contains("(DNS: ") || proxy.log().contains("name servers"), "{}", proxy.log());
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
}

#[test]
fn f20_a_transfer_that_only_trickles_is_opened_again_where_it_is() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(7, 500_000));
    let limits = "[limits]\nupstream_low_speed = \"100KiB\"\nupstream_low_speed_time = \"1s\"\n";
    let proxy = Setup::open(&upstream).sections(limits).start();
    upstream.first(1, "GET", "/blobs/", |_, answer| {
        // Ten bytes a second: never still, never done.
        (200_000..200_300).fold(answer, |answer, at| answer.at(at, Event::Sleep(Duration::from_millis(100))))
    });
    let begun = Instant::now();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    assert!(begun.elapsed() < Duration::from_secs(20), "the trickle alone would have taken half a minute");
    let last = upstream.requests().last().unwrap().range_start().unwrap();
    assert!((200_000..200_300).contains(&last), "{last}");
}

#[test]
fn f24_a_token_service_in_trouble_is_asked_again_and_is_no_trouble_of_the_registry() {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    upstream.image("app", "1", &[]);
    let proxy = Setup::stored(&upstream).start();
    upstream.first(2, "GET", "/token", |_, _| Answer::status(503));
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    assert_eq!(upstream.count("GET", "/token"), 3);
}

#[test]
fn f24_many_clients_with_a_token_that_is_refused_cost_one_new_token() {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    let digests: Vec<_> = (0..50).map(|n| upstream.blob("app", &noise(500 + n, 2000))).collect();
    upstream.image("app", "1", &[]);
    let proxy = Setup::stored(&upstream).start();
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    upstream.revoke_tokens();
    std::thread::scope(|scope| {
        for digest in &digests {
            let proxy = &proxy;
            scope.spawn(move || proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest));
        }
    });
    let tokens = upstream.count("GET", "/token");
    assert!(tokens <= 3, "one at first, one or two for the refused one: {tokens}");
}

#[test]
fn f25_storage_that_dies_is_asked_for_again_at_the_registry_which_may_name_another() {
    let (upstream, dead, alive) = (Upstream::start(), Upstream::start(), Upstream::start());
    let bytes = noise(8, 1_000_000);
    let digest = upstream.blob("app", &bytes);
    for storage in [&dead, &alive] {
        storage.blob("app", &bytes);
    }
    dead.first(1, "GET", "/storage/", |_, answer| answer.at(500_000, Event::Reset));
    dead.rule({
        let asked = std::sync::atomic::AtomicUsize::new(0);
        move |_, answer| {
            if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 { answer } else { Answer::raw("") }
        }
    });
    let (one, other) = (dead.origin(), alive.origin());
    let asked = std::sync::atomic::AtomicUsize::new(0);
    upstream.on("GET", "/blobs/", move |request, _| {
        let turn = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let origin = if turn < 2 { &one } else { &other };
        Answer::status(307)
            .header("Location", format!("{origin}{}", request.target.replace("/v2/app/blobs", "/storage/app")))
    });
    let keys = format!("default = true\nredirect_origins = [\"{}\", \"{}\"]", dead.origin(), alive.origin());
    let proxy = Setup::new().registry("sample", &upstream, &keys).start();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    assert_eq!(alive.requests().len(), 1);
    assert_eq!(proxy.metric("transship_upstream_circuit_open"), 0.0, "storage is not the registry");
}
