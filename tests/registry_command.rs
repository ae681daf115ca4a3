//! `transship registry`: the forms, filled in by command, with and without a
//! running proxy.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;

use serde_json::Value;

use crate::support::http::basic;
use crate::support::process::{Outcome, command};
use crate::support::provider::{Dialect, Provider};
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Answer, Upstream};

const SECRET: &str = "c4nary-old-secret";
const OTHER: &str = "c4nary-new-secret";

fn transship(dir: &std::path::Path, arguments: &[&str], stdin: &str) -> Outcome {
    let mut process = command(env!("CARGO_BIN_EXE_transship"), dir);
    process.current_dir(dir).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = format!("{process:?}");
    let mut child = process.spawn().unwrap();
    // Not everything is read where something is refused.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { line, ok: output.status.success(), stdout: output.stdout, stderr }
}

/// A directory with a configuration of a proxy that does not run.
fn alone() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.toml"), "").unwrap();
    dir
}

fn offline(dir: &tempfile::TempDir, arguments: &[&str], stdin: &str) -> Outcome {
    transship(dir.path(), &[&["registry", "--config", "t.toml"], arguments].concat(), stdin)
}

#[test]
fn each_form_of_the_documentation_is_stored_with_just_its_fields_shown_and_removed() {
    let dir = alone();
    let key = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"c4nary-old-secret\"\n}\n";
    let forms: [(&str, &[&str], &str, &str, &str); 5] = [
        (
            "My-Example-DO-Registry",
            &["--kind", "digitalocean", "--registry-name", "your-registry-name"],
            SECRET,
            "https://registry.digitalocean.com",
            "your-registry-name",
        ),
        (
            "My-Example-DockerHub-Repository",
            &["--kind", "docker-hub", "--namespace", "example-repository", "--username", "someone"],
            SECRET,
            "https://registry-1.docker.io",
            "example-repository",
        ),
        (
            "My-Example-GCR",
            &["--kind", "google", "--region", "us-west1", "--project", "project-name"],
            key,
            "https://us-west1-docker.pkg.dev",
            "project-name",
        ),
        (
            "My-Example-GHCR",
            &["--kind", "ghcr", "--organization", "example-org", "--email", "dev@example.com"],
            SECRET,
            "https://ghcr.io",
            "example-org",
        ),
        (
            "My-Example-ACR",
            &[
                "--kind",
                "generic",
                "--url",
                "https://example-registry.azurecr.io",
                "--namespace",
                "/",
                "--username",
                "app",
            ],
            SECRET,
            "https://example-registry.azurecr.io",
            "-",
        ),
    ];
    for (name, options, secret, upstream, prefix) in forms {
        let added =
            offline(&dir, &[&["add", name, "--no-test", "--password-stdin"], options].concat(), secret).expect_ok();
        assert!(added.stderr.contains("working on the store"), "{}", added.stderr);
        let shown = offline(&dir, &["show", name, "--output", "json"], "").expect_ok();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!((shown["name"].as_str(), shown["upstream"].as_str()), (Some(name), Some(upstream)));
        assert_eq!(shown["prefix"].as_str().unwrap_or("-"), prefix);
        assert_eq!(shown["secrets"].as_array().map(Vec::len), Some(1));
        assert!(!shown.to_string().contains("c4nary"));
    }
    let listed = offline(&dir, &["list"], "").expect_ok().text();
    assert!(forms.iter().all(|(name, ..)| listed.contains(name)), "{listed}");
    // What was stored is what a proxy would serve by.
    let checked = transship(dir.path(), &["check", "--config", "t.toml"], "").expect_ok().text();
    assert!(checked.contains("My-Example-GCR"), "{checked}");
    offline(&dir, &["edit", "my-example-ghcr", "--no-test", "--organization", "other-org"], "").expect_ok();
    assert!(offline(&dir, &["show", "my-example-ghcr"], "").expect_ok().text().contains("other-org"));
    offline(&dir, &["rm", "--yes", "My-Example-GCR"], "").expect_ok();
    assert!(offline(&dir, &["show", "My-Example-GCR"], "").expect_error().contains("no registry"));
    for entry in std::fs::read_dir(dir.path().join("store")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("c4nary"));
    }
}

