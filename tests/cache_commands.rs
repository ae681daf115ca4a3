//! `transship cache`, the admin API behind it, and the metrics: what is cached
//! can be seen, taken out, checked and kept, by whoever looks after the proxy
//! and by no web page.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::digest::{noise, sha256};
use crate::support::http;
use crate::support::process::bounded;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::Upstream;

const MIB: usize = 1 << 20;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a command ended with, and what it said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless it was content and said all of these.
    #[track_caller]
    fn says(&self, pieces: &[&str]) {
        assert_eq!(self.code, Some(0), "{self:?}");
        for piece in pieces {
            assert!(self.stdout.contains(piece), "{piece}\n{}", self.stdout);
        }
    }
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let home = tempfile::tempdir().unwrap();
    let mut command = bounded(env!("CARGO_BIN_EXE_transship"), home.path());
    command.arg("cache").args(arguments).envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn cache(proxy: &Proxy, arguments: &[&str]) -> Said {
    run(arguments, &[("TRANSSHIP_ADMIN_SOCKET", proxy.admin_socket().to_str().unwrap())])
}

fn pull(proxy: &Proxy, name: &str, digest: &str) {
    proxy.get(&format!("/v2/{name}/blobs/{digest}")).assert_content(digest);
}

/// Two registries: `sample` and `My-Team`, which is the part `team` of the same
/// upstream. A shared layer of 3 MiB, and one of 1 MiB for `sample` only.
fn start() -> (Upstream, Proxy, String, String) {
    let upstream = Upstream::start();
    let (shared, own) = (noise(1, 3 * MIB), noise(2, MIB));
    upstream.blob("team/app", &shared);
    let (shared, own) = (upstream.blob("app", &shared), upstream.blob("app", &own));
    let proxy = Setup::open(&upstream).registry("My-Team", &upstream, "namespace = \"team\"").start();
    pull(&proxy, "app", &shared);
    pull(&proxy, "app", &own);
    // Another registry's transfer gives nobody else a link.
    proxy.wait_for_fills();
    pull(&proxy, "my-team/app", &shared);
    assert_eq!(proxy.wait_for_blobs(2), 2);
    // A moment later they are in the accounts too.
    assert!(eventually(|| cache(&proxy, &["du", "--output", "json"]).json()["blobs"] == 2));
    (upstream, proxy, shared, own)
}

