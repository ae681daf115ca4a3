//! `/api/v1/registries`: what is asked, and with what. Secrets go one way.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use super::caller::Caller;
use super::document::{Registries, RegistryEntry, RegistryForm, Reloaded};
use super::operator::{Operator, Refused, RegistryChange};
use super::{Admin, Failed, failure};
use crate::registry::Secret;

/// A service account's key has 3 KiB, a chain of authorities may have more.
pub(super) const MAX_BODY: usize = 256 * 1024;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/registries", get(list).post(add))
        .route("/registries/{name}", get(show).put(replace).delete(remove))
        .route("/reload", post(reload))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn list(State(admin): State<Admin>) -> Result<Json<Registries>, Failed> {
    let all =
        |operator: &dyn Operator| Registries { registries: operator.registries(), retired: operator.retired_names() };
    asked(&admin, move |operator| Ok(all(operator))).await.map(Json)
}

async fn show(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<RegistryEntry>, Failed> {
    asked(&admin, move |operator| operator.registry(&name)).await.map(Json)
}

async fn add(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    form: Result<Json<RegistryForm>, JsonRejection>,
) -> Result<(StatusCode, Json<RegistryEntry>), Failed> {
    let change = change(form)?;
    let added = asked(&admin, move |operator| operator.add_registry(change, &caller)).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

async fn replace(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    form: Result<Json<RegistryForm>, JsonRejection>,
) -> Result<Json<RegistryEntry>, Failed> {
    let change = change(form)?;
    asked(&admin, move |operator| operator.replace_registry(&name, change, &caller)).await.map(Json)
}

async fn remove(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    asked(&admin, move |operator| operator.remove_registry(&name, &caller)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reload(State(admin): State<Admin>) -> Result<Json<Reloaded>, Failed> {
    asked(&admin, |operator| operator.reload()).await.map(Json)
}

/// What a document asks for. What is wrong with one is told without its text:
/// it may hold a secret.
pub(super) fn change(form: Result<Json<RegistryForm>, JsonRejection>) -> Result<RegistryChange, Failed> {
    let Json(form) = form.map_err(|rejection| {
        let what = match rejection {
            JsonRejection::MissingJsonContentType(_) => "its Content-Type is not application/json",
            JsonRejection::JsonSyntaxError(_) => "it is no JSON",
            JsonRejection::BytesRejection(_) => "it is too long",
            _ => "it has `settings` (an object) and `secrets` (an object of texts or null), and nothing else",
        };
        failure(StatusCode::BAD_REQUEST, format!("the document is not as it should be: {what}"))
    })?;
    form_change(form).map_err(|message| failure(StatusCode::BAD_REQUEST, message))
}

/// What a form asks for.
///
/// # Errors
/// When it has values that no registry can have.
pub fn form_change(form: RegistryForm) -> Result<RegistryChange, String> {
    let keys = form.settings.map(|settings| {
        let keys: Result<toml::Table, _> = serde_json::from_value(serde_json::Value::Object(settings));
        keys.map_err(|_| "`settings` holds a value that no key can have (null)".to_owned())
    });
    let secret = |text: Option<zeroize::Zeroizing<String>>| match text {
        Some(text) if text.is_empty() => Err("a secret is empty; `null` forgets one".to_owned()),
        Some(text) => Ok(Some(Secret::new(text.as_str().to_owned()))),
        None => Ok(None),
    };
    let secrets: Result<_, String> = form.secrets.into_iter().map(|(field, text)| Ok((field, secret(text)?))).collect();
    Ok(RegistryChange { keys: keys.transpose()?, secrets: secrets? })
}

/// What the operator's side says, which waits for the disk.
pub(super) async fn asked<T: Send + 'static>(
    admin: &Admin,
    ask: impl FnOnce(&dyn Operator) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Failed> {
    let operator = Arc::clone(&admin.operator);
    let answer = tokio::task::spawn_blocking(move || ask(&*operator)).await;
    let answer = answer.unwrap_or_else(|_| Err(Refused::Failed("the change broke off; the log says more".to_owned())));
    answer.map_err(|refused| {
        let status = match &refused {
            Refused::Unknown(_) => StatusCode::NOT_FOUND,
            Refused::Conflict(_) => StatusCode::CONFLICT,
            Refused::Unsound(_) => StatusCode::BAD_REQUEST,
            Refused::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        failure(status, refused.to_string())
    })
}
