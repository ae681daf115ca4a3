//! A pull through each provider, which speaks its own dialect: exactly the
//! token traffic it takes, and nothing of the credential at a wrong place.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::support::digest::{noise, sha256};
use crate::support::http::basic;
use crate::support::provider::{Dialect, Provider, jwt};
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Answer, Request, Upstream};

const SECRET: &str = "c4nary-of-the-provider";

/// A registry `p` of `kind` at the provider; `keys` are further lines of TOML.
fn registry(name: &str, kind: &str, provider: &Provider, keys: &str) -> String {
    let realm = if provider.tokens.origin() == provider.registry.origin() {
        String::new()
    } else {
        format!("token_realms = [\"{}\"]\n", provider.tokens.origin())
    };
    format!(
        "[[registry]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"{}\"\ninsecure = true\naccess = \"anyone\"\n\
         allow_private = [\"127.0.0.0/8\"]\nredirect_origins = [\"{}\"]\n{realm}{keys}\n",
        provider.registry.origin(),
        provider.storage.origin(),
    )
}

fn start(text: &str) -> Proxy {
    Setup::new().text(text).environment("PROVIDER_SECRET", SECRET).start()
}

struct Case {
    dialect: Dialect,
    kind: &'static str,
    user: &'static str,
    keys: &'static str,
    /// Requests for tokens of a manifest and a blob of one repository.
    tokens: usize,
}

const LOGIN: &str = "password = { env = \"PROVIDER_SECRET\" }";

fn cases() -> Vec<Case> {
    let case = |dialect, kind, user, keys, tokens| Case { dialect, kind, user, keys, tokens };
    vec![
        case(Dialect::DockerHub, "generic", "me", "username = \"me\"", 1),
        case(Dialect::Ghcr, "generic", "dev@example.com", "username = \"dev@example.com\"", 1),
        case(Dialect::ArtifactRegistry, "google", "_json_key", "project = \"org\"", 1),
        case(Dialect::Gcr, "google", "_json_key", "project = \"org\"", 1),
        case(Dialect::DigitalOcean, "generic", SECRET, "username = \"c4nary-of-the-provider\"", 1),
        case(Dialect::Acr, "azure", "app-id", "username = \"app-id\"", 1),
        case(
            Dialect::Acr,
            "azure",
            "00000000-0000-0000-0000-000000000000",
            "username = \"00000000-0000-0000-0000-000000000000\"",
            1,
        ),
        case(Dialect::EcrPublic, "generic", "AWS", "username = \"AWS\"", 1),
        case(Dialect::Ecr, "ecr", "AWS", "", 0),
        case(Dialect::Quay, "generic", "org+robot", "username = \"org+robot\"", 1),
        case(Dialect::Ngc, "generic", "$oauthtoken", "username = \"$oauthtoken\"", 1),
        case(Dialect::Gitlab, "gitlab", "gitlab+deploy-token-1", "username = \"gitlab+deploy-token-1\"", 1),
        case(Dialect::Harbor, "generic", "robot$proj+name", "username = \"robot$proj+name\"", 1),
    ]
}

