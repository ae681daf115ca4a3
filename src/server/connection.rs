//! One connection: handshake, HTTP, and its end.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::activity::{Activity, Answer, Answering, HeaderGuard};
use super::allowance::{Allowance, Allowed};
use super::budget::{Budget, Budgets, Metered};
use super::proxy_protocol;
use super::settings::{BodyMethod, ServerLimits};
use super::stream::{PlainStream, StallGuard};
use super::tls::Tls;
use crate::access::{CertificateNames, TrustedProxies, customer};
use crate::api::{Api, Peer, Transport};
use crate::cache::Method;
use crate::kernel::{Mappings, PipePool};
use crate::registry::Door;

/// TLS records are filled from buffers of this size.
const TLS_BUFFER: usize = 256 * 1024;
/// What an HTTP/2 stream takes ahead of its connection.
const STREAM_BUFFER: usize = 64 * 1024;

/// What all connections of a listener share.
pub(super) struct Shared {
    pub(super) api: Arc<Api>,
    pub(super) limits: ServerLimits,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) body: BodyMethod,
    pub(super) pipes: PipePool,
    pub(super) budgets: Arc<Budgets>,
    /// Whose connections may be somebody else's.
    pub(super) trusted_proxies: TrustedProxies,
    /// Connections that came before it end with what they are answering.
    pub(super) stopping: CancellationToken,
    /// The others do then.
    pub(super) closing: CancellationToken,
    /// Which listener its connections come by.
    pub(super) door: Door,
}

impl Shared {
    /// Whose connection it is that a trusted proxy has opened, and what has been
    /// read of it. `None`: nothing came, or nothing that can be read.
    pub(super) async fn announced(&self, tcp: &mut TcpStream, proxy: IpAddr) -> Option<(IpAddr, Bytes)> {
        match tokio::time::timeout(self.limits.header_timeout, proxy_protocol::read(tcp)).await {
            Ok(Ok((client, ahead))) => return Some((client.unwrap_or(proxy), ahead)),
            Ok(Err(error)) => debug!(%proxy, %error, "a connection of a trusted proxy ended before its first request"),
            Err(_) => debug!(%proxy, "a connection of a trusted proxy brought nothing"),
        }
        None
    }

    /// Serves one connection to its end; one that is late to one request.
    /// `ahead` has been read of it already.
    pub(super) async fn serve(&self, tcp: TcpStream, address: IpAddr, ahead: Bytes, is_late: bool) {
        // Headers and the first bytes go out at once; large writes fill
        // segments anyway.
        let _ = tcp.set_nodelay(true);
        let mut peer = Peer {
            address: Some(address),
            certificate: None,
            door: self.door,
            transport: Transport { method: Method::Read, mappings: None },
        };
        let Some(tls) = &self.tls else {
            let mappings = Mappings::default();
            let mapped = Transport { method: Method::Mapped, mappings: Some(mappings.clone()) };
            let (transport, pipes) = match self.body {
                BodyMethod::Auto | BodyMethod::Splice => (mapped, Some(self.pipes.clone())),
                BodyMethod::Mmap => (mapped, None),
                BodyMethod::Read => (Transport { method: Method::Read, mappings: None }, None),
            };
            peer.transport = transport;
            let stream = PlainStream::new(tcp, ahead, mappings, pipes);
            return self.http1(StallGuard::new(stream, self.limits.write_stall_timeout), peer, None, is_late).await;
        };
        let budget = self.budgets.open(customer(address));
        let tcp = Metered::new(tcp, ahead, budget.clone());
        match tokio::time::timeout(self.limits.tls_handshake_timeout, tls.acceptor().accept(tcp)).await {
            Ok(Ok(mut stream)) => {
                stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                peer.certificate = shown.and_then(|first| CertificateNames::read(first)).map(Arc::new);
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = StallGuard::new(stream, self.limits.write_stall_timeout);
                if is_http2 {
                    self.http2(stream, peer, budget, is_late).await
                } else {
                    self.http1(stream, peer, Some(budget), is_late).await
                }
            }
            Ok(Err(error)) => debug!(%address, %error, "TLS handshake failed"),
            Err(_) => debug!(%address, "TLS handshake took too long"),
        }
    }

    fn end_of(&self, is_late: bool) -> &CancellationToken {
        if is_late { &self.closing } else { &self.stopping }
    }

    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: Peer,
        budget: Option<Budget>,
        is_late: bool,
    ) {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .keep_alive(!is_late)
            // This one counts from the end of the request before; how long the
            // header itself may take is the guard's.
            .header_read_timeout(self.limits.keep_alive_timeout.max(self.limits.header_timeout))
            .max_headers(self.limits.max_headers)
            .max_header_size(self.limits.max_header_bytes);
        let activity = Activity::new(self.limits.header_timeout);
        let stream = HeaderGuard::new(stream, activity.clone(), self.limits.header_timeout);
        let service = service_fn(|request| self.answer(request, &peer, activity.begin(), budget.clone()));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.end_of(is_late).cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(peer = ?peer.address, %error, "connection ended");
        }
    }

    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        mut peer: Peer,
        budget: Budget,
        is_late: bool,
    ) {
        peer.transport.method = Method::ReadShared;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.max_streams)
            .max_header_list_size(u32::try_from(self.limits.max_header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(STREAM_BUFFER)
            .keep_alive_interval(std::time::Duration::from_secs(20));
        let (api, allowance) = (Arc::clone(&self.api), Allowance::new());
        let stream = Allowed::new(stream, allowance.clone());
        let activity = Activity::new(self.limits.header_timeout);
        let silence = activity.clone();
        let for_request = 2 * self.limits.max_header_bytes;
        let service = service_fn(move |request: Request<Incoming>| {
            allowance.grant(for_request);
            let (api, peer, answering) = (Arc::clone(&api), peer.clone(), activity.begin());
            let budget = Some(budget.clone());
            // On its own: a stream keeps the room of its largest state to its end,
            // and this one is over long before the body is.
            Box::pin(async move {
                let answer = api.handle(&request.into_parts().0, &peer).await;
                Ok::<_, Infallible>(answer.map(|body| Answer::new(body, answering, budget)))
            })
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = silence.silence(self.limits.header_timeout, self.limits.keep_alive_timeout) => {
                connection.as_mut().graceful_shutdown();
                // A request that crosses the farewell is answered; a client that
                // ignores it is not waited for.
                tokio::select! {
                    ended = connection => ended,
                    () = silence.silence(self.limits.header_timeout, self.limits.header_timeout) => Ok(()),
                }
            }
            () = self.end_of(is_late).cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
        answering: Answering,
        budget: Option<Budget>,
    ) -> Result<http::Response<Answer<crate::api::Counted>>, Infallible> {
        let answer = self.api.handle(&request.into_parts().0, peer).await;
        Ok(answer.map(|body| Answer::new(body, answering, budget)))
    }
}
