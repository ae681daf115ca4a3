//! `POST /api/v1/registries/{name}/test` and `/registries/test`: a registry is
//! tried as it is, or as it would be.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};

use super::document::{TestQuestion, TestReport, TestStep};
use super::operator::RegistryChange;
use super::registries::{MAX_BODY, asked, form_change};
use super::{Admin, Failed, failure};
use crate::oci::{Reference, Repository};
use crate::registry::{Directory, HostPort, Registry, slips, split_image};
use crate::upstream::Upstream;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/registries/test", post(candidate))
        .route("/registries/{name}/test", post(known))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn candidate(
    State(admin): State<Admin>,
    question: Result<Json<TestQuestion>, JsonRejection>,
) -> Result<Json<TestReport>, Failed> {
    tried(&admin, None, question).await
}

async fn known(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    question: Result<Json<TestQuestion>, JsonRejection>,
) -> Result<Json<TestReport>, Failed> {
    tried(&admin, Some(name), question).await
}

async fn tried(
    admin: &Admin,
    name: Option<String>,
    question: Result<Json<TestQuestion>, JsonRejection>,
) -> Result<Json<TestReport>, Failed> {
    let Ok(Json(TestQuestion { form, image })) = question else {
        let message = "the document is not as it should be: it has `form` and `image`, both optional, and nothing else";
        return Err(failure(StatusCode::BAD_REQUEST, message));
    };
    let change = form.map_or_else(|| Ok(RegistryChange::default()), form_change);
    let change = change.map_err(|message| failure(StatusCode::BAD_REQUEST, message))?;
    let registry = asked(admin, move |operator| operator.candidate(name.as_deref(), change)).await?;
    let report = try_registry(registry, image.as_deref()).await;
    report.map(Json).map_err(|message| failure(StatusCode::BAD_REQUEST, message))
}

/// Tries `registry`; `image` is one of its, as behind its name or in full.
///
/// # Errors
/// When `image` is none, or not the registry's.
pub async fn try_registry(registry: Arc<Registry>, image: Option<&str>) -> Result<TestReport, String> {
    let image = image.map(|image| of_registry(&registry, image)).transpose()?;
    let notes = slips(&registry);
    let steps = match Upstream::new(&registry) {
        Ok(upstream) => upstream.probe(image.as_ref().map(|(repository, reference)| (repository, reference))).await,
        Err(error) => return Err(format!("registry `{}`: {error}", registry.name)),
    };
    let steps: Vec<TestStep> = steps
        .into_iter()
        .map(|step| {
            let passed = step.outcome.is_ok();
            TestStep { what: step.what, passed, message: step.outcome.unwrap_or_else(|message| message) }
        })
        .collect();
    Ok(TestReport { passed: steps.iter().all(|step| step.passed), steps, notes })
}

fn of_registry(registry: &Arc<Registry>, image: &str) -> Result<(Repository, Reference), String> {
    let (name, rest) = split_image(image).map_err(|error| format!("`{image}` is {error}"))?;
    let no_reference = || format!("`{image}` names no tag or digest");
    let reference = match (rest.split_once('@'), rest.strip_prefix(':')) {
        (Some((_, digest)), _) => Reference::Digest(digest.parse().map_err(|_| no_reference())?),
        (None, tag) => Reference::Tag(tag.unwrap_or("latest").parse().map_err(|_| no_reference())?),
    };
    let name: Repository = name.parse().map_err(|error| format!("`{image}`: {error}"))?;
    // Written with the registry's name in front, it is the same image.
    let name = match name.split_first() {
        Some((first, rest)) if registry.name.matches(first) => rest,
        _ => name,
    };
    let not_ours = || {
        let below = registry.prefix.as_ref().map_or_else(String::new, |prefix| format!("/{prefix}"));
        format!("`{image}` is not an image of registry `{}`, which is {}{below}", registry.name, registry.origin)
    };
    // As people write references, a first part like a host is one.
    let host = image.split('/').next().filter(|first| image.len() > first.len() && HostPort::looks_like_host(first));
    if host.is_some_and(|host| !host.parse().is_ok_and(|host| registry.serves(&host))) {
        return Err(not_ours());
    }
    let found = Directory::new(vec![Arc::clone(registry)]).within(registry.name.slug(), &name);
    Ok((found.map_err(|_| not_ours())?.repository, reference))
}