#[test]
fn blobs_are_listed_with_size_and_links_the_largest_first() {
    let (_, proxy, shared, own) = start();
    let said = cache(&proxy, &["ls"]);
    said.says(&[&shared, &own, "3.00 MiB", "1.00 MiB", "My-Team/app, sample/app", "2 blobs, 4.00 MiB"]);
    assert!(said.stdout.find(&shared) < said.stdout.find(&own));
    let entry = |digest: &str, size: usize, links: Value| json!({"digest": digest, "size": size, "pinned": false, "links": links});
    let both = json!([{"registry": "My-Team", "repository": "app"}, {"registry": "sample", "repository": "app"}]);
    let first = entry(&shared, 3 * MIB, both);
    let second = entry(&own, MIB, json!([{"registry": "sample", "repository": "app"}]));
    let listed = cache(&proxy, &["ls", "--output", "json"]).json();
    assert_eq!(listed["blobs"], json!([first, second]));
    assert_eq!((&listed["total"], &listed["bytes"]), (&json!(2), &json!(4 * MIB)));
    let few = cache(&proxy, &["ls", "--limit", "1"]);
    few.says(&["1 blob and 1 more, 4.00 MiB altogether"]);
    for arguments in [&["--registry", "my-TEAM"][..], &["--registry", "My-Team", "--repository", "app"]] {
        let listed = cache(&proxy, &[&["ls", "--output", "json"], arguments].concat()).json();
        assert_eq!((&listed["blobs"], &listed["total"]), (&json!([first]), &json!(1)));
    }
    let unknown = cache(&proxy, &["ls", "--registry", "other"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no registry `other` is configured"), "{unknown:?}");
}

#[test]
fn use_is_told_for_each_registry() {
    let (_, proxy, _, _) = start();
    let usage = cache(&proxy, &["du", "--output", "json"]).json();
    assert_eq!(
        usage["registries"],
        json!([
            {"registry": "sample", "repositories": 1, "blobs": 2, "bytes": 4 * MIB},
            {"registry": "My-Team", "repositories": 1, "blobs": 1, "bytes": 3 * MIB},
        ])
    );
    assert_eq!(usage["unlinked"], json!({"blobs": 0, "bytes": 0}));
    assert_eq!((&usage["bytes"], &usage["writes"]), (&json!(4 * MIB), &json!(true)));
    assert_eq!((&usage["max_size"], &usage["fills"]), (&json!(100_u64 << 30), &json!(0)));
    cache(&proxy, &["du"]).says(&["sample", "My-Team", "2 blobs stored, 4.00 MiB of 100.00 GiB"]);
}

#[test]
fn what_is_removed_is_fetched_again_by_the_next_pull() {
    let (upstream, proxy, shared, own) = start();
    upstream.forget();
    cache(&proxy, &["rm", &own]).says(&[&format!("removed {own}")]);
    assert_eq!(proxy.blobs().len(), 1);
    pull(&proxy, "app", &shared);
    assert_eq!(upstream.count("GET", "/blobs/"), 0);
    pull(&proxy, "app", &own);
    assert_eq!(upstream.count("GET", &own), 1);
    let absent = cache(&proxy, &["rm", &sha256(b"never seen"), &shared]);
    assert_eq!(absent.code, Some(1));
    assert!(absent.stderr.contains("is not in the cache") && absent.stdout.contains("removed"), "{absent:?}");
    for wrong in [&["rm"][..], &["rm", "--repository", "app"], &["rm", &own, "--registry", "sample"]] {
        assert_eq!(cache(&proxy, wrong).code, Some(2), "{wrong:?}");
    }
    let wrong = cache(&proxy, &["rm", "../../etc/passwd"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
}

#[test]
fn a_registry_is_removed_up_to_what_others_share() {
    let (_, proxy, shared, own) = start();
    let said = cache(&proxy, &["rm", "--registry", "sample"]);
    said.says(&["removed 1 blob, 1.00 MiB", "kept 1 blob: linked elsewhere too"]);
    pull(&proxy, "app", &own);
    proxy.wait_for_blobs(2);
    assert!(eventually(|| cache(&proxy, &["du", "--output", "json"]).json()["blobs"] == 2));
    cache(&proxy, &["rm", "--registry", "my-team", "--repository", "app", "--shared"])
        .says(&["removed 1 blob, 3.00 MiB"]);
    let left = cache(&proxy, &["ls", "--output", "json"]).json();
    assert_eq!(left["blobs"][0]["digest"], json!(own), "not {shared}");
}

#[test]
fn a_flipped_bit_is_found_and_ends_with_1() {
    let (upstream, proxy, shared, own) = start();
    let said = cache(&proxy, &["verify"]);
    said.says(&[&format!("sound    {shared}"), "2 blobs sound, 0 damaged, 0 absent (4.00 MiB)"]);
    let path =
        proxy.blobs().into_iter().find(|path| own.ends_with(path.file_name().unwrap().to_str().unwrap())).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[MIB / 2] ^= 1;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let said = cache(&proxy, &["verify"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains(&format!("damaged  {own}")), "{said:?}");
    assert!(said.stdout.contains("1 blob sound, 1 damaged, 0 absent"), "{said:?}");
    assert!(!path.exists());
    assert_eq!(proxy.metric("transship_quarantined_blobs_total"), 1.0);
    let gone = cache(&proxy, &["verify", &own]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.stdout.contains(&format!("absent   {own}")), "{gone:?}");
    upstream.forget();
    pull(&proxy, "app", &own);
    assert_eq!(upstream.count("GET", &own), 1);
    assert!(eventually(|| cache(&proxy, &["verify", &own]).code == Some(0)));
}

#[test]
fn a_pinned_image_stays_under_pressure_until_it_is_unpinned() {
    let upstream = Upstream::start();
    let (first, second) = (noise(1, 16 * MIB), noise(2, 16 * MIB));
    let manifest = upstream.image("app", "1", &[&first, &second]);
    let layers = [sha256(&first), sha256(&second)];
    let mut proxy = Setup::open(&upstream).sections("[cache]\nmax_size = \"200MiB\"\npolicy = \"lru\"\n").start();
    // One layer before it is pinned, one after.
    pull(&proxy, "app", &layers[0]);
    proxy.wait_for_blobs(1);
    let said = cache(&proxy, &["pin", "sample/app:1"]);
    said.says(&[
        &format!("pinned sample/app:1 {}", sha256(&manifest)),
        "of 4 blobs stored so far; the others stay once",
    ]);
    pull(&proxy, "app", &layers[1]);
    proxy.wait_for_blobs(3);
    let press = |proxy: &Proxy, seeds: std::ops::Range<u64>| {
        for n in seeds {
            pull(proxy, "app", &upstream.blob("app", &noise(n, 16 * MIB)));
        }
    };
    press(&proxy, 100..120);
    assert!(eventually(|| proxy.metric("transship_evicted_blobs_total") >= 5.0));
    proxy.restart();
    press(&proxy, 200..215);
    assert!(eventually(|| proxy.metric("transship_evicted_blobs_total") >= 5.0));
    assert!(eventually(|| proxy.metric("transship_cache_bytes") <= 200.0 * MIB as f64));
    upstream.forget();
    for layer in &layers {
        pull(&proxy, "app", layer);
    }
    assert_eq!(upstream.connections(), 0);
    let pins = cache(&proxy, &["pin", "--output", "json"]).json();
    let expected = json!([{
        "image": "sample/app:1", "configured": false, "digest": sha256(&manifest),
        "blobs": 4, "stored_blobs": 3, "stored_bytes": 32 * MIB + manifest.len(),
    }]);
    assert_eq!(pins["pins"], expected, "the configuration has not been pulled");
    cache(&proxy, &["pin"]).says(&["sample/app:1", "32.00 MiB", "command"]);
    cache(&proxy, &["ls", "--limit", "1000"]).says(&["yes"]);
    let refused = cache(&proxy, &["rm", &layers[0]]);
    assert!(refused.code == Some(1) && refused.stderr.contains("is pinned: unpin its image first"), "{refused:?}");
    cache(&proxy, &["unpin", "sample/app:1"]).says(&["unpinned sample/app:1"]);
    assert_eq!(cache(&proxy, &["unpin", "sample/app:1"]).code, Some(1));
    press(&proxy, 300..320);
    assert!(eventually(|| proxy
        .blobs()
        .iter()
        .all(|path| !layers[0].ends_with(path.file_name().unwrap().to_str().unwrap()))));
}

#[test]
fn an_index_that_is_pinned_keeps_the_platforms_that_were_pulled() {
    let upstream = Upstream::start();
    let layer = noise(1, 100_000);
    let child = upstream.image("team/app", "amd64", &[&layer]);
    let text = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(&child), "size": child.len()},
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(b"arm64"), "size": 7},
    ]});
    upstream.manifest("team/app", "1", INDEX, text.to_string().as_bytes());
    let proxy = Setup::open(&upstream).registry("My-Team", &upstream, "namespace = \"team\"").start();
    cache(&proxy, &["pin", "my-team/app:1"]).says(&["pinned My-Team/app:1"]);
    let pins = || cache(&proxy, &["pin", "--output", "json"]).json()["pins"][0].clone();
    assert_eq!(pins()["blobs"], 3, "the index and its children");
    proxy.get(&format!("/v2/my-team/app/manifests/{}", sha256(&child)));
    pull(&proxy, "my-team/app", &sha256(&layer));
    assert!(eventually(|| pins()["blobs"] == 5 && pins()["stored_blobs"] == 3), "{}", pins());
}