#[test]
fn an_image_is_pulled_from_each_provider_with_exactly_the_tokens_it_takes() {
    for Case { dialect, kind, user, keys, tokens } in cases() {
        let provider = Provider::start(dialect, Some((user, SECRET)));
        let (manifest, layer) = provider.image("org/app", "1", &noise(1, 100_000));
        let (_, second) = provider.image("org/app", "2", &noise(2, 1000));
        let secret = if kind == "google" { LOGIN.replace("password", "json_key") } else { LOGIN.to_owned() };
        let name = if kind == "google" { "app" } else { "org/app" };
        let proxy = start(&registry("p", kind, &provider, &format!("{keys}\n{secret}")));
        let answer = proxy.get(&format!("/v2/p/{name}/manifests/1"));
        assert_eq!((answer.status, answer.body == manifest), (200, true), "{dialect:?}\n{}", proxy.log());
        proxy.get(&format!("/v2/p/{name}/blobs/{layer}")).assert_content(&layer);
        assert_eq!(provider.token_requests().len(), tokens, "{dialect:?}");
        for request in provider.token_requests() {
            assert!(!request.target.contains(SECRET), "{dialect:?}: an address is no place for a secret");
            assert_eq!(
                (request.method.as_str(), request.header("authorization")),
                ("GET", Some(basic(user, SECRET).as_str()))
            );
        }
        // The registry is asked once without, and then with what it gave.
        let refused = provider
            .registry
            .requests()
            .iter()
            .filter(|request| request.path().starts_with("/v2/org/") && request.header("authorization").is_none())
            .count();
        assert_eq!(refused, 1, "{dialect:?}");
        // The secret is with the token service, and with a registry that takes nothing else.
        for request in provider.registry.requests() {
            let is_basic = request.header("authorization").is_some_and(|value| value.starts_with("Basic "));
            let may =
                dialect == Dialect::Ecr || provider.token_requests().iter().any(|token| token.target == request.target);
            assert!(!is_basic || may, "{dialect:?} {request:?}");
        }
        assert!(
            provider.storage.requests().iter().all(|request| request.header("authorization").is_none()),
            "{dialect:?}"
        );
        assert!(provider.storage.requests().len() == usize::from(dialect != Dialect::Harbor), "{dialect:?}");
        // A token that ends is replaced by one request.
        provider.revoke();
        proxy.get(&format!("/v2/p/{name}/blobs/{second}")).assert_content(&second);
        assert_eq!(provider.token_requests().len(), 2 * tokens, "{dialect:?}");
        assert!(!proxy.log().contains(SECRET), "{dialect:?}");
    }
}

#[test]
fn public_images_are_pulled_with_anonymous_tokens() {
    for dialect in [Dialect::DockerHub, Dialect::Ghcr, Dialect::EcrPublic, Dialect::Quay, Dialect::Gcr] {
        let provider = Provider::start(dialect, None);
        let (manifest, layer) = provider.image("org/app", "1", &noise(3, 1000));
        let proxy = start(&registry("p", "generic", &provider, ""));
        assert_eq!(proxy.get("/v2/p/org/app/manifests/1").body, manifest, "{dialect:?}");
        proxy.get(&format!("/v2/p/org/app/blobs/{layer}")).assert_content(&layer);
        assert_eq!(provider.token_requests().len(), 1, "{dialect:?}");
        assert_eq!(provider.token_requests()[0].header("authorization"), None);
    }
}

#[test]
fn a_registry_that_challenges_only_at_its_base_is_asked_there_and_not_for_the_scope_it_says() {
    for dialect in [Dialect::Ghcr, Dialect::Gcr, Dialect::Ngc] {
        let provider = Provider::start(dialect, Some(("me", SECRET)));
        let (manifest, _) = provider.image("org/app", "1", b"layer");
        provider.registry.rule(|request, answer| {
            if answer.status == 401 && request.path() != "/v2/" { Answer::status(401) } else { answer }
        });
        let proxy = start(&registry("p", "generic", &provider, &format!("username = \"me\"\n{LOGIN}")));
        assert_eq!(proxy.get("/v2/p/org/app/manifests/1").body, manifest, "{dialect:?} {}", proxy.log());
        assert_eq!((provider.registry.count("GET", "/v2/") >= 3, provider.token_requests().len()), (true, 1));
        assert!(provider.token_requests()[0].target.contains("scope=repository%3Aorg%2Fapp%3Apull"), "{dialect:?}");
    }
}

#[test]
fn what_ghcr_denies_is_denied_to_the_client_and_nothing_else_is() {
    let provider = Provider::start(Dialect::Ghcr, Some(("me", SECRET)));
    provider.image("org/app", "1", b"layer");
    provider.registry.on("GET", "/token", |request, answer| {
        if request.target.contains("private") { Answer::status(403).body("{}") } else { answer }
    });
    let proxy = start(&registry("p", "generic", &provider, &format!("username = \"me\"\n{LOGIN}")));
    for _ in 0..3 {
        assert_eq!(proxy.get("/v2/p/org/private/manifests/1").verdict(), (403, "DENIED".into()));
    }
    assert_eq!(proxy.get("/v2/p/org/app/manifests/1").status, 200);
    assert!(!proxy.log().contains("credential_rejected"));
}

