//! Talking to the admin API of a running proxy: at its socket, or over TCP with
//! a token.
//!
//! The socket's other end has to be the user whose directory it lies in. Over
//! TCP the token is sent through TLS, or on loopback after whoever listens there
//! has proven to know it: no secret goes to somebody who merely has the port.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use miette::{Context as _, IntoDiagnostic as _, miette};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use url::Url;
use zeroize::Zeroizing;

use crate::admin::document::Failure;
use crate::admin::{ProofAnswer, ProofQuestion, tokens};
use crate::config::Settings;
use crate::upstream::system_tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Hashing a large blob takes minutes on a slow disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Which proxy is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The proxy's admin API over TCP, `https://…` or on loopback `http://…` [default: the socket of --config, else store/admin.sock]
    #[arg(long, value_name = "URL", env = "TRANSSHIP_ADMIN_URL", value_parser = admin_url, global = true)]
    admin: Option<Url>,
    /// The file with the token for --admin [default: that of --config, else store/admin.token]
    #[arg(long, value_name = "FILE", global = true)]
    admin_token_file: Option<PathBuf>,
    /// The configuration file of the proxy, for where it is administered
    #[arg(long, value_name = "FILE", env = "TRANSSHIP_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// The admin API of one proxy.
pub(super) struct AdminClient {
    way: Way,
}

/// How it is reached.
enum Way {
    Socket(PathBuf),
    Network { url: Url, token_file: PathBuf },
}

/// A connection to it, which is let in.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// What a request shows.
    token: Option<Zeroizing<String>>,
}

/// What the API answers where it can do what was asked.
pub(super) enum Answer<T> {
    Done(T),
    /// It says no: why.
    Refused(StatusCode, String),
}

impl Target {
    /// The client of the proxy that is meant.
    pub(super) fn client(&self) -> miette::Result<AdminClient> {
        let settings = Settings::administration(self.config.as_deref())?;
        let way = match &self.admin {
            None => Way::Socket(settings.socket),
            Some(url) => {
                let token_file = self.admin_token_file.clone().unwrap_or(settings.token_file);
                Way::Network { url: url.clone(), token_file }
            }
        };
        Ok(AdminClient { way })
    }

    /// Whether somebody said where the proxy is.
    pub(super) fn is_explicit(&self) -> bool {
        self.admin.is_some()
    }

    /// The configuration file of the proxy.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

fn admin_url(text: &str) -> Result<Url, String> {
    let url = text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| "write it as http://127.0.0.1:5001 or https://proxy.example:5001".to_owned())
}

