//! Bytes that are wrong, too many, too few or never come: no client ever
//! completes a wrong body, and nothing wrong is kept (cases G1 to G18).

use crate::support::digest::{noise, sha256};
use crate::support::http::Response;
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Answer, Event, INDEX, Length, MANIFEST, Upstream};

/// Large enough for several network reads, windows and hold-backs.
const SIZE: usize = 3_000_000;

fn start() -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy, digest)
}

fn pull(proxy: &Proxy, digest: &str) -> Response {
    proxy.get(&format!("/v2/app/blobs/{digest}"))
}

/// Fails if a client could take the answer for the content.
#[track_caller]
fn assert_broken(answer: &Response) {
    assert!(answer.status >= 500 || !answer.complete, "{} with {} bytes", answer.status, answer.body.len());
}

/// F19.
#[test]
fn g1_a_flipped_bit_anywhere_never_completes_and_is_not_kept() {
    for at in [0, 1, SIZE / 2, SIZE - 1] {
        let (upstream, proxy, digest) = start();
        upstream.on("GET", "/blobs/", move |_, answer| answer.flip(at));
        let answer = pull(&proxy, &digest);
        assert_broken(&answer);
        assert!(answer.body.len() < SIZE, "the last bytes are held back until the digest is right");
        assert_eq!(proxy.blobs().len(), 0);
        upstream.clear_rules();
        pull(&proxy, &digest).assert_content(&digest);
        proxy.wait_for_blobs(1);
        proxy.assert_cache_is_sound();
    }
}

#[test]
fn g1_a_small_wrong_blob_sends_nothing_at_all() {
    let upstream = Upstream::start();
    let digest = sha256(b"what was asked for");
    upstream.blob_as("app", &digest, b"what was sent here");
    let proxy = Setup::open(&upstream).start();
    let answer = pull(&proxy, &digest);
    assert_eq!(answer.verdict(), (502, "UNAVAILABLE".into()));
    assert_eq!(proxy.blobs().len(), 0);
}

/// F19.
#[test]
fn g2_bytes_after_the_announced_length_are_not_part_of_the_content() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |_, mut answer| {
        answer.length = Length::Claimed(SIZE as u64);
        answer.body.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        answer
    });
    pull(&proxy, &digest).assert_content(&digest);
    // The connection with the smuggled answer is not used again.
    let other = upstream.blob("app", &noise(2, 1000));
    upstream.clear_rules();
    pull(&proxy, &other).assert_content(&other);
}

/// F19.
#[test]
fn g3_a_body_that_ends_early_is_continued_where_it_broke() {
    for at in [0, 1, SIZE / 2, SIZE - 1] {
        let (upstream, proxy, digest) = start();
        upstream.first(1, "GET", "/blobs/", move |_, answer| answer.at(at, Event::Close));
        pull(&proxy, &digest).assert_content(&digest);
        let requests = upstream.requests();
        let resumed = requests.last().unwrap();
        assert_eq!(resumed.range_start().unwrap_or(0), at, "{resumed:?}");
    }
}

/// F19.
#[test]
fn g3_a_body_that_is_always_short_never_completes() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |request, mut answer| {
        // Only ever the first thousand bytes, announced as everything.
        if request.range_start().is_some() {
            return Answer::status(416).header("Content-Range", "bytes */1000");
        }
        answer.body.truncate(1000);
        answer
    });
    assert_broken(&pull(&proxy, &digest));
    assert_eq!(proxy.blobs().len(), 0);
}

#[test]
fn g4_without_a_length_the_end_is_where_the_digest_says() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |_, mut answer| {
        answer.length = Length::Untold;
        answer
    });
    let answer = pull(&proxy, &digest);
    answer.assert_content(&digest);
}

#[test]
fn g4_g5_a_body_beyond_the_largest_allowed_blob_is_refused() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    let proxy = Setup::open(&upstream).sections("[limits]\nmax_blob_size = \"1MiB\"\n").start();
    assert_broken(&pull(&proxy, &digest));
    upstream.on("GET", "/blobs/", |_, mut answer| {
        answer.length = Length::Untold;
        answer
    });
    assert_broken(&pull(&proxy, &digest));
    assert_eq!(proxy.blobs().len(), 0);
}

#[test]
fn g5_absurd_lengths_are_refused() {
    for claimed in ["1000000000000000", "-1", "0x10", "3000000\r\nContent-Length: 3000001", "99999999999999999999999"] {
        let (upstream, proxy, digest) = start();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {claimed}\r\n\r\nsome bytes");
        upstream.on("GET", "/blobs/", move |_, _| Answer::raw(head.clone()));
        assert_broken(&pull(&proxy, &digest));
        assert_eq!(proxy.blobs().len(), 0, "{claimed}");
    }
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |_, answer| answer.body(""));
    assert_broken(&pull(&proxy, &digest));
}

