//! How a client shows who it is, and what happens to one that guesses: client
//! certificates, passwords, tokens, networks, logins meant for somewhere else.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::support::digest::sha256;
use crate::support::http::Response;
use crate::support::http::basic;
use crate::support::proxy::{Proxy, Setup, credential};
use crate::support::upstream::Upstream;

/// The argon2id hash of `correct horse`, with small parameters.
const HASH: &str = "$argon2id$v=19$m=64,t=1,p=1$c2FsdC1vZi10ZXN0cy0xNg$";

/// An authority that signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// For a server at 127.0.0.1.
    pub(crate) fn server(&self) -> Pair {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "proxy");
        self.sign(params)
    }

    /// For a client of that common name, with no alternative name.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.sign(client(name))
    }
}

fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A proxy over TLS that asks for certificates of `clients`, and its upstream.
struct Guarded {
    dir: tempfile::TempDir,
    server_ca: Authority,
    upstream: Upstream,
    proxy: Proxy,
}

fn guarded(clients: &Authority, sections: &str, known: &str) -> Guarded {
    let dir = tempfile::tempdir().unwrap();
    let server_ca = Authority::new("server authority");
    let Pair { certificate, key } = server_ca.server();
    for (name, text) in [("server.crt", &certificate), ("server.key", &key), ("clients.crt", &clients.pem())] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let upstream = Upstream::start();
    upstream.image("app", "1", &[]);
    let proxy = Setup::new()
        .registry("private", &upstream, &format!("default = true\n{}", credential()))
        .sections(&tls_sections(dir.path()))
        .sections(sections)
        .text(known)
        .start();
    Guarded { dir, server_ca, upstream, proxy }
}

fn tls_sections(dir: &Path) -> String {
    let path = |name: &str| -> PathBuf { dir.join(name) };
    format!(
        "[server.tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
        path("server.crt"),
        path("server.key"),
        path("clients.crt")
    )
}

impl Guarded {
    fn get(&self, shown: Option<&Pair>, headers: &str) -> io::Result<(u16, String)> {
        get(self.proxy.address(), &self.server_ca, shown, "/v2/private/app/manifests/1", headers)
    }

    fn status(&self, shown: Option<&Pair>) -> u16 {
        self.get(shown, "").unwrap().0
    }
}

/// GET over TLS, with a certificate if one is given; status and head.
fn get(
    address: SocketAddr,
    server_ca: &Authority,
    shown: Option<&Pair>,
    target: &str,
    headers: &str,
) -> io::Result<(u16, String)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server_ca.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut wire = rustls::StreamOwned::new(connection, stream);
    write!(wire, "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n")?;
    let mut answer = Vec::new();
    // With TLS 1.3 a refusal comes with the first read.
    let ended = wire.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.get(9..12).and_then(|status| status.parse().ok()) {
        Some(status) => Ok((status, answer)),
        None => Err(ended.err().unwrap_or_else(|| io::Error::other("no answer"))),
    }
}

/// `[[client]]` with a certificate of that common name.
fn known_by(name: &str) -> String {
    format!("[[client]]\nname = \"{name}\"\ncertificate = \"CN={name}\"\ngrants = [\"private/**\"]\n")
}

/// `[[client]]` with a password.
pub(crate) fn with_password(name: &str, password: &str, grants: &str) -> String {
    format!("[[client]]\nname = \"{name}\"\npassword_hash = \"{}\"\ngrants = [\"{grants}\"]\n", hash(password))
}

fn hash(password: &str) -> String {
    use argon2::{Argon2, CustomizedPasswordHasher as _, Params};
    let params = Params::new(64, 1, 1, None).unwrap();
    let hashed =
        Argon2::default().hash_password_customized(password.as_bytes(), b"salt-of-tests-16", None, None, params);
    let hashed = hashed.unwrap().to_string();
    assert!(hashed.starts_with(HASH));
    hashed
}

