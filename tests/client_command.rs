//! `transship client`: who may pull is said while the proxy runs.

use serde_json::Value;

use crate::support::http::basic;
use crate::support::process::{Outcome, bounded};
use crate::support::proxy::{Proxy, Setup, credential};
use crate::support::upstream::{Guard, Upstream};

const TAG: &str = "/v2/private/team/app/manifests/1";

fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    upstream.image("team/app", "1", &[b"layer"]);
    let proxy = Setup::new().registry("private", &upstream, &credential()).start();
    (upstream, proxy)
}

fn transship(proxy: &Proxy, arguments: &[&str]) -> Outcome {
    let dir = proxy.cache();
    let mut command = bounded(env!("CARGO_BIN_EXE_transship"), &dir);
    command.args(arguments).env("TRANSSHIP_ADMIN_SOCKET", proxy.admin_socket());
    Outcome::of(&mut command)
}

fn added(proxy: &Proxy, arguments: &[&str]) -> String {
    let said = transship(proxy, &[&["client", "add", "--output", "json"], arguments].concat()).expect_ok();
    let document: Value = serde_json::from_slice(&said.stdout).unwrap();
    document["secret"].as_str().unwrap().to_owned()
}

fn pull(proxy: &Proxy, authorization: &str) -> u16 {
    proxy.get_with(TAG, &[("Authorization", authorization)]).status
}

#[test]
fn a_client_pulls_from_the_moment_it_is_added_until_it_is_removed_over_restarts() {
    let (_upstream, mut proxy) = start();
    assert_eq!(proxy.get(TAG).status, 404, "nobody could log in yet");
    let password = added(&proxy, &["ci", "--grant", "private/**"]);
    let token = added(&proxy, &["robot", "--token", "--grant", "private/team/*"]);
    assert!(password.len() >= 24 && token.len() >= 24, "long enough not to be guessed");
    for _ in 0..2 {
        assert_eq!(proxy.get(TAG).status, 401);
        assert_eq!(pull(&proxy, &basic("ci", &password)), 200);
        assert_eq!(pull(&proxy, &format!("Bearer {token}")), 200);
        assert_eq!(pull(&proxy, &basic("ci", &token)), 401);
        proxy.restart();
    }
    let listed = transship(&proxy, &["client", "list"]).expect_ok().text();
    assert!(listed.contains("robot") && listed.contains("private/team/*"), "{listed}");
    transship(&proxy, &["client", "rm", "ci"]).expect_ok();
    assert_eq!(pull(&proxy, &basic("ci", &password)), 401);
    assert_eq!(pull(&proxy, &format!("Bearer {token}")), 200);
    assert!(!proxy.log().contains(&password) && !proxy.log().contains(&token));
    let store = std::fs::read(proxy.cache().parent().unwrap().join("store/transship.store")).unwrap();
    assert!(!String::from_utf8_lossy(&store).contains("robot"));
}

#[test]
fn what_is_no_client_is_refused_with_what_to_do() {
    let (_upstream, proxy) = start();
    added(&proxy, &["ci", "--grant", "private/**"]);
    for (arguments, word) in [
        (&["client", "add", "ci", "--grant", "private/**"][..], "there is a client `ci` already"),
        (&["client", "add", "x", "--grant", "nowhere/**"], "there is no registry `nowhere`"),
        (&["client", "add", "x", "--grant", "private"], "registry/pattern"),
        (&["client", "add", "x", "--certificate", "CN=x"], "client_ca"),
        (&["client", "add", "x", "--network", "10.0.0.0/99"], "network"),
        (&["client", "rm", "nobody"], "there is no client `nobody`"),
    ] {
        let said = transship(&proxy, arguments).expect_error();
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
    let password = added(&proxy, &["ci", "--replace", "--grant", "private/other/*"]);
    assert_eq!(pull(&proxy, &basic("ci", &password)), 404, "granted something else now");
}