#[test]
fn g6_g7_a_manifest_with_another_digest_is_refused_and_not_kept() {
    let upstream = Upstream::start();
    let manifest = upstream.image("app", "1", &[]);
    let digest = sha256(&manifest);
    let proxy = Setup::open(&upstream).start();
    upstream.on("GET", "/manifests/", |_, mut answer| {
        answer.body.push(b' ');
        answer
    });
    for reference in ["1", &digest] {
        assert_eq!(proxy.get(&format!("/v2/app/manifests/{reference}")).verdict(), (502, "UNAVAILABLE".into()));
    }
    assert_eq!(proxy.blobs().len(), 0);
    upstream.clear_rules();
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{digest}")).body, manifest);
}

#[test]
fn g8_g14_what_is_no_manifest_or_not_the_one_it_says_is_refused() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    let both = r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
    let image = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","layers":[],"config":{{}}}}"#);
    let cases = [
        ("both", MANIFEST, both.to_owned()),
        ("other-type", INDEX, image),
        ("login", "text/html", "<html>please log in</html>".into()),
        ("login-as-manifest", MANIFEST, "<html>please log in</html>".into()),
        ("empty", MANIFEST, String::new()),
        ("nested", MANIFEST, "[".repeat(4 << 20)),
        ("large", MANIFEST, format!(r#"{{"schemaVersion":2,"layers":[],"x":"{}"}}"#, "x".repeat(5 << 20))),
    ];
    for (tag, media_type, body) in cases {
        upstream.manifest("app", tag, media_type, body.as_bytes());
        assert_eq!(proxy.get(&format!("/v2/app/manifests/{tag}")).status, 502, "{tag}");
    }
    assert_eq!(proxy.blobs().len(), 0);
}

#[test]
fn g11_whatever_is_said_of_an_encoding_the_digest_decides() {
    let (upstream, proxy, digest) = start();
    let manifest = upstream.image("app", "1", &[]);
    // A body that really is compressed is refused, not decoded.
    upstream.rule(|_, answer| answer.header("Content-Encoding", "gzip").flip(0));
    assert_broken(&pull(&proxy, &digest));
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 502);
    for label in ["gzip", "x-gzip", "aws-chunked", "binary", "identity", ""] {
        let (upstream, proxy, digest) = start();
        upstream.image("app", "1", &[]);
        upstream.rule(move |_, answer| answer.header("Content-Encoding", label));
        pull(&proxy, &digest).assert_content(&digest);
        assert_eq!(proxy.get("/v2/app/manifests/1").body, manifest, "{label}");
    }
}

#[test]
fn g12_headers_of_upstream_stay_there() {
    let (upstream, proxy, digest) = start();
    upstream.image("app", "1", &[]);
    upstream.rule(|_, answer| {
        answer
            .header("Set-Cookie", "a=b")
            .header("X-Ms-Copy-Source", "https://secret.example/")
            .header("Server", "upstream/1")
            .header("Etag", "\"other\"")
            .header("Strict-Transport-Security", "max-age=1")
            .header("Location", "https://evil.example/")
    });
    for target in [format!("/v2/app/blobs/{digest}"), "/v2/app/manifests/1".into(), "/v2/app/tags/list".into()] {
        let answer = proxy.get(&target);
        assert_eq!(answer.status, 200);
        for name in ["set-cookie", "x-ms-copy-source", "server", "strict-transport-security", "location"] {
            assert_eq!(answer.header(name), None, "{target} {name}");
        }
        assert_ne!(answer.header("etag"), Some("\"other\""));
    }
}

/// F43.
#[test]
fn g12_headers_without_end_are_refused() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |_, answer| answer.header("X-Long", "x".repeat(2 << 20)));
    assert_broken(&pull(&proxy, &digest));
    upstream.clear_rules();
    upstream.on("GET", "/blobs/", |_, mut answer| {
        answer.headers.extend((0..50_000).map(|n| (format!("X-{n}"), "x".to_owned())));
        answer
    });
    assert_broken(&pull(&proxy, &digest));
}

