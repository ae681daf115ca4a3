//! The scripted upstream: a registry of which a test controls every byte and
//! every pause.
//!
//! It holds [content](content) and answers as an honest registry would, behind
//! a [guard] if told so; then rules of the test may change the [answer], or
//! write something that is no HTTP at all. Everything asked of it is kept for
//! the test to look at, and so is the number of connections: "no packet left
//! the machine" is `connections() == 0`.
//!
//! It is written on sockets and threads, with none of the libraries that the
//! proxy uses: a mistake of theirs, or of how they are used, cannot hide here.

mod answer;
mod content;
mod gate;
mod guard;
mod request;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use self::answer::{Answer, Event, Length};
pub(crate) use self::gate::Gate;
pub(crate) use self::guard::{Guard, SECRET, TOKEN_PREFIX, USERNAME};
pub(crate) use self::request::Request;
use crate::support::digest::sha256;

/// The media type of an OCI image manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

type Rule = Box<dyn Fn(&Request, Answer) -> Answer + Send + Sync>;

/// A running upstream. It ends with the process of the test.
#[derive(Clone)]
pub(crate) struct Upstream(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    content: Mutex<content::Content>,
    guard: Mutex<Guard>,
    tokens: Mutex<guard::Tokens>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    down: AtomicBool,
}

impl Upstream {
    /// A registry without content, on loopback, over plain HTTP.
    pub(crate) fn start() -> Self {
        Self::listen("127.0.0.1:0", None)
    }

    /// The same at an address of the test's choice.
    pub(crate) fn start_at(address: &str) -> Self {
        Self::listen(address, None)
    }

    /// The same over TLS.
    pub(crate) fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::listen("127.0.0.1:0", Some(Arc::new(config)))
    }

    fn listen(address: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let upstream = Self(Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            tls,
            content: Mutex::default(),
            guard: Mutex::default(),
            tokens: Mutex::default(),
            rules: Mutex::default(),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        }));
        upstream.accept(listener);
        upstream
    }

    fn accept(&self, listener: TcpListener) {
        let served = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.is_down() {
                    return;
                }
                served.0.connections.fetch_add(1, Ordering::SeqCst);
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
    }

    /// Goes down: connections are refused, those that there are break.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.0.down.store(true, Ordering::SeqCst);
        // The first one wakes whoever waits for connections.
        let refused = || TcpStream::connect(self.0.address).is_err();
        assert!(super::proxy::eventually(refused), "the upstream did not go down");
    }

    /// Comes back at the same address.
    #[track_caller]
    pub(crate) fn resume(&self) {
        let listener = TcpListener::bind(self.0.address).unwrap();
        self.0.down.store(false, Ordering::SeqCst);
        self.accept(listener);
    }

    fn is_down(&self) -> bool {
        self.0.down.load(Ordering::SeqCst)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.0.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.0.address)
    }

    /// Adds a blob; gives its digest.
    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        self.blob_as(repository, &digest, bytes);
        digest
    }

    /// Adds bytes under a digest that need not be theirs.
    pub(crate) fn blob_as(&self, repository: &str, digest: &str, bytes: &[u8]) {
        self.0.content.lock().unwrap().add_blob(repository, digest, bytes.to_vec());
    }

    /// Adds a manifest under a tag and under its digest, which it gives.
    pub(crate) fn manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        self.0.content.lock().unwrap().add_manifest(repository, tag, media_type, bytes.to_vec());
        sha256(bytes)
    }

    /// Adds an image of these layers under a tag; gives its manifest.
    pub(crate) fn image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Vec<u8> {
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        let descriptor = |media_type: &str, bytes: &[u8]| {
            serde_json::json!({
                "mediaType": media_type,
                "digest": self.blob(repository, bytes),
                "size": bytes.len(),
            })
        };
        let layers: Vec<_> =
            layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        self.manifest(repository, tag, MANIFEST, &bytes);
        bytes
    }

    /// From now on readers are checked.
    pub(crate) fn guard(&self, guard: Guard) {
        *self.0.guard.lock().unwrap() = guard;
    }

    /// All tokens given out become worthless.
    pub(crate) fn revoke_tokens(&self) {
        self.0.tokens.lock().unwrap().revoke();
    }

    /// Blobs are redirected to the storage of `other`, with a signed address.
    pub(crate) fn redirect_blobs(&self, other: &Self) {
        self.0.content.lock().unwrap().blobs_elsewhere = Some(other.origin());
    }

    /// Adds a rule: it is given each request with the answer so far.
    pub(crate) fn rule(&self, rule: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) {
        self.0.rules.lock().unwrap().push(Box::new(rule));
    }

    /// Adds a rule for the requests of a method whose target contains `part`.
    pub(crate) fn on(
        &self,
        method: &'static str,
        part: impl Into<String>,
        rule: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
    ) {
        let part = part.into();
        self.rule(move |request, answer| if request.is(method, &part) { rule(request, answer) } else { answer });
    }

    /// Adds a rule for the first `times` of such requests.
    pub(crate) fn first(
        &self,
        times: usize,
        method: &'static str,
        part: impl Into<String>,
        rule: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
    ) {
        let seen = AtomicUsize::new(0);
        self.on(
            method,
            part,
            move |request, answer| {
                if seen.fetch_add(1, Ordering::SeqCst) < times { rule(request, answer) } else { answer }
            },
        );
    }

    /// No rule holds any more.
    pub(crate) fn clear_rules(&self) {
        self.0.rules.lock().unwrap().clear();
    }

    /// Everything asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.0.requests.lock().unwrap().clone()
    }

    /// How many requests of a method had `part` in their target.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|request| request.is(method, part)).count()
    }

    /// How many connections have been accepted.
    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    /// Forgets what was asked and how many connections there were.
    pub(crate) fn forget(&self) {
        self.0.requests.lock().unwrap().clear();
        self.0.connections.store(0, Ordering::SeqCst);
    }

    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
        // A proxy that gives up is no failure of the upstream.
        let _ = match &self.0.tls {
            None => self.talk(Wire::Plain(&stream), &stream),
            Some(config) => rustls::ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other).and_then(
                |connection| self.talk(Wire::Tls(Box::new(rustls::StreamOwned::new(connection, &stream))), &stream),
            ),
        };
    }

    fn talk(&self, wire: Wire<'_>, stream: &TcpStream) -> std::io::Result<()> {
        let mut wire = BufReader::new(wire);
        while let Some(request) = Request::read(&mut wire)?.filter(|_| !self.is_down()) {
            self.0.requests.lock().unwrap().push(request.clone());
            let refused = self.0.tokens.lock().unwrap().check(*self.0.guard.lock().unwrap(), &self.origin(), &request);
            let mut answer = refused.unwrap_or_else(|| self.0.content.lock().unwrap().answer(&request));
            for rule in self.0.rules.lock().unwrap().iter() {
                answer = rule(&request, answer);
            }
            match answer.write(wire.get_mut(), request.method != "HEAD")? {
                answer::End::Open => {}
                answer::End::Close => return Ok(()),
                answer::End::Reset => {
                    // Closing with this set sends RST.
                    return Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?);
                }
            }
            wire.fill_buf()?;
        }
        Ok(())
    }
}

/// A connection with or without TLS.
enum Wire<'a> {
    Plain(&'a TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, &'a TcpStream>>),
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}
