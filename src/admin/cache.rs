//! `/api/v1/cache`: what is stored, through whom, and taking it out.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use url::form_urlencoded;

use super::document::{
    Amount, BlobEntry, Blobs, CacheStatus, LinkEntry, RegistryUsage, Soundness, Usage, Verification,
};
use super::{Admin, Failed, failure};
use crate::cache::{Cache, Verdict};
use crate::oci::{Digest, Repository};
use crate::pull::Holding;
use crate::registry::Registry;

/// Blobs in a listing that does not say how many it wants.
const USUAL_LIMIT: usize = 100;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/cache", get(status))
        .route("/cache/blobs", get(blobs))
        .route("/cache/usage", get(usage))
        .route("/cache/blobs/{digest}", axum::routing::delete(remove))
        .route("/cache/blobs/{digest}/verification", put(verify))
}

async fn status(State(admin): State<Admin>) -> Json<CacheStatus> {
    let cache = admin.puller.cache();
    let stock = cache.stock();
    Json(CacheStatus {
        blobs: stock.blobs,
        bytes: stock.bytes,
        max_size: cache.max_size(),
        pinned_blobs: stock.pinned_blobs,
        pinned_bytes: stock.pinned_bytes,
        fills: cache.fills(),
        writes: cache.is_writer(),
    })
}

/// What a listing is about.
#[derive(Default)]
struct Question {
    limit: Option<usize>,
    registry: Option<Arc<Registry>>,
    /// Its full upstream name.
    repository: Option<Repository>,
}

async fn blobs(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Result<Json<Blobs>, Failed> {
    let question = question(&admin, &query.unwrap_or_default())?;
    let holdings = holdings(&admin).await?;
    let asked = question.registry.as_ref();
    let mut answer = Blobs {
        registry: asked.map(|registry| registry.name.display().to_owned()),
        repository: asked.zip(question.repository.as_ref()).map(|(of, name)| of.relative(name).to_string()),
        total: 0,
        bytes: 0,
        blobs: Vec::new(),
    };
    for holding in holdings.iter().filter(|holding| question.is_about(holding)) {
        answer.total += 1;
        answer.bytes += holding.size;
        if answer.blobs.len() < question.limit.unwrap_or(USUAL_LIMIT) {
            answer.blobs.push(entry(holding));
        }
    }
    Ok(Json(answer))
}

impl Question {
    fn is_about(&self, holding: &Holding) -> bool {
        let Some(registry) = &self.registry else { return true };
        holding.links.iter().any(|(linked, repository)| {
            linked.name == registry.name && self.repository.as_ref().is_none_or(|wanted| wanted == repository)
        })
    }
}

fn question(admin: &Admin, query: &str) -> Result<Question, Failed> {
    let mut question = Question::default();
    let mut repository = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let bad = |message: String| Err(failure(StatusCode::BAD_REQUEST, message));
        match &*name {
            "limit" => match value.parse() {
                Ok(limit) => question.limit = Some(limit),
                Err(_) => return bad(format!("`limit` has to be a number, not `{value}`")),
            },
            "registry" => match admin.directory.load().called(&value) {
                Some(registry) => question.registry = Some(Arc::clone(registry)),
                None => return Err(no_registry(&value)),
            },
            "repository" => match value.parse::<Repository>() {
                Ok(name) => repository = Some(name),
                Err(error) => return bad(format!("`{value}` is {error}")),
            },
            other => return bad(format!("unknown parameter `{other}`: known are limit, registry, repository")),
        }
    }
    match (repository, &question.registry) {
        (Some(name), Some(registry)) => {
            let resolved = admin.directory.load().within(registry.name.slug(), &name);
            question.repository = Some(resolved.map_err(|_| not_its(registry, &name))?.repository);
        }
        (Some(_), None) => return Err(failure(StatusCode::BAD_REQUEST, "`repository` needs a `registry`")),
        (None, _) => {}
    }
    Ok(question)
}

pub(super) fn no_registry(name: &str) -> Failed {
    failure(StatusCode::NOT_FOUND, format!("no registry `{name}` is configured"))
}

