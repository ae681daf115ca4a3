//! `/api/v1/cache/pins`: images that stay in the cache.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};

use super::cache::{no_registry, not_its, writable};
use super::document::{PinEntry, Pins};
use super::{Admin, Failed, failure};
use crate::pull::{self, ImageName, Pin, Unpinned};

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/cache/pins", get(list)).route("/cache/pins/{registry}/{*image}", put(pin).delete(unpin))
}

async fn list(State(admin): State<Admin>) -> Json<Pins> {
    Json(Pins { pins: admin.puller.pins().into_iter().map(entry).collect() })
}

fn entry(pin: Pin) -> PinEntry {
    PinEntry {
        image: pin.image.to_string(),
        configured: pin.configured,
        digest: pin.digest.map(|digest| digest.to_string()),
        blobs: pin.blobs,
        stored_blobs: pin.stored_blobs,
        stored_bytes: pin.stored_bytes,
    }
}

async fn pin(State(admin): State<Admin>, Path(path): Path<(String, String)>) -> Result<Json<PinEntry>, Failed> {
    let image = image(&path)?;
    writable(&admin)?;
    let directory = admin.directory.load_full();
    let registry = directory.by_name(&image.registry).ok_or_else(|| no_registry(&image.registry))?;
    let found = directory.within(&image.registry, &image.repository);
    let found = found.map_err(|_| not_its(registry, &image.repository))?;
    match admin.puller.pin(&found.registry, &found.repository, &image.reference).await {
        Ok(Some(pin)) => Ok(Json(entry(pin))),
        Ok(None) => Err(failure(StatusCode::CONFLICT, format!("{image} was unpinned meanwhile"))),
        Err(pull::Error::NotFound) => {
            Err(failure(StatusCode::NOT_FOUND, format!("{image} cannot be pinned: upstream does not have it")))
        }
        Err(error) => Err(failure(StatusCode::BAD_GATEWAY, format!("{image} cannot be pinned: {error}"))),
    }
}

async fn unpin(State(admin): State<Admin>, Path(path): Path<(String, String)>) -> Result<StatusCode, Failed> {
    let image = image(&path)?;
    writable(&admin)?;
    // A registry that is configured no longer has no prefix any more.
    let (registry, repository) = match admin.directory.load().within(&image.registry, &image.repository) {
        Ok(found) => (found.registry.name.slug().to_owned(), found.repository),
        Err(_) => (image.registry.to_ascii_lowercase(), image.repository.clone()),
    };
    match admin.puller.unpin(&registry, &repository, &image.reference).await {
        Ok(Unpinned::Done) => Ok(StatusCode::NO_CONTENT),
        Ok(Unpinned::Absent) => Err(failure(StatusCode::NOT_FOUND, format!("{image} is not pinned"))),
        Ok(Unpinned::Configured) => {
            let message = format!("{image} is pinned by the configuration: take it out of `pin` in [cache]");
            Err(failure(StatusCode::CONFLICT, message))
        }
        Err(error) => Err(failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

fn image((registry, image): &(String, String)) -> Result<ImageName, Failed> {
    let parsed = format!("{registry}/{image}").parse::<ImageName>();
    parsed.map_err(|error| failure(StatusCode::BAD_REQUEST, error.to_string()))
}
