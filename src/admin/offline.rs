//! `/api/v1/offline`: the switch that keeps the proxy from asking upstreams.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};

use super::document::{Offline, OfflineStatus};
use super::{Admin, Failed, failure};

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/offline", get(status).put(switch))
}

async fn status(State(admin): State<Admin>) -> Json<OfflineStatus> {
    let directory = admin.directory.load();
    let own = directory.registries().iter().filter(|registry| registry.offline);
    Json(OfflineStatus {
        offline: admin.puller.all_offline(),
        registries: own.map(|registry| registry.name.display().to_owned()).collect(),
    })
}

async fn switch(
    State(admin): State<Admin>,
    body: Result<Json<Offline>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<OfflineStatus>, Failed> {
    let Ok(Json(Offline { offline })) = body else {
        return Err(failure(StatusCode::BAD_REQUEST, "send `{\"offline\": true}` or `{\"offline\": false}` as JSON"));
    };
    if admin.puller.all_offline() != offline {
        tracing::info!(offline, "switched");
    }
    admin.puller.set_all_offline(offline);
    Ok(status(State(admin)).await)
}