#[test]
fn manifests_of_a_public_registry_may_be_elsewhere() {
    let provider = Provider::start(Dialect::RegistryK8s, None);
    let (manifest, layer) = provider.image("pause", "3.9", &noise(4, 1000));
    let proxy = start(&registry("k8s", "generic", &provider, ""));
    assert_eq!(proxy.get("/v2/k8s/pause/manifests/3.9").body, manifest);
    proxy.get(&format!("/v2/k8s/pause/blobs/{layer}")).assert_content(&layer);
    assert!(provider.token_requests().is_empty());
}

#[test]
fn a_credential_does_not_follow_a_manifest_that_is_elsewhere() {
    let provider = Provider::start(Dialect::RegistryK8s, None);
    let (manifest, _) = provider.image("pause", "3.9", &noise(4, 1000));
    // It challenges, and then sends its reader on.
    provider.registry.rule(|request, answer| match request.header("authorization") {
        None => Answer::status(401).header("WWW-Authenticate", "Basic realm=\"k8s\""),
        Some(_) => answer,
    });
    let keys = format!("username = \"me\"\n{LOGIN}");
    let proxy = start(&registry("k8s", "generic", &provider, &keys));
    assert_eq!(proxy.get("/v2/k8s/pause/manifests/3.9").body, manifest);
    assert!(provider.storage.requests().iter().all(|request| request.header("authorization").is_none()));
    assert!(!provider.storage.requests().is_empty());
}

#[test]
fn where_head_of_a_blob_is_refused_to_all_a_byte_of_it_tells_as_much() {
    let provider = Provider::start(Dialect::EcrPublic, Some(("AWS", SECRET)));
    let layer = noise(5, 1000);
    let digest = sha256(&layer);
    let repositories = ["org/one", "org/two", "org/three"];
    for repository in repositories {
        provider.image(repository, "1", &layer);
    }
    let proxy = start(&registry("p", "generic", &provider, &format!("username = \"AWS\"\n{LOGIN}")));
    for repository in repositories {
        proxy.get(&format!("/v2/p/{repository}/blobs/{digest}")).assert_content(&digest);
    }
    assert_eq!(provider.storage.requests().len(), 1, "the bytes were here after the first");
    assert_eq!(provider.registry.count("HEAD", "/blobs/"), 2, "asked, asked with a new token, and then no more");
    let unknown = sha256(b"unknown");
    assert_eq!(proxy.get(&format!("/v2/p/org/one/blobs/{unknown}")).verdict(), (404, "BLOB_UNKNOWN".into()));
}