fn token_hash(token: &str) -> String {
    sha256(token.as_bytes())["sha256:".len()..].to_owned()
}

#[test]
fn a_client_certificate_lets_its_holder_pull_and_nobody_else() {
    let authority = Authority::new("client authority");
    let guarded = guarded(&authority, "", &known_by("ci"));
    assert_eq!(guarded.status(Some(&authority.client("ci"))), 200);
    // Known to the authority, but to no client of ours.
    assert_eq!(guarded.status(Some(&authority.client("other"))), 401);
    assert_eq!(guarded.status(None), 401);
    assert_eq!(guarded.upstream.count("GET", "/manifests/"), 1);
}

#[test]
fn a_client_certificate_is_known_by_its_alternative_name_and_its_subject() {
    let authority = Authority::new("client authority");
    let known = "[[client]]\nname = \"by-san\"\ncertificate = \"DNS:node-1.example\"\ngrants = [\"private/**\"]\n\
                 [[client]]\nname = \"by-subject\"\ncertificate = \"CN=ci,O=Example\"\ngrants = [\"private/**\"]\n";
    let guarded = guarded(&authority, "", known);
    let mut by_san = client("anything");
    by_san.subject_alt_names = vec![SanType::DnsName("node-1.example".try_into().unwrap())];
    assert_eq!(guarded.status(Some(&authority.sign(by_san))), 200);
    let mut by_subject = client("");
    by_subject.distinguished_name = rcgen::DistinguishedName::new();
    by_subject.distinguished_name.push(DnType::OrganizationName, "Example");
    by_subject.distinguished_name.push(DnType::CommonName, "ci");
    assert_eq!(guarded.status(Some(&authority.sign(by_subject))), 200);
    assert_eq!(guarded.status(Some(&authority.client("ci"))), 401, "the subject is not the whole one");
}

#[test]
fn a_client_without_a_certificate_may_still_show_who_it_is() {
    let authority = Authority::new("client authority");
    let known = format!("{}{}", known_by("ci"), with_password("dev", "correct horse", "private/**"));
    let guarded = guarded(&authority, "", &known);
    let header = |password| format!("Authorization: {}\r\n", basic("dev", password));
    assert_eq!(guarded.get(None, &header("correct horse")).unwrap().0, 200);
    // Credentials that are sent must be right, certificate or not.
    assert_eq!(guarded.get(Some(&authority.client("ci")), &header("wrong")).unwrap().0, 401);
    assert_eq!(guarded.get(Some(&authority.client("other")), &header("correct horse")).unwrap().0, 200);
}

#[test]
fn c14_a_certificate_that_is_not_valid_ends_the_handshake() {
    let authority = Authority::new("client authority");
    let guarded = guarded(&authority, "", &known_by("ci"));
    // Of the same name as the right one, but another's.
    let impostor = Authority::new("client authority").client("ci");
    let mut expired = client("ci");
    (expired.not_before, expired.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let mut not_yet = client("ci");
    (not_yet.not_before, not_yet.not_after) = (rcgen::date_time_ymd(2090, 1, 1), rcgen::date_time_ymd(2091, 1, 1));
    let mut for_servers = client("ci");
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for (what, shown) in [
        ("another authority's", impostor),
        ("expired", authority.sign(expired)),
        ("not valid yet", authority.sign(not_yet)),
        ("for servers", authority.sign(for_servers)),
    ] {
        let answer = guarded.get(Some(&shown), "");
        assert!(answer.is_err(), "{what}: {answer:?}");
    }
    assert_eq!(guarded.upstream.connections(), 0);
    // One without an alternative name is as good as its subject.
    assert_eq!(guarded.status(Some(&authority.client("ci"))), 200);
}

#[test]
fn a_renewed_client_authority_is_trusted_without_a_restart_and_the_old_one_no_longer() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let guarded = guarded(&old, "", &known_by("ci"));
    assert_eq!(guarded.status(Some(&old.client("ci"))), 200);
    assert!(guarded.get(Some(&new.client("ci")), "").is_err());
    fs::write(guarded.dir.path().join("clients.crt"), new.pem()).unwrap();
    let begun = Instant::now();
    while guarded.get(Some(&new.client("ci")), "").is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", guarded.proxy.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(guarded.get(Some(&old.client("ci")), "").is_err());
}

