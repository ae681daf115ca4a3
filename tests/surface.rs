//! The pull surface of the distribution specification: exact bytes, types,
//! headers, pages and referrers.

use crate::support::digest::{noise, sha256};
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Answer, INDEX, MANIFEST, Upstream};

fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy)
}

#[test]
fn a_manifest_comes_with_its_exact_bytes_type_and_digest() {
    let (upstream, proxy) = start();
    // White space and order of keys are part of the content.
    let odd = br#"{ "layers" : [], "schemaVersion":2 ,
        "config":{} }"#;
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    for (tag, media_type, bytes) in
        [("a", MANIFEST, &odd[..]), ("b", INDEX, index), ("c", docker, odd), ("d", list, index)]
    {
        let digest = upstream.manifest(&format!("app/{tag}"), tag, media_type, bytes);
        for reference in [tag, &digest, tag, &digest] {
            let target = format!("/v2/app/{tag}/manifests/{reference}");
            let answer = proxy.get(&target);
            assert_eq!((answer.status, answer.body.as_slice()), (200, bytes));
            let head = proxy.head(&target);
            for answer in [&answer, &head] {
                assert_eq!(answer.header("content-type"), Some(media_type));
                assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
                assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
                assert_eq!(answer.header("etag"), Some(format!("\"{digest}\"").as_str()));
            }
        }
    }
}

#[test]
fn a_manifest_by_digest_is_kept_and_a_tag_is_asked_for_again() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections("[cache]\ntag_ttl = \"0s\"\n").start();
    let first = upstream.image("app", "1", &[b"one"]);
    assert_eq!(proxy.get("/v2/app/manifests/1").body, first);
    upstream.forget();
    assert_eq!(proxy.get(&format!("/v2/app/manifests/{}", sha256(&first))).body, first);
    assert_eq!(upstream.connections(), 0);
    let second = upstream.image("app", "1", &[b"two"]);
    assert_eq!(proxy.get("/v2/app/manifests/1").body, second);
}

#[test]
fn a_head_is_asked_as_a_head_because_no_rate_limit_counts_it() {
    let (upstream, proxy) = start();
    upstream.image("app", "1", &[]);
    assert_eq!(proxy.head("/v2/app/manifests/1").status, 200);
    assert_eq!(upstream.count("GET", "/manifests/"), 0);
    // Where upstream knows no HEAD, a GET does.
    upstream.on("HEAD", "/manifests/", |_, _| Answer::status(405));
    upstream.image("app", "2", &[]);
    assert_eq!(proxy.head("/v2/app/manifests/2").status, 200);
}

#[test]
fn all_manifest_types_are_asked_for_whatever_one_client_accepts() {
    let (upstream, proxy) = start();
    let manifest = upstream.image("app", "1", &[]);
    for accept in ["*/*", "application/json", MANIFEST, "garbage;q=x, ,"] {
        let answer = proxy.get_with("/v2/app/manifests/1", &[("Accept", accept)]);
        assert_eq!(answer.body, manifest, "{accept}");
    }
    for request in upstream.requests() {
        let accept = request.header("accept").unwrap();
        assert!(accept.len() <= 4096);
    }
    let first = upstream.requests()[0].header("accept").unwrap().to_owned();
    for kind in ["image.index.v1+json", "image.manifest.v1+json", "manifest.list.v2+json", "manifest.v2+json"] {
        assert!(first.contains(kind), "{first}");
    }
    let many = vec!["a/b"; 900].join(",");
    assert_eq!(proxy.get_with("/v2/app/manifests/1", &[("Accept", &many)]).status, 200);
}

#[test]
fn a_blob_comes_with_its_headers() {
    let (upstream, proxy) = start();
    let digest = upstream.blob("app", &noise(1, 100_000));
    let target = format!("/v2/app/blobs/{digest}");
    for _ in 0..2 {
        let (answer, head) = (proxy.get(&target), proxy.head(&target));
        answer.assert_content(&digest);
        assert_eq!(head.status, 200);
        for answer in [&answer, &head] {
            assert_eq!(answer.header("content-length"), Some("100000"));
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        }
    }
}

