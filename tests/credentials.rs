//! Where credentials come from and how they stay valid: a secret may change
//! under load, and one that is wrong is not shown by a crowd.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::digest::{noise, sha256};
use crate::support::provider::{Dialect, Provider};
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Gate, Upstream};

const OLD: &str = "c4nary-old-secret";
const NEW: &str = "c4nary-new-secret";

fn text(upstream: &Upstream, keys: &str) -> String {
    format!(
        "[[registry]]\nname = \"r\"\nkind = \"generic\"\nurl = \"{0}\"\ninsecure = true\naccess = \"anyone\"\n\
         allow_private = [\"127.0.0.0/8\"]\nredirect_origins = [\"http://127.0.0.1:1\"]\ntag_ttl = \"0s\"\n{keys}\n",
        upstream.origin(),
    )
}

fn from_file(provider: &Provider, path: &Path) -> Setup {
    let keys = format!("username = \"robot\"\npassword = {{ file = \"{}\" }}", path.display());
    Setup::new().text(&text(&provider.registry, &keys))
}

#[test]
fn h4_a_secret_in_a_file_that_everybody_may_read_is_told_of() {
    let provider = Provider::start(Dialect::Harbor, Some(("robot", OLD)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    fs::write(&path, OLD).unwrap();
    for (mode, told) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let proxy = from_file(&provider, &path).start();
        assert_eq!(proxy.log().contains("everybody on this machine may read"), told, "{mode:o}: {}", proxy.log());
        assert!(!proxy.log().contains(OLD));
    }
}

/// The audit lines of an event.
fn audit(proxy: &Proxy, event: &str) -> Vec<serde_json::Value> {
    let lines = proxy.log();
    let parsed = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed.filter(|line| line["event"] == event).collect()
}

/// How often a credential was rejected since `start`: once, and again after each pause.
fn rejections(proxy: &Proxy, start: Instant) -> usize {
    let steps = audit(proxy, "credential_rejected").len();
    let passed = [5, 15, 35, 75].iter().filter(|seconds| start.elapsed().as_secs() >= **seconds).count();
    assert!((1..=1 + passed).contains(&steps), "{steps} in {:?}", start.elapsed());
    steps
}

/// A volume as Kubernetes mounts it: the secret is behind a link that is swapped.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new(secret: &str) -> Self {
        let volume = Self(tempfile::tempdir().unwrap());
        volume.write(secret);
        symlink("..data/password", volume.path()).unwrap();
        volume
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("password")
    }

    fn write(&self, secret: &str) {
        let dir = format!("..{:x}", fastrand::u64(..));
        fs::create_dir(self.0.path().join(&dir)).unwrap();
        fs::write(self.0.path().join(&dir).join("password"), format!("{secret}\n")).unwrap();
        let link = self.0.path().join("..new");
        symlink(&dir, &link).unwrap();
        fs::rename(link, self.0.path().join("..data")).unwrap();
    }
}

/// Harbor answers blobs itself, and says so when a token is not taken.
fn harbor(secret: &str) -> Provider {
    Provider::start(Dialect::Harbor, Some(("robot", secret)))
}

#[test]
fn a_secret_that_is_rotated_under_load_fails_no_pull() {
    let provider = harbor(OLD);
    let volume = Volume::new(OLD);
    let blobs: Vec<(String, String)> = (0..200)
        .map(|n| {
            let repository = format!("team/app-{}", n % 20);
            (repository.clone(), provider.image(&repository, "1", &noise(1000 + n, 20_000)).1)
        })
        .collect();
    let proxy = from_file(&provider, &volume.path()).start();
    let next = AtomicUsize::new(0);
    let rotated = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((repository, digest)) = blobs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    proxy.get(&format!("/v2/r/{repository}/blobs/{digest}")).assert_content(digest);
                    if next.load(Ordering::SeqCst) > 100 && !rotated.swap(true, Ordering::SeqCst) {
                        provider.rotate("robot", NEW, || volume.write(NEW));
                        provider.revoke();
                    }
                }
            });
        }
    });
    assert!(rotated.load(Ordering::SeqCst));
    let new = format!("Basic {}", STANDARD.encode(format!("robot:{NEW}")));
    assert!(provider.token_requests().iter().any(|request| request.header("authorization") == Some(&new)));
    assert_eq!(audit(&proxy, "credential_changed").len(), 1);
    assert!(!proxy.log().contains("c4nary"));
}

#[test]
fn a_secret_that_is_rotated_is_used_although_the_old_tokens_would_be_good() {
    let provider = harbor(OLD);
    let volume = Volume::new(OLD);
    provider.image("team/app", "1", b"layer");
    let proxy = from_file(&provider, &volume.path()).start();
    assert_eq!(proxy.get("/v2/r/team/app/manifests/1").status, 200);
    provider.rotate("robot", NEW, || volume.write(NEW));
    let asked = || provider.token_requests().len();
    assert!(eventually(|| proxy.get("/v2/r/team/app/manifests/1").status == 200 && asked() == 2), "{}", asked());
}

