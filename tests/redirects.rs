//! Redirects and addresses: what may be contacted, with what, and what is
//! never contacted (cases X1 to X9).

use crate::support::digest::noise;
use crate::support::proxy::{Proxy, Setup, credential};
use crate::support::upstream::{Answer, Guard, SECRET, TOKEN_PREFIX, Upstream};

/// A registry whose blobs are at `storage`, which it may redirect to.
fn start() -> (Upstream, Upstream, Proxy, String) {
    let (upstream, storage) = (Upstream::start(), Upstream::start());
    upstream.guard(Guard::Token);
    let bytes = noise(1, 100_000);
    let digest = upstream.blob("app", &bytes);
    storage.blob("app", &bytes);
    upstream.redirect_blobs(&storage);
    let keys =
        format!("default = true\naccess = \"anyone\"\nredirect_origins = [\"{}\"]\n{}", storage.origin(), credential());
    let proxy = Setup::new().registry("sample", &upstream, &keys).start();
    (upstream, storage, proxy, digest)
}

/// What a client gets where upstream redirects a blob to `target`.
fn redirected_to(target: &str) -> u16 {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(2, 100));
    let target = target.to_owned();
    upstream.on("GET", "/blobs/", move |_, _| Answer::status(307).header("Location", target.clone()));
    Setup::open(&upstream).start().get(&format!("/v2/app/blobs/{digest}")).status
}

#[test]
fn x5_a_redirect_is_followed_without_anything_of_the_registry_or_the_client() {
    let (_, storage, proxy, digest) = start();
    let answer = proxy.get_with(
        &format!("/v2/app/blobs/{digest}"),
        &[("Authorization", "Bearer of-the-client"), ("Cookie", "a=b"), ("X-Client", "secret"), ("User-Agent", "me/1")],
    );
    answer.assert_content(&digest);
    let requests = storage.requests();
    assert_eq!(requests.len(), 1);
    for name in ["authorization", "cookie", "proxy-authorization", "x-client", "referer"] {
        assert_eq!(requests[0].header(name), None, "{name}");
    }
    assert!(requests[0].header("user-agent").is_some_and(|agent| agent.starts_with("transship")));
    let all = format!("{requests:?}");
    assert!(!all.contains(SECRET) && !all.contains(TOKEN_PREFIX));
}

#[test]
fn a_signed_address_reaches_no_log_and_no_client() {
    let (_, storage, proxy, digest) = start();
    storage.first(1, "GET", "/storage/", |_, _| Answer::status(500));
    let answer = proxy.get(&format!("/v2/app/blobs/{digest}"));
    answer.assert_content(&digest);
    assert!(answer.header("location").is_none());
    assert!(!proxy.log().contains("signature"), "{}", proxy.log());
}

#[test]
fn x6_permission_is_asked_at_the_registry_and_its_storage_is_not_contacted() {
    let (upstream, storage) = (Upstream::start(), Upstream::start());
    let bytes = noise(1, 100_000);
    let digest = upstream.blob("app", &bytes);
    upstream.blob("copy", &bytes);
    storage.blob("app", &bytes);
    upstream.redirect_blobs(&storage);
    let keys = format!("default = true\nredirect_origins = [\"{}\"]", storage.origin());
    let proxy = Setup::new().registry("sample", &upstream, &keys).start();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    proxy.get(&format!("/v2/copy/blobs/{digest}")).assert_content(&digest);
    assert_eq!(upstream.count("HEAD", "/v2/copy/blobs/"), 1);
    assert_eq!(storage.requests().len(), 1, "the bytes were here already");
}

