//! Registries are stored, changed and removed while the proxy runs, and are
//! there again after it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::digest::{noise, sha256};
use crate::support::http::{self, Response};
use crate::support::provider::{Dialect, Provider};
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Event, Gate, Upstream};

const OLD: &str = "c4nary-old-secret";
const NEW: &str = "c4nary-new-secret";

/// A proxy whose file knows one other registry.
fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy)
}

fn provider(secret: &str) -> Provider {
    Provider::start(Dialect::Harbor, Some(("robot", secret)))
}

fn ask(proxy: &Proxy, method: &str, path: &str, document: &Value) -> Response {
    http::send_json(proxy.admin(), method, &format!("/api/v1/{path}"), &document.to_string())
}

fn json(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

fn settings(name: &str, origin: &str) -> Value {
    json!({
        "name": name, "kind": "generic", "url": origin, "insecure": true, "access": "anyone",
        "allow_private": ["127.0.0.0/8"], "username": "robot", "tag_ttl": "0s",
    })
}

fn form(name: &str, origin: &str, secret: &str) -> Value {
    json!({ "settings": settings(name, origin), "secrets": { "password": secret } })
}

#[track_caller]
fn add(proxy: &Proxy, name: &str, provider: &Provider, secret: &str) -> Value {
    let answer = ask(proxy, "POST", "registries", &form(name, &provider.registry.origin(), secret));
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    json(&answer)
}

fn store(proxy: &Proxy) -> PathBuf {
    proxy.cache().parent().unwrap().join("store")
}

#[test]
fn a_registry_that_is_added_serves_at_once_and_after_a_restart() {
    let (_upstream, mut proxy) = start();
    assert!(!store(&proxy).join("transship.store").exists(), "nothing is made before something is stored");
    let provider = provider(OLD);
    provider.image("team/app", "1", b"layer");
    assert_eq!(proxy.get("/v2/my-team/team/app/manifests/1").status, 404);
    let added = add(&proxy, "My-Team", &provider, OLD);
    assert_eq!((&added["address"], &added["stored"]), (&json!("my-team"), &json!(true)));
    assert_eq!(proxy.get("/v2/my-team/team/app/manifests/1").status, 200);
    proxy.restart();
    assert_eq!(proxy.get("/v2/my-team/team/app/manifests/1").status, 200);
}

#[test]
fn h1_a_secret_goes_in_and_never_comes_out() {
    let (_upstream, proxy) = start();
    let provider = provider(OLD);
    let added = add(&proxy, "My-Team", &provider, OLD);
    let secret = &added["secrets"][0];
    assert_eq!(secret["field"], "password");
    assert_eq!(secret["fingerprint"].as_str().map(str::len), Some(12));
    assert!(secret["updated_at"].as_str().unwrap().ends_with('Z'));
    let bad = [
        json!({ "settings": settings("other", "http://127.0.0.1:1"), "secrets": { "passwort": NEW } }),
        json!({ "settings": { "name": "other", "kind": "generic", "url": "http://127.0.0.1:1", "password": NEW } }),
        json!({ "settings": { "name": "o", "kind": "generic", "url": NEW, "allow_plaintext": true, "password": NEW } }),
        json!({ "settings": settings("other", "http://127.0.0.1:1"), "password": NEW }),
        json!({ "secrets": { "password": [NEW] } }),
    ];
    let mut said = vec![added.to_string()];
    for form in &bad {
        let answer = ask(&proxy, "POST", "registries", form);
        assert_eq!(answer.status, 400, "{form}");
        said.push(String::from_utf8_lossy(&answer.body).into_owned());
    }
    for path in ["registries", "registries/my-team"] {
        said.push(String::from_utf8_lossy(&http::get(proxy.admin(), &format!("/api/v1/{path}")).body).into_owned());
    }
    let files = std::fs::read_dir(store(&proxy)).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.is_file()) {
        said.push(String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned());
    }
    said.push(proxy.log());
    for text in said {
        assert!(!text.contains("c4nary"), "{text}");
    }
}

