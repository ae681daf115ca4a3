//! Canaries in every secret that passes through: none of them is ever in a
//! log (at trace level), an answer, a metric or a file of the cache (case J).

use std::fs;
use std::path::Path;

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Setup, credential};
use crate::support::upstream::{Answer, Event, Guard, SECRET, TOKEN_PREFIX, Upstream};

const CLIENT_SECRET: &str = "c4nary-of-the-client";

#[test]
fn j1_no_secret_leaves_through_a_side_door() {
    let (upstream, storage) = (Upstream::start(), Upstream::start());
    upstream.guard(Guard::Token);
    let bytes = noise(1, 500_000);
    let digest = upstream.blob("app", &bytes);
    storage.blob("app", &bytes);
    upstream.redirect_blobs(&storage);
    upstream.image("app", "1", &[]);
    // Trouble of every sort, because errors are where secrets leak.
    storage.first(1, "GET", "/storage/", |_, answer| answer.at(100_000, Event::Reset));
    upstream.on("GET", "/v2/broken/", |_, _| Answer::raw("HTTP/1.1 200 OK\r\nbroken"));
    upstream.on("GET", "/v2/elsewhere/", |_, _| {
        Answer::status(307).header("Location", "https://user:s3cr3t@10.0.0.1/?signature=s3cr3t")
    });
    upstream.on("GET", "/v2/rejected/", |_, answer| {
        answer.replace("WWW-Authenticate", "Bearer realm=\"https://a.example/?s3cr3t\"")
    });
    let keys =
        format!("default = true\naccess = \"anyone\"\nredirect_origins = [\"{}\"]\n{}", storage.origin(), credential());
    let hash = &crate::support::digest::sha256(CLIENT_SECRET.as_bytes())["sha256:".len()..];
    let mut proxy = Setup::new()
        .registry("sample", &upstream, &keys)
        .text(&format!("[[client]]\nname = \"ci\"\ntoken_hash = \"{hash}\"\ngrants = [\"sample/**\"]\n"))
        .start();
    let mut shown = String::new();
    let bearer = format!("Bearer {CLIENT_SECRET}");
    for target in [
        format!("/v2/app/blobs/{digest}"),
        "/v2/app/manifests/1".into(),
        "/v2/app/tags/list".into(),
        "/v2/broken/manifests/1".into(),
        "/v2/elsewhere/manifests/1".into(),
        "/v2/rejected/manifests/1".into(),
        format!("/v2/app/manifests/{digest}?token={CLIENT_SECRET}"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = http::send(proxy.address(), method, &target, &[("Authorization", &bearer)]);
            shown += &format!("{:?}", answer.headers);
            if answer.body.len() < 100_000 {
                shown += &String::from_utf8_lossy(&answer.body);
            }
        }
    }
    let wrong = proxy.get_with("/v2/app/manifests/1", &[("Authorization", &format!("Bearer {CLIENT_SECRET}x"))]);
    assert_eq!(wrong.status, 401);
    shown += &String::from_utf8_lossy(&http::get(proxy.admin(), "/metrics").body);
    shown += &proxy.log();
    assert!(proxy.log().contains("DEBUG"), "the log is at its most talkative");
    proxy.stop();
    search(&proxy.cache(), &mut shown);
    let basic = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("robot:{SECRET}"))
    };
    for secret in [SECRET, TOKEN_PREFIX, CLIENT_SECRET, &basic, "s3cr3t"] {
        let at = shown.find(secret);
        assert!(at.is_none(), "{secret} in …{}…", &shown[at.unwrap().saturating_sub(300)..at.unwrap() + secret.len()]);
    }
}