#[test]
fn a_file_that_is_emptied_or_lost_leaves_the_last_good_secret_in_use() {
    let provider = harbor(OLD);
    let volume = Volume::new(OLD);
    for repository in ["team/a", "team/b", "team/c"] {
        provider.image(repository, "1", repository.as_bytes());
    }
    let proxy = from_file(&provider, &volume.path()).start();
    assert_eq!(proxy.get("/v2/r/team/a/manifests/1").status, 200);
    volume.write("");
    let warned = || proxy.log().contains("the last good secret stays in use");
    assert!(eventually(|| proxy.get("/v2/r/team/b/manifests/1").status == 200 && warned()));
    fs::remove_file(volume.path()).unwrap();
    assert_eq!(proxy.get("/v2/r/team/c/manifests/1").status, 200);
    assert!(audit(&proxy, "credential_changed").is_empty());
}

#[test]
fn a_wrong_password_of_500_clients_is_tried_once_and_a_new_one_at_once() {
    let provider = harbor(NEW);
    let volume = Volume::new(OLD);
    for n in 0..20 {
        provider.image(&format!("team/app-{n}"), "1", b"layer");
    }
    let proxy = from_file(&provider, &volume.path()).start();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..50 {
            let proxy = &proxy;
            scope.spawn(move || {
                for n in 0..10 {
                    let answer = proxy.get(&format!("/v2/r/team/app-{}/manifests/1", (worker + n) % 20));
                    assert_eq!(answer.verdict(), (502, "UNAVAILABLE".into()));
                    assert!(String::from_utf8(answer.body).unwrap().contains("registry `r`"));
                }
            });
        }
    });
    // Once in the first step; a slow machine gets into the next one, in which the login is asked
    // for without a repository too.
    let (tries, steps) = (provider.token_requests().len(), rejections(&proxy, start));
    assert!(tries < 2 * steps, "{tries} {steps}");
    volume.write(NEW);
    assert!(eventually(|| proxy.get("/v2/r/team/app-0/manifests/1").status == 200));
    assert!(!proxy.log().contains("c4nary"));
}

#[test]
fn a_wrong_password_is_not_shown_by_a_crowd_where_there_are_no_tokens() {
    let provider = Provider::start(Dialect::Ecr, Some(("AWS", NEW)));
    provider.registry.rule(|request, answer| {
        // As other registries with Basic do it.
        if answer.status == 403 && request.header("authorization").is_some() { Answer::status(401) } else { answer }
    });
    for n in 0..20 {
        provider.image(&format!("team/app-{n}"), "1", b"layer");
    }
    let keys = "username = \"AWS\"\npassword = { env = \"PW\" }";
    let proxy = Setup::new().text(&text(&provider.registry, keys)).environment("PW", OLD).start();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..60 {
            let proxy = &proxy;
            scope.spawn(move || assert_eq!(proxy.get(&format!("/v2/r/team/app-{}/manifests/1", n % 20)).status, 502));
        }
    });
    let shown = provider.registry.requests().iter().filter(|request| request.header("authorization").is_some()).count();
    assert_eq!(shown, rejections(&proxy, start));
}

#[test]
fn a_repository_that_the_token_service_refuses_says_nothing_about_the_credential() {
    let provider = Provider::start(Dialect::Acr, Some(("robot", OLD)));
    for n in 0..6 {
        provider.image(&format!("team/app-{n}"), "1", b"layer");
    }
    // As ACR does for what is not there: 401 to a login that is right.
    provider.registry.on("GET", "/oauth2/token", |request, answer| {
        if request.target.contains("missing") { Answer::status(401) } else { answer }
    });
    let keys = "username = \"robot\"\npassword = { env = \"PW\" }";
    let proxy = Setup::new().text(&text(&provider.registry, keys)).environment("PW", OLD).start();
    assert_eq!(proxy.get("/v2/r/team/app-0/manifests/1").status, 200);
    for n in 1..6 {
        assert_eq!(proxy.get(&format!("/v2/r/team/missing-{n}/manifests/1")).verdict(), (403, "DENIED".into()));
        assert_eq!(proxy.get(&format!("/v2/r/team/app-{n}/manifests/1")).status, 200);
    }
    assert!(audit(&proxy, "credential_rejected").is_empty());
}