impl AdminClient {
    /// The document at `path`, which is relative to `/api/v1/` and not encoded.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> miette::Result<T> {
        self.ask(Method::GET, path, query, None).await?.or_fail()
    }

    /// Whether anybody listens there.
    pub(super) async fn is_there(&self) -> bool {
        let reached = async {
            match &self.way {
                Way::Socket(path) => UnixStream::connect(path).await.is_ok(),
                Way::Network { url, .. } => dial(url).await.is_ok(),
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, reached).await.unwrap_or(false)
    }

    /// Where that is.
    pub(super) fn address(&self) -> String {
        match &self.way {
            Way::Socket(path) => path.display().to_string(),
            Way::Network { url, .. } => url.to_string(),
        }
    }

    /// Sends a document that asks for something.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> miette::Result<Answer<T>> {
        let body = serde_json::to_vec(document).into_diagnostic()?;
        self.ask(Method::POST, path, &[], Some(body)).await
    }

    /// Asks for a change that has a document as its answer.
    pub(super) async fn put<T: DeserializeOwned>(&self, path: &str) -> miette::Result<Answer<T>> {
        self.ask(Method::PUT, path, &[], None).await
    }

    /// Asks for a change that `document` describes.
    pub(super) async fn put_document<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> miette::Result<Answer<T>> {
        let body = serde_json::to_vec(document).into_diagnostic()?;
        self.ask(Method::PUT, path, &[], Some(body)).await
    }

    /// Asks for a removal.
    pub(super) async fn delete(&self, path: &str) -> miette::Result<Answer<()>> {
        self.delete_for(path).await
    }

    /// Asks for a removal that has a document as its answer.
    pub(super) async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> miette::Result<Answer<T>> {
        self.ask(Method::DELETE, path, &[], None).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> miette::Result<Answer<T>> {
        let mut url: Url = "http://localhost/api/v1".parse().into_diagnostic()?;
        if let Ok(mut segments) = url.path_segments_mut() {
            // Whatever stands in it: a segment is encoded and stays one.
            segments.extend(path.split('/'));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let target = &url[url::Position::BeforePath..];
        let mut request = Request::builder().method(method).uri(target);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::from(body.unwrap_or_default())).into_diagnostic()?;
        let mut connection = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| miette!("no proxy answers at {} within {} s", self.address(), CONNECT_TIMEOUT.as_secs()))??;
        let (status, body) = match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(&mut connection, request)).await {
            Ok(answered) => answered?,
            Err(_) => return Err(miette!("{} did not answer within {} s", self.address(), ANSWER_TIMEOUT.as_secs())),
        };
        if status.is_success() {
            // An answer without content stands for "nothing to say".
            let text: &[u8] = if body.is_empty() { b"null" } else { &body };
            let document = serde_json::from_slice(text).into_diagnostic();
            return document.map(Answer::Done).wrap_err_with(|| self.stranger());
        }
        let failure: Failure = serde_json::from_slice(&body).into_diagnostic().wrap_err_with(|| self.stranger())?;
        Ok(Answer::Refused(status, failure.error))
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        mut request: Request<Full<Bytes>>,
    ) -> miette::Result<(StatusCode, Bytes)> {
        let host = match &self.way {
            Way::Socket(_) => "localhost".to_owned(),
            Way::Network { url, .. } => url[url::Position::BeforeHost..url::Position::AfterPort].to_owned(),
        };
        let headers = request.headers_mut();
        headers.insert(header::HOST, host.parse().into_diagnostic()?);
        if let Some(token) = &connection.token {
            let mut value: header::HeaderValue = format!("Bearer {}", **token).parse().into_diagnostic()?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let broken = || format!("the answer of {} broke off", self.address());
        connection.sender.ready().await.into_diagnostic().wrap_err_with(broken)?;
        let response = connection.sender.send_request(request).await.into_diagnostic().wrap_err_with(broken)?;
        let (head, body) = response.into_parts();
        Ok((head.status, body.collect().await.into_diagnostic().wrap_err_with(broken)?.to_bytes()))
    }

    /// A connection to whoever may be told secrets.
    async fn connect(&self) -> miette::Result<Connection> {
        match &self.way {
            Way::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(&error))?;
                let peer = stream.peer_cred().into_diagnostic()?.uid();
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let owner = std::fs::metadata(parent.unwrap_or(Path::new("."))).into_diagnostic()?.uid();
                if ![0, owner, rustix::process::geteuid().as_raw()].contains(&peer) {
                    return Err(miette!(
                        "the user {peer} listens at {}, who is not its owner: nothing was sent",
                        path.display()
                    ));
                }
                Ok(Connection { sender: handshake(stream).await?, token: None })
            }
            Way::Network { url, token_file } => {
                let token = tokens::read_token(token_file).map_err(|error| {
                    miette!(
                        help = "name the file that holds a token with --admin-token-file, or leave out --admin to use \
                                the socket on the same machine",
                        "the admin token cannot be read from {}: {error}",
                        token_file.display()
                    )
                })?;
                let stream = dial(url).await.map_err(|error| self.unreachable(&error))?;
                if url.scheme() == "https" {
                    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                    let name = name.try_into().into_diagnostic()?;
                    let tls = TlsConnector::from(Arc::new(system_tls().into_diagnostic()?));
                    let stream = tls.connect(name, stream).await.map_err(|error| self.unreachable(&error))?;
                    return Ok(Connection { sender: handshake(stream).await?, token: Some(token) });
                }
                let address = stream.peer_addr().into_diagnostic()?;
                if !address.ip().is_loopback() {
                    return Err(miette!(
                        help = "use https, or run the command on the machine of the proxy",
                        "{url} is not on this machine, and a token does not go over a network in clear"
                    ));
                }
                let mut connection = Connection { sender: handshake(stream).await?, token: None };
                self.let_prove(&mut connection, &token, address).await?;
                connection.token = Some(token);
                Ok(connection)
            }
        }
    }

    /// Lets whoever listens at `address` prove that it knows the token.
    async fn let_prove(&self, connection: &mut Connection, token: &str, address: SocketAddr) -> miette::Result<()> {
        let hash = tokens::hash(token);
        let nonce = format!("{:032x}", fastrand::u128(..));
        let question = ProofQuestion { id: tokens::id(&hash), nonce: nonce.clone() };
        let request = Request::post("/api/v1/proof")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(serde_json::to_vec(&question).into_diagnostic()?))
            .into_diagnostic()?;
        let (_, body) = self.exchange(connection, request).await?;
        let shown = serde_json::from_slice::<ProofAnswer>(&body).ok();
        if shown.is_some_and(|shown| shown.proof == tokens::proof(&hash, &nonce, address)) {
            return Ok(());
        }
        Err(miette!(
            help = "is it the proxy that is meant, and the token one of its own? Without --admin the socket is used",
            "what listens at {} does not know the admin token: nothing was sent",
            self.address()
        ))
    }

    fn unreachable(&self, error: &std::io::Error) -> miette::Report {
        miette!(
            help = "start it with `transship serve`; if it is administered elsewhere, name its configuration with \
                    --config FILE, or its address with --admin URL",
            "no proxy can be reached at {}: {error}",
            self.address()
        )
    }

    fn stranger(&self) -> String {
        format!("what answers at {} is not the admin API of this version", self.address())
    }
}

impl<T> Answer<T> {
    /// The answer; a refusal is a failure.
    pub(super) fn or_fail(self) -> miette::Result<T> {
        match self {
            Answer::Done(answer) => Ok(answer),
            Answer::Refused(_, reason) => Err(miette!("{reason}")),
        }
    }
}

async fn dial(url: &Url) -> std::io::Result<TcpStream> {
    let addresses = url.socket_addrs(|| Some(if url.scheme() == "https" { 443 } else { 80 }))?;
    TcpStream::connect(&*addresses).await
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> miette::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.into_diagnostic()?;
    tokio::spawn(connection);
    Ok(sender)
}