#[test]
fn what_would_not_be_sound_is_refused_and_changes_nothing() {
    let (upstream, proxy) = start();
    let provider = provider(OLD);
    add(&proxy, "My-Team", &provider, OLD);
    let before = json(&http::get(proxy.admin(), "/api/v1/registries"));
    let origin = provider.registry.origin();
    let with = |key: &str, value: Value| {
        let mut form = form("Other", &origin, OLD);
        form["settings"][key] = value;
        form
    };
    for (method, path, form, status, word) in [
        ("POST", "registries", form("my team", &origin, OLD), 409, "there is a registry `My-Team` already"),
        ("POST", "registries", form("SAMPLE", &origin, OLD), 409, "already"),
        ("POST", "registries", with("kind", json!("gchr")), 400, "did you mean `ghcr`"),
        ("POST", "registries", with("qouta", json!("1GiB")), 400, "did you mean `quota`"),
        ("POST", "registries", with("default", json!(true)), 400, "registry `sample` is the default already"),
        ("POST", "registries", with("url", json!("https://10.0.0.1")), 400, "allow_private"),
        ("POST", "registries", with("url", Value::Null), 400, "null"),
        ("POST", "registries", json!({ "secrets": {} }), 400, "settings"),
        ("PUT", "registries/nobody", form("nobody", &origin, OLD), 404, "no registry `nobody`"),
        ("PUT", "registries/sample", form("sample", &origin, OLD), 409, "configuration file"),
        ("PUT", "registries/my-team", form("sample", &origin, OLD), 409, "already"),
        ("DELETE", "registries/sample", Value::Null, 409, "configuration file"),
        ("DELETE", "registries/my-taem", Value::Null, 404, "did you mean `My-Team`"),
    ] {
        let answer = ask(&proxy, method, path, &form);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{method} {path} {form}: {said}");
        assert!(said.contains(word), "{method} {path}: {said}");
    }
    assert_eq!(json(&http::get(proxy.admin(), "/api/v1/registries")), before);
    upstream.image("app", "1", &[]);
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
}