/// F18.
#[test]
fn g13_answers_that_do_not_fit_the_question_are_never_spliced_in() {
    let half = SIZE / 2;
    // How upstream answers the question for the second half.
    type Lie = fn(Answer) -> Answer;
    let lies: [(&str, Lie); 5] = [
        ("another start", |answer| answer.replace("Content-Range", format!("bytes 7-{}/{SIZE}", SIZE - 1))),
        ("another total", |answer| {
            answer.replace("Content-Range", format!("bytes {}-{}/{}", SIZE / 2, SIZE - 1, SIZE + 1))
        }),
        ("no range", |mut answer| {
            answer.headers.clear();
            answer
        }),
        ("several parts", |answer| answer.replace("Content-Type", "multipart/byteranges; boundary=x")),
        ("not satisfiable", |_| Answer::status(416).header("Content-Range", format!("bytes */{SIZE}"))),
    ];
    for (name, lie) in lies {
        let (upstream, proxy, digest) = start();
        upstream.first(1, "GET", "/blobs/", move |_, answer| answer.at(half, Event::Close));
        upstream.on(
            "GET",
            "/blobs/",
            move |request, answer| {
                if request.range_start().is_some() { lie(answer) } else { answer }
            },
        );
        let answer = pull(&proxy, &digest);
        if answer.complete && answer.status == 200 {
            answer.assert_content(&digest);
        }
        proxy.assert_cache_is_sound();
        upstream.clear_rules();
        pull(&proxy, &digest).assert_content(&digest);
        assert!(upstream.requests().len() < 20, "{name}");
    }
}

/// F18.
#[test]
fn g13_a_whole_answer_to_a_question_for_the_rest_is_used_from_there() {
    let (upstream, proxy, digest) = start();
    let bytes = noise(1, SIZE);
    upstream.on("GET", "/blobs/", move |_, _| Answer::status(200).body(bytes.clone()));
    upstream.first(1, "GET", "/blobs/", |_, answer| answer.at(SIZE / 2, Event::Reset));
    pull(&proxy, &digest).assert_content(&digest);
    assert_eq!(upstream.count("GET", "/blobs/"), 2);
}

#[test]
fn g13_a_part_in_answer_to_a_plain_question_is_refused() {
    let (upstream, proxy, digest) = start();
    upstream.on("GET", "/blobs/", |_, mut answer| {
        answer.status = 206;
        answer.header("Content-Range", format!("bytes 0-{}/{SIZE}", SIZE - 1))
    });
    let answer = pull(&proxy, &digest);
    if answer.status == 200 && answer.complete {
        answer.assert_content(&digest);
    }
    proxy.assert_cache_is_sound();
}

#[test]
fn g15_a_tag_that_is_gone_is_gone() {
    let upstream = Upstream::start();
    upstream.image("app", "1", &[]);
    let proxy = Setup::open(&upstream).sections("[cache]\ntag_ttl = \"0s\"\n").start();
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    upstream.on("GET", "/manifests/1", |_, _| Answer::status(404));
    upstream.on("HEAD", "/manifests/1", |_, _| Answer::status(404));
    for _ in 0..2 {
        assert_eq!(proxy.get("/v2/app/manifests/1").verdict(), (404, "MANIFEST_UNKNOWN".into()));
    }
}

#[test]
fn g16_a_tag_that_flips_gives_consistent_answers() {
    let upstream = Upstream::start();
    let first = upstream.image("app", "1", &[b"one"]);
    let second = upstream.image("app", "2", &[b"two"]);
    let flips = std::sync::atomic::AtomicUsize::new(0);
    upstream.on("GET", "/manifests/1", move |_, answer| {
        let bytes =
            if flips.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2) { &first } else { &second };
        answer.replace("Docker-Content-Digest", sha256(bytes)).body(bytes.clone())
    });
    upstream.on("HEAD", "/manifests/1", |_, _| Answer::status(405));
    let proxy = Setup::open(&upstream).sections("[cache]\ntag_ttl = \"0s\"\n").start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let answer = proxy.get("/v2/app/manifests/1");
                    assert_eq!(answer.header("docker-content-digest"), Some(sha256(&answer.body).as_str()));
                    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
                }
            });
        }
    });
}

#[test]
fn g17_the_empty_blob_is_a_blob() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", b"");
    let proxy = Setup::open(&upstream).start();
    for _ in 0..2 {
        let answer = pull(&proxy, &digest);
        answer.assert_content(&digest);
        assert_eq!(answer.header("content-length"), Some("0"));
    }
    assert_eq!(proxy.wait_for_blobs(1), 1);
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[test]
fn a_refusal_of_upstream_keeps_its_sense() {
    for (theirs, ours) in [(400, 404), (402, 403), (405, 404), (410, 404), (451, 403)] {
        let (upstream, proxy, _) = start();
        upstream.image("app", "1", &[]);
        let blob = upstream.blob("app", b"something");
        upstream.rule(move |_, _| Answer::status(theirs));
        for target in ["/v2/app/manifests/1".to_owned(), format!("/v2/app/blobs/{blob}")] {
            let answer = proxy.get(&target);
            assert_eq!(answer.status, ours, "{theirs} {target}");
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(said.contains(&theirs.to_string()), "{theirs} {target}: {said}");
        }
    }
}
