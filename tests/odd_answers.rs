//! Registries that answer in odd but usual ways are pulled from all the same.

use std::io::{Read as _, Write as _};

use crate::support::digest::{noise, sha256};
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Upstream};

/// What an answer is called, and the answer.
type Odd = (&'static str, fn() -> Answer);

fn start(keys: &str) -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let sections = "[cache]\nnot_found_ttl = \"0s\"\n";
    let keys = format!("default = true\n{keys}");
    let proxy = Setup::new().sections(sections).registry("sample", &upstream, &keys).start();
    (upstream, proxy)
}

#[test]
fn a_tag_is_what_get_says_it_is_whatever_head_says() {
    let page: fn() -> Answer = || Answer::status(200).header("Content-Type", "text/html").body(b"<html>".to_vec());
    let odd: [Odd; 6] = [
        ("400", || Answer::status(400)),
        ("403", || Answer::status(403)),
        ("404", || Answer::status(404)),
        ("405", || Answer::status(405)),
        ("501", || Answer::status(501)),
        ("a page", page),
    ];
    for (what, answer) in odd {
        let (upstream, proxy) = start("tag_ttl = \"0s\"");
        let first = upstream.image("app", "1", &[b"one"]);
        upstream.on("HEAD", "/manifests/", move |_, _| answer());
        for _ in 0..2 {
            let got = proxy.get("/v2/app/manifests/1");
            assert_eq!((got.status, got.header("warning")), (200, None), "{what}");
            assert_eq!(got.body, first, "{what}");
        }
        let second = upstream.image("app", "1", &[b"two"]);
        assert_eq!(proxy.get("/v2/app/manifests/1").body, second, "{what}");
        let head = proxy.head("/v2/app/manifests/1");
        assert_eq!((head.status, head.header("docker-content-digest")), (200, Some(&*sha256(&second))), "{what}");
        assert_eq!(proxy.get("/v2/app/manifests/2").status, 404, "{what}");
    }
}

#[test]
fn a_blob_may_be_read_if_a_byte_of_it_may_whatever_head_says() {
    for status in [400, 403, 404, 405, 501] {
        let (upstream, proxy) = start("");
        let bytes = noise(1, 200_000);
        let digest = upstream.blob("first", &bytes);
        upstream.blob("second", &bytes);
        upstream.on("HEAD", "/blobs/", move |_, _| Answer::status(status));
        proxy.get(&format!("/v2/first/blobs/{digest}")).assert_content(&digest);
        proxy.wait_for_blobs(1);
        assert_eq!(proxy.head(&format!("/v2/second/blobs/{digest}")).status, 200, "{status}");
        proxy.get(&format!("/v2/second/blobs/{digest}")).assert_content(&digest);
        assert_eq!(proxy.get(&format!("/v2/third/blobs/{digest}")).status, 404, "{status}");
    }
}

