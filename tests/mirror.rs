//! The default registry and the names of the others, apart from each other.

use std::fs;
use std::net::SocketAddr;

use crate::support::http::{self, Response};
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::Upstream;

/// A default registry that has namespaces called as the other registry is.
fn registries() -> (Upstream, Upstream) {
    let (default, other) = (Upstream::start(), Upstream::start());
    for repository in ["nvidia/cuda", "nvidia/nvidia/cuda", "team/app"] {
        default.image(repository, "1", &[repository.as_bytes()]);
    }
    other.image("cuda", "1", &[]);
    (default, other)
}

fn get(address: SocketAddr, target: &str) -> Response {
    http::send(address, "GET", target, &[])
}

fn body(upstream: &Upstream, repository: &str) -> Vec<u8> {
    get(upstream.address(), &format!("/v2/{repository}/manifests/1")).body
}

#[test]
fn a_mirror_listener_knows_no_names_and_the_other_one_nothing_else() {
    let (default, other) = registries();
    let host = other.address();
    let proxy = Setup::new()
        .sections("[server]\nmirror_listen = \"127.0.0.1:0\"\n")
        .registry("corner", &default, "default = true")
        .registry("nvidia", &other, "")
        .start();
    let (main, mirror) = (proxy.address(), proxy.mirror());
    assert_eq!(get(mirror, "/v2/").status, 200);
    for (target, repository) in [
        ("/v2/nvidia/cuda/manifests/1", "nvidia/cuda"),
        ("/v2/nvidia/cuda/manifests/1?ns=docker.io", "nvidia/cuda"),
        ("/v2/nvidia/nvidia/cuda/manifests/1", "nvidia/nvidia/cuda"),
        ("/v2/team/app/manifests/1", "team/app"),
    ] {
        let answer = get(mirror, target);
        assert_eq!((answer.status, answer.body), (200, body(&default, repository)), "{target}");
    }
    for target in [
        "/nvidia/v2/cuda/manifests/1".to_owned(),
        "/nvidia/v2/".to_owned(),
        format!("/v2/cuda/manifests/1?ns={host}"),
        format!("/v2/?ns={host}"),
    ] {
        assert_eq!(get(mirror, &target).status, 404, "{target}");
    }
    assert_eq!(other.connections(), 0);
    // The other listener answers by name and host alone.
    assert_eq!(get(main, "/v2/").status, 200);
    for (target, upstream, repository) in [
        ("/v2/nvidia/cuda/manifests/1".to_owned(), &other, "cuda"),
        ("/v2/corner/nvidia/cuda/manifests/1".to_owned(), &default, "nvidia/cuda"),
        (format!("/v2/cuda/manifests/1?ns={host}"), &other, "cuda"),
    ] {
        let answer = get(main, &target);
        assert_eq!((answer.status, answer.body), (200, body(upstream, repository)), "{target}");
    }
    for target in ["/v2/team/app/manifests/1", "/v2/nvidai/cuda/manifests/1"] {
        assert_eq!(get(main, target).verdict(), (404, "NAME_UNKNOWN".into()), "{target}");
    }
}

/// Starts the proxy with `text` in its file instead.
fn reload(proxy: &Proxy, text: &str) {
    fs::write(proxy.cache().parent().unwrap().join("transship.toml"), text).unwrap();
    let answer = http::send_json(proxy.admin(), "POST", "/api/v1/reload", "null");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

#[test]
fn a_name_that_was_taken_away_means_nothing_until_it_is_used_again() {
    let (default, other) = registries();
    let mut proxy = Setup::new().registry("corner", &default, "default = true").registry("nvidia", &other, "").start();
    let file = proxy.cache().parent().unwrap().join("transship.toml");
    let both = fs::read_to_string(&file).unwrap();
    let target = "/v2/nvidia/cuda/manifests/1";
    assert_eq!(proxy.get(target).body, body(&other, "cuda"));
    let renamed = both.replace("name = \"nvidia\"", "name = \"NV-team\"");
    reload(&proxy, &renamed);
    let asked = default.connections();
    for target in [target, "/v2/NVIDIA/cuda/manifests/1"] {
        assert!(proxy.get(target).status >= 400, "{target}");
    }
    assert_eq!(proxy.get(target).verdict(), (404, "NAME_UNKNOWN".into()));
    assert_eq!(default.connections(), asked, "the default registry is not asked");
    assert_eq!(proxy.get("/v2/nv-team/cuda/manifests/1").body, body(&other, "cuda"));
    // Who says which registry is meant, means no name.
    let by_host = format!("/v2/nvidia/cuda/manifests/1?ns={}", default.address());
    assert_eq!(proxy.get(&by_host).body, body(&default, "nvidia/cuda"));
    let listed = http::send(proxy.admin(), "GET", "/api/v1/registries", &[]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(listed["retired"][0]["address"], "nvidia", "{listed}");
    // The start writes the first file again: the name is used, and its
    // successor is closed.
    proxy.restart();
    assert_eq!(proxy.get(target).body, body(&other, "cuda"));
    assert_eq!(proxy.get("/v2/nv-team/cuda/manifests/1").verdict(), (404, "NAME_UNKNOWN".into()));
}

#[test]
fn a_name_near_a_registrys_is_told_of_it_when_the_default_one_does_not_know_it() {
    let (default, other) = registries();
    let proxy = Setup::new().registry("corner", &default, "default = true").registry("nvidia", &other, "").start();
    let answer = proxy.get("/v2/nvidai/cuda/manifests/1");
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 404 && said.contains("did you mean registry `nvidia`"), "{said}");
    let answer = proxy.get("/v2/something/else/manifests/1");
    assert!(!String::from_utf8_lossy(&answer.body).contains("did you mean"));
    // What somebody may not pull through, they are not told of.
    let clients = crate::clients::with_password("ci", "correct horse", "nvidia/**");
    let guarded = Setup::new()
        .registry("corner", &default, "default = true")
        .registry("nvidia", &other, "access = \"grants\"")
        .text(&clients)
        .start();
    let answer = guarded.get("/v2/nvidai/cuda/manifests/1");
    assert!(answer.status == 404 && !String::from_utf8_lossy(&answer.body).contains("nvidia`"));
    assert!(eventually(|| default.connections() > 0));
}