#[test]
fn an_identity_token_goes_by_post_and_by_get_where_there_is_no_such_thing() {
    for (dialect, methods) in [(Dialect::Acr, vec!["POST"]), (Dialect::Gcr, vec!["POST", "GET"])] {
        let provider = Provider::start(dialect, Some(("<token>", OLD)));
        let (manifest, _) = provider.image("team/app", "1", b"layer");
        let keys = "username = \"<token>\"\npassword = { env = \"PW\" }";
        let proxy = Setup::new().text(&text(&provider.registry, keys)).environment("PW", OLD).start();
        assert_eq!(proxy.get("/v2/r/team/app/manifests/1").body, manifest, "{dialect:?} {}", proxy.log());
        let asked = provider.token_requests();
        assert_eq!(asked.iter().map(|request| request.method.as_str()).collect::<Vec<_>>(), methods, "{dialect:?}");
        assert!(!asked.iter().any(|request| request.target.contains(OLD)) && !proxy.log().contains("c4nary"));
    }
}

#[test]
fn f24_a_token_that_ends_under_500_requests_is_refreshed_once() {
    let provider = harbor(OLD);
    let (_, digest) = provider.image("team/app", "1", &noise(1, 1000));
    let keys = "username = \"robot\"\npassword = { env = \"PW\" }";
    let proxy = Setup::new().text(&text(&provider.registry, keys)).environment("PW", OLD).start();
    proxy.get(&format!("/v2/r/team/app/blobs/{digest}")).assert_content(&digest);
    let blobs: Vec<String> = (0..50).map(|n| provider.image("team/app", "x", &noise(2000 + n, 1000)).1).collect();
    provider.revoke();
    std::thread::scope(|scope| {
        for worker in 0..50 {
            let (proxy, blobs) = (&proxy, &blobs);
            scope.spawn(move || {
                for n in 0..10 {
                    let digest = &blobs[(worker + n) % blobs.len()];
                    proxy.get(&format!("/v2/r/team/app/blobs/{digest}")).assert_content(digest);
                }
            });
        }
    });
    assert_eq!(provider.token_requests().len(), 2);
}

#[test]
fn dockers_configuration_file_is_a_source_and_read_again() {
    let provider = harbor(OLD);
    provider.image("team/app", "1", b"layer");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let write = |secret: &str| {
        let auth = STANDARD.encode(format!("robot:{secret}"));
        let host = provider.registry.address().to_string();
        let document = serde_json::json!({ "auths": { host: { "auth": auth } } });
        fs::write(dir.path().join("new"), document.to_string()).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
    };
    write(OLD);
    let keys = format!("password = {{ docker_config = \"{}\" }}", path.display());
    let proxy = Setup::new().text(&text(&provider.registry, &keys)).start();
    assert_eq!(proxy.get("/v2/r/team/app/manifests/1").status, 200, "{}", proxy.log());
    // Half written, as an editor leaves it for a moment.
    fs::write(&path, "{ \"auths\": { ").unwrap();
    let warned = || proxy.log().contains("the last good secret stays in use");
    assert!(eventually(|| proxy.get("/v2/r/team/app/manifests/1").status == 200 && warned()));
    provider.rotate("robot", NEW, || write(NEW));
    let asked = || provider.token_requests().len();
    assert!(eventually(|| proxy.get("/v2/r/team/app/manifests/1").status == 200 && asked() == 2));
    assert!(!proxy.log().contains("c4nary"));
}

/// A directory with a helper `docker-credential-test` that runs `script`.
fn helper(script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("docker-credential-test");
    fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn with_helper(provider: &Provider, dir: &Path) -> Proxy {
    let keys = "username = \"robot\"\npassword = { helper = \"test\" }";
    Setup::new()
        .text(&text(&provider.registry, keys))
        .environment("PATH", &format!("{}:/usr/bin:/bin", dir.display()))
        .environment("AWS_PROFILE", "for-helpers")
        .environment("OTHER_SECRET", "c4nary-of-another")
        .start()
}

#[test]
fn a_helper_is_asked_once_for_all_and_sees_no_secret_of_others() {
    let provider = harbor(OLD);
    for n in 0..20 {
        provider.image(&format!("team/app-{n}"), "1", b"layer");
    }
    let dir = helper(&format!(
        "read server; echo \"$1 $server\" >> calls; env > environment; sleep 0.2; \
         echo '{{\"ServerURL\":\"x\",\"Username\":\"robot\",\"Secret\":\"{OLD}\"}}'"
    ));
    let proxy = with_helper(&provider, dir.path());
    std::thread::scope(|scope| {
        for n in 0..40 {
            let proxy = &proxy;
            scope.spawn(move || assert_eq!(proxy.get(&format!("/v2/r/team/app-{}/manifests/1", n % 20)).status, 200));
        }
    });
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls, format!("get {}\n", provider.registry.address()));
    let environment = fs::read_to_string(dir.path().join("environment")).unwrap();
    assert!(environment.contains("AWS_PROFILE=for-helpers") && !environment.contains("c4nary"), "{environment}");
    assert!(!environment.contains("TRANSSHIP_"), "{environment}");
    assert!(!proxy.log().contains("c4nary"));
}