#[test]
fn the_configuration_pins_too() {
    let upstream = Upstream::start();
    let layer = noise(1, 100_000);
    let manifest = upstream.image("app", "1", &[&layer]);
    let proxy = Setup::open(&upstream).sections("[cache]\npin = [\"sample/app:1\", \"sample/app:absent\"]\n").start();
    let pins = || cache(&proxy, &["pin", "--output", "json"]).json()["pins"].clone();
    assert!(eventually(|| pins()[0]["digest"] == json!(sha256(&manifest))), "{}", pins());
    assert_eq!((&pins()[0]["configured"], &pins()[1]["digest"]), (&json!(true), &Value::Null));
    cache(&proxy, &["pin"]).says(&["not seen yet", "configuration"]);
    let refused = cache(&proxy, &["unpin", "sample/app:1"]);
    assert!(refused.stderr.contains("is pinned by the configuration"), "{refused:?}");
    assert!(eventually(|| proxy.log().contains("a pinned image could not be looked up")));
    let absent = cache(&proxy, &["pin", "sample/app:nothing"]);
    assert!(absent.code == Some(1) && absent.stderr.contains("upstream does not have it"), "{absent:?}");
    for wrong in ["other/app:1", "alpine", "sample/app:"] {
        assert_eq!(cache(&proxy, &["pin", wrong]).code, Some(1), "{wrong}");
    }
    assert_eq!(pins().as_array().unwrap().len(), 2);
}

