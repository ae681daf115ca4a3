//! The token service: whoever has a login pulls by it, a wrong one fails when
//! it is tried, and who has none is not locked out of what is open.

use serde_json::Value;

use crate::clients::with_password;
use crate::support::http::{self, Response, basic};
use crate::support::proxy::{Proxy, Setup, credential};
use crate::support::upstream::Upstream;

const PASSWORD: &str = "canary-of-the-login";

/// A proxy with an open default registry and a private one, with `manifest 1`
/// of `team/app` and `team/other` in both.
struct Stage {
    _upstreams: [Upstream; 2],
    proxy: Proxy,
}

fn stage(server: &str) -> Stage {
    let (open, private) = (Upstream::start(), Upstream::start());
    for upstream in [&open, &private] {
        upstream.image("team/app", "1", &[]);
        upstream.image("team/other", "1", &[]);
    }
    let proxy = Setup::new()
        .sections(server)
        .registry("open", &open, "default = true")
        .registry("private", &private, &credential())
        .text(&with_password("ci", PASSWORD, "private/**"))
        .start();
    Stage { _upstreams: [open, private], proxy }
}

impl Stage {
    fn get(&self, target: &str, authorization: &str) -> Response {
        match authorization {
            "" => self.proxy.get(target),
            value => self.proxy.get_with(target, &[("Authorization", value)]),
        }
    }

    /// What the token service gives for `query`, as `Authorization`.
    fn token(&self, query: &str, authorization: &str) -> String {
        let answer = self.get(&format!("/token?{query}"), authorization);
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{query}");
        let document: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(document["expires_in"].as_u64().unwrap() >= 60);
        assert_eq!(document["token"], document["access_token"]);
        format!("Bearer {}", document["token"].as_str().unwrap())
    }

    fn challenge(&self, target: &str, authorization: &str) -> String {
        let answer = self.get(target, authorization);
        assert_eq!(answer.status, 401, "{target}");
        answer.header("www-authenticate").unwrap().to_owned()
    }
}

const OPEN: &str = "/v2/team/app/manifests/1";
const PRIVATE: &str = "/v2/private/team/app/manifests/1";
const PULL_PRIVATE: &str = "service=x&scope=repository:private/team/app:pull";

#[test]
fn a_challenge_says_where_a_token_is_had_and_for_what() {
    let stage = stage("");
    let at = stage.proxy.address();
    let bearer = format!("Bearer realm=\"http://{at}/token\",service=\"{at}\"");
    assert_eq!(stage.challenge("/v2/", ""), bearer);
    let scope = ",scope=\"repository:private/team/app:pull\"";
    assert_eq!(stage.challenge(PRIVATE, ""), format!("{bearer}{scope}"));
    // What is not there looks the same.
    let gone = stage.challenge("/v2/quay.io/team/app/manifests/1", "");
    assert_eq!(gone, format!("{bearer},scope=\"repository:quay.io/team/app:pull\""));
    let nobody = stage.token(PULL_PRIVATE, "");
    assert_eq!(stage.challenge(PRIVATE, &nobody), format!("{bearer}{scope},error=\"insufficient_scope\""));
    let ended = stage.challenge(PRIVATE, "Bearer tsp1.e30.AAAA");
    assert_eq!(ended, format!("{bearer}{scope},error=\"invalid_token\""));
}

#[test]
fn nobody_without_a_login_is_locked_out_of_what_is_open() {
    let stage = stage("");
    assert_eq!(stage.get(OPEN, "").status, 200);
    for query in ["", "service=x&scope=repository:team/app:pull", "scope=repository:something/else:pull"] {
        let token = stage.token(query, "");
        assert_eq!(stage.get(OPEN, &token).status, 200, "{query}");
        assert_eq!(stage.get("/v2/", &token).status, 200, "{query}");
        assert_eq!(stage.get(PRIVATE, &token).status, 401, "{query}");
    }
}