#[test]
fn x1_x4_private_and_plain_targets_are_not_contacted() {
    let evil = Upstream::start();
    let port = evil.address().port();
    let targets = [
        evil.origin(),
        format!("http://localhost:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://0.0.0.0:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("https://0177.0.0.1:{port}/"),
        format!("https://user:password@127.0.0.1:{port}/"),
        "http://169.254.169.254/latest/meta-data/".into(),
        "https://169.254.169.254/".into(),
        "https://10.0.0.1/".into(),
        "https://[fd00:ec2::254]/".into(),
        "https://[64:ff9b::a00:1]/".into(),
        "ftp://example.com/".into(),
        "file:///etc/passwd".into(),
        "data:,hello".into(),
    ];
    // `allow_private` of the registry is for its own address: the redirect's
    // origin has to be named.
    for target in targets {
        assert_eq!(redirected_to(&target), 502, "{target}");
        assert_eq!(evil.connections(), 0, "{target}");
    }
}

#[test]
fn x2_a_name_that_resolves_to_a_private_address_is_not_contacted() {
    let evil = Upstream::start();
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(3, 100));
    let target = format!("https://localhost:{}/", evil.address().port());
    upstream.on("GET", "/blobs/", move |_, _| Answer::status(307).header("Location", target.clone()));
    let proxy = Setup::open(&upstream).start();
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 502);
    assert_eq!(evil.connections(), 0);
}

#[test]
fn x3_redirects_that_lead_nowhere_end() {
    assert_eq!(redirected_to(""), 502);
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(4, 100));
    upstream.on("GET", "/blobs/", |_, _| Answer::status(307));
    let proxy = Setup::open(&upstream).start();
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 502);

    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(4, 100));
    upstream.rule(|request, _| Answer::status(307).header("Location", format!("{}x", request.target)));
    let proxy = Setup::open(&upstream).start();
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 502);
    assert!(upstream.requests().len() <= 6, "{}", upstream.requests().len());
}

#[test]
fn x3_a_relative_redirect_stays_at_its_origin() {
    let upstream = Upstream::start();
    let bytes = noise(5, 1000);
    let digest = upstream.blob("app", &bytes);
    upstream.on("GET", "/blobs/", |request, answer| {
        if request.target.contains("/elsewhere") {
            return answer;
        }
        Answer::status(302).header("Location", "../elsewhere/blob")
    });
    upstream.on("GET", "/elsewhere/", move |_, _| Answer::status(200).body(bytes.clone()));
    let proxy = Setup::open(&upstream).start();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
}

#[test]
fn x7_a_link_to_another_host_leads_nowhere_but_its_query_to_the_same_list() {
    let evil = Upstream::start();
    let upstream = Upstream::start();
    upstream.image("app", "1", &[]);
    let next = Some("</v2/app/tags/list?last=x>; rel=\"next\"");
    let links = [
        (format!("<{}/v2/app/tags/list?last=x>; rel=\"next\"", evil.origin()), next),
        ("<http://evil.example/>; rel=next".to_owned(), None),
        ("</v2/other/tags/list?last=x>; rel=\"next\"".into(), next),
        ("garbage".into(), None),
    ];
    for (link, expected) in links {
        upstream.clear_rules();
        let sent = link.clone();
        upstream.on("GET", "/tags/list", move |_, answer| answer.header("Link", sent.clone()));
        let proxy = Setup::open(&upstream).start();
        let answer = proxy.get("/v2/app/tags/list");
        assert_eq!((answer.status, answer.header("link")), (200, expected), "{link}");
        proxy.get("/v2/app/tags/list?last=x");
        assert_eq!(evil.connections(), 0);
    }
    upstream.clear_rules();
    upstream.on("GET", "/tags/list", |_, answer| {
        answer.header("Link", "</v2/app/tags/list?last=1&n=1&token=abc>; rel=\"next\"")
    });
    let proxy = Setup::open(&upstream).start();
    let answer = proxy.get("/sample/v2/app/tags/list?n=1");
    assert_eq!(answer.header("link"), Some("</sample/v2/app/tags/list?last=1&n=1&token=abc>; rel=\"next\""));
    assert_eq!(evil.connections(), 0);
}

#[test]
fn x8_urls_in_descriptors_are_not_asked() {
    let (upstream, evil) = (Upstream::start(), Upstream::start());
    let digest = evil.blob("app", &noise(6, 100));
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": crate::support::upstream::MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 100 },
        "layers": [{ "mediaType": "a/b", "digest": digest, "size": 100, "urls": [format!("{}/x", evil.origin())] }],
    });
    upstream.manifest("app", "1", crate::support::upstream::MANIFEST, manifest.to_string().as_bytes());
    let proxy = Setup::open(&upstream).start();
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).verdict(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(evil.connections(), 0);
}