#[test]
fn the_admin_address_comes_from_option_variable_or_configuration() {
    let (_, proxy, _, _) = start();
    let url = format!("http://{}", proxy.admin());
    let (socket, token) = (proxy.admin_socket(), proxy.admin_token_file());
    let (socket, token) = (socket.to_str().unwrap(), token.to_str().unwrap());
    let environment = [("TRANSSHIP_ADMIN_URL", "http://127.0.0.1:1"), ("TRANSSHIP_ADMIN_TOKEN_FILE", token)];
    run(&["du", "--admin", &url], &environment).says(&["2 blobs stored"]);
    run(&["du", "--admin", &url, "--admin-token-file", token], &[]).says(&["2 blobs stored"]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("transship.toml");
    // Its secrets need not be here.
    let registry = "[[registry]]\nname = \"a\"\nkind = \"ghcr\"\npassword = { env = \"NOT_SET_HERE\" }\n";
    std::fs::write(&config, format!("[admin]\nsocket = \"{socket}\"\n{registry}")).unwrap();
    let config = config.to_str().unwrap();
    run(&["du", "--config", config], &[]).says(&["2 blobs stored"]);
    run(&["du"], &[("TRANSSHIP_CONFIG", config)]).says(&["2 blobs stored"]);
    std::fs::write(config, "[admin]\nlisten = \"here\"\n").unwrap();
    let wrong = run(&["du", "--config", config], &[]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains(":2:10: `listen`: `here` is no address"), "{wrong:?}");
    for wrong in ["127.0.0.1:5001", "unix:/x", "ftp://x"] {
        assert_eq!(run(&["du", "--admin", wrong], &[]).code, Some(2), "{wrong}");
    }
    let nobody = run(&["du", "--admin", "http://127.0.0.1:1", "--admin-token-file", token], &[]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (Some(1), ""));
    for piece in ["no proxy can be reached at http://127.0.0.1:1/", "transship serve", "--admin URL"] {
        assert!(nobody.stderr.contains(piece), "{nobody:?}");
    }
    let stranger = format!("http://{}", proxy.address());
    let stranger = run(&["du", "--admin", &stranger, "--admin-token-file", token], &[]);
    assert!(stranger.code == Some(1) && stranger.stderr.contains("does not know the admin token"), "{stranger:?}");
}

#[test]
fn a_web_page_can_neither_read_nor_change_anything() {
    let (_, proxy, _, own) = start();
    let target = format!("/api/v1/cache/blobs/{own}");
    let error = |answer: &http::Response| serde_json::from_slice::<Value>(&answer.body).unwrap()["error"].is_string();
    for host in ["evil.example", "evil.example:5001", "127.0.0.1.evil.example", ""] {
        for target in ["/api/v1/cache", "/api/v1/cache/blobs", "/api/v2/other"] {
            let answer = http::send(proxy.admin(), "GET", target, &[("Host", host)]);
            assert!(answer.status == 403 && error(&answer), "{host} {target}");
        }
    }
    for origin in ["null", "http://evil.example", &format!("http://{}", proxy.admin())] {
        for (method, target) in [("DELETE", target.as_str()), ("PUT", "/api/v1/cache/pins/sample/app:1")] {
            let answer = http::send(proxy.admin(), method, target, &[("Origin", origin), ("Content-Length", "0")]);
            assert!(answer.status == 403 && error(&answer), "{origin} {method}");
        }
    }
    assert_eq!(proxy.blobs().len(), 2);
    for host in ["localhost", "127.0.0.1:1", "[::1]:5001"] {
        assert_eq!(http::send(proxy.admin(), "GET", "/api/v1/cache", &[("Host", host)]).status, 200, "{host}");
    }
    // Health and metrics are for whoever scrapes them, by whatever name.
    assert_eq!(http::send(proxy.admin(), "GET", "/metrics", &[("Host", "metrics.example")]).status, 200);
    for (method, target, status) in [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/cache/blobs?limit=x", 400),
        ("GET", "/api/v1/cache/blobs?colour=red", 400),
        ("GET", "/api/v1/cache/blobs?repository=app", 400),
        ("POST", "/api/v1/cache", 405),
        ("DELETE", "/api/v1/cache/blobs/..%2f..%2fetc", 400),
        ("PUT", "/api/v1/cache/blobs/sha256:0/verification", 400),
    ] {
        let answer = http::send(proxy.admin(), method, target, &[("Content-Length", "0")]);
        assert!(answer.status == status && error(&answer), "{method} {target}: {}", answer.status);
    }
    for target in ["/api/v1/cache", target.as_str()] {
        assert_eq!(proxy.get(target).status, 404, "not on the data listener");
    }
}

#[test]
fn metrics_tell_a_cold_pull_from_a_warm_one() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 3 * MIB));
    let proxy = Setup::open(&upstream).start();
    let page = || String::from_utf8(http::get(proxy.admin(), "/metrics").body).unwrap();
    let read = |line: &str| {
        let page = page();
        let value = page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("{line} is not in\n{page}"))
    };
    let figures = || {
        [
            read("transship_blob_requests_total{source=\"fill\"}"),
            read("transship_blob_requests_total{source=\"hit\"}"),
            read("transship_upstream_bytes_total{registry=\"sample\"}"),
            read("transship_sent_bytes_total"),
        ]
    };
    assert_eq!(figures(), [0.0; 4]);
    let size = 3.0 * MIB as f64;
    pull(&proxy, "app", &digest);
    assert_eq!(figures(), [1.0, 0.0, size, size]);
    proxy.wait_for_blobs(1);
    assert!(eventually(|| proxy.metric("transship_cache_blobs") == 1.0 && proxy.metric("transship_fills") == 0.0));
    assert_eq!(proxy.metric("transship_cache_bytes"), size);
    assert!(eventually(|| proxy.metric("transship_links") == 1.0));
    pull(&proxy, "app", &digest);
    assert_eq!(figures(), [1.0, 1.0, size, 2.0 * size]);
    assert_eq!(read("transship_upstream_requests_total{registry=\"sample\",status=\"2xx\"}"), 1.0);
    proxy.get("/v2/app/manifests/absent");
    assert_eq!(read("transship_upstream_requests_total{registry=\"sample\",status=\"4xx\"}"), 1.0);
    assert_eq!(proxy.metric("transship_upstream_token_requests_total"), 0.0);
    assert!(page().ends_with("# EOF\n"));
}

#[test]
fn followers_and_tokens_are_counted_as_what_they_are() {
    use crate::support::upstream::{Event, Gate, Guard};
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    let digest = upstream.blob("app", &noise(1, 3 * MIB));
    let proxy = Setup::stored(&upstream).start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| {
        if answer.status == 200 { answer.at(MIB, Event::Wait(closed.clone())) } else { answer }
    });
    let target = format!("/v2/app/blobs/{digest}");
    let clients: Vec<_> = (0..4).map(|_| http::open(proxy.address(), "GET", &target, &[])).collect();
    gate.wait_until_reached();
    assert_eq!(proxy.metric("transship_fills"), 1.0);
    gate.open();
    clients.into_iter().for_each(|client| client.finish().assert_content(&digest));
    let page = String::from_utf8(http::get(proxy.admin(), "/metrics").body).unwrap();
    for line in ["blob_requests_total{source=\"fill\"} 1", "blob_requests_total{source=\"join\"} 3"] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(proxy.metric("transship_upstream_token_requests_total") >= 1.0);
}