#[test]
fn a_head_of_a_blob_that_is_not_here_fetches_nothing() {
    let (upstream, proxy) = start();
    let digest = upstream.blob("app", &noise(1, 100_000));
    let target = format!("/v2/app/blobs/{digest}");
    assert_eq!(proxy.head(&target).header("content-length"), Some("100000"));
    assert_eq!(upstream.count("GET", "/blobs/"), 0);
    assert_eq!(proxy.head(&format!("/v2/app/blobs/{}", sha256(b"no"))).status, 404);
}

#[test]
fn tags_are_listed_page_by_page_under_the_name_the_client_used() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections("[cache]\ntag_ttl = \"0s\"\n").start();
    for tag in ["1", "2", "3"] {
        upstream.image("team/app", tag, &[]);
    }
    upstream.on("GET", "/tags/list", |request, answer| {
        if request.target.contains("last=2") {
            return answer.body(r#"{"name":"team/app","tags":["3"]}"#);
        }
        if request.target.contains("n=2") {
            return answer
                .header("Link", "</v2/team/app/tags/list?last=2&n=2>; rel=\"next\"")
                .body(r#"{"name":"team/app","tags":["1","2"]}"#);
        }
        answer
    });
    let all = proxy.get("/v2/sample/team/app/tags/list");
    let document: serde_json::Value = serde_json::from_slice(&all.body).unwrap();
    assert_eq!(document, serde_json::json!({ "name": "sample/team/app", "tags": ["1", "2", "3"] }));
    let page = proxy.get("/v2/sample/team/app/tags/list?n=2");
    let link = page.header("link").unwrap();
    assert_eq!(link, "</v2/sample/team/app/tags/list?last=2&n=2>; rel=\"next\"");
    let next = link.trim_start_matches('<').split('>').next().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&proxy.get(next).body).unwrap();
    assert_eq!(document["tags"], serde_json::json!(["3"]));
    assert_eq!(proxy.get("/v2/nowhere/tags/list").verdict(), (404, "NAME_UNKNOWN".into()));
    upstream.on("GET", "/tags/list", |_, answer| answer.body(r#"{"name":"x","tags":null}"#));
    let empty: serde_json::Value = serde_json::from_slice(&proxy.get("/v2/team/app/tags/list").body).unwrap();
    assert_eq!(empty["tags"], serde_json::json!([]));
}

#[test]
fn referrers_come_from_the_api_or_from_the_tag_that_stands_in_for_it() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections("[cache]\ntag_ttl = \"0s\"\n").start();
    let subject = sha256(&upstream.image("app", "1", &[]));
    let target = format!("/v2/app/referrers/{subject}");
    let index = |tag: &str| {
        serde_json::json!({
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{ "mediaType": MANIFEST, "digest": sha256(tag.as_bytes()), "size": 1, "artifactType": "a/b" }],
        })
        .to_string()
    };
    // Neither: an empty list, as the specification asks for.
    let none = proxy.get(&target);
    let document: serde_json::Value = serde_json::from_slice(&none.body).unwrap();
    assert_eq!((none.status, none.header("content-type")), (200, Some(INDEX)));
    assert_eq!(document["manifests"], serde_json::json!([]));
    // The tag.
    upstream.manifest("app", &subject.replace(':', "-"), INDEX, index("tag").as_bytes());
    assert_eq!(proxy.get(&target).body, index("tag").into_bytes());
    // The API, with a filter that upstream applies.
    let body = index("api");
    upstream.on("GET", "/referrers/", move |_, _| {
        Answer::status(200)
            .header("Content-Type", INDEX)
            .header("OCI-Filters-Applied", "artifactType")
            .body(body.clone())
    });
    let filtered = || proxy.get(&format!("{target}?artifactType=a/b"));
    assert_eq!(filtered().body, index("api").into_bytes());
    assert_eq!(filtered().header("oci-filters-applied"), Some("artifactType"));
    assert!(upstream.requests().iter().any(|request| request.target.contains("artifactType=a%2Fb")));
}

#[test]
fn every_answer_is_counted_and_a_counter_names_nothing_a_client_chose() {
    let (_, proxy) = start();
    for n in 0..5 {
        proxy.get(&format!("/v2/name-of-a-client-{n}/manifests/1"));
    }
    assert!(proxy.metric("transship_requests_total") >= 5.0);
    let page = crate::support::http::get(proxy.admin(), "/metrics");
    assert!(!String::from_utf8_lossy(&page.body).contains("name-of-a-client"));
}
