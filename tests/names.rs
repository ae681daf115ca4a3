//! What is no name, tag, digest or page: refused at the door, with nothing
//! sent upstream (security cases A1 to A14).

use crate::support::digest::{noise, sha256, sha512};
use crate::support::http;
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{MANIFEST, Upstream};

fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy)
}

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Sends the target as it is: no library tidies it up.
fn verdict(proxy: &Proxy, target: &[u8]) -> (u16, String) {
    let mut request = b"GET ".to_vec();
    request.extend_from_slice(target);
    request.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = http::raw(proxy.address(), &request);
    let text = String::from_utf8_lossy(&answer);
    let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let document: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    (status, document["errors"][0]["code"].as_str().unwrap_or_default().to_owned())
}

#[track_caller]
fn assert_refused(targets: &[String], status: u16, code: &str) {
    let (upstream, proxy) = start();
    for target in targets {
        assert_eq!(verdict(&proxy, target.as_bytes()), (status, code.to_owned()), "{target:.200}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a1_dot_segments_are_refused() {
    assert_refused(
        &[
            "/v2/../../etc/passwd/manifests/x".into(),
            format!("/v2/a/../b/blobs/sha256:{HEX}"),
            "/v2/./a/manifests/x".into(),
            "/v2/a/manifests/..".into(),
            "/../v2/a/manifests/x".into(),
        ],
        400,
        "NAME_INVALID",
    );
}

#[test]
fn a2_escapes_that_no_name_needs_are_refused() {
    assert_refused(
        &[
            "/v2/%2e%2e%2fa/manifests/x".into(),
            "/v2/a%2Fb/manifests/x".into(),
            "/v2/a%00/manifests/x".into(),
            "/v2/a%252e/manifests/x".into(),
            "/v2/a%/manifests/x".into(),
            "/v2/a%3/manifests/x".into(),
        ],
        400,
        "NAME_INVALID",
    );
}

#[test]
fn a3_an_escaped_colon_in_a_digest_is_a_colon() {
    let (upstream, proxy) = start();
    let digest = upstream.blob("app", &noise(1, 1000));
    proxy.get(&format!("/v2/app/blobs/{}", digest.replace(':', "%3A"))).assert_content(&digest);
    proxy.get(&format!("/v2/app/blobs/{}", digest.replace(':', "%3a"))).assert_content(&digest);
}

#[test]
fn a4_names_outside_the_grammar_are_refused() {
    let names = ["A", "a/B", "-a", "a-", "a.", "_a", "a/.b", "a//b", "a__ _b", "a..b", "a___b", "a/"];
    let targets: Vec<_> = names.iter().map(|name| format!("/v2/{name}/manifests/x")).collect();
    let (upstream, proxy) = start();
    for target in &targets {
        let (status, _) = verdict(&proxy, target.as_bytes());
        assert_eq!(status, 400, "{target}");
    }
    for target in ["/v2/ä/manifests/x", "/v2/🐳/manifests/x", "/v2/a\\b/manifests/x"] {
        assert_eq!(verdict(&proxy, target.as_bytes()).0, 400, "{target}");
    }
    assert_eq!(verdict(&proxy, b"/v2/\xff\xfe/manifests/x").0, 400);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a5_long_names_and_targets_are_refused() {
    assert_refused(&[format!("/v2/{}/manifests/x", "a".repeat(256))], 400, "NAME_INVALID");
    let (upstream, proxy) = start();
    assert_eq!(verdict(&proxy, format!("/v2/{}/manifests/x", "a".repeat(5_000)).as_bytes()).0, 414);
    let status = verdict(&proxy, format!("/v2/{}/manifests/x", "a".repeat(100 * 1024)).as_bytes()).0;
    assert!(matches!(status, 414 | 431), "{status}");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a6_names_made_of_the_words_of_the_api_are_names() {
    let (upstream, proxy) = start();
    for name in ["v2", "manifests", "blobs", "a/manifests/b", "a/blobs/tags/list", "tags/list"] {
        let digest = upstream.blob(name, name.as_bytes());
        let at = proxy.get(&format!("/v2/{name}/blobs/{digest}"));
        assert_eq!((at.status, at.body.as_slice()), (200, name.as_bytes()), "{name}");
    }
}

#[test]
fn a7_a_tag_that_cannot_be_is_unknown_without_asking() {
    assert_refused(
        &["/v2/app/manifests/.INVALID_MANIFEST_NAME".into(), format!("/v2/app/manifests/{}", "t".repeat(129))],
        404,
        "MANIFEST_UNKNOWN",
    );
    assert_refused(&["/v2/app/manifests/a%20b".into()], 400, "NAME_INVALID");
}

#[test]
fn a8_a9_malformed_and_unknown_digests_are_refused() {
    let short = &HEX[1..];
    let upper = HEX.to_uppercase();
    let other = HEX.replace('e', "g");
    let digests = [
        "sha256:baddigeststring".to_owned(),
        format!("sha256:{short}"),
        format!("sha256:{HEX}0"),
        format!("sha256:{upper}"),
        format!("sha256:{other}"),
        "sha256:".into(),
        "md5:d41d8cd98f00b204e9800998ecf8427e".into(),
        format!("sha384:{HEX}"),
        format!("sha256+b64u:{HEX}"),
        format!("SHA256:{HEX}"),
        format!("blake3:{HEX}"),
    ];
    let targets: Vec<_> = digests
        .iter()
        .flat_map(|digest| {
            [
                format!("/v2/app/blobs/{digest}"),
                format!("/v2/app/manifests/{digest}"),
                format!("/v2/app/referrers/{digest}"),
            ]
        })
        .collect();
    assert_refused(&targets, 400, "DIGEST_INVALID");
}

#[test]
fn a10_sha512_content_is_verified_as_sha512() {
    let (upstream, proxy) = start();
    let bytes = noise(2, 200_000);
    let digest = sha512(&bytes);
    upstream.blob_as("app", &digest, &bytes);
    let short = upstream.blob("app", &bytes);
    for _ in 0..2 {
        let answer = proxy.get(&format!("/v2/app/blobs/{digest}"));
        assert!(answer.complete && answer.body == bytes);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    }
    proxy.get(&format!("/v2/app/blobs/{short}")).assert_content(&short);
    assert_eq!(proxy.wait_for_blobs(2), 2, "the same content under two names is two objects");
    let wrong = sha512(b"something else");
    upstream.blob_as("app", &wrong, &bytes);
    assert!(!proxy.get(&format!("/v2/app/blobs/{wrong}")).complete);
    proxy.assert_cache_is_sound();
}

#[test]
fn a12_descriptors_of_a_manifest_are_bytes_and_nothing_more() {
    let (upstream, proxy) = start();
    for (n, digest) in ["sha256:abc", "../../x", "sha256:../..", &"x".repeat(1 << 20)].into_iter().enumerate() {
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 1 },
            "layers": [{ "mediaType": "a/b", "digest": digest, "size": 1, "urls": ["http://evil.example/"] }],
        })
        .to_string();
        upstream.manifest("app", &format!("odd-{n}"), MANIFEST, manifest.as_bytes());
        let answer = proxy.get(&format!("/v2/app/manifests/odd-{n}"));
        assert_eq!((answer.status, answer.body), (200, manifest.into_bytes()));
    }
    assert!(proxy.blobs().iter().all(|path| path.starts_with(proxy.cache())));
    proxy.assert_cache_is_sound();
}

#[test]
fn a13_page_sizes_that_are_not_numbers_are_refused_and_large_ones_passed_on() {
    let (upstream, proxy) = start();
    upstream.image("app", "1", &[]);
    for n in ["99999999999999999999", "-1", "0x10", "", "1e3", "1.5", "%31x"] {
        let answer = proxy.get(&format!("/v2/app/tags/list?n={n}"));
        assert_eq!(answer.verdict(), (400, "PAGINATION_NUMBER_INVALID".into()), "n={n}");
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(proxy.get("/v2/app/tags/list?n=100000").status, 200);
    assert_eq!(upstream.requests()[0].target, "/v2/app/tags/list?n=100000");
}

#[test]
fn a14_a_marker_never_splits_a_header() {
    let (upstream, proxy) = start();
    upstream.image("app", "1", &[]);
    for last in ["a%0d%0aX-Evil:%201", "a%00", "%ff"] {
        assert_eq!(proxy.get(&format!("/v2/app/tags/list?last={last}")).status, 400, "{last}");
    }
    let long = "a".repeat(1 << 20);
    let (status, _) = verdict(&proxy, format!("/v2/app/tags/list?last={long}").as_bytes());
    assert!(matches!(status, 400 | 414 | 431), "{status}");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_refusal_repeats_nothing_of_the_request() {
    let (_, proxy) = start();
    let answer = proxy.get("/v2/app/blobs/sha256:%3Cscript%3E");
    assert_eq!(answer.status, 400);
    assert!(!String::from_utf8_lossy(&answer.body).contains("script"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let empty = sha256(b"");
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{empty}")).verdict(), (404, "BLOB_UNKNOWN".into()));
}
