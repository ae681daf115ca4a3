//! A token server as a private registry has one.
//!
//! It speaks the GET form of the distribution token protocol: `service`, one
//! or more `scope`, credentials as HTTP Basic. Whoever gives the right
//! username and secret is granted `pull`, and only `pull`, on what they asked
//! for; anyone is on repositories under `public/`; everyone else gets 401 and
//! no token. Every request is remembered, so that a test can count them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::token::{Access, SERVICE, Signer};

/// The account that may pull what is private.
pub(crate) const USERNAME: &str = "robot$puller+1";
/// Its secret: characters that careless encoding would change.
pub(crate) const SECRET: &str = "s3cret:with/odd+chars=&%41 ü";

/// One request that the token server saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    /// The account it named in its Basic credentials, if it had any.
    pub(crate) username: Option<String>,
    /// The scopes it asked for, one entry each.
    pub(crate) scopes: Vec<String>,
    /// Whether it was given a token.
    pub(crate) granted: bool,
}

/// A running token server.
#[derive(Debug)]
pub(crate) struct TokenServer {
    address: SocketAddr,
    signer: Arc<Signer>,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
    // Dropping the sender ends the thread that serves.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TokenServer {
    /// Starts one on loopback whose tokens live for `lifetime`.
    pub(crate) fn start(lifetime: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let signer = Arc::new(Signer::new(lifetime));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let desk = Desk { signer: signer.clone(), requests: requests.clone() };
        // A thread and a runtime of its own: it answers while a test blocks on
        // a client's command.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, desk) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, signer, requests, stop: Some(stop), thread: Some(thread) }
    }

    /// The realm that the registry's challenge names.
    pub(crate) fn realm(&self) -> String {
        format!("{}/token", self.origin())
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The certificate by which the registry verifies tokens, as PEM.
    pub(crate) fn certificate_pem(&self) -> &str {
        self.signer.certificate_pem()
    }

    /// A token for putting content into `repository`, given without asking.
    pub(crate) fn push_token(&self, repository: &str) -> String {
        self.signer.sign(USERNAME, &[Access::push(repository)])
    }

    /// Every request so far, in order.
    pub(crate) fn requests(&self) -> Vec<TokenRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests asked for pulling from `repository`.
    pub(crate) fn requests_for(&self, repository: &str) -> usize {
        let scope = format!("repository:{repository}:pull");
        self.requests().iter().filter(|request| request.scopes.contains(&scope)).count()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a connection needs to answer a request.
#[derive(Clone)]
struct Desk {
    signer: Arc<Signer>,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
}

async fn accept(listener: TcpListener, desk: Desk) {
    while let Ok((stream, _)) = listener.accept().await {
        let desk = desk.clone();
        let service = service_fn(move |request| {
            let answer = desk.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(async move {
            // A client that goes away is its own affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Desk {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let query = request.uri().query().unwrap_or_default();
        let asked = |key: &str| -> Vec<String> {
            let pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.filter(|(name, _)| name == key).map(|(_, value)| value.into_owned()).collect()
        };
        // Some clients put several scopes into one parameter.
        let scopes: Vec<String> = asked("scope").iter().flat_map(|scope| scope.split(' ').map(str::to_owned)).collect();
        let credentials = request.headers().get(header::AUTHORIZATION).map(|value| basic(value.as_bytes()));
        let (username, known) = match credentials {
            None => (None, false),
            Some(None) => (Some("?".to_owned()), false),
            Some(Some((username, secret))) => {
                let known = username == USERNAME && secret == SECRET;
                (Some(username), known)
            }
        };
        let accesses: Vec<Access> = scopes.iter().filter_map(|scope| Access::pull(scope)).collect();
        let public = accesses.iter().all(|access| access.repository().starts_with("public/"));
        let granted = request.method() == http::Method::GET
            && asked("service") == [SERVICE]
            && (known || (username.is_none() && public));
        let subject = username.clone().unwrap_or_default();
        self.requests.lock().unwrap().push(TokenRequest { username, scopes, granted });
        if !granted {
            let body = json!({"details": "incorrect username or password"});
            return reply(StatusCode::UNAUTHORIZED, &body);
        }
        let token = self.signer.sign(&subject, &accesses);
        reply(StatusCode::OK, &json!({"token": token, "expires_in": self.signer.lifetime().as_secs()}))
    }
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_string()));
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

/// Username and secret of an `Authorization: Basic …`.
fn basic(value: &[u8]) -> Option<(String, String)> {
    let encoded = std::str::from_utf8(value).ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (username, secret) = decoded.split_once(':')?;
    Some((username.to_owned(), secret.to_owned()))
}