#[test]
fn a_wrong_login_fails_at_the_token_service_and_a_right_one_pulls_beside_an_open_default() {
    let stage = stage("");
    for wrong in [basic("ci", "wrong"), basic("nobody", PASSWORD), "Basic !!!".to_owned()] {
        let challenge = stage.challenge("/token?service=x&account=ci", &wrong);
        assert!(challenge.starts_with("Basic "), "{challenge}");
    }
    let right = basic("ci", PASSWORD);
    let login = stage.token("account=ci&client_id=docker&offline_token=true&service=x", &right);
    assert_eq!(stage.get("/v2/", &login).status, 200);
    let pull = stage.token(PULL_PRIVATE, &right);
    assert_eq!(stage.get(PRIVATE, &pull).status, 200);
    assert_eq!(stage.get(OPEN, &pull).status, 200);
    // HTTP Basic goes on working, without a token.
    assert_eq!(stage.get(PRIVATE, &right).status, 200);
    assert!(!stage.proxy.log().contains(PASSWORD) && !stage.proxy.log().contains(&pull["Bearer ".len()..]));
}

#[test]
fn a_token_is_good_for_what_it_was_asked_for() {
    let stage = stage("");
    let right = basic("ci", PASSWORD);
    let token = stage.token(PULL_PRIVATE, &right);
    let other = "/v2/private/team/other/manifests/1";
    assert!(stage.challenge(other, &token).ends_with("error=\"insufficient_scope\""));
    let both = stage.token(&format!("{PULL_PRIVATE}&scope=repository:private/team/other:pull"), &right);
    assert_eq!((stage.get(other, &both).status, stage.get(PRIVATE, &both).status), (200, 200));
    // A mirror with a path is asked for by the name behind it.
    let behind = stage.token("scope=repository:team/app:pull", &right);
    assert_eq!(stage.get("/private/v2/team/app/manifests/1", &behind).status, 200);
    assert_eq!(stage.get(PRIVATE, &behind).status, 200);
    // A token is no login: it does not renew itself.
    assert_eq!(stage.get("/token", &token).status, 401);
    // In scope and not granted is unknown.
    let unknown = stage.token("scope=repository:quay.io/a/b:pull", &right);
    assert_eq!(stage.get("/v2/quay.io/a/b/manifests/1", &unknown).status, 404);
}

#[test]
fn clients_that_ask_by_post_first_are_sent_to_get() {
    let stage = stage("");
    let answer = http::send(stage.proxy.address(), "POST", "/token", &[("Content-Length", "0")]);
    assert_eq!(answer.status, 404);
    let long = format!("/token?scope={}", "a".repeat(8000));
    assert_eq!(stage.get(&long, "").status, 414);
}

#[test]
fn the_realm_is_the_public_url_or_the_host_that_this_client_has_named() {
    let configured = stage("[server]\npublic_url = \"https://proxy.example\"\n");
    let expected = "Bearer realm=\"https://proxy.example/token\",service=\"proxy.example\"";
    assert_eq!(configured.challenge("/v2/", ""), expected);
    let stage = stage("");
    let ask = |host: &str| {
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = http::raw(stage.proxy.address(), request.as_bytes());
        String::from_utf8_lossy(&answer).to_lowercase()
    };
    let other = ask("localhost:81");
    assert!(other.contains("realm=\"http://localhost:81/token\"") && other.contains("cache-control: no-store"));
    // A name that somebody else made to point here is told nothing at all.
    assert!(!ask("evil.example").contains("www-authenticate"));
    assert!(!stage.challenge("/v2/", "").contains("localhost:81"));
}

#[test]
fn a_login_for_somewhere_else_is_no_login_but_does_not_stop_a_mirror() {
    let stage = stage("[server]\nforeign_credentials = \"ignore\"\n");
    let foreign = basic("hub-user", "hub-password");
    assert_eq!(stage.get("/token?account=hub-user&service=x", &foreign).status, 401);
    let token = stage.token("account=hub-user&scope=repository:team/app:pull", &foreign);
    assert_eq!((stage.get(OPEN, &token).status, stage.get(PRIVATE, &token).status), (200, 401));
}

#[test]
fn without_grants_nobody_is_challenged() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    assert_eq!(proxy.get("/v2/").status, 200);
}