#[test]
fn what_is_missing_or_wrong_is_told_with_the_option_for_it() {
    let dir = alone();
    for (arguments, word) in [
        (&["add", "x"][..], "--kind"),
        (&["add", "--kind", "ghcr"], "needs a name"),
        (&["add", "x", "--kind", "google", "--no-test"], "--region"),
        (&["add", "x", "--kind", "gchr"], "ghcr"),
        (&["add", "a.b", "--kind", "quay"], "dot"),
        (&["add", "x", "--kind", "quay", "--no-test", "--set", "password=hunter2"], "--password-stdin"),
        (&["add", "x", "--kind", "quay", "--no-test", "--set", "qouta=\"1GiB\""], "did you mean `quota`"),
        (&["add", "x", "--kind", "quay", "--no-test", "--email", "a@b"], "email"),
        (&["edit", "nobody", "--set", "quota=\"1GiB\""], "no registry `nobody`"),
        (&["edit", "docker-hub", "--set", "quota=\"1GiB\"", "--no-test"], "configuration file"),
        (&["rm", "--yes", "docker-hub"], "configuration file"),
    ] {
        let said = offline(&dir, arguments, "").expect_error();
        assert!(said.contains(word), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(!dir.path().join("store").join("transship.store").exists());
}

fn start() -> (Provider, Proxy) {
    let provider = Provider::start(Dialect::Harbor, Some(("robot", SECRET)));
    provider.image("team/app", "1", b"layer");
    let other = Upstream::start();
    (provider, Setup::new().registry("other", &other, "").start())
}

fn online(proxy: &Proxy, arguments: &[&str], stdin: &str) -> Outcome {
    let (admin, token) = (format!("http://{}", proxy.admin()), proxy.admin_token_file());
    let token = token.to_str().unwrap();
    transship(
        &proxy.cache(),
        &[&["registry", "--admin", &admin, "--admin-token-file", token], arguments].concat(),
        stdin,
    )
}

fn options(provider: &Provider) -> Vec<String> {
    let url = provider.registry.origin();
    ["--kind", "generic", "--username", "robot", "--url", &url, "--set", "insecure=true", "--set", "access=anyone"]
        .into_iter()
        .chain(["--set", "allow_private=[\"127.0.0.0/8\"]", "--password-stdin"])
        .map(str::to_owned)
        .collect()
}

fn add(proxy: &Proxy, provider: &Provider, more: &[&str], secret: &str) -> Outcome {
    let options = options(provider);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    online(proxy, &[&["add", "My-Team"], options.as_slice(), more].concat(), secret)
}

#[test]
fn a_running_proxy_serves_by_what_is_added_edited_and_removed_at_once() {
    let (provider, proxy) = start();
    let target = "/v2/my-team/team/app/manifests/1";
    let added = add(&proxy, &provider, &["--image", "team/app:1"], SECRET).expect_ok().text();
    assert!(added.contains("ok     read team/app:1") && added.contains("stored My-Team"), "{added}");
    assert_eq!(proxy.get(target).status, 200);
    provider.rotate("robot", OTHER, || {
        online(&proxy, &["edit", "my-team", "--password-stdin"], OTHER).expect_ok();
    });
    assert_eq!(proxy.get(target).status, 200);
    online(&proxy, &["rm", "--yes", "my-team"], "").expect_ok();
    assert_eq!(proxy.get(target).status, 404);
    assert!(!proxy.log().contains("c4nary"));
}

#[test]
fn a_test_says_in_plain_words_what_is_wrong_and_nothing_that_fails_it_is_stored() {
    let (provider, proxy) = start();
    let said = add(&proxy, &provider, &[], OTHER).expect_error();
    assert!(said.contains("failed sign in") && said.contains("the secret is wrong"), "{said}");
    assert!(said.contains("nothing was stored") && !said.contains("c4nary"), "{said}");
    assert!(online(&proxy, &["show", "my-team"], "").expect_error().contains("no registry"));
    let said = add(&proxy, &provider, &["--image", "team/nothing:1"], SECRET).expect_error();
    assert!(said.contains("ok     sign in") && said.contains("failed read team/nothing:1"), "{said}");
    assert!(said.contains("there is no such image"), "{said}");
    add(&proxy, &provider, &["--force", "--image", "team/nothing:1"], SECRET).expect_ok();
    online(&proxy, &["test", "my-team", "--image", "my-team/team/app:1"], "").expect_ok();
    let said = online(&proxy, &["test", "my-team", "--image", "ghcr.io/team/app:1"], "").expect_error();
    assert!(said.contains("is not an image of registry"), "{said}");
    provider.registry.rule(|_, _| Answer::status(403));
    let said = online(&proxy, &["test", "my-team", "--image", "team/app:1"], "").expect_error();
    assert!(said.contains("status 403"), "{said}");
    provider.registry.stop();
    let said = online(&proxy, &["test", "my-team"], "").expect_error();
    assert!(said.contains("failed reach") && said.contains("refused"), "{said}");
}

#[test]
fn a_realm_that_is_not_trusted_is_named_with_the_key_that_trusts_it() {
    let (provider, proxy) = start();
    provider.registry.rule(|request, answer| match request.path() {
        "/v2/" => Answer::status(401)
            .header("WWW-Authenticate", "Bearer realm=\"https://auth.example.com/token\",service=\"x\""),
        _ => answer,
    });
    let said = add(&proxy, &provider, &[], SECRET).expect_error();
    assert!(said.contains("token_realms = [\"https://auth.example.com\"]"), "{said}");
}

#[test]
fn a_stored_registry_is_one_that_references_can_name() {
    let (provider, proxy) = start();
    add(&proxy, &provider, &[], SECRET).expect_ok();
    let (admin, token) = (format!("http://{}", proxy.admin()), proxy.admin_token_file());
    let token = token.to_str().unwrap();
    let image = format!("{}/team/app:1", provider.registry.address());
    let printed = transship(
        &proxy.cache(),
        &["ref", &image, "--registry", "My-Team", "--admin", &admin, "--admin-token-file", token],
        "",
    )
    .expect_ok();
    assert!(printed.text().ends_with("/my-team/team/app:1"), "{}", printed.text());
}

#[test]
fn a_name_is_free_text_and_its_address_is_proposed_or_chosen() {
    let (provider, proxy) = start();
    let options = options(&provider);
    let options: Vec<&str> = options.iter().map(String::as_str).chain(["--no-test"]).collect();
    let store =
        |name: &str, more: &[&str]| online(&proxy, &[&["add", name], more, options.as_slice()].concat(), SECRET);
    for (name, more, address) in [
        ("Team Registry", &[][..], "team-registry"),
        ("Ünïcode", &[], "unicode"),
        ("团队", &["--address", "team-a"], "team-a"),
    ] {
        let said = store(name, more).expect_ok().text();
        assert!(said.contains(&format!("stored {name}; pull through {address}/…")), "{said}");
        let target = format!("/v2/{address}/team/app/manifests/1");
        assert_eq!(proxy.get(&target).status, 200, "{name}");
        let listed = online(&proxy, &["list"], "").expect_ok().text();
        assert!(listed.contains("pull as") && listed.contains(name) && listed.contains(address), "{listed}");
    }
    // A credential is changed, and the registry removed, by either of them.
    let answered = || proxy.get("/v2/team-a/team/app/manifests/1").status;
    let (admin, token) = (format!("http://{}", proxy.admin()), proxy.admin_token_file());
    let token = token.to_str().unwrap();
    let client =
        ["client", "--admin", &admin, "--admin-token-file", token, "add", "ci", "--token", "--grant", "team-a/team/*"];
    transship(&proxy.cache(), &client, "").expect_ok();
    online(&proxy, &["edit", "team-a", "--address", "team-b", "--no-test"], "").expect_ok();
    // Where clients are known, whoever is not is asked for a login.
    assert_eq!((answered(), proxy.get("/v2/team-b/team/app/manifests/1").status), (401, 200));
    let shown = online(&proxy, &["show", "团队"], "").expect_ok().text();
    assert!(shown.contains("team-b") && shown.contains("fingerprint"), "{shown}");
    online(&proxy, &["rm", "--yes", "team-b"], "").expect_ok();
    assert_eq!(proxy.get("/v2/team-b/team/app/manifests/1").status, 401);
    online(&proxy, &["rm", "--yes", "Team Registry"], "").expect_ok();
    // What cannot be addressed, or means two things, is refused when stored.
    for (name, more, word) in [
        ("x", &["--address", "Not One"][..], "one part of an image name"),
        ("x", &["--address", "v2"], "reserved"),
        ("x", &["--address", "unicode"], "already"),
        ("!!", &[], "letter or digit"),
    ] {
        let said = store(name, more).expect_error();
        assert!(said.contains(word), "{name}: {said}");
    }
}

/// Whether any of `texts` is in the memory of the process; `None`: this user may
/// not look at it.
fn is_in_memory(pid: u32, texts: &[String]) -> Option<bool> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(number(end) - number(start)).unwrap()];
        // Stacks have guard pages, and areas go away.
        let Ok(read) = memory.read_at(&mut bytes, number(start)) else { continue };
        let found = |text: &String| bytes[..read].windows(text.len()).any(|window| window == text.as_bytes());
        if texts.iter().any(found) {
            return Some(true);
        }
    }
    Some(false)
}

#[test]
fn a_secret_that_was_replaced_is_gone_from_memory() {
    let (provider, proxy) = start();
    add(&proxy, &provider, &[], SECRET).expect_ok();
    assert_eq!(proxy.get("/v2/my-team/team/app/manifests/1").status, 200);
    let old = [SECRET.to_owned(), basic("robot", SECRET).split_off("Basic ".len())];
    let Some(was_there) = is_in_memory(proxy.pid(), &old) else {
        println!("skipped: this user may not look at another process's memory");
        return;
    };
    assert!(was_there);
    provider.rotate("robot", OTHER, || {
        online(&proxy, &["edit", "my-team", "--password-stdin"], OTHER).expect_ok();
    });
    assert_eq!(proxy.get("/v2/my-team/team/app/blobs/sha256:00").status, 400);
    assert!(eventually(|| is_in_memory(proxy.pid(), &old) == Some(false)));
    let new = [OTHER.to_owned()];
    assert_eq!(is_in_memory(proxy.pid(), &new), Some(true), "the one that counts is there");
}
