//! The admin listener: health, readiness, metrics. Never on the data listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry::Metrics;

/// What the admin listener tells of.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

impl Admin {
    /// Not ready yet.
    pub fn new(metrics: Arc<Metrics>) -> Admin {
        Admin { metrics, ready: Arc::new(AtomicBool::new(false)) }
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
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readiness))
            .route("/metrics", get(metrics))
            .with_state(self);
        let served = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "the admin listener ended");
        }
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
        TcpListener::bind(address).await
    }
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
