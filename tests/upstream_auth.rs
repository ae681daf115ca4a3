//! The token dance: the stored credential goes where it belongs and nowhere
//! else, as seldom as possible, whatever an upstream asks for (cases E1 to E10).

use std::time::Duration;

use base64::Engine as _;

use crate::support::digest::noise;
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Answer, Guard, SECRET, TOKEN_PREFIX, USERNAME, Upstream};

fn start(guard: Guard) -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    upstream.guard(guard);
    let digest = upstream.blob("app", &noise(1, 10_000));
    let proxy = Setup::stored(&upstream).start();
    (upstream, proxy, digest)
}

/// An upstream that sends this challenge, and what a client of the proxy gets.
fn challenged_with(challenge: impl Into<String>) -> (Upstream, u16) {
    let upstream = Upstream::start();
    let challenge = challenge.into();
    upstream.on("GET", "/v2/", move |_, _| Answer::status(401).header("WWW-Authenticate", challenge.clone()));
    let proxy = Setup::stored(&upstream).start();
    let status = proxy.get("/v2/app/manifests/1").status;
    assert!(!proxy.log().contains(SECRET));
    (upstream, status)
}

fn account() -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{USERNAME}:{SECRET}")))
}

#[test]
fn a_token_is_asked_for_once_with_the_stored_credential_and_used_for_the_whole_repository() {
    let (upstream, proxy, digest) = start(Guard::Token);
    upstream.image("app", "1", &[&noise(2, 1000)]);
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    assert_eq!(proxy.get("/v2/app/tags/list").status, 200);
    let requests = upstream.requests();
    let tokens: Vec<_> = requests.iter().filter(|request| request.path() == "/token").collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].method, "GET");
    assert_eq!(tokens[0].header("authorization"), Some(account().as_str()));
    assert!(tokens[0].target.contains("service=scripted"), "{}", tokens[0].target);
    assert!(tokens[0].target.contains("scope=repository%3Aapp%3Apull"), "{}", tokens[0].target);
    for request in requests.iter().filter(|request| request.path() != "/token") {
        let authorization = request.header("authorization").unwrap_or_default();
        assert!(!authorization.starts_with("Basic"), "the secret goes to the realm only: {}", request.target);
    }
}

#[test]
fn each_repository_has_its_own_token() {
    let (upstream, proxy, _) = start(Guard::Token);
    for repository in ["one", "two"] {
        let digest = upstream.blob(repository, repository.as_bytes());
        assert_eq!(proxy.get(&format!("/v2/{repository}/blobs/{digest}")).status, 200);
    }
    assert_eq!(upstream.count("GET", "/token"), 2);
}

#[test]
fn many_askers_share_one_token_request() {
    let (upstream, proxy, _) = start(Guard::Token);
    let digests: Vec<_> = (0..20).map(|n| upstream.blob("app", &noise(100 + n, 1000))).collect();
    upstream.on("GET", "/token", |_, answer| {
        std::thread::sleep(Duration::from_millis(200));
        answer
    });
    std::thread::scope(|scope| {
        for digest in &digests {
            let proxy = &proxy;
            scope.spawn(move || proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest));
        }
    });
    assert_eq!(upstream.count("GET", "/token"), 1);
}

#[test]
fn a_token_that_is_refused_is_replaced_once_and_the_pull_goes_on() {
    let (upstream, proxy, digest) = start(Guard::Token);
    upstream.image("app", "1", &[]);
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    upstream.revoke_tokens();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    assert_eq!(upstream.count("GET", "/token"), 2);
}

#[test]
fn basic_is_used_where_the_registry_asks_for_it() {
    let (upstream, proxy, digest) = start(Guard::Basic);
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    let sent = upstream.requests().last().unwrap().header("authorization").map(str::to_owned);
    assert_eq!(sent, Some(account()));
}

#[test]
fn without_a_credential_an_anonymous_token_is_used() {
    let upstream = Upstream::start();
    upstream.guard(Guard::AnonymousToken);
    let digest = upstream.blob("app", &noise(3, 1000));
    let proxy = Setup::open(&upstream).start();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    let token = upstream.requests().into_iter().find(|request| request.path() == "/token").unwrap();
    assert_eq!(token.header("authorization"), None);
}

