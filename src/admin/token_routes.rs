//! `/api/v1/admin-tokens`: the named tokens of this API. What a token is goes
//! out once, in the answer to its making.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};

use super::document::{AdminToken, AdminTokenAdded, AdminTokens, NewAdminToken};
use super::tokens::{TokenError, Tokens};
use super::{Admin, Failed, failure, timestamp};

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/admin-tokens", get(list)).route("/admin-tokens/{name}", put(add).delete(remove))
}

async fn list(State(admin): State<Admin>) -> Json<AdminTokens> {
    let entries = admin.tokens.list().into_iter().map(|token| AdminToken {
        name: token.name,
        role: token.role,
        created: timestamp(token.created_at),
    });
    Json(AdminTokens { tokens: entries.collect() })
}

async fn add(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    body: Result<Json<NewAdminToken>, JsonRejection>,
) -> Result<(StatusCode, Json<AdminTokenAdded>), Failed> {
    let Ok(Json(NewAdminToken { role })) = body else {
        return Err(failure(StatusCode::BAD_REQUEST, "the body has `role`, which is \"read\" or \"write\""));
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let token = changed(&admin, move |tokens| tokens.add(&name, role, now)).await?;
    Ok((StatusCode::CREATED, Json(AdminTokenAdded { token: token.to_string() })))
}

async fn remove(State(admin): State<Admin>, Path(name): Path<String>) -> Result<StatusCode, Failed> {
    changed(&admin, move |tokens| tokens.remove(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What `change` comes to, off the threads of the runtime.
async fn changed<T: Send + 'static>(
    admin: &Admin,
    change: impl FnOnce(&Tokens) -> Result<T, TokenError> + Send + 'static,
) -> Result<T, Failed> {
    let tokens = std::sync::Arc::clone(&admin.tokens);
    let done = tokio::task::spawn_blocking(move || change(&tokens)).await;
    done.map_err(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "it failed"))?.map_err(|error| {
        let status = match &error {
            TokenError::Name(_) => StatusCode::CONFLICT,
            TokenError::Unknown(_) => StatusCode::NOT_FOUND,
            TokenError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        failure(status, error.to_string())
    })
}
