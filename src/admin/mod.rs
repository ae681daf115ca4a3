//! The admin listener: health, readiness, metrics, and an API for whoever
//! looks after the proxy. Never on the data listener.
//!
//! * `guard`: keeps web pages out of the API
//! * `cache`: what is stored
//! * `pins`: what stays
//! * `links`: taking back what upstream was seen to allow
//! * `clients`: who may pull
//! * `readings`: metrics of the layers below
//! * `document`: the documents of the API

mod cache;
mod clients;
pub mod document;
mod guard;
mod links;
mod pins;
mod readings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::clients::ClientsApi;
pub use self::readings::Readings;

use self::document::Failure;
use crate::pull::Puller;
use crate::registry::Directory;
use crate::telemetry::{Audit, Metrics};

/// What the admin listener tells of.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    puller: Arc<Puller>,
    directory: Arc<Directory>,
    audit: Arc<Audit>,
    clients: Option<ClientsApi>,
    ready: Arc<AtomicBool>,
}

/// What of the API could not be done.
type Failed = (StatusCode, Json<Failure>);

fn failure(status: StatusCode, error: impl Into<String>) -> Failed {
    (status, Json(Failure { error: error.into() }))
}

impl Admin {
    /// Not ready yet.
    pub fn new(metrics: Arc<Metrics>, puller: Arc<Puller>, directory: Arc<Directory>, audit: Arc<Audit>) -> Admin {
        Admin { metrics, puller, directory, audit, clients: None, ready: Arc::new(AtomicBool::new(false)) }
    }

    /// Lets commands change the clients.
    pub fn with_clients(self, clients: ClientsApi) -> Admin {
        Admin { clients: Some(clients), ..self }
    }

    /// Says whether new requests should come here: not before the data
    /// listener runs, and not once draining has begun.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Serves on `listener` until `stopping`.
    pub async fn serve(self, listener: TcpListener, stopping: CancellationToken) {
        if let Ok(address) = listener.local_addr() {
            info!(listener = "admin", %address, "listening");
        }
        let router = self.router();
        let served = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "the admin listener ended");
        }
    }

    fn router(self) -> Router {
        let mut v1 = Router::new().merge(cache::routes()).merge(pins::routes()).merge(links::routes());
        if let Some(clients) = self.clients.clone() {
            v1 = v1.merge(clients::routes(clients));
        }
        let v1 = v1.method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        });
        let api = Router::new()
            .nest("/v1", v1)
            .fallback(|| async { failure(StatusCode::NOT_FOUND, "the admin API has no such path") })
            .layer(middleware::from_fn(guard::guard));
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readiness))
            .route("/metrics", get(metrics))
            .nest("/api", api)
            .with_state(self)
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
        TcpListener::bind(address).await
    }
}

/// The paths of the clients alone.
#[cfg(test)]
pub(crate) fn clients_only(api: ClientsApi) -> Router {
    Router::new().nest("/api/v1", clients::routes::<()>(api)).layer(middleware::from_fn(guard::guard))
}

async fn readiness(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], admin.metrics.encode())
}