#[test]
fn a_secret_that_is_replaced_under_load_fails_no_pull_and_the_old_one_is_shown_no_more() {
    let (_upstream, proxy) = start();
    let provider = provider(OLD);
    let blobs: Vec<(String, String)> = (0..200)
        .map(|n| {
            let repository = format!("team/app-{}", n % 20);
            (repository.clone(), provider.image(&repository, "1", &noise(3000 + n, 20_000)).1)
        })
        .collect();
    add(&proxy, "My-Team", &provider, OLD);
    let (next, rotated) = (AtomicUsize::new(0), AtomicBool::new(false));
    let asked_before = AtomicUsize::new(usize::MAX);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((repository, digest)) = blobs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    proxy.get(&format!("/v2/my-team/{repository}/blobs/{digest}")).assert_content(digest);
                    if next.load(Ordering::SeqCst) > 100 && !rotated.swap(true, Ordering::SeqCst) {
                        provider.rotate("robot", NEW, || {
                            let change = json!({ "secrets": { "password": NEW } });
                            assert_eq!(ask(&proxy, "PUT", "registries/my-team", &change).status, 200);
                        });
                        asked_before.store(provider.token_requests().len(), Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!(rotated.load(Ordering::SeqCst));
    let shown = |secret: &str| format!("Basic {}", STANDARD.encode(format!("robot:{secret}")));
    let after = provider.token_requests().split_off(asked_before.load(Ordering::SeqCst));
    assert!(!after.is_empty(), "tokens of the old secret are not used any more");
    for request in after {
        assert_eq!(request.header("authorization"), Some(shown(NEW).as_str()));
    }
    assert_eq!(proxy.log().matches("\"event\":\"credential_changed\"").count(), 1);
}

#[test]
fn f39_a_registry_that_is_removed_during_a_download_ends_it_and_answers_no_more() {
    let (_upstream, proxy) = start();
    let provider = provider(OLD);
    let bytes = noise(7, 4 << 20);
    let (_, digest) = provider.image("team/app", "1", &bytes);
    add(&proxy, "My-Team", &provider, OLD);
    let gate = Gate::new();
    let (held, opened) = (gate.clone(), digest.clone());
    provider.registry.on("GET", format!("/blobs/{opened}"), move |_, answer| match answer.body.len() {
        0..=100_000 => answer,
        _ => answer.at(100_000, Event::Wait(held.clone())),
    });
    let target = format!("/v2/my-team/team/app/blobs/{digest}");
    let mut running = http::open(proxy.address(), "GET", &target, &[]);
    assert_eq!(running.read(50_000), bytes[..50_000]);
    assert_eq!(ask(&proxy, "DELETE", "registries/my-team", &Value::Null).status, 204);
    // The name is one of the default registry's now, which has no such blob.
    assert_eq!(proxy.get(&target).status, 404);
    gate.open();
    assert_eq!(sha256(&[bytes[..50_000].to_vec(), running.finish().body].concat()), digest);
    // Another of that name has no permission from the first.
    let other = self::provider(OLD);
    other.image("elsewhere", "1", b"x");
    add(&proxy, "My-Team", &other, OLD);
    assert_eq!(proxy.get(&target).verdict(), (404, "BLOB_UNKNOWN".into()));
    assert!(other.registry.count("GET", "/blobs/") + other.registry.count("HEAD", "/blobs/") > 0, "it was asked");
}

#[test]
fn a_registry_that_asks_as_somebody_else_has_to_be_allowed_anew() {
    let (_upstream, proxy) = start();
    let provider = provider(OLD);
    let (_, digest) = provider.image("team/app", "1", b"layer");
    add(&proxy, "My-Team", &provider, OLD);
    let target = format!("/v2/my-team/team/app/blobs/{digest}");
    proxy.get(&target).assert_content(&digest);
    proxy.wait_for_blobs(1);
    provider.registry.forget();
    let mut other = settings("My-Team", &provider.registry.origin());
    other["username"] = json!("robot-2");
    provider.set_account("robot-2", OLD);
    let answer = ask(&proxy, "PUT", "registries/my-team", &json!({ "settings": other }));
    assert_eq!(answer.status, 200, "its secret stays");
    proxy.get(&target).assert_content(&digest);
    // It shows that it has the bytes, as any other registry would: one question
    // that is challenged, and one that is answered.
    assert_eq!((provider.registry.count("HEAD", "/blobs/"), provider.registry.count("GET", "/blobs/")), (0, 2));
    // That is remembered of it.
    provider.registry.forget();
    proxy.get(&target).assert_content(&digest);
    assert_eq!(provider.registry.connections(), 0);
    assert!(provider.registry.requests().is_empty());
}

#[test]
fn a_secret_of_the_file_can_be_in_the_store() {
    let provider = provider(OLD);
    provider.image("team/app", "1", b"layer");
    let (_upstream, mut proxy) = start();
    // The file names the store before there is anything in it only after it was put there.
    add(&proxy, "placeholder", &provider, OLD);
    assert_eq!(ask(&proxy, "PUT", "registries/sample", &json!({ "secrets": { "password": OLD } })).status, 200);
    let config = proxy.cache().parent().unwrap().join("transship.toml");
    let text = format!(
        "[[registry]]\nname = \"sample\"\nkind = \"generic\"\nurl = \"{}\"\ninsecure = true\naccess = \"anyone\"\n\
         allow_private = [\"127.0.0.0/8\"]\nusername = \"robot\"\npassword = {{ stored = true }}\n",
        provider.registry.origin()
    );
    std::fs::write(&config, &text).unwrap();
    let reloaded = ask(&proxy, "POST", "reload", &Value::Null);
    assert_eq!(reloaded.status, 200, "{}", String::from_utf8_lossy(&reloaded.body));
    assert_eq!(json(&reloaded)["after_restart"], json!([]));
    assert_eq!(proxy.get("/v2/sample/team/app/manifests/1").status, 200);
    proxy.stop();
}

#[test]
fn f38_a_file_that_is_wrong_changes_nothing_and_says_why() {
    let (upstream, proxy) = start();
    upstream.image("app", "1", &[]);
    let config = proxy.cache().parent().unwrap().join("transship.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    for (text, word) in [
        ("[[registry]\n", "this is no TOML"),
        ("[sever]\n", "did you mean `server`"),
        (
            "[[registry]]\nname = \"x\"\nkind = \"quay\"\nusername = \"u\"\npassword = { env = \"NOBODY_SET_THIS\" }\n",
            "NOBODY_SET_THIS",
        ),
    ] {
        std::fs::write(&config, text).unwrap();
        let answer = ask(&proxy, "POST", "reload", &Value::Null);
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 400 && said.contains(word), "{said}");
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    }
    std::fs::write(&config, good.replace("name = \"sample\"", "name = \"renamed\"")).unwrap();
    let pid = rustix::process::Pid::from_raw(proxy.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert!(eventually(|| proxy.get("/v2/renamed/app/manifests/1").status == 200), "{}", proxy.log());
    assert_eq!(proxy.get("/v2/sample/app/manifests/1").status, 404);
    std::fs::write(&config, format!("{good}\n[limits]\nmax_fills = 7\n")).unwrap();
    assert_eq!(json(&ask(&proxy, "POST", "reload", &Value::Null))["after_restart"], json!(["[cache]"]));
}

#[test]
fn a_process_that_is_killed_at_any_moment_leaves_the_store_as_it_was_or_as_it_should_be() {
    let provider = provider(OLD);
    let (_upstream, mut proxy) = start();
    add(&proxy, "Kept", &provider, OLD);
    for round in 0..12 {
        let admin = proxy.admin();
        let origin = provider.registry.origin();
        let writer = std::thread::spawn(move || {
            let mut answered = 0;
            for n in 0..1000 {
                let form = form(&format!("R-{round}-{n}"), &origin, OLD);
                match http::try_send_json(admin, "POST", "/api/v1/registries", &form.to_string()) {
                    Some(201) => answered = n + 1,
                    _ => break,
                }
            }
            answered
        });
        std::thread::sleep(std::time::Duration::from_millis(5 + 17 * round));
        proxy.kill();
        let answered = writer.join().unwrap();
        proxy.restart();
        let listed = json(&http::get(proxy.admin(), "/api/v1/registries"))["registries"].to_string();
        assert!(listed.contains("\"Kept\""), "{listed}");
        for n in 0..answered {
            assert!(listed.contains(&format!("\"R-{round}-{n}\"")), "what was confirmed is there: {n} of {answered}");
        }
        for n in 0..=answered {
            ask(&proxy, "DELETE", &format!("registries/r-{round}-{n}"), &Value::Null);
        }
    }
}

#[test]
fn h2_a_store_that_others_could_read_or_that_has_lost_its_key_is_not_opened() {
    let provider = provider(OLD);
    let (_upstream, mut proxy) = start();
    add(&proxy, "My-Team", &provider, OLD);
    proxy.stop();
    let store = store(&proxy);
    let start = || {
        let mut command = crate::support::process::bounded(env!("CARGO_BIN_EXE_transship"), store.parent().unwrap());
        command.arg("check").arg("--config").arg("transship.toml").current_dir(store.parent().unwrap());
        crate::support::process::Outcome::of(&mut command)
    };
    start().expect_ok();
    let chmod = |mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(store.join("transship.store"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod(0o644);
    assert!(start().expect_error().contains("chmod 600"));
    chmod(0o600);
    let key = std::fs::read(store.join("key")).unwrap();
    std::fs::remove_file(store.join("key")).unwrap();
    assert!(start().expect_error().contains("restore it"));
    std::fs::write(store.join("key"), "f".repeat(64)).unwrap();
    let wide = start().expect_error();
    assert!(wide.contains("chmod 600"), "{wide}");
    std::fs::remove_file(store.join("key")).unwrap();
    std::fs::write(store.join("key"), key).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(store.join("key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    start().expect_ok();
}

#[test]
fn a_document_names_no_source_and_a_stored_secret_goes_nowhere_new() {
    let (_upstream, proxy) = start();
    let (provider, other) = (provider(OLD), provider(OLD));
    add(&proxy, "My-Team", &provider, OLD);
    let secret_file = proxy.cache().join("canary");
    std::fs::write(&secret_file, "c4nary").unwrap();
    for source in [
        json!({ "file": secret_file.display().to_string() }),
        json!({ "env": "PATH" }),
        json!({ "docker_config": "/root/.docker/config.json" }),
        json!({ "helper": "ecr-login" }),
    ] {
        let mut form = form("Other", &other.registry.origin(), OLD);
        form["settings"]["password"] = source.clone();
        form["secrets"] = json!({});
        let mut own = form.clone();
        own["settings"]["name"] = json!("My-Team");
        for (method, path, document) in [
            ("POST", "registries", &form),
            ("POST", "registries/test", &json!({ "form": form })),
            ("PUT", "registries/my-team", &own),
            ("POST", "registries/my-team/test", &json!({ "form": own })),
        ] {
            let answer = ask(&proxy, method, path, document);
            let said = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 400, "{method} {path} {source}: {said}");
            assert!(said.contains("configuration file") && !said.contains("c4nary"), "{said}");
        }
    }
    // Elsewhere, and through somebody else.
    let moves = [
        ("url", json!(other.registry.origin())),
        ("endpoints", json!([other.registry.origin()])),
        ("token_realms", json!([other.registry.origin()])),
        ("proxy", json!("http://127.0.0.1:9")),
        ("kind", json!("gitlab")),
        ("insecure", json!(false)),
        ("allow_private", json!(["127.0.0.0/8", "10.0.0.0/8"])),
    ];
    for (key, value) in moves {
        let mut settings = settings("My-Team", &provider.registry.origin());
        settings[key] = value;
        let document = json!({ "settings": settings, "secrets": {} });
        for (method, path, document) in [
            ("PUT", "registries/my-team", document.clone()),
            ("POST", "registries/my-team/test", json!({ "form": document })),
        ] {
            let answer = ask(&proxy, method, path, &document);
            let said = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 400, "{key} {path}: {said}");
            assert!(said.contains("`password`") && said.contains("again"), "{said}");
        }
    }
    assert_eq!(other.registry.connections(), 0, "nothing has left");
    // What stays where it is needs no secret; what moves with it does.
    let mut stays = settings("My-Team", &provider.registry.origin());
    stays["tag_ttl"] = json!("5s");
    let answer = ask(&proxy, "PUT", "registries/my-team", &json!({ "settings": stays, "secrets": {} }));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let moved = form("My-Team", &other.registry.origin(), OLD);
    assert_eq!(ask(&proxy, "PUT", "registries/my-team", &moved).status, 200);
}
