//! Administration: health, readiness, metrics, and an API for whoever looks
//! after the proxy. Never on the data listener.
//!
//! * `listener`: the socket and the addresses where that is
//! * `entry`, `caller`, `tokens`, `token_routes`: who may use the API, and what
//!   of it is written down
//! * `guard`: keeps web pages out of the API
//! * `cache`: what is stored
//! * `limits`: what upstreams allow, and which are in trouble
//! * `pins`: what stays
//! * `registries`: which there are, and changing them, by `operator`
//! * `trial`: trying one
//! * `offline`: whether upstreams are asked
//! * `links`: taking back what upstream was seen to allow
//! * `clients`: who may pull
//! * `readings`: metrics of the layers below
//! * `document`: the documents of the API

mod cache;
mod caller;
mod clients;
pub mod document;
mod entry;
mod guard;
mod limits;
mod links;
mod listener;
mod offline;
mod operator;
mod pins;
mod readings;
mod registries;
mod settings;
mod token_routes;
pub mod tokens;
mod trial;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::caller::{Caller, Role};
pub use self::entry::{ProofAnswer, ProofQuestion};
pub use self::operator::{Operator, Refused, RegistryChange};
pub use self::readings::Readings;
pub use self::registries::form_change;
pub use self::settings::AdminSettings;
pub use self::trial::try_registry;

use self::document::Failure;
use self::entry::Entry;
use self::listener::{Service, Socket};
use self::tokens::Tokens;
use crate::pull::Puller;
use crate::registry::Directory;
use crate::server::{self, Tls, TlsError};
use crate::telemetry::{Audit, Metrics, is_audit_failing};

/// What the admin listener tells of.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    puller: Arc<Puller>,
    directory: Arc<ArcSwap<Directory>>,
    operator: Arc<dyn Operator>,
    audit: Arc<Audit>,
    tokens: Arc<Tokens>,
    ready: Arc<AtomicBool>,
    audit_required: bool,
}

/// Where administration listens, before it serves.
pub struct Listeners {
    socket: Option<Socket>,
    tcp: TcpListener,
    tls: Option<Arc<Tls>>,
    metrics: Option<TcpListener>,
}

/// Why it cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be had.
    #[error("cannot listen on {address} for administration: {cause}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        cause: std::io::Error,
    },
    /// The socket cannot be made.
    #[error("the admin socket {} cannot be made: {cause}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("[admin.tls]: {0}")]
    Tls(#[from] TlsError),
}

fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    server::listen(address).map_err(|cause| ListenError::Address { address, cause })
}

impl Listeners {
    /// Listens where `settings` say.
    ///
    /// # Errors
    /// When an address cannot be had, or a socket that somebody named.
    pub async fn open(settings: &AdminSettings) -> Result<Listeners, ListenError> {
        let socket = match Socket::bind(&settings.socket) {
            Ok(socket) => Some(socket),
            Err(cause) if settings.socket_is_given => {
                return Err(ListenError::Socket { path: settings.socket.clone(), cause });
            }
            Err(error) => {
                warn!(path = %settings.socket.display(), %error, "there is no admin socket: commands need a token");
                None
            }
        };
        let metrics = match settings.metrics {
            Some(address) => Some(listen(address)?),
            None => None,
        };
        let tls = settings.tls.as_ref().map(Tls::open).transpose()?;
        Ok(Listeners { socket, tcp: listen(settings.listen)?, tls, metrics })
    }

    /// Where the API is over TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.local_addr().ok()
    }
}

/// Seconds since 1970 as RFC 3339 has them, in UTC.
pub fn timestamp(seconds: u64) -> String {
    // Civil from days (Howard Hinnant's algorithm): exact for all of this era.
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// What of the API could not be done.
type Failed = (StatusCode, Json<Failure>);

fn failure(status: StatusCode, error: impl Into<String>) -> Failed {
    (status, Json(Failure { error: error.into() }))
}

impl Admin {
    /// Not ready yet.
    pub fn new(
        metrics: Arc<Metrics>,
        puller: Arc<Puller>,
        directory: Arc<ArcSwap<Directory>>,
        operator: Arc<dyn Operator>,
        audit: Arc<Audit>,
        tokens: Arc<Tokens>,
    ) -> Admin {
        Admin {
            metrics,
            puller,
            directory,
            operator,
            audit,
            tokens,
            ready: Arc::new(AtomicBool::new(false)),
            audit_required: false,
        }
    }

    /// Not ready either while the file of the audit trail fails, if `required`.
    #[must_use]
    pub fn with_audit(self, required: bool) -> Admin {
        Admin { audit_required: required, ..self }
    }

    /// Says whether new requests should come here: not before the data
    /// listener runs, and not once draining has begun.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Serves on `listeners` until `stopping`.
    pub async fn serve(self, listeners: Listeners, stopping: CancellationToken) {
        let Listeners { socket, tcp, tls, metrics } = listeners;
        let (seen, all) = (self.clone().seen_by_all().with_state(self.clone()), self.router());
        let renewed = async {
            if let Some(tls) = tls.clone() {
                tls.keep_current(stopping.clone()).await;
            }
        };
        let at_socket = async {
            if let Some(socket) = socket {
                Service::new(all.clone(), stopping.clone()).socket(socket).await;
            }
        };
        let at_metrics = async {
            if let Some(listener) = metrics {
                Service::new(seen, stopping.clone()).tcp(listener, "metrics", None).await;
            }
        };
        let at_address = Service::new(all.clone(), stopping.clone()).tcp(tcp, "admin", tls.clone());
        tokio::join!(renewed, at_socket, at_metrics, at_address);
    }

    /// What needs no login.
    fn seen_by_all(self) -> Router<Admin> {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readiness))
            .route("/metrics", get(metrics))
    }

    fn router(self) -> Router {
        let entry = Entry { tokens: Arc::clone(&self.tokens), audit: Arc::clone(&self.audit) };
        let v1 = Router::new()
            .merge(cache::routes())
            .merge(clients::routes())
            .merge(limits::routes())
            .merge(links::routes())
            .merge(offline::routes())
            .merge(pins::routes())
            .merge(registries::routes())
            .merge(token_routes::routes())
            .merge(trial::routes())
            .method_not_allowed_fallback(|| async {
                failure(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
            })
            .fallback(|| async { failure(StatusCode::NOT_FOUND, "the admin API has no such path") })
            .layer(middleware::from_fn_with_state(entry, entry::admit))
            // Before its token is sent.
            .route("/proof", post(entry::prove));
        let api = Router::new()
            .nest("/v1", v1)
            .fallback(|| async { failure(StatusCode::NOT_FOUND, "the admin API has no such path") })
            .layer(middleware::from_fn(guard::guard));
        self.clone().seen_by_all().nest("/api", api).with_state(self)
    }
}

async fn readiness(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.audit_required && is_audit_failing() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: the file of the audit trail cannot be written\n")
    } else if admin.ready.load(Ordering::Acquire) {
        // Pulls work all the same: they pass through.
        let writes = admin.puller.cache().is_writer();
        (StatusCode::OK, if writes { "ready\n" } else { "ready\ncache: nothing is added to its directory\n" })
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], admin.metrics.encode())
}
