//! Who may administer a proxy: its own user at the socket, tokens over TCP, and
//! nobody else; who merely has the port learns nothing and is told nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::http;
use crate::support::process::{Outcome, bounded};
use crate::support::proxy::{Proxy, Setup, credential, eventually};
use crate::support::upstream::Upstream;

fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Setup::new().registry("private", &upstream, &credential()).start();
    (upstream, proxy)
}

/// `transship ARGS…`, at this proxy's socket.
fn transship(proxy: &Proxy, args: &[&str]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let mut command = bounded(env!("CARGO_BIN_EXE_transship"), home.path());
    Outcome::of(command.args(args).env("TRANSSHIP_ADMIN_SOCKET", proxy.admin_socket()))
}

fn with_token(proxy: &Proxy, method: &str, target: &str, token: &str) -> u16 {
    let shown = format!("Bearer {token}");
    http::send(proxy.admin(), method, target, &[("Authorization", shown.as_str())]).status
}

#[test]
fn who_merely_reaches_the_listener_sees_health_and_metrics_and_nothing_of_the_api() {
    let (_upstream, proxy) = start();
    for target in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http::get(proxy.admin(), target).status, 200, "{target}");
    }
    for (method, target) in [
        ("GET", "/api/v1/registries"),
        ("GET", "/api/v1/clients"),
        ("GET", "/api/v1/nothing"),
        ("POST", "/api/v1/registries/test"),
        ("POST", "/api/v1/reload"),
        ("PUT", "/api/v1/offline"),
        ("DELETE", "/api/v1/registries/private"),
        ("PUT", "/api/v1/admin-tokens/mine"),
    ] {
        for shown in ["", "Bearer", "Bearer ", "Bearer wrong", "Basic cm9vdDpyb290"] {
            let answer = http::send(proxy.admin(), method, target, &[("Authorization", shown)]);
            assert_eq!(answer.status, 401, "{method} {target} {shown}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    assert!(eventually(|| proxy.log().contains("\"event\":\"admin_login\"")), "{}", proxy.log());
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(proxy.admin_socket()), mode(proxy.admin_token_file())), (0o600, 0o600));
}

#[test]
fn a_named_token_does_what_its_role_says_until_it_is_removed() {
    let (_upstream, mut proxy) = start();
    let made = |name: &str, role: &str| {
        let said = transship(&proxy, &["admin-token", "add", name, "--role", role]).expect_ok();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    };
    let (reader, writer) = (made("grafana", "read"), made("deployer", "write"));
    assert_eq!(with_token(&proxy, "GET", "/api/v1/registries", &reader), 200);
    assert_eq!(with_token(&proxy, "POST", "/api/v1/reload", &reader), 403);
    assert_eq!(with_token(&proxy, "POST", "/api/v1/reload", &writer), 200);
    let listed = transship(&proxy, &["admin-token", "list"]).expect_ok().text();
    assert!(listed.contains("grafana") && listed.contains("read") && !listed.contains(&reader), "{listed}");
    // What was done, and by whom, is in the audit trail; what opens it is nowhere.
    let log = proxy.log();
    for (by, outcome) in [("deployer", "success"), ("grafana", "denied")] {
        let line = log.lines().find(|line| line.contains("POST /api/v1/reload") && line.contains(by)).unwrap();
        assert!(line.contains(outcome) && line.contains("admin_request"), "{line}");
    }
    assert!(!log.contains(&reader) && !log.contains(&writer));
    // Over a restart.
    proxy.restart();
    assert_eq!(with_token(&proxy, "GET", "/api/v1/registries", &reader), 200);
    transship(&proxy, &["admin-token", "rm", "grafana"]).expect_ok();
    assert_eq!(with_token(&proxy, "GET", "/api/v1/registries", &reader), 401);
    assert!(!transship(&proxy, &["admin-token", "rm", "grafana"]).ok);
}

#[test]
fn a_command_gives_no_secret_to_whoever_has_the_port() {
    let (_upstream, proxy) = start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // A stranger who answers everything with a friendly document, and passes
    // the question for a proof on to the real proxy.
    let admin = proxy.admin();
    let heard = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut wire = BufReader::new(stream);
        let mut heard = String::new();
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if wire.read_line(&mut line).unwrap_or(0) == 0 {
                    return heard;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                heard += &line;
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            std::io::Read::read_exact(&mut wire, &mut body).unwrap();
            let body = String::from_utf8(body).unwrap();
            heard += &body;
            let answer = http::send_json(admin, "POST", "/api/v1/proof", &body).body;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
            let mut stream = wire.get_ref();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    let home = tempfile::tempdir().unwrap();
    let mut command = bounded(env!("CARGO_BIN_EXE_transship"), home.path());
    let token = proxy.admin_token_file();
    command.args(["client", "add", "ci", "--grant", "private/app", "--admin", &format!("http://{address}")]);
    let said = Outcome::of(command.arg("--admin-token-file").arg(&token));
    assert!(!said.ok && said.stderr.contains("does not know the admin token"), "{said:?}");
    let heard = heard.join().unwrap();
    let token = std::fs::read_to_string(token).unwrap();
    assert!(heard.contains("/api/v1/proof"), "{heard}");
    assert!(!heard.contains(token.trim()) && !heard.contains("/clients"), "{heard}");
}

#[test]
fn administration_beyond_loopback_takes_a_certificate_or_somebody_who_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let config = dir.path().join("t.toml");
        std::fs::write(&config, text).unwrap();
        Outcome::of(bounded(env!("CARGO_BIN_EXE_transship"), dir.path()).args(["check", "--config"]).arg(config))
    };
    let said = check("[admin]\nlisten = \"0.0.0.0:5001\"\n");
    assert!(!said.ok && said.stderr.contains("in clear"), "{said:?}");
    check("[admin]\nlisten = \"0.0.0.0:5001\"\ninsecure_http = true\n").expect_ok();
    check("[metrics]\nlisten = \"0.0.0.0:9090\"\n").expect_ok();
    let said = check("[metrics]\nlisten = \"127.0.0.1:5000\"\n");
    assert!(!said.ok && said.stderr.contains("address of its own"), "{said:?}");
}

