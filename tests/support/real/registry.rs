//! A private registry: CNCF distribution, as Debian packages it.
//!
//! It keeps its content in a temporary directory, lets in who brings a token
//! of the [`TokenServer`], and writes an access log, from which a test counts
//! what really went upstream.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::images::{Image, Index};
use super::push::Push;
use super::token::{ISSUER, SERVICE};
use super::token_server::TokenServer;
use crate::support::process::Daemon;

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggedRequest {
    /// The method.
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) path: String,
    /// The status it was answered with.
    pub(crate) status: u16,
}

/// A running registry with token authentication.
#[derive(Debug)]
pub(crate) struct RealRegistry {
    // Dropped before the directory it writes to.
    daemon: Daemon,
    address: SocketAddr,
    _dir: TempDir,
}

impl RealRegistry {
    /// Starts one, empty, that trusts the tokens of `tokens`.
    pub(crate) fn start(tokens: &TokenServer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("token.crt");
        std::fs::write(&bundle, tokens.certificate_pem()).unwrap();
        let config = dir.path().join("registry.yml");
        std::fs::write(&config, configuration(dir.path(), &tokens.realm(), &bundle)).unwrap();
        let mut daemon = Daemon::start("docker-registry", dir.path(), |command| {
            command.arg("serve").arg(&config);
        });
        daemon.wait_until(|log| listening(log).is_some());
        let address = listening(&daemon.log()).unwrap();
        Self { daemon, address, _dir: dir }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stores an image.
    pub(crate) fn push_image(&self, tokens: &TokenServer, repository: &str, tag: &str, image: &Image) {
        let token = tokens.push_token(repository);
        Push { address: self.address, repository, token: &token }.image(image, tag);
    }

    /// Stores an index with all its images.
    pub(crate) fn push_index(&self, tokens: &TokenServer, repository: &str, tag: &str, index: &Index) {
        let token = tokens.push_token(repository);
        Push { address: self.address, repository, token: &token }.index(index, tag);
    }

    /// Every request so far, in the order in which they were finished.
    ///
    /// A line is written after the last byte was sent, so a client can be done
    /// a moment before its line is there: the log is read when it has been
    /// quiet for a while.
    pub(crate) fn requests(&self) -> Vec<LoggedRequest> {
        let mut log = self.daemon.log();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let later = self.daemon.log();
            if later.len() == log.len() {
                return log.lines().filter_map(LoggedRequest::parse).collect();
            }
            log = later;
        }
    }

    /// How many `GET`s of the blob `digest` it was asked, whatever it answered.
    pub(crate) fn blob_gets(&self, digest: &str) -> usize {
        let end = format!("/blobs/{digest}");
        let gets = self.requests().into_iter().filter(|request| request.method == "GET");
        gets.filter(|request| request.path.ends_with(&end)).count()
    }

    /// The requests for blobs, in a form that an assertion can show.
    pub(crate) fn blob_requests(&self) -> Vec<String> {
        let requests = self.requests().into_iter();
        requests
            .filter(|request| request.path.contains("/blobs/sha256:"))
            .filter(|request| matches!(request.method.as_str(), "GET" | "HEAD"))
            .map(|request| format!("{} {} {}", request.method, request.path, request.status))
            .collect()
    }
}

impl LoggedRequest {
    /// From the combined log format: `host - - [time] "GET /path HTTP/1.1" 200 …`.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("] \"")?;
        let (request, rest) = rest.split_once("\" ")?;
        let mut words = request.split(' ');
        let method = words.next()?.to_owned();
        let path = words.next()?.to_owned();
        words.next()?.starts_with("HTTP/").then_some(())?;
        let status = rest.split(' ').next()?.parse().ok()?;
        Some(Self { method, path, status })
    }
}

fn configuration(dir: &Path, realm: &str, bundle: &Path) -> String {
    let mut yaml = String::from("version: 0.1\nlog: {level: info}\n");
    let root = dir.join("content");
    writeln!(yaml, "storage: {{filesystem: {{rootdirectory: '{}'}}}}", root.display()).unwrap();
    writeln!(yaml, "http: {{addr: '127.0.0.1:0'}}").unwrap();
    writeln!(
        yaml,
        "auth: {{token: {{realm: '{realm}', service: '{SERVICE}', issuer: '{ISSUER}', rootcertbundle: '{}'}}}}",
        bundle.display()
    )
    .unwrap();
    yaml
}

/// The address it was given, once its log tells it.
fn listening(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("msg=\"listening on ")?;
    rest.split_once('"')?.0.parse().ok()
}

#[test]
fn the_access_log_is_understood() {
    let line = r#"127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "GET /v2/a/tags/list?n=1 HTTP/1.1" 200 12 "" "Go""#;
    let request = LoggedRequest::parse(line).unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str(), request.status), ("GET", "/v2/a/tags/list?n=1", 200));
    assert_eq!(LoggedRequest::parse(r#"time="2026" level=warning msg="No HTTP secret""#), None);
}