/// A proxy in front of `upstream`, which has the image `app:1`, with clients.
fn known(upstream: &Upstream, sections: &str, clients: &str) -> Proxy {
    upstream.image("app", "1", &[]);
    Setup::new()
        .registry("private", upstream, &format!("default = true\n{}", credential()))
        .registry("open", upstream, "")
        .sections(sections)
        .text(clients)
        .start()
}

fn ask(proxy: &Proxy, target: &str, authorization: &str) -> Response {
    proxy.get_with(target, &[("Authorization", authorization)])
}

#[test]
fn c13_after_too_many_wrong_logins_an_address_has_to_wait_and_nobody_else() {
    let upstream = Upstream::start();
    let clients = format!(
        "{}{}[[client]]\nname = \"robot\"\ntoken_hash = \"{}\"\ngrants = [\"private/**\"]\n",
        with_password("ci", "correct horse", "private/**"),
        with_password("dev", "staple", "private/**"),
        token_hash("t0ken"),
    );
    let proxy = known(&upstream, "", &clients);
    let target = "/v2/private/app/manifests/1";
    let right = basic("ci", "correct horse");
    assert_eq!(ask(&proxy, target, &right).status, 200);
    let mut answers = std::collections::BTreeMap::<u16, usize>::new();
    for n in 0..1000 {
        let answer = ask(&proxy, target, &basic("ci", &format!("guess-{n}")));
        *answers.entry(answer.status).or_default() += 1;
        if answer.status == 429 {
            assert_eq!(answer.code(), "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        }
    }
    let looked_at = answers[&401];
    assert!((10..30).contains(&looked_at) && looked_at + answers[&429] == 1000, "{answers:?}");
    // What was right lately still is; what is new from there has to wait.
    assert_eq!(ask(&proxy, target, &right).status, 200);
    assert_eq!(ask(&proxy, target, &basic("dev", "staple")).status, 429);
    assert_eq!(ask(&proxy, target, "Bearer t0ken").status, 429);
    // Without credentials nothing is guessed.
    assert_eq!(proxy.get("/v2/open/app/manifests/1").status, 200);
    // Another address is another matter, for the same name too.
    let elsewhere = from("127.0.0.2", proxy.address(), target, Some(&basic("dev", "staple")));
    assert_eq!(elsewhere, 200);
    assert_eq!(from("127.0.0.3", proxy.address(), target, Some(&right)), 200);
}

/// The status of a GET that comes from `source`.
fn from(source: &str, proxy: SocketAddr, target: &str, authorization: Option<&str>) -> u16 {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    connect(&socket, &proxy).unwrap();
    let mut wire = TcpStream::from(socket);
    let authorization = authorization.map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
    write!(wire, "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\r\n").unwrap();
    let mut answer = Vec::new();
    wire.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer)[9..12].parse().unwrap()
}

#[test]
fn credentials_for_somewhere_else_are_refused_unless_they_are_to_be_ignored() {
    let upstream = Upstream::start();
    let clients = with_password("ci", "correct horse", "private/**");
    let foreign = basic("hub-user", "hub-canary-password");
    let (open, private) = ("/v2/open/app/manifests/1", "/v2/private/app/manifests/1");
    let refusing = known(&upstream, "", &clients);
    assert_eq!((ask(&refusing, open, &foreign).status, ask(&refusing, private, &foreign).status), (401, 401));
    let ignoring = known(&upstream, "[server]\nforeign_credentials = \"ignore\"\n", &clients);
    for _ in 0..30 {
        assert_eq!((ask(&ignoring, open, &foreign).status, ask(&ignoring, private, &foreign).status), (200, 401));
    }
    for wrong in [&basic("ci", "wrong"), "Bearer wrong", "Basic !!!"] {
        assert_eq!(ask(&ignoring, open, wrong).status, 401, "{wrong}");
    }
    assert_eq!(ask(&ignoring, private, &basic("ci", "correct horse")).status, 200);
    for proxy in [refusing, ignoring] {
        assert!(!proxy.log().contains("hub-canary") && !proxy.log().contains("hub-user"));
    }
}

#[test]
fn what_ping_says_follows_its_mode_and_what_asks_for_grants() {
    let upstream = Upstream::start();
    let clients = with_password("ci", "correct horse", "private/**");
    for (mode, expected) in [("auto", 401), ("open", 200), ("challenge", 401)] {
        let proxy = known(&upstream, &format!("[server]\nping = \"{mode}\"\n"), &clients);
        assert_eq!(proxy.get("/v2/").status, expected, "{mode}");
        // `docker login` adds the account it means.
        assert_eq!(ask(&proxy, "/v2/?account=ci", &basic("ci", "correct horse")).status, 200);
        assert_eq!(ask(&proxy, "/v2/?account=ci", &basic("ci", "wrong")).status, 401);
        let named = [("/open/v2/", 200), ("/private/v2/", 401)];
        for (target, auto) in named {
            let expected = if mode == "auto" { auto } else { expected };
            assert_eq!(proxy.get(target).status, expected, "{mode} {target}");
        }
    }
}

#[test]
fn a_network_is_enough_where_it_is_the_proof() {
    let upstream = Upstream::start();
    let clients = "[[client]]\nname = \"rack\"\nnetworks = [\"127.0.0.2/32\"]\ngrants = [\"private/**\"]\n";
    let proxy = known(&upstream, "", clients);
    let target = "/v2/private/app/manifests/1";
    assert_eq!(proxy.get(target).status, 401);
    assert_eq!(from("127.0.0.2", proxy.address(), target, None), 200);
    // Credentials that are sent must be right wherever they come from.
    assert_eq!(from("127.0.0.2", proxy.address(), target, Some("Bearer wrong")), 401);
}

/// The lines of the audit trail in `text`.
fn audited(text: &str) -> Vec<serde_json::Value> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["message"] == "audit").collect()
}

