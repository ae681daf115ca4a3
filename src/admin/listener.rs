//! The listeners of administration: a socket for commands, TCP for everybody
//! who has a token, and one more for health and metrics alone.
//!
//! They are counted apart from the one where clients pull, and bounded: idle
//! connections here take nothing from there.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;
use tracing::{debug, info, warn};

use super::entry::Origin;
use crate::kernel::FileIdentity;
use crate::server::Tls;

/// Connections at a time, of each listener.
const MAX_CONNECTIONS: usize = 128;
/// Time for a request's header, and for a kept connection to bring the next.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of `accept`, which is one of the process and stays a while.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request's header.
const MAX_HEADER: usize = 16 * 1024;

/// Serves what `router` answers on one listener.
pub(super) struct Service {
    router: Router,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    stopping: CancellationToken,
}

impl Service {
    pub(super) fn new(router: Router, stopping: CancellationToken) -> Service {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Service { router, places, connections: TaskTracker::new(), stopping }
    }

    /// Serves a TCP listener until the end.
    pub(super) async fn tcp(self, listener: TcpListener, name: &'static str, tls: Option<Arc<Tls>>) {
        let Ok(own) = listener.local_addr() else { return };
        info!(listener = name, address = %own, "listening");
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopping.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // More than anybody who administers needs: the newest goes.
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { continue };
            let _ = stream.set_nodelay(true);
            let own = stream.local_addr().unwrap_or(own);
            let origin = Origin::Network { peer, own };
            let (router, stopping, tls) = (self.router.clone(), self.stopping.clone(), tls.clone());
            self.connections.spawn(async move {
                let _place = place;
                match tls {
                    None => connection(stream, router, origin, stopping).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, router, origin, stopping).await,
                        Ok(Err(error)) => debug!(%error, "a TLS handshake of administration failed"),
                        Err(_) => debug!("a TLS handshake of administration took too long"),
                    },
                }
            });
        }
        self.end().await;
    }

    /// Serves the socket until the end.
    pub(super) async fn socket(self, socket: Socket) {
        info!(listener = "socket", path = %socket.path.display(), "listening");
        let own = rustix::process::geteuid().as_raw();
        loop {
            let accepted = tokio::select! {
                accepted = socket.listener.accept() => accepted,
                () = self.stopping.cancelled() => break,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
            if uid != own && uid != 0 {
                warn!(uid, "a user who is neither this process's nor root was turned away at the admin socket");
                continue;
            }
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { continue };
            let (router, stopping) = (self.router.clone(), self.stopping.clone());
            self.connections.spawn(async move {
                let _place = place;
                connection(stream, router, Origin::Socket { uid }, stopping).await;
            });
        }
        self.end().await;
    }

    async fn end(self) {
        self.connections.close();
        self.connections.wait().await;
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    origin: Origin,
    stopping: CancellationToken,
) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut router = router.clone();
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, axum::body::Body::new(body));
        request.extensions_mut().insert(origin);
        async move {
            match router.call(request).await {
                Ok(answer) => Ok::<_, Infallible>(answer),
                Err(never) => match never {},
            }
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_header_size(MAX_HEADER);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection of administration ended");
    }
}

/// The socket that commands use; its file goes with it.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    file: Option<FileIdentity>,
}

impl Socket {
    /// Listens at `path`. A socket that another process left there, or still
    /// listens on, is replaced: commands are for the newest.
    ///
    /// # Errors
    /// As the system has them.
    pub(super) fn bind(path: &Path) -> io::Result<Socket> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                return Err(io::Error::other("something that is not a socket is there"));
            }
            _ => {}
        }
        let beside = path.with_extension(format!("new.{}", std::process::id()));
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Socket { listener, path: path.to_owned(), file: FileIdentity::at(path).ok() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Not that of a process that has come after this one.
        if self.file.is_some() && self.file == FileIdentity::at(&self.path).ok() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
