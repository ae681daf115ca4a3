//! Connections: to an address that the egress rule permits, or through an
//! outbound proxy, and with TLS to the host that was asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::{DialError, LookUps, dial};
use super::egress::Egress;
use super::error::{Error, Obstacle, Result};
use super::handshake;
use super::tls::{TlsError, client_config};
use super::tunnel;
use crate::registry::{Origin, Outbound, OutboundProxy, Scheme, Timeouts};

/// Makes connections for one registry.
#[derive(Clone)]
pub(super) struct Connector {
    egress: Egress,
    /// To the registry's own origins, which are shown its client certificate.
    own_tls: TlsConnector,
    tls: TlsConnector,
    own: Arc<[Origin]>,
    look_ups: LookUps,
    timeouts: Timeouts,
    proxy: Option<Arc<OutboundProxy>>,
}

/// When a connection was made; asked of it when it has answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Born(pub(super) Instant);

impl Connector {
    /// `own` are the origins that may see the registry's client certificate.
    ///
    /// # Errors
    /// When its own certificate authorities or its certificate cannot be used.
    pub(super) fn new(
        egress: Egress,
        ca_pem: Option<&[u8]>,
        own: impl Iterator<Item = Origin>,
        outbound: &Outbound,
    ) -> std::result::Result<Connector, TlsError> {
        let with = |identity| Ok::<_, TlsError>(TlsConnector::from(Arc::new(client_config(ca_pem, identity)?)));
        Ok(Connector {
            look_ups: LookUps::default(),
            egress,
            own_tls: with(outbound.identity.as_ref())?,
            tls: with(None)?,
            own: own.collect(),
            timeouts: outbound.timeouts.clone(),
            proxy: outbound.proxy.clone(),
        })
    }

    async fn connect(self, uri: Uri) -> Result<Stream> {
        let origin = uri
            .to_string()
            .parse::<url::Url>()
            .ok()
            .and_then(|url| Origin::of(&url).ok())
            .ok_or_else(|| Error::Egress { target: "the given URL".into(), reason: "it has no origin".into() })?;
        let proxy = self.proxy.as_ref().filter(|proxy| proxy.serves(&origin));
        let mut tcp = match proxy {
            None => self.dial(&origin).await?,
            Some(proxy) => self.dial_proxy(proxy, &origin).await?,
        };
        let limit = self.timeouts.tls;
        match origin.scheme() {
            Scheme::Http => Ok(Stream::Plain { tcp, to_proxy: proxy.is_some() }),
            Scheme::Https => {
                if let Some(proxy) = proxy {
                    let opened = tunnel::open(&mut tcp, proxy, &origin, limit).await;
                    opened.map_err(|cause| through(proxy, &origin, &cause))?;
                }
                let host = origin.host().trim_start_matches('[').trim_end_matches(']').to_owned();
                let name =
                    ServerName::try_from(host).map_err(|error| failed(&origin, Obstacle::Tls, error.to_string()))?;
                let tls = if self.own.contains(&origin) { &self.own_tls } else { &self.tls };
                let shaken = timeout(limit, tls.connect(name, tcp)).await;
                let stream = shaken
                    .map_err(|_| Error::Timeout { origin: origin.clone(), limit })?
                    .map_err(|error| failed(&origin, Obstacle::Tls, handshake::explain(&error)))?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }

    async fn dial(&self, origin: &Origin) -> Result<TcpStream> {
        let permit = |address| {
            if self.egress.permits(origin, address) { Ok(()) } else { Err(self.egress.not_permitted(origin, address)) }
        };
        dial(&self.look_ups, (origin.host(), origin.port()), self.timeouts.connect, permit).await.map_err(|error| {
            match error {
                DialError::Forbidden(error) => error,
                DialError::Name(cause) => failed(origin, Obstacle::Name, cause),
                DialError::Failed(cause) => failed(origin, Obstacle::Connection, cause),
                DialError::Timeout("it") => Error::Timeout { origin: origin.clone(), limit: self.timeouts.connect },
                DialError::Timeout(who) => {
                    let cause = format!("{who} did not answer within {} s", self.timeouts.connect.as_secs());
                    failed(origin, Obstacle::Name, cause)
                }
            }
        })
    }

    /// The proxy is where the operator says, so any address of it will do;
    /// what it resolves the origin to is out of sight.
    async fn dial_proxy(&self, proxy: &OutboundProxy, origin: &Origin) -> Result<TcpStream> {
        self.egress.check_unresolved(origin)?;
        let dialled =
            dial(&self.look_ups, (&proxy.host, proxy.port), self.timeouts.connect, |_| Ok::<_, Error>(())).await;
        dialled.map_err(|error| match error {
            DialError::Forbidden(error) => error,
            DialError::Name(cause) | DialError::Failed(cause) => through(proxy, origin, &cause),
            DialError::Timeout(_) => {
                through(proxy, origin, &format!("no answer within {} s", self.timeouts.connect.as_secs()))
            }
        })
    }
}

fn failed(origin: &Origin, obstacle: Obstacle, cause: String) -> Error {
    Error::Unreachable { origin: origin.clone(), obstacle, cause }
}

fn through(proxy: &OutboundProxy, origin: &Origin, cause: &str) -> Error {
    failed(origin, Obstacle::Proxy, format!("the outbound proxy {proxy}: {cause}"))
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
    Plain {
        /// The connection.
        tcp: TcpStream,
        /// It leads to a proxy, which is asked in absolute form.
        to_proxy: bool,
    },
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let to_proxy = matches!(self, Stream::Plain { to_proxy: true, .. });
        Connected::new().proxy(to_proxy).extra(Born(Instant::now()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