#[test]
fn a_list_goes_on_in_every_usual_form_and_at_the_same_registry() {
    for link in [
        "</v2/app/tags/list?last=b&n=2>; rel=\"next\"",
        "<https://inner.example:5000/x/v2/app/tags/list?last=b&n=2>; rel=next",
        "<?last=b&n=2>; title=\"a, b; c\"; REL=\"last next\"",
    ] {
        let (default, other) = (Upstream::start(), Upstream::start());
        other.on("GET", "/tags/list", move |request, _| {
            let answer = Answer::status(200).header("Content-Type", "application/json");
            if request.target.contains("last=b") {
                return answer.body(br#"{"name":"app","tags":["c",null]}"#.to_vec());
            }
            answer
                .header("Link", "</v2/app/tags/list?n=2>; rel=\"prev\"")
                .header("Link", link)
                .body(br#"{"name":"app","tags":["a","b"]}"#.to_vec())
        });
        let proxy = Setup::new().registry("default", &default, "default = true").registry("other", &other, "").start();
        let ns = other.origin().split_once("://").unwrap().1.to_owned();
        let first = proxy.get(&format!("/v2/app/tags/list?n=2&ns={ns}"));
        assert_eq!(first.body, br#"{"name":"app","tags":["a","b"]}"#, "{link}");
        let next = first.header("link").unwrap().strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
        let second = proxy.get(&next);
        assert_eq!(second.body, br#"{"name":"app","tags":["c"]}"#, "{link}: {next}");
        assert_eq!(second.header("link"), None);
    }
}

#[test]
fn a_registry_without_referrers_has_none_however_it_says_so() {
    let answers: [Odd; 5] = [
        ("a page", || Answer::status(200).header("Content-Type", "text/html").body(b"<html>".to_vec())),
        ("nothing", || Answer::status(200)),
        ("403", || Answer::status(403)),
        ("404", || Answer::status(404)),
        ("406", || Answer::status(406)),
    ];
    for (what, answer) in answers {
        let (upstream, proxy) = start("");
        let manifest = upstream.image("app", "1", &[b"one"]);
        upstream.on("GET", "/referrers/", move |_, _| answer());
        let got = proxy.get(&format!("/v2/app/referrers/{}", sha256(&manifest)));
        assert_eq!(got.status, 200, "{what}");
        assert!(String::from_utf8_lossy(&got.body).contains("\"manifests\":[]"), "{what}");
    }
}

#[test]
fn pulls_that_fail_again_and_again_are_told_once() {
    let (upstream, proxy) = start("");
    upstream.on("GET", "/manifests/", |_, _| {
        Answer::status(200).header("Content-Type", "text/html").body(b"<html>captive</html>".to_vec())
    });
    let before = proxy.log().lines().filter(|line| line.contains("\"WARN\"")).count();
    for _ in 0..50 {
        assert!(http::get(proxy.address(), "/v2/app/manifests/1").status >= 500);
    }
    let told = || proxy.log().lines().filter(|line| line.contains("pull failed")).count();
    assert!(eventually(|| told() > 0));
    assert_eq!(told(), 1);
    let warned = proxy.log().lines().filter(|line| line.contains("\"WARN\"")).count();
    assert!(warned - before < 5, "{warned}");
}

#[test]
fn a_manifest_that_is_known_by_its_tag_alone_is_given_by_its_digest_too() {
    let (upstream, proxy) = start("");
    let manifest = upstream.image("app", "1", &[b"one"]);
    let other = upstream.image("app", "2", &[b"two"]);
    upstream.on("GET", "/manifests/sha256:", |_, _| Answer::status(404));
    upstream.on("HEAD", "/manifests/sha256:", |_, _| Answer::status(404));
    let digest = proxy.head("/v2/app/manifests/1").header("docker-content-digest").unwrap().to_owned();
    let by_digest = format!("/v2/app/manifests/{digest}");
    assert_eq!(proxy.get(&by_digest).body, manifest);
    assert_eq!(proxy.get(&by_digest).body, manifest, "from the cache");
    // One that no tag was seen to name is not looked for, and one whose tag has
    // moved is not what was asked for.
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{}", sha256(&other))).status, 404);
    let old = proxy.head("/v2/app/manifests/2").header("docker-content-digest").unwrap().to_owned();
    upstream.image("app", "2", &[b"three"]);
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{old}")).status, 404);
}

/// What a client is told of a failed pull.
fn told(proxy: &Proxy, target: &str) -> (u16, String) {
    let answer = proxy.get(target);
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    (answer.status, document["errors"][0]["message"].as_str().unwrap().to_owned())
}

#[test]
fn a_client_is_told_which_registry_fails_and_how() {
    let (upstream, gone) = (Upstream::start(), Upstream::start());
    let address = gone.address();
    gone.stop();
    // As servers do that are sent TLS where they speak HTTP.
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    upstream.on("GET", "/v2/private/", |_, _| Answer::status(403));
    upstream.on("GET", "/v2/broken/", |_, _| Answer::status(500));
    upstream.on("GET", "/v2/page/", |_, _| Answer::status(200).header("Content-Type", "text/html").body(*b"<html>"));
    let other = |name: &str, url: &str| {
        format!(
            "[[registry]]\nname = \"{name}\"\nkind = \"generic\"\nurl = \"{url}\"\ninsecure = true\nallow_private = [\"127.0.0.0/8\"]\n"
        )
    };
    let proxy = Setup::new()
        .registry("sample", &upstream, "")
        .text(&other("gone", &format!("http://{address}")))
        .text(&other("plain", &format!("https://{plain_address}")))
        .text(&other("nowhere", "https://registry.invalid"))
        .start();
    let origin = upstream.origin();
    for (target, status, wanted) in [
        ("private", 403, format!("{origin} asks for a login, and none is stored for registry `sample`")),
        ("broken", 502, format!("registry `sample`: {origin} answered with status 500; the log")),
        ("page", 502, "registry `sample`: upstream gave no usable answer; the log".to_owned()),
    ] {
        let (found, message) = told(&proxy, &format!("/v2/sample/{target}/manifests/1"));
        assert_eq!(found, status, "{message}");
        assert!(message.starts_with(&wanted), "{message}");
    }
    for (name, wanted, in_log) in [
        ("gone", format!("http://{address}: no connection"), "Connection refused"),
        ("plain", format!("https://{plain_address}: TLS handshake failed"), "does not speak TLS on this port"),
        ("nowhere", "https://registry.invalid: name lookup failed".to_owned(), "its name"),
    ] {
        let (status, message) = told(&proxy, &format!("/v2/{name}/app/manifests/1"));
        assert!(matches!(status, 502..=504), "{status}");
        assert!(message.starts_with(&format!("registry `{name}`: {wanted}")), "{message}");
        assert!(proxy.log().contains(in_log), "{in_log}");
    }
}