#[test]
fn a_credential_the_token_service_rejects_is_an_alert_and_not_a_missing_image() {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    upstream.image("app", "1", &[]);
    let proxy = Setup::stored(&upstream).environment(crate::support::proxy::PASSWORD, "an-old-one").start();
    for _ in 0..5 {
        assert_eq!(proxy.get("/v2/app/manifests/1").verdict(), (502, "UNAVAILABLE".into()));
    }
    assert!(proxy.log().contains("rejected the stored credential"), "{}", proxy.log());
    assert_eq!(upstream.count("GET", "/token"), 1, "an account is not locked out by asking again and again");
}

#[test]
fn e1_e2_a_realm_at_another_origin_gets_nothing() {
    let evil = Upstream::start();
    let port = evil.address().port();
    let realms = [
        evil.origin(),
        format!("http://localhost:{port}"),
        format!("https://127.0.0.1:{port}"),
        format!("http://user:password@{}", evil.address()),
        format!("http://2130706433:{port}"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
        format!("http://127.0.0.1.:{port}"),
    ];
    for realm in realms {
        let (_, status) = challenged_with(format!("Bearer realm=\"{realm}/token\",service=\"x\""));
        assert_eq!(status, 502, "{realm}");
        assert_eq!(evil.connections(), 0, "{realm}");
    }
}

#[test]
fn one_bad_challenge_does_not_outlive_its_answer() {
    let (upstream, proxy, digest) = start(Guard::Token);
    upstream.first(1, "GET", "/v2/", |_, _| {
        Answer::status(401).header("WWW-Authenticate", "Bearer realm=\"https://evil.example/token\",service=\"x\"")
    });
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 502);
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
}

#[test]
fn e3_a_token_service_that_redirects_is_not_followed() {
    let evil = Upstream::start();
    for target in [format!("{}/token", evil.origin()), "http://169.254.169.254/".into(), "/token2".into()] {
        let (upstream, proxy, digest) = start(Guard::Token);
        upstream.on("GET", "/token", move |_, _| Answer::status(307).header("Location", target.clone()));
        assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 502);
        assert_eq!(evil.connections(), 0);
        assert_eq!(upstream.count("GET", "/token2"), 0);
    }
}

#[test]
fn e4_strange_challenges_are_understood_or_refused() {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    let digest = upstream.blob("app", &noise(4, 1000));
    let realm = format!("{}/token", upstream.origin());
    let understood = [
        format!("bearer REALM=\"{realm}\" , Service=scripted"),
        format!("Bearer realm=\"{}\",service=\"scripted\"", realm.replace("token", "to\\ken")),
        format!("Bearer realm=\"{realm}\""),
        format!("Basic realm=\"a, b\", Bearer realm=\"{realm}\",service=\"scripted\""),
        format!("Negotiate abc==, Bearer realm=\"{realm}\",service=\"scripted\""),
    ];
    for challenge in understood {
        upstream.clear_rules();
        let sent = challenge.clone();
        upstream.on("GET", "/v2/", move |_, answer| {
            if answer.status == 401 { answer.replace("WWW-Authenticate", sent.clone()) } else { answer }
        });
        let proxy = Setup::stored(&upstream).start();
        assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 200, "{challenge}");
    }
    let long = format!("Bearer realm=\"{realm}\",service=\"{}\"", "s".repeat(1 << 20));
    for refused in ["Bearer", "Bearer service=\"x\"", "Digest realm=\"x\"", "", long.as_str()] {
        let (_, status) = challenged_with(refused);
        assert!(matches!(status, 502 | 403), "{status} for {refused:.50}");
    }
}

#[test]
fn e5_the_scope_is_ours_whatever_the_challenge_asks_for() {
    let (upstream, proxy, digest) = start(Guard::Token);
    upstream.on("GET", "/v2/", |_, answer| {
        let Some((name, value)) = answer.headers.first().cloned() else { return answer };
        if answer.status != 401 {
            return answer;
        }
        answer.replace(&name, value.replace("repository:app:pull", "repository:other:pull,push"))
    });
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 200);
    let token = upstream.requests().into_iter().find(|request| request.path() == "/token").unwrap();
    assert!(token.target.contains("scope=repository%3Aapp%3Apull"), "{}", token.target);
    assert!(!token.target.contains("push") && !token.target.contains("other"), "{}", token.target);
}

