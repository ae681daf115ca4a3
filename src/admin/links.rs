//! `/api/v1/links`: taking back what upstream was seen to allow.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::delete;
use axum::{Json, Router};

use super::cache::{no_registry, not_its};
use super::document::Revoked;
use super::{Admin, Failed, failure};
use crate::oci::Repository;
use crate::registry::Registry;
use crate::telemetry::Event;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/links/{registry}", delete(of_registry))
        .route("/links/{registry}/{*repository}", delete(of_repository))
}

async fn of_registry(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Revoked>, Failed> {
    let directory = admin.directory.load_full();
    let registry = directory.called(&name).ok_or_else(|| no_registry(&name))?;
    revoke(&admin, Arc::clone(registry), None).await
}

async fn of_repository(
    State(admin): State<Admin>,
    Path((name, repository)): Path<(String, String)>,
) -> Result<Json<Revoked>, Failed> {
    let directory = admin.directory.load_full();
    let registry = directory.called(&name).ok_or_else(|| no_registry(&name))?;
    let repository = repository
        .parse::<Repository>()
        .map_err(|error| failure(StatusCode::BAD_REQUEST, format!("`{repository}` is {error}")))?;
    let found = directory.within(registry.name.slug(), &repository);
    let found = found.map_err(|_| not_its(registry, &repository))?;
    revoke(&admin, found.registry, Some(found.repository)).await
}

async fn revoke(
    admin: &Admin,
    registry: Arc<Registry>,
    repository: Option<Repository>,
) -> Result<Json<Revoked>, Failed> {
    let audit = Arc::clone(&admin.audit);
    let puller = Arc::clone(&admin.puller);
    // The whole index is looked at: off the runtime's threads.
    let revoked = tokio::task::spawn_blocking(move || {
        let revoked = puller.revoke_links(&registry, repository.as_ref());
        audit.operator(&Event {
            event: "links_revoked",
            outcome: "success",
            registry: Some(registry.name.display()),
            repository: repository.as_ref().map(Repository::as_str),
            ..Event::default()
        });
        revoked
    });
    let revoked =
        revoked.await.map_err(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "the links are as they were"))?;
    Ok(Json(Revoked { links: revoked.links, unwritten: revoked.unwritten }))
}