#[test]
fn two_credentials_of_one_registry_serve_each_its_own_prefix() {
    let provider = Provider::start(Dialect::Quay, None);
    let seen = |repository: &str| {
        let asked = provider.token_requests();
        let scope = format!("scope=repository%3A{}%3Apull", repository.replace('/', "%2F"));
        let found = asked.iter().find(|request| request.target.contains(&scope)).expect(repository);
        found.header("authorization").map(str::to_owned)
    };
    // Either account is taken, each for its own.
    provider.registry.rule(|request, answer| {
        if request.path() != "/v2/auth" {
            return answer;
        }
        let own = |team: &str, user: &str| {
            request.target.contains(&format!("repository%3A{team}%2F"))
                && request.header("authorization") == Some(&basic(user, SECRET))
        };
        let good = own("team-a", "a") || own("team-b", "b");
        if good { Answer::status(200).body(r#"{"token":"t"}"#) } else { Answer::status(401) }
    });
    let text = ["a", "b"].map(|user| {
        let keys = format!("namespace = \"team-{user}\"\nusername = \"{user}\"\n{LOGIN}");
        registry(&format!("team-{user}"), "generic", &provider, &keys)
    });
    let proxy = start(&text.concat());
    let host = provider.registry.address();
    for (repository, user) in [("team-a/app", "a"), ("team-b/app", "b"), ("team-a/deep/er", "a")] {
        // By the host alone: the longest prefix says whose credential it is.
        let answer = proxy.get(&format!("/v2/{repository}/manifests/1?ns={host}"));
        assert_ne!(answer.status, 502, "{repository} {}", proxy.log());
        assert_eq!(seen(repository), Some(basic(user, SECRET)), "{repository}");
    }
    assert_eq!(proxy.get(&format!("/v2/team-c/app/manifests/1?ns={host}")).verdict(), (404, "NAME_UNKNOWN".into()));
    for request in provider.token_requests() {
        let user = if request.target.contains("team-a") { "a" } else { "b" };
        assert_eq!(request.header("authorization"), Some(basic(user, SECRET).as_str()), "{}", request.target);
    }
}

/// The signature that this request should have: written from AWS's description,
/// with other code than the proxy's.
fn signature(request: &Request, key: &str, region: &str, service: &str) -> String {
    use aws_lc_rs::hmac;
    let authorization = request.header("authorization").unwrap();
    let names = authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
    let headers: String =
        names.split(';').map(|name| format!("{name}:{}\n", request.header(name).unwrap_or_default())).collect();
    let hash = |bytes: &[u8]| sha256(bytes)["sha256:".len()..].to_owned();
    let canonical = format!("{}\n{}\n\n{headers}\n{names}\n{}", request.method, request.target, hash(&request.body));
    let time = request.header("x-amz-date").unwrap();
    let scope = format!("{}/{region}/{service}/aws4_request", &time[..8]);
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hash(canonical.as_bytes()));
    let mac =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let day = mac(format!("AWS4{key}").as_bytes(), &time[..8]);
    let signing = mac(&mac(&mac(&day, region), service), "aws4_request");
    hex::encode(mac(&signing, &text))
}

/// ECR's API: gives out the passwords `1`, `2`, …, to whoever signs rightly.
fn ecr_api() -> Upstream {
    let api = Upstream::start();
    let given = std::sync::atomic::AtomicUsize::new(0);
    api.rule(move |request, _| {
        let target = request.header("x-amz-target");
        let good = request.method == "POST"
            && request.target == "/"
            && target == Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
            && request.header("content-type") == Some("application/x-amz-json-1.1")
            && request.header("x-amz-security-token") == Some("session")
            && request.header("authorization").is_some_and(|value| {
                value.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
                    && value.ends_with(&signature(request, SECRET, "eu-west-1", "ecr"))
            });
        if !good {
            return Answer::status(400).body(r#"{"__type":"UnrecognizedClientException"}"#);
        }
        let number = given.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 43_200;
        let token = STANDARD.encode(format!("AWS:{number}"));
        let document = serde_json::json!({ "authorizationData": [{
            "authorizationToken": token, "expiresAt": end as f64, "proxyEndpoint": "https://evil.example",
        }] });
        Answer::status(200).body(document.to_string())
    });
    api
}

fn ecr(provider: &Provider, api: &Upstream) -> String {
    let keys = format!(
        "region = \"eu-west-1\"\naccess_key_id = \"AKIDEXAMPLE\"\nsecret_access_key = {{ env = \"PROVIDER_SECRET\" }}\n\
         session_token = {{ env = \"SESSION\" }}\nsign_in_endpoint = \"{}\"",
        api.origin()
    );
    registry("e", "ecr", provider, &keys)
}

#[test]
fn an_access_key_is_exchanged_for_the_login_of_ecr_which_is_renewed_when_it_ends() {
    let provider = Provider::start(Dialect::Ecr, Some(("AWS", "1")));
    let (manifest, layer) = provider.image("org/app", "1", &noise(6, 10_000));
    let (_, second) = provider.image("org/app", "2", &noise(7, 1000));
    let (_, third) = provider.image("org/app", "3", &noise(8, 1000));
    let api = ecr_api();
    let setup = Setup::new().text(&ecr(&provider, &api));
    let proxy = setup.environment("PROVIDER_SECRET", SECRET).environment("SESSION", "session").start();
    assert_eq!(proxy.get("/v2/e/org/app/manifests/1").body, manifest, "{}", proxy.log());
    proxy.get(&format!("/v2/e/org/app/blobs/{layer}")).assert_content(&layer);
    assert_eq!(api.requests().len(), 1, "one login for all");
    // It ends before its time: a crowd that finds out gets one new login.
    provider.set_account("AWS", "2");
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| proxy.get(&format!("/v2/e/org/app/blobs/{second}")).assert_content(&second));
            scope.spawn(|| assert_eq!(proxy.get("/v2/e/org/app/manifests/1").status, 200));
        }
    });
    assert_eq!(api.requests().len(), 2, "one renewal");
    proxy.get(&format!("/v2/e/org/app/blobs/{third}")).assert_content(&third);
    assert_eq!(api.requests().len(), 2);
    assert!(!proxy.log().contains(SECRET));
}