pub(super) fn not_its(registry: &Registry, name: &Repository) -> Failed {
    failure(StatusCode::NOT_FOUND, format!("`{name}` is no repository of registry `{}`", registry.name))
}

fn entry(holding: &Holding) -> BlobEntry {
    let link = |(registry, repository): &(Arc<Registry>, Repository)| LinkEntry {
        registry: registry.name.display().to_owned(),
        repository: registry.relative(repository).to_string(),
    };
    BlobEntry {
        digest: holding.digest.to_string(),
        size: holding.size,
        pinned: holding.pinned,
        links: holding.links.iter().map(link).collect(),
    }
}

async fn usage(State(admin): State<Admin>) -> Result<Json<Usage>, Failed> {
    let holdings = holdings(&admin).await?;
    let directory = admin.directory.load();
    let registries = directory.registries().iter().map(|registry| {
        let mut repositories = HashSet::new();
        let mut used = Amount::default();
        for holding in &holdings {
            let before = used;
            for (_, repository) in holding.links.iter().filter(|(linked, _)| linked.name == registry.name) {
                repositories.insert(repository);
                used = before.plus(holding);
            }
        }
        RegistryUsage {
            registry: registry.name.display().to_owned(),
            repositories: repositories.len(),
            blobs: used.blobs,
            bytes: used.bytes,
        }
    });
    let sum = |of: &dyn Fn(&&Holding) -> bool| holdings.iter().filter(of).fold(Amount::default(), Amount::plus);
    Ok(Json(Usage {
        registries: registries.collect(),
        unlinked: sum(&|holding| holding.links.is_empty()),
        total: sum(&|_| true),
    }))
}

impl Amount {
    fn plus(self, holding: &Holding) -> Amount {
        Amount { blobs: self.blobs + 1, bytes: self.bytes + holding.size }
    }
}

/// The whole index is read for it: off the runtime's threads.
async fn holdings(admin: &Admin) -> Result<Vec<Holding>, Failed> {
    let puller = Arc::clone(&admin.puller);
    tokio::task::spawn_blocking(move || puller.holdings())
        .await
        .map_err(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "the cache could not be listed"))
}

async fn remove(State(admin): State<Admin>, Path(digest): Path<String>) -> Result<StatusCode, Failed> {
    let digest = digest_of(&digest)?;
    let cache = writable(&admin)?;
    if cache.is_pinned(&digest) {
        return Err(failure(StatusCode::CONFLICT, format!("{digest} is pinned: unpin its image first")));
    }
    match cache.remove(&digest).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(failure(StatusCode::NOT_FOUND, format!("{digest} is not in the cache"))),
        Err(error) => {
            Err(failure(StatusCode::INTERNAL_SERVER_ERROR, format!("{digest} could not be removed: {error}")))
        }
    }
}

async fn verify(State(admin): State<Admin>, Path(digest): Path<String>) -> Result<Json<Verification>, Failed> {
    let digest = digest_of(&digest)?;
    let verdict = match writable(&admin)?.verify(&digest).await {
        Ok(Verdict::Sound) => Soundness::Sound,
        Ok(Verdict::Damaged) => Soundness::Damaged,
        Ok(Verdict::Absent) => Soundness::Absent,
        Err(error) => {
            let message = format!("{digest} could not be read: {error}");
            return Err(failure(StatusCode::INTERNAL_SERVER_ERROR, message));
        }
    };
    Ok(Json(Verification { digest: digest.to_string(), verdict }))
}

fn digest_of(text: &str) -> Result<Digest, Failed> {
    text.parse().map_err(|error| failure(StatusCode::BAD_REQUEST, format!("`{text}` is {error}")))
}

/// The cache, if this process is the one that may change it.
pub(super) fn writable(admin: &Admin) -> Result<&Cache, Failed> {
    let cache = admin.puller.cache();
    if cache.is_writer() {
        return Ok(cache);
    }
    let message = "another process writes this cache directory: ask that one";
    Err(failure(StatusCode::CONFLICT, message))
}