#[test]
fn the_audit_trail_tells_who_came_in_and_who_was_refused_once_and_no_secret() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let clients = with_password("ci", "correct horse", "private/app");
    let proxy = known(&upstream, &format!("[log]\naudit = {file:?}\n"), &clients);
    let (allowed, denied) = ("/v2/private/app/manifests/1", "/v2/private/other/manifests/1");
    for _ in 0..3 {
        assert_eq!(ask(&proxy, allowed, &basic("ci", "correct horse")).status, 200);
        assert_eq!(ask(&proxy, denied, &basic("ci", "correct horse")).status, 404);
        assert_eq!(ask(&proxy, allowed, &basic("ci", "wrong-canary")).status, 401);
        assert_eq!(ask(&proxy, allowed, &basic("a-password-in-the-wrong-place", "x")).status, 401);
        assert_eq!(ask(&proxy, "/v2/nobody/app/manifests/1", &basic("ci", "correct horse")).status, 404);
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs::read_to_string(&file).unwrap();
    for trail in [audited(&kept), audited(&proxy.log())] {
        let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
        let told: Vec<String> = trail
            .iter()
            .map(|line| {
                assert_eq!(text(line, "peer"), "127.0.0.1");
                ["event", "outcome", "principal", "registry", "repository"].map(|key| text(line, key)).join(" ")
            })
            .collect();
        let expected = [
            "login success ci - -",
            "pull denied ci private other",
            "login failure ci - -",
            "login failure - - -",
            "pull denied ci private nobody/app",
        ];
        assert_eq!(told, expected);
    }
    assert!(!kept.contains("canary") && !kept.contains("wrong-place") && kept.lines().count() == 5, "{kept}");
}