#[test]
fn where_a_cloud_is_signed_in_to_is_neither_a_token_service_nor_the_target_of_a_redirect() {
    let provider = Provider::start(Dialect::Ecr, Some(("AWS", "1")));
    let (_, layer) = provider.image("org/app", "1", b"layer");
    let api = ecr_api();
    let origin = api.origin();
    provider.registry.rule(move |request, answer| {
        if request.target.contains("/blobs/") && answer.status == 307 {
            return Answer::status(307).header("Location", format!("{origin}/storage"));
        }
        if !request.target.contains("/evil/") {
            return answer;
        }
        Answer::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{origin}/token\",service=\"x\""))
    });
    let setup = Setup::new().text(&ecr(&provider, &api));
    let proxy = setup.environment("PROVIDER_SECRET", SECRET).environment("SESSION", "session").start();
    assert_eq!(proxy.get("/v2/e/org/app/manifests/1").status, 200, "{}", proxy.log());
    assert_eq!(proxy.get(&format!("/v2/e/org/app/blobs/{layer}")).status, 502);
    let proxy_anew = Setup::new().text(&ecr(&provider, &api)).environment("PROVIDER_SECRET", SECRET);
    let proxy = proxy_anew.environment("SESSION", "session").start();
    assert_eq!(proxy.get("/v2/e/evil/app/manifests/1").status, 502);
    for request in api.requests() {
        assert!(request.is("POST", "/") && request.path() == "/", "{request:?}");
    }
}

#[test]
fn an_access_key_that_is_wrong_is_not_shown_again_and_again() {
    let provider = Provider::start(Dialect::Ecr, Some(("AWS", "1")));
    provider.image("org/app", "1", b"layer");
    let api = ecr_api();
    let setup = Setup::new().text(&ecr(&provider, &api));
    let proxy = setup.environment("PROVIDER_SECRET", "wrong").environment("SESSION", "session").start();
    for n in 0..20 {
        let answer = proxy.get(&format!("/v2/e/org/app-{n}/manifests/1"));
        assert_eq!(answer.verdict(), (502, "UNAVAILABLE".into()));
        assert!(String::from_utf8(answer.body).unwrap().contains("registry `e`"));
    }
    // Again only after a pause, which a slow machine may reach.
    let steps = proxy.log().matches("credential_rejected").count();
    assert!(api.requests().len() == steps && (1..=2).contains(&steps), "{steps}");
    assert!(proxy.log().contains("rejected the stored credential of registry `e`"), "{}", proxy.log());
}