#[test]
fn e6_a_token_that_is_none_is_refused() {
    let bodies = [
        r#"{"token":"a\r\nX-Evil: 1"}"#.to_owned(),
        r#"{"token":null}"#.into(),
        r#"{"token":17}"#.into(),
        r#"{"token":""}"#.into(),
        r#"{}"#.into(),
        "not json".into(),
        "<html>log in</html>".into(),
        format!(r#"{{"token":"{}"}}"#, "t".repeat(2 << 20)),
    ];
    for body in bodies {
        let (upstream, proxy, digest) = start(Guard::Token);
        let sent = body.clone();
        upstream.on("GET", "/token", move |_, answer| answer.body(sent.clone()));
        assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 502, "{body:.60}");
        assert_eq!(upstream.count("GET", "/v2/app/"), 1, "nothing is sent with it");
    }
}

#[test]
fn e7_an_endless_401_ends() {
    let (upstream, proxy, digest) = start(Guard::Token);
    let origin = upstream.origin();
    upstream.on("GET", "/v2/", move |_, _| {
        Answer::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{origin}/token\",service=\"scripted\""))
    });
    assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).verdict(), (403, "DENIED".into()));
    assert!(upstream.count("GET", "/v2/") <= 2, "{:?}", upstream.requests());
    assert!(upstream.count("GET", "/token") <= 2);
}

#[test]
fn e8_e10_a_redirect_target_that_wants_to_authenticate_gets_nothing() {
    for challenge in ["Bearer realm=\"https://evil.example/token\"", "Basic realm=\"storage\""] {
        let (upstream, storage) = (Upstream::start(), Upstream::start());
        upstream.guard(Guard::Token);
        upstream.redirect_blobs(&storage);
        let digest = upstream.blob("app", &noise(5, 1000));
        storage.on("GET", "/storage/", move |_, _| Answer::status(401).header("WWW-Authenticate", challenge));
        let keys = format!(
            "default = true\naccess = \"anyone\"\nredirect_origins = [\"{}\"]\n{}",
            storage.origin(),
            crate::support::proxy::credential()
        );
        let proxy = Setup::new().registry("sample", &upstream, &keys).start();
        assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 502);
        for request in storage.requests() {
            assert_eq!(request.header("authorization"), None);
        }
        assert_eq!(upstream.count("GET", "/token"), 1, "for the registry itself, before the redirect");
    }
}

#[test]
fn e9_strange_lifetimes_of_tokens_are_survived() {
    // `Some(n)`: asked for again by the n-th of three requests for different blobs.
    let cases = [
        ("", 1),
        (",\"expires_in\":1000000000000", 1),
        (",\"expires_in\":null", 1),
        (",\"expires_in\":\"300\"", 1),
        (",\"expires_in\":300.5", 1),
    ];
    for (lifetime, expected) in cases {
        let (upstream, proxy, _) = start(Guard::Token);
        upstream.on("GET", "/token", move |_, answer| {
            let text = String::from_utf8(answer.body.clone()).unwrap();
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            answer.body(format!("{{\"token\":{}{lifetime}}}", document["token"]))
        });
        let digests: Vec<_> = (0..3).map(|n| upstream.blob("app", &noise(200 + n, 100))).collect();
        let statuses: Vec<_> =
            digests.iter().map(|digest| proxy.get(&format!("/v2/app/blobs/{digest}")).status).collect();
        assert!(statuses == [200; 3] || statuses == [502; 3], "{lifetime}: {statuses:?}");
        if statuses == [200; 3] {
            assert_eq!(upstream.count("GET", "/token"), expected, "{lifetime}");
        }
    }
    // A lifetime of nothing is good for the request it was asked for.
    for lifetime in [0, -1] {
        let (upstream, proxy, digest) = start(Guard::Token);
        upstream.on("GET", "/token", move |_, answer| {
            let text = String::from_utf8(answer.body.clone()).unwrap();
            answer.body(text.replace("300", &lifetime.to_string()))
        });
        assert_eq!(proxy.get(&format!("/v2/app/blobs/{digest}")).status, 200, "{lifetime}");
    }
}

#[test]
fn no_token_and_no_secret_reaches_a_log_or_a_client() {
    let (upstream, proxy, digest) = start(Guard::Token);
    let answer = proxy.get(&format!("/v2/app/blobs/{digest}"));
    assert_eq!(answer.status, 200);
    let shown = format!("{}{:?}", proxy.log(), answer.headers);
    for secret in [SECRET, TOKEN_PREFIX, account().trim_start_matches("Basic ")] {
        assert!(!shown.contains(secret));
    }
    assert!(upstream.count("GET", "/token") > 0);
}