fn tls(names: &[&str], expired: bool) -> (rustls::ServerConfig, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters =
        rcgen::CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    if expired {
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let certificate = parameters.self_signed(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (config, certificate.pem())
}

/// An HTTPS upstream with its own authority, trusted or not.
fn over_tls(names: &[&str], expired: bool, trusted: bool) -> u16 {
    let (config, pem) = tls(names, expired);
    let upstream = Upstream::start_tls(config);
    upstream.image("app", "1", &[]);
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, pem).unwrap();
    let keys = if trusted { format!("default = true\nca = \"{}\"", ca.display()) } else { "default = true".into() };
    let proxy = Setup::new().registry("sample", &upstream, &keys).start();
    let status = proxy.get("/v2/app/manifests/1").status;
    assert_eq!(upstream.requests().is_empty(), status != 200, "nothing is sent before the certificate is believed");
    status
}

#[test]
fn x9_a_certificate_that_is_not_right_ends_the_connection() {
    assert_eq!(over_tls(&["127.0.0.1"], false, true), 200);
    assert_eq!(over_tls(&["127.0.0.1"], false, false), 502, "self-signed");
    assert_eq!(over_tls(&["registry.example"], false, true), 502, "another name");
    assert_eq!(over_tls(&["127.0.0.1"], true, true), 502, "expired");
}

#[test]
fn once_elsewhere_nobody_is_sent_back_with_the_credential() {
    let (upstream, storage, proxy, digest) = start();
    let back = format!("{}/v2/hr/payroll/blobs/{digest}", upstream.origin());
    storage.rule(move |_, _| Answer::status(307).header("Location", back.clone()));
    upstream.blob("hr/payroll", &noise(1, 100_000));
    upstream.forget();
    assert_ne!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 200);
    let elsewhere: Vec<_> =
        upstream.requests().into_iter().filter(|request| request.target.contains("payroll")).collect();
    assert!(!elsewhere.is_empty(), "it was led there");
    assert!(elsewhere.iter().all(|request| request.header("authorization").is_none()), "{elsewhere:?}");
}

#[test]
fn a_limit_of_where_a_redirect_leads_is_no_limit_of_the_registry() {
    let (upstream, storage, proxy, digest) = start();
    upstream.image("app", "1", &[]);
    storage.rule(|_, _| Answer::status(429).header("Retry-After", "60"));
    let blob = format!("/v2/app/blobs/{digest}");
    assert_eq!(proxy.get(&blob).status, 429);
    let asked = storage.requests().len();
    assert_eq!(proxy.get(&blob).status, 429);
    assert_eq!(storage.requests().len(), asked, "it is left alone until then");
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
}

#[test]
fn a_registry_behind_a_registry_is_asked_with_an_anonymous_token_where_both_are_named() {
    for named in [true, false] {
        let (front, real) = (Upstream::start(), Upstream::start());
        real.guard(Guard::AnonymousToken);
        let manifest = real.image("app", "1", &[]);
        let to = real.origin();
        front.on("GET", "/manifests/", move |request, _| {
            Answer::status(307).header("Location", format!("{to}{}", request.target))
        });
        let origin = real.origin();
        let realms = if named { format!("token_realms = [\"{origin}\"]\n") } else { String::new() };
        let keys =
            format!("default = true\naccess = \"anyone\"\nredirect_origins = [\"{origin}\"]\n{realms}{}", credential());
        let proxy = Setup::new().registry("front", &front, &keys).start();
        let answer = proxy.get("/v2/app/manifests/1");
        assert_eq!(answer.status == 200 && answer.body == manifest, named, "{}", answer.status);
        for request in real.requests() {
            let shown = request.header("authorization").unwrap_or_default();
            assert!(!shown.starts_with("Basic"), "a credential went there: {shown}");
        }
    }
}
