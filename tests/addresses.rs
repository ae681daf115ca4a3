//! Every way to address a repository leads to the same registry, the same
//! credential and the same cached bytes.

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Setup, credential};
use crate::support::upstream::{Guard, Upstream};

fn registries() -> (Upstream, crate::support::proxy::Proxy, String) {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    let digest = upstream.blob("team/app", &noise(1, 300_000));
    upstream.manifest("team/app", "1", crate::support::upstream::MANIFEST, b"{\"schemaVersion\":2,\"layers\":[]}");
    let keys = format!(
        "namespace = \"team\"\naccess = \"anyone\"\nhosts = [\"apps.proxy.example\"]\ndefault = true\n{}",
        credential()
    );
    let proxy = Setup::new().registry("My-Team", &upstream, &keys).start();
    (upstream, proxy, digest)
}

#[test]
fn every_style_of_address_reaches_one_blob_that_is_fetched_once() {
    let (upstream, proxy, digest) = registries();
    let host = upstream.address();
    let plain = [
        // Name in the path, in any case that a repository name can have.
        format!("/v2/my-team/app/blobs/{digest}"),
        // Name or host before `/v2`.
        format!("/my-team/v2/app/blobs/{digest}"),
        format!("/My-Team/v2/app/blobs/{digest}"),
        format!("/{host}/v2/team/app/blobs/{digest}"),
        // What containerd asks a mirror.
        format!("/v2/team/app/blobs/{digest}?ns={host}"),
    ];
    for target in plain {
        proxy.get(&target).assert_content(&digest);
    }
    proxy.get_with(&format!("/v2/app/blobs/{digest}"), &[("Host", "apps.proxy.example")]).assert_content(&digest);
    assert_eq!(upstream.count("GET", "/v2/team/app/blobs/"), 2, "one with a 401, one with a token");
    assert_eq!(upstream.count("GET", "/token"), 1);
}

#[test]
fn an_answer_found_by_ns_says_so_and_others_do_not() {
    let (upstream, proxy, digest) = registries();
    let host = upstream.address().to_string();
    let answer = proxy.get(&format!("/v2/team/app/blobs/{digest}?ns={host}"));
    assert_eq!(answer.header("oci-namespace"), Some(host.as_str()));
    let answer = proxy.get(&format!("/v2/my-team/app/blobs/{digest}"));
    assert_eq!(answer.header("oci-namespace"), None);
}

#[test]
fn ns_comes_before_a_name_in_the_path_and_before_the_virtual_host() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let digest = first.blob("app", &noise(2, 1000));
    let other = second.blob("app", &noise(3, 1000));
    let proxy = Setup::new()
        .registry("first", &first, "hosts = [\"one.example\"]")
        .registry("second", &second, "hosts = [\"two.example\"]")
        .start();
    let ns = second.address();
    let ask = |target: String| proxy.get_with(&target, &[("Host", "two.example")]).status;
    // The name of another registry is then no more than a namespace of this one.
    assert_eq!(ask(format!("/v2/first/app/blobs/{digest}?ns={ns}")), 404);
    assert_eq!(ask(format!("/v2/second/app/blobs/{other}?ns={ns}")), 200);
    assert_eq!(ask(format!("/v2/first/app/blobs/{digest}")), 200);
    assert_eq!(ask(format!("/v2/app/blobs/{other}?ns={}", first.address())), 404);
    assert_eq!(ask(format!("/v2/app/blobs/{digest}?ns={}", first.address())), 200);
    assert_eq!(ask(format!("/v2/app/blobs/{other}")), 200);
}

#[test]
fn two_registries_on_one_host_are_told_apart_by_the_longest_prefix() {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    let (wide, narrow) = (upstream.blob("org/app", &noise(4, 100)), upstream.blob("org/secret/app", &noise(5, 100)));
    let proxy = Setup::new()
        .registry("Wide", &upstream, &format!("namespace = \"org\"\naccess = \"anyone\"\n{}", credential()))
        .registry(
            "Narrow",
            &upstream,
            "namespace = \"org/secret\"\naccess = \"anyone\"\nusername = \"another\"\npassword = { env = \"ANOTHER\" }",
        )
        .environment("ANOTHER", "wrong")
        .start();
    let host = upstream.address();
    assert_eq!(proxy.get(&format!("/{host}/v2/org/app/blobs/{wide}")).status, 200);
    // The longer prefix has the wrong secret: the shorter one's is not tried.
    assert_eq!(proxy.get(&format!("/{host}/v2/org/secret/app/blobs/{narrow}")).status, 502);
    // What no prefix covers belongs to nobody.
    assert_eq!(proxy.get(&format!("/{host}/v2/other/app/blobs/{wide}")).status, 404);
}