fn search(dir: &Path, shown: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            search(&entry.path(), shown);
        } else {
            *shown += &entry.path().display().to_string();
            *shown += &String::from_utf8_lossy(&fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
fn j1_what_a_client_sends_of_itself_is_neither_kept_nor_passed_on() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(3, 200_000));
    upstream.image("app", "1", &[]);
    let (password, wrong) = ("c4nary-password-of-ci", "c4nary-wrong-password");
    let basic = |user: &str, password: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
    };
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let trail = dir.path().join("audit.jsonl");
        let keys = format!("default = true\n{}", credential());
        let mut proxy = Setup::new()
            .registry("sample", &upstream, &keys)
            .sections(&format!("[log]\naudit = {trail:?}\n"))
            .text(&crate::clients::with_password("ci", password, "sample/**"))
            .environment("TRANSSHIP_LOG_FORMAT", format)
            .start();
        let mut shown = String::new();
        for header in [
            format!("Basic {}", basic("ci", password)),
            format!("Basic {}", basic("ci", wrong)),
            format!("Basic {}", basic(wrong, "x")),
            format!("Bearer {wrong}"),
            format!("Custom {wrong}"),
        ] {
            let headers = [
                ("Authorization", header.as_str()),
                ("Cookie", "session=c4nary-cookie"),
                ("Proxy-Authorization", "Basic c4nary-proxy"),
                ("X-Api-Key", "c4nary-key"),
                ("X-Forwarded-For", "c4nary-address"),
                ("User-Agent", "c4nary-agent"),
                ("Referer", "http://c4nary-referer/"),
                ("X-Registry-Auth", "c4nary-registry-auth"),
                ("Traceparent", "c4nary-trace"),
            ];
            for target in [format!("/v2/app/blobs/{digest}"), "/v2/app/manifests/1".into(), "/v2/app/tags/list".into()]
            {
                let answer = proxy.get_with(&target, &headers);
                shown += &format!("{:?}", answer.headers);
                if answer.body.len() < 100_000 {
                    shown += &String::from_utf8_lossy(&answer.body);
                }
            }
        }
        for page in ["/metrics", "/api/v1/cache", "/api/v1/cache/blobs", "/api/v1/cache/usage"] {
            shown += &String::from_utf8_lossy(&http::get(proxy.admin(), page).body);
        }
        shown += &proxy.log();
        shown += &fs::read_to_string(&trail).unwrap();
        proxy.stop();
        search(proxy.cache().parent().unwrap(), &mut shown);
        // The configuration names its clients; none of their secrets.
        for secret in ["c4nary", &basic("ci", password), &basic("ci", wrong), SECRET] {
            assert!(!shown.contains(secret), "{secret}, {format}");
        }
    }
    let passed_on = upstream.requests();
    let text = format!("{:?}", passed_on.iter().map(|request| &request.headers).collect::<Vec<_>>());
    assert!(!passed_on.is_empty() && !text.contains("c4nary"), "{text}");
}

/// A line of `/proc/<pid>/limits`, `status`, ….
fn line_of(path: &str, begin: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{path}: {text}")).to_owned()
}

#[test]
fn h5_no_memory_gets_into_a_core_dump_and_none_to_other_processes_of_the_same_user() {
    let upstream = Upstream::start();
    let proxy = Setup::stored(&upstream).start();
    let process = format!("/proc/{}", proxy.pid());
    let limit = line_of(&format!("{process}/limits"), "Max core file size");
    assert_eq!(limit.split_whitespace().nth(4), Some("0"), "{limit}");
    assert_eq!(limit.split_whitespace().nth(5), Some("0"), "nor can it be raised: {limit}");
    let command = fs::read_to_string(format!("{process}/cmdline")).unwrap();
    assert!(!command.contains(SECRET), "{command}");
}

#[test]
fn h5_a_process_that_runs_as_a_user_hides_its_memory_from_that_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::MetadataExt as _;
    let upstream = Upstream::start();
    // What belongs to an unprivileged user in /proc shows whether it may look
    // inside: of what it may not dump, everything is root's.
    let as_nobody =
        "chown -R 65534 . && chmod 755 . && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"";
    let proxy = Setup::stored(&upstream).under(&["sh", "-c", as_nobody]).start();
    let process = format!("/proc/{}", proxy.pid());
    assert!(line_of(&format!("{process}/status"), "Uid:").contains("65534"));
    for file in ["environ", "mem", "maps"] {
        assert_eq!(fs::metadata(format!("{process}/{file}")).unwrap().uid(), 0, "{file}");
    }
    let looked = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat", &format!("{process}/environ")])
        .output()
        .unwrap();
    assert!(!looked.status.success() && !String::from_utf8_lossy(&looked.stdout).contains(SECRET));
}