#[test]
fn the_listener_for_metrics_has_no_api() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections("[metrics]\nlisten = \"127.0.0.1:0\"\n").start();
    assert!(eventually(|| proxy.listener("metrics").is_some()));
    let metrics = proxy.listener("metrics").unwrap();
    for target in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http::get(metrics, target).status, 200, "{target}");
    }
    let token = std::fs::read_to_string(proxy.admin_token_file()).unwrap();
    let shown = format!("Bearer {}", token.trim());
    assert_eq!(http::send(metrics, "GET", "/api/v1/registries", &[("Authorization", shown.as_str())]).status, 404);
}

#[test]
fn idle_connections_to_administration_take_nothing_from_pulls() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", b"a blob");
    let proxy = Setup::open(&upstream).start();
    proxy.limit_files(512);
    let idle: Vec<_> = (0..600).map(|_| http::connect(proxy.admin())).collect();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    // Commands have a way of their own.
    transship(&proxy, &["cache", "du"]).expect_ok();
    drop(idle);
    assert!(eventually(|| http::get(proxy.admin(), "/healthz").status == 200));
}

#[test]
fn a_reload_does_not_open_a_credential_to_a_listener_that_goes_on_being_beyond_loopback() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", b"a blob");
    let keys = format!("default = true\naccess = \"grants\"\n{}", credential());
    let proxy =
        Setup::new().registry("private", &upstream, &keys).environment("TRANSSHIP_SERVER_LISTEN", "0.0.0.0:0").start();
    let target = format!("/v2/app/blobs/{digest}");
    let refused = proxy.get(&target).status;
    assert!(matches!(refused, 401 | 404), "{refused}");
    // On paper it is closed to the network from the next start on.
    let config = proxy.cache().with_file_name("transship.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("\"grants\"", "\"anyone\"");
    std::fs::write(&config, format!("server.expose_private = false\n{text}")).unwrap();
    let said = transship(&proxy, &["cache", "du"]);
    assert!(said.ok, "{said:?}");
    let answer = http::send_json(proxy.admin(), "POST", "/api/v1/reload", "");
    assert!(answer.status >= 400, "{}", answer.status);
    assert_eq!(proxy.get(&target).status, refused);
}

#[test]
fn a_reload_that_is_refused_tells_every_mistake_with_its_place() {
    let (_upstream, proxy) = start();
    let config = proxy.cache().with_file_name("transship.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[limits]\nmax_header = 1\nmax_fills = \"many\"\n{text}")).unwrap();
    let answer = http::send_json(proxy.admin(), "POST", "/api/v1/reload", "");
    let said = String::from_utf8(answer.body).unwrap();
    assert!(answer.status >= 400 && said.contains("2:1:") && said.contains("max_fills"), "{said}");
    let log = proxy.log();
    for (line, what) in [(2, "max_header"), (3, "max_fills")] {
        let told = log.lines().any(|told| told.contains(&format!("\"line\":{line},")) && told.contains(what));
        assert!(told, "{line} {what}: {log}");
    }
}

#[test]
fn an_audit_trail_that_cannot_be_written_shows_everywhere_and_stops_no_pull() {
    for required in [false, true] {
        let upstream = Upstream::start();
        upstream.image("app", "1", &[]);
        let log = format!("[log]\naudit = \"/dev/full\"\naudit_required = {required}\n");
        let proxy = Setup::open(&upstream).sections(&log).start();
        assert_eq!(http::get(proxy.admin(), "/readyz").status, 200);
        proxy.set_offline(false);
        assert!(eventually(|| proxy.log().contains("the file of the audit trail cannot be written")));
        assert!(proxy.metric("transship_audit_lost_lines_total") >= 1.0);
        assert_eq!(http::get(proxy.admin(), "/readyz").status, if required { 503 } else { 200 });
        assert_eq!(http::get(proxy.admin(), "/healthz").status, 200);
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    }
}