#[test]
fn a_name_is_checked_against_the_image_it_is_used_with() {
    let (upstream, proxy, digest) = registries();
    upstream.forget();
    for target in [
        format!("/v2/my-team/evil.example/team/app/blobs/{digest}"),
        // The host without its port is another host.
        format!("/v2/my-team/127.0.0.1/team/app/blobs/{digest}"),
        format!("/{}/v2/other/app/blobs/{digest}", upstream.address()),
    ] {
        let answer = proxy.get(&target);
        assert_eq!(answer.status, 404, "{target}");
    }
    // What is asked for lies below what the registry is for.
    let to_others = upstream
        .requests()
        .iter()
        .filter(|request| request.target.contains("/blobs/") && !request.target.starts_with("/v2/team/"))
        .count();
    assert_eq!(to_others, 0, "{:?}", upstream.requests());
}

#[test]
fn a_root_mirror_request_goes_to_the_default_registry() {
    let upstream = Upstream::start();
    let manifest = upstream.image("library/alpine", "3", &[&noise(6, 5000)]);
    let proxy = Setup::open(&upstream).start();
    let answer = proxy.get("/v2/library/alpine/manifests/3");
    assert_eq!((answer.status, &answer.body), (200, &manifest));
}

#[test]
fn without_a_default_registry_the_root_belongs_to_nobody() {
    let upstream = Upstream::start();
    upstream.image("library/alpine", "3", &[]);
    let proxy = Setup::new().registry("sample", &upstream, "").start();
    assert_eq!(proxy.get("/v2/library/alpine/manifests/3").verdict(), (404, "NAME_UNKNOWN".into()));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn ping_answers_at_every_root() {
    let (upstream, proxy, _) = registries();
    for target in ["/v2/", "/v2", "/my-team/v2/", &format!("/{}/v2/", upstream.address())] {
        let answer = proxy.get(target);
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    }
    assert_eq!(http::get(proxy.address(), "/unknown/v2/").status, 404);
    assert_eq!(upstream.connections(), 0, "a ping asks nobody");
}

#[test]
fn a_mirror_asked_for_docker_hub_by_name_answers_as_one_asked_without() {
    let (corner, upstream) = (Upstream::start(), Upstream::start());
    let ours = corner.image("library/alpine", "3", &[]);
    upstream.image("library/alpine", "3", &[]);
    // Docker Hub is there, but nobody has named it: a mirror with a default
    // registry of its own is asked for docker.io by runtimes that say so.
    let proxy = Setup::new()
        .sections("docker_hub = true\n")
        .registry("other", &upstream, "")
        .registry("corner", &corner, "default = true")
        .start();
    for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        let answer = proxy.get(&format!("/v2/library/alpine/manifests/3?ns={host}"));
        assert_eq!((answer.status, &answer.body), (200, &ours), "{host}");
        assert_eq!(answer.header("oci-namespace"), Some(host));
        assert_eq!(proxy.get(&format!("/v2/?ns={host}")).status, 200);
    }
    assert_eq!(proxy.get("/v2/library/alpine/manifests/3").body, ours);
    assert_eq!(proxy.get("/v2/library/alpine/manifests/3?ns=quay.io").status, 404);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn v2_twice_a_root_dot_and_a_namespace_in_a_header_are_understood() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let digest = first.blob("my.group/app", &noise(2, 1000));
    let other = second.blob("app", &noise(3, 1000));
    let proxy = Setup::new()
        .registry("first", &first, "hosts = [\"one.example\"]")
        .registry("second", &second, "default = true")
        .start();
    let ask = |target: &str, headers: &[(&str, &str)]| proxy.get_with(target, headers).status;
    // From clients that put `/v2` behind an address that has it.
    assert_eq!(ask(&format!("/v2/second/v2/app/blobs/{other}"), &[]), 200);
    assert_eq!(ask("/v2/second/v2/", &[]), 200);
    assert_eq!(ask("/v2/nobody/v2/", &[]), 404);
    // A repository may begin like a host, once it is known whose it is.
    let blob = format!("/v2/my.group/app/blobs/{digest}");
    let ns = first.address().to_string();
    assert_eq!(ask(&format!("{blob}?ns={ns}"), &[]), 200);
    assert_eq!(ask(&format!("/v2/first/my.group/app/blobs/{digest}"), &[]), 200);
    assert_eq!(ask(&blob, &[("Host", "one.example.")]), 200);
    assert_eq!(ask(&blob, &[]), 404, "nobody has said whose it is");
    assert_eq!(ask(&blob, &[("OCI-Namespace", &ns)]), 200);
    assert_eq!(ask(&format!("{blob}?ns={ns}"), &[("OCI-Namespace", "another.example")]), 400);
    assert_eq!(ask(&blob, &[("OCI-Namespace", "unknown.example")]), 404);
}

#[test]
fn web_pages_are_given_nothing() {
    let upstream = Upstream::start();
    upstream.image("library/alpine", "3", &[]);
    let proxy = Setup::open(&upstream).start();
    let ask = |headers: &[(&str, &str)]| proxy.get_with("/v2/library/alpine/manifests/3", headers).status;
    assert_eq!(ask(&[]), 200);
    // A name that somebody else made to point here.
    assert_eq!(ask(&[("Host", "evil.example")]), 403);
    assert_eq!(ask(&[("Host", "evil.example:5000")]), 403);
    assert_eq!(ask(&[("Origin", "http://evil.example")]), 403);
    assert_eq!(ask(&[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(ask(&[("Sec-Fetch-Site", "none")]), 200);
}
