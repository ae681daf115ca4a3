//! Dialling: resolve, check each address against the egress rule, connect to
//! exactly that address, and speak TLS to the host that was asked for.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::egress::Egress;
use super::error::{Error, Result};
use crate::registry::{Origin, Scheme};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes connections for one registry.
#[derive(Clone)]
pub(super) struct Connector {
    egress: Egress,
    tls: TlsConnector,
}

impl Connector {
    pub(super) fn new(egress: Egress, tls: Arc<rustls::ClientConfig>) -> Connector {
        Connector { egress, tls: TlsConnector::from(tls) }
    }

    async fn connect(self, uri: Uri) -> Result<Stream> {
        let origin = uri
            .to_string()
            .parse::<url::Url>()
            .ok()
            .and_then(|url| Origin::of(&url).ok())
            .ok_or_else(|| Error::Egress { target: "the given URL".into(), reason: "it has no origin".into() })?;
        let tcp = self.dial(&origin).await?;
        match origin.scheme() {
            Scheme::Http => Ok(Stream::Plain(tcp)),
            Scheme::Https => {
                let host = origin.host().trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(|error| unreachable(&origin, &error))?;
                let handshake = timeout(TLS_TIMEOUT, self.tls.connect(name, tcp)).await;
                let stream = handshake
                    .map_err(|_| Error::Timeout { origin: origin.clone(), limit: TLS_TIMEOUT })?
                    .map_err(|error| unreachable(&origin, &error))?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }

    /// Tries the origin's permitted addresses in the resolver's order.
    async fn dial(&self, origin: &Origin) -> Result<TcpStream> {
        let host = origin.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let lookup = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, origin.port()))).await;
        let addresses: Vec<SocketAddr> = lookup
            .map_err(|_| Error::Timeout { origin: origin.clone(), limit: CONNECT_TIMEOUT })?
            .map_err(|error| unreachable(origin, &error))?
            .collect();
        let mut failure = unreachable(origin, &io::Error::other("its name has no address"));
        for address in addresses {
            if !self.egress.permits(origin, address) {
                failure = self.egress.not_permitted(origin, address);
                continue;
            }
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are small and answers are what counts.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = unreachable(origin, &error),
                Err(_) => failure = Error::Timeout { origin: origin.clone(), limit: CONNECT_TIMEOUT },
            }
        }
        Err(failure)
    }
}

fn unreachable(origin: &Origin, cause: &dyn std::error::Error) -> Error {
    Error::Unreachable { origin: origin.clone(), cause: cause.to_string() }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await.map(TokioIo::new) })
    }
}

/// A connection to an upstream.
pub(super) enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