#[test]
fn a_service_accounts_key_is_exchanged_for_an_access_token() {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    let public = pair.public_key().as_ref().to_vec();
    let directory = Upstream::start();
    let uri = format!("{}/token", directory.origin());
    let expected = uri.clone();
    directory.rule(move |request, _| {
        let form: std::collections::HashMap<String, String> =
            url::form_urlencoded::parse(&request.body).into_owned().collect();
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (text, signature) = form["assertion"].rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let good = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public).verify(text.as_bytes(), &signature);
        let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        if good.is_err()
            || request.path() != "/token"
            || claims["aud"] != expected
            || claims["iss"] != "puller@p.example"
        {
            return Answer::status(400);
        }
        Answer::status(200).body(r#"{"access_token":"ya29.access","expires_in":3599,"token_type":"Bearer"}"#)
    });
    let provider = Provider::start(Dialect::ArtifactRegistry, Some(("oauth2accesstoken", "ya29.access")));
    let (manifest, layer) = provider.image("project/repo/app", "1", &noise(9, 10_000));
    let key = |uri: &str| {
        serde_json::json!({
            "type": "service_account", "client_email": "puller@p.example", "private_key_id": "k", "private_key": pem, "token_uri": uri,
        })
        .to_string()
    };
    let keys = format!(
        "project = \"project\"\njson_key = {{ env = \"KEY\" }}\nsign_in = \"access-token\"\nsign_in_endpoint = \"{}\"",
        directory.origin()
    );
    let text = registry("g", "google", &provider, &keys);
    let proxy = Setup::new().text(&text).environment("KEY", &key(&uri)).start();
    assert_eq!(proxy.get("/v2/g/repo/app/manifests/1").body, manifest, "{}", proxy.log());
    proxy.get(&format!("/v2/g/repo/app/blobs/{layer}")).assert_content(&layer);
    assert_eq!((directory.requests().len(), provider.token_requests().len()), (1, 1));
    assert!(!proxy.log().contains("ya29.access") && !proxy.log().contains("PRIVATE KEY"));
    // A key that would send its statement elsewhere sends it nowhere.
    let evil = Upstream::start();
    let proxy = Setup::new().text(&text).environment("KEY", &key(&format!("{}/token", evil.origin()))).start();
    assert_eq!(proxy.get("/v2/g/repo/app/manifests/1").verdict(), (502, "UNAVAILABLE".into()));
    assert_eq!(evil.connections(), 0);
    assert!(proxy.log().contains("the `token_uri` of its JSON key is not at"), "{}", proxy.log());
}

#[test]
fn an_entra_application_gets_a_refresh_token_of_the_registry() {
    let provider = Provider::start(Dialect::Acr, None);
    let (manifest, layer) = provider.image("org/app", "1", &noise(10, 10_000));
    let directory = Upstream::start();
    let refresh = jwt(10_800);
    provider.set_account("(refresh token)", &refresh);
    let form = |request: &Request| -> std::collections::HashMap<String, String> {
        url::form_urlencoded::parse(&request.body).into_owned().collect()
    };
    directory.rule(move |request, _| {
        let form = form(request);
        let good = request.is("POST", "/tenant-1/oauth2/v2.0/token")
            && form["grant_type"] == "client_credentials"
            && (form["client_id"].as_str(), form["client_secret"].as_str()) == ("app-id", SECRET)
            && form["scope"].ends_with("/.default");
        if good {
            Answer::status(200).body(r#"{"access_token":"aad-access","expires_in":3599}"#)
        } else {
            Answer::status(401)
        }
    });
    let (service, given) = (provider.registry.address().to_string(), refresh.clone());
    provider.registry.on("POST", "/oauth2/exchange", move |request, _| {
        let form = form(request);
        let good = form["grant_type"] == "access_token"
            && form["service"] == service
            && form["tenant"] == "tenant-1"
            && form["access_token"] == "aad-access";
        if good {
            Answer::status(200).body(serde_json::json!({ "refresh_token": given }).to_string())
        } else {
            Answer::status(401)
        }
    });
    let keys =
        format!("tenant = \"tenant-1\"\nusername = \"app-id\"\n{LOGIN}\nsign_in_endpoint = \"{}\"", directory.origin());
    let proxy = start(&registry("a", "azure", &provider, &keys));
    assert_eq!(proxy.get("/v2/a/org/app/manifests/1").body, manifest, "{}", proxy.log());
    proxy.get(&format!("/v2/a/org/app/blobs/{layer}")).assert_content(&layer);
    assert_eq!(directory.requests().len(), 1);
    assert_eq!(provider.registry.count("POST", "/oauth2/exchange"), 1);
    assert_eq!(provider.token_requests().len(), 1);
    let log = proxy.log();
    for secret in [SECRET, "aad-access", refresh.as_str()] {
        assert!(!log.contains(secret));
        assert!(!provider.registry.requests().iter().any(|request| request.target.contains(secret)));
    }
    assert!(
        provider.registry.requests().iter().all(|request| !String::from_utf8_lossy(&request.body).contains(SECRET))
    );
}
