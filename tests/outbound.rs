//! The way to upstreams: through a company's proxy, with a certificate of our
//! own, over either family of addresses.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::pki_types::PrivateKeyDer;

use crate::support::digest::noise;
use crate::support::forward_proxy::ForwardProxy;
use crate::support::proxy::{Proxy, Setup};
use crate::support::upstream::{Guard, Upstream};

/// The password of the company's proxy.
const PASSWORD: &str = "c4nary-of-the-corp-proxy";

/// A certificate for `name` and the registry that has it; `client` has to be
/// shown by whoever asks.
struct Tls {
    upstream: Upstream,
    dir: tempfile::TempDir,
}

impl Tls {
    fn start(name: &str, asks_for_certificate: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pair = |file: &str, name: &str| {
            let pair = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            fs::write(dir.path().join(format!("{file}.crt")), pair.cert.pem()).unwrap();
            let key = dir.path().join(format!("{file}.key"));
            fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
            fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            pair
        };
        let (server, client) = (pair("server", name), pair("client", "a-proxy"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_for_certificate {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(client.cert.der().clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(server.signing_key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![server.cert.der().clone()], key).unwrap();
        Tls { upstream: Upstream::start_tls(config), dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

fn account() -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("svc:{PASSWORD}")))
}

#[test]
fn https_goes_through_the_proxy_by_connect_with_the_proxys_own_password() {
    let corp = ForwardProxy::start(Some(&account()));
    let tls = Tls::start("registry.corp.example", false);
    corp.resolve_all_to(tls.upstream.address());
    tls.upstream.guard(Guard::Open);
    tls.upstream.image("app", "1", &[]);
    let digest = tls.upstream.blob("app", &noise(1, 300_000));
    let registry = format!(
        "[[registry]]\nname = \"sample\"\nkind = \"generic\"\nurl = \"https://registry.corp.example\"\nca = \"{}\"\n\
         proxy = \"http://svc@{}\"\nproxy_password = {{ env = \"CORP_PROXY\" }}\n",
        tls.path("server.crt"),
        corp.address()
    );
    let proxy = Setup::new().text(&registry).environment("CORP_PROXY", PASSWORD).start();
    assert_eq!(proxy.get("/v2/sample/app/manifests/1").status, 200, "{}", proxy.log());
    proxy.get(&format!("/v2/sample/app/blobs/{digest}")).assert_content(&digest);
    assert!(corp.asked().iter().all(|line| line == "CONNECT registry.corp.example:443 HTTP/1.1"), "{:?}", corp.asked());
    for request in tls.upstream.requests() {
        assert_eq!(request.header("proxy-authorization"), None, "what is the proxy's stays there");
    }
    assert!(!proxy.log().contains(PASSWORD) && !proxy.log().contains(account().trim_start_matches("Basic ")));
}

fn plain(upstream: &Upstream, sections: &str, keys: &str) -> Proxy {
    Setup::new().sections(sections).registry("sample", upstream, &format!("default = true\n{keys}")).start()
}

#[test]
fn plain_http_is_asked_of_the_proxy_in_absolute_form() {
    for wanted in [None, Some(account())] {
        let corp = ForwardProxy::start(wanted.as_deref());
        let upstream = Upstream::start();
        upstream.image("app", "1", &[]);
        let password = "proxy_password = { env = \"CORP_PROXY\" }\n";
        let (user, password) = if wanted.is_some() { ("svc@", password) } else { ("", "") };
        let sections = format!("[upstream]\nproxy = \"http://{user}{}\"\n{password}", corp.address());
        let setup = Setup::new().sections(&sections).registry("sample", &upstream, "default = true");
        let proxy = setup.environment("CORP_PROXY", PASSWORD).start();
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
        assert_eq!(corp.asked(), [format!("GET {}/v2/app/manifests/1 HTTP/1.1", upstream.origin())]);
        let shown = corp.heads()[0].iter().any(|line| line.to_ascii_lowercase().starts_with("proxy-authorization"));
        assert_eq!(shown, wanted.is_some());
        assert!(!proxy.log().contains(PASSWORD));
        assert_eq!(upstream.requests()[0].header("proxy-authorization"), None);
    }
}

#[test]
fn what_no_proxy_names_and_what_says_direct_does_not_go_through_it() {
    let corp = ForwardProxy::start(None);
    let upstream = Upstream::start();
    upstream.image("app", "1", &[]);
    let common = format!("[upstream]\nproxy = \"http://{}\"\n", corp.address());
    for (sections, keys) in
        [(format!("{common}no_proxy = [\".internal\", \"127.0.0.0/8\"]\n"), ""), (common, "proxy = \"direct\"")]
    {
        assert_eq!(plain(&upstream, &sections, keys).get("/v2/app/manifests/1").status, 200);
    }
    assert_eq!(corp.asked(), Vec::<String>::new());
}

#[test]
fn a_proxy_that_refuses_or_is_gone_is_named_in_the_log() {
    let corp = ForwardProxy::start(Some("Basic c29tZXRoaW5nIGVsc2U="));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, words) in [(corp.address(), "proxy_password"), (gone, "the outbound proxy http://127.0.0.1")] {
        let registry = format!(
            "[[registry]]\nname = \"sample\"\nkind = \"generic\"\nurl = \"https://registry.corp.example\"\nproxy = \"http://{address}\"\n"
        );
        let proxy = Setup::new().text(&registry).start();
        assert_eq!(proxy.get("/v2/sample/app/manifests/1").status, 502);
        assert!(proxy.log().contains(words), "{words}: {}", proxy.log());
    }
}

#[test]
fn the_egress_rule_holds_behind_a_proxy() {
    let corp = ForwardProxy::start(None);
    let upstream = Upstream::start();
    for target in
        ["https://127.0.0.1:1/x", "https://169.254.169.254/x", "https://localhost:1/x", "https://a.localhost/x"]
    {
        upstream.clear_rules();
        upstream.on("GET", "/manifests/", move |_, _| {
            crate::support::upstream::Answer::status(307).header("Location", target)
        });
        // Only the registry's own origin is reached directly.
        let port = upstream.address().port();
        let keys = format!("proxy = \"http://{}\"\nno_proxy = [\"127.0.0.1:{port}\"]", corp.address());
        assert_eq!(plain(&upstream, "", &keys).get("/v2/app/manifests/1").status, 502, "{target}");
    }
    assert_eq!(corp.asked(), Vec::<String>::new());
}

#[test]
fn a_registry_that_asks_for_a_certificate_is_shown_ours() {
    let tls = Tls::start("127.0.0.1", true);
    tls.upstream.image("app", "1", &[]);
    let ca = format!("ca = \"{}\"", tls.path("server.crt"));
    let identity = format!(
        "{ca}\nclient_certificate = \"{}\"\nclient_key = \"{}\"",
        tls.path("client.crt"),
        tls.path("client.key")
    );
    assert_eq!(
        plain(&tls.upstream, "", &format!("access = \"anyone\"\n{identity}")).get("/v2/app/manifests/1").status,
        200
    );
    assert_eq!(plain(&tls.upstream, "", &ca).get("/v2/app/manifests/1").status, 502);
}

#[test]
fn where_a_registry_redirects_to_is_not_shown_its_certificate() {
    let storage = Tls::start("127.0.0.1", true);
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(2, 50_000));
    storage.upstream.blob("app", &noise(2, 50_000));
    upstream.redirect_blobs(&storage.upstream);
    let identity = format!(
        "ca = \"{}\"\nclient_certificate = \"{}\"\nclient_key = \"{}\"\nredirect_origins = [\"{}\"]",
        storage.path("server.crt"),
        storage.path("client.crt"),
        storage.path("client.key"),
        storage.upstream.origin(),
    );
    let answer =
        plain(&upstream, "", &format!("access = \"anyone\"\n{identity}")).get(&format!("/v2/app/blobs/{digest}"));
    assert_eq!((answer.status, storage.upstream.requests().len()), (502, 0));
}

#[test]
fn a_registry_at_an_ipv6_address_is_reached_where_it_is_allowed() {
    let upstream = Upstream::start_at("[::1]:0");
    upstream.image("app", "1", &[]);
    let url = upstream.origin();
    let registry = format!(
        "[[registry]]\nname = \"sample\"\nkind = \"generic\"\nurl = \"{url}\"\ninsecure = true\nallow_private = [\"::1\"]\n"
    );
    let proxy = Setup::new().text(&registry).start();
    assert_eq!(proxy.get("/v2/sample/app/manifests/1").status, 200, "{}", proxy.log());
}

/// The names that one proxy knows: a hosts file of its own, laid over the
/// machine's where only it sees it.
struct Names {
    file: tempfile::NamedTempFile,
}

impl Names {
    /// `None` without the right to do so.
    fn new(lines: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: a hosts file of one's own needs root");
            return None;
        }
        let names = Self { file: tempfile::NamedTempFile::new_in("/tmp").unwrap() };
        fs::set_permissions(names.file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        names.say(lines);
        Some(names)
    }

    /// From now on names lead where `lines` say.
    fn say(&self, lines: &str) {
        fs::write(self.file.path(), format!("127.0.0.1 localhost\n{lines}\n")).unwrap();
    }

    /// A proxy that sees them, for a registry at `registry.test` and `port`.
    fn start(&self, port: u16, sections: &str) -> Proxy {
        let script = format!("mount --bind {} /etc/hosts && exec \"$0\" \"$@\"", self.file.path().display());
        let registry = format!(
            "[[registry]]\nname = \"sample\"\nkind = \"generic\"\nurl = \"http://registry.test:{port}\"\ninsecure = true\n\
             default = true\nallow_private = [\"127.0.0.0/8\", \"::1\"]\n"
        );
        let setup = Setup::new().text(&registry).sections(sections);
        setup.under(&["unshare", "--mount", "sh", "-c", &script]).start()
    }
}

/// Every answer is upstream's of now.
const UNREMEMBERED: &str = "[cache]\ntag_ttl = \"0s\"\nstale_if_error = \"0s\"\nnot_found_ttl = \"0s\"\n";

#[test]
fn a_name_with_addresses_of_both_families_is_reached_over_whichever_answers() {
    let Some(names) = Names::new("::1 registry.test\n127.0.0.1 registry.test") else { return };
    for listen in ["[::1]:0", "127.0.0.1:0"] {
        let upstream = Upstream::start_at(listen);
        upstream.image("app", "1", &[]);
        let proxy = names.start(upstream.address().port(), "");
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200, "{listen}: {}", proxy.log());
    }
}

#[test]
fn f22_a_name_that_leads_elsewhere_is_followed_without_a_restart() {
    let Some(names) = Names::new("127.0.0.1 registry.test") else { return };
    let first = Upstream::start();
    let port = first.address().port();
    let second = Upstream::start_at(&format!("127.0.0.2:{port}"));
    for upstream in [&first, &second] {
        upstream.image("app", "1", &[]);
    }
    let proxy = names.start(port, &format!("[limits]\nupstream_connection_age = \"100ms\"\n{UNREMEMBERED}"));
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200, "{}", proxy.log());
    names.say("127.0.0.2 registry.test");
    assert!(crate::support::proxy::eventually(|| {
        assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
        second.connections() > 0
    }));
    assert!(first.connections() > 0);
    // And where it leads nowhere, that is an error of its own, and passes.
    names.say("");
    assert!(crate::support::proxy::eventually(|| proxy.get("/v2/app/manifests/1").status == 502));
    assert!(proxy.log().contains("DNS"), "{}", proxy.log());
    names.say("127.0.0.1 registry.test");
    assert!(crate::support::proxy::eventually(|| proxy.get("/v2/app/manifests/1").status == 200));
}

#[test]
fn a_connection_of_a_certain_age_is_not_used_again() {
    let upstream = Upstream::start();
    upstream.image("app", "1", &[]);
    let connections = |age: &str| {
        let proxy = plain(&upstream, &format!("[limits]\nupstream_connection_age = \"{age}\"\n{UNREMEMBERED}"), "");
        upstream.forget();
        for _ in 0..4 {
            assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
            std::thread::sleep(Duration::from_millis(60));
        }
        upstream.connections()
    };
    assert_eq!(connections("1h"), 1);
    assert!(connections("50ms") > 1);
}
