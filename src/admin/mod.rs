//! The admin listener: health, readiness, metrics, and an API for whoever
//! looks after the proxy. Never on the data listener.
//!
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
mod clients;
pub mod document;
mod guard;
mod limits;
mod links;
mod offline;
mod operator;
mod pins;
mod readings;
mod registries;
mod trial;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::operator::{Operator, Refused, RegistryChange};
pub use self::readings::Readings;
pub use self::registries::form_change;
pub use self::trial::try_registry;

use self::document::Failure;
use crate::pull::Puller;
use crate::registry::Directory;
use crate::telemetry::{Audit, Metrics};

/// What the admin listener tells of.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    puller: Arc<Puller>,
    directory: Arc<ArcSwap<Directory>>,
    operator: Arc<dyn Operator>,
    audit: Arc<Audit>,
    ready: Arc<AtomicBool>,
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
    ) -> Admin {
        Admin { metrics, puller, directory, operator, audit, ready: Arc::new(AtomicBool::new(false)) }
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
        let served = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
            .with_graceful_shutdown(stopping.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "the admin listener ended");
        }
    }

    fn router(self) -> Router {
        let v1 = Router::new()
            .merge(cache::routes())
            .merge(clients::routes())
            .merge(limits::routes())
            .merge(links::routes())
            .merge(offline::routes())
            .merge(pins::routes())
            .merge(registries::routes())
            .merge(trial::routes())
            .method_not_allowed_fallback(|| async {
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

async fn readiness(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.ready.load(Ordering::Acquire) {
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