#[test]
fn a_helper_whose_login_is_rejected_is_asked_again() {
    let provider = harbor(OLD);
    provider.image("team/app", "1", b"layer");
    provider.image("team/other", "1", b"layer");
    let dir = helper("echo call >> calls; printf '{\"Username\":\"robot\",\"Secret\":\"%s\"}' \"$(cat secret)\"");
    fs::write(dir.path().join("secret"), OLD).unwrap();
    let proxy = with_helper(&provider, dir.path());
    assert_eq!(proxy.get("/v2/r/team/app/manifests/1").status, 200, "{}", proxy.log());
    fs::write(dir.path().join("secret"), NEW).unwrap();
    provider.set_account("robot", NEW);
    provider.revoke();
    assert_eq!(proxy.get("/v2/r/team/other/manifests/1").status, 200, "{}", proxy.log());
    assert_eq!(fs::read_to_string(dir.path().join("calls")).unwrap(), "call\ncall\n");
    assert_eq!(audit(&proxy, "credential_changed").len(), 1);
}

#[test]
fn a_helper_that_has_nothing_or_fails_or_hangs_is_told_of_and_shows_nothing() {
    let provider = harbor(OLD);
    provider.image("team/app", "1", b"layer");
    for (script, piece) in [
        ("echo 'credentials not found in native keychain'; exit 1", "docker-credential-test has no login for"),
        ("echo c4nary; exit 1", "docker-credential-test failed; run `echo"),
        ("echo c4nary", "gave an answer that is no login"),
        ("echo '{\"Username\":\"somebody\",\"Secret\":\"c4nary\"}'", "another user's than `username` says"),
        ("head -c 1000000 /dev/zero", "docker-credential-test "),
    ] {
        let dir = helper(script);
        let proxy = with_helper(&provider, dir.path());
        let answer = proxy.get("/v2/r/team/app/manifests/1");
        assert_eq!(answer.verdict(), (502, "UNAVAILABLE".into()), "{script}");
        assert!(proxy.log().contains(piece) && !proxy.log().contains("c4nary"), "{script}\n{}", proxy.log());
    }
    assert!(provider.token_requests().is_empty());
}

#[test]
fn the_first_use_of_a_credential_for_a_repository_is_told_once() {
    let provider = harbor(OLD);
    let volume = Volume::new(OLD);
    let (_, digest) = provider.image("team/app", "1", b"layer");
    provider.image("team/other", "1", b"layer");
    let proxy = from_file(&provider, &volume.path()).start();
    for _ in 0..3 {
        assert_eq!(proxy.get("/v2/r/team/app/manifests/1").status, 200);
        proxy.get(&format!("/v2/r/team/app/blobs/{digest}")).assert_content(&digest);
    }
    assert_eq!(proxy.get("/v2/r/team/other/manifests/1").status, 200);
    let told = |proxy: &Proxy| -> Vec<String> {
        let lines = audit(proxy, "credential_first_use");
        lines.iter().map(|line| format!("{} {} {}", line["registry"], line["repository"], line["generation"])).collect()
    };
    assert_eq!(told(&proxy), ["\"r\" \"team/app\" 0", "\"r\" \"team/other\" 0"]);
    provider.rotate("robot", NEW, || volume.write(NEW));
    let again = || proxy.get("/v2/r/team/app/manifests/1").status == 200 && told(&proxy).len() == 3;
    assert!(eventually(again), "{:?}", told(&proxy));
    assert_eq!(told(&proxy)[2], "\"r\" \"team/app\" 1");
}

#[test]
fn a_transfer_that_runs_when_the_secret_changes_goes_on() {
    let provider = harbor(OLD);
    let volume = Volume::new(OLD);
    let layer = noise(77, 2_000_000);
    let digest = sha256(&layer);
    provider.image("team/app", "1", &layer);
    let gate = Gate::new();
    let (at, held) = (digest.clone(), gate.clone());
    provider.registry.on("GET", "/blobs/", move |request, answer| {
        let this = request.target.contains(&at) && answer.status == 200;
        if this { answer.at(1_000_000, crate::support::upstream::Event::Wait(held.clone())) } else { answer }
    });
    let proxy = from_file(&provider, &volume.path()).start();
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| proxy.get(&format!("/v2/r/team/app/blobs/{digest}")));
        gate.wait_until_reached();
        provider.rotate("robot", NEW, || volume.write(NEW));
        provider.revoke();
        let changed = || proxy.get("/v2/r/team/app/manifests/1").status == 200 && provider.token_requests().len() >= 2;
        assert!(eventually(changed));
        std::thread::sleep(Duration::from_millis(10));
        gate.open();
        pull.join().unwrap().assert_content(&digest);
    });
}
