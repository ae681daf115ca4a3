//! What upstreams allow, and which are in trouble. For whoever looks after the
//! proxy only: what a limit is counted for may be an account.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use super::Admin;
use super::document::{EndpointState, Limits, PullLimitReading, RegistryLimits};

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/limits", get(limits))
}

async fn limits(State(admin): State<Admin>) -> Json<Limits> {
    let mut registries: Vec<_> = admin
        .puller
        .traffic()
        .iter()
        .map(|(registry, traffic)| {
            let (pull_limit_reached, other_limit_reached) = traffic.limited();
            let pull_limit = traffic.pull_limit().map(|read| PullLimitReading {
                limit: read.limit,
                remaining: read.remaining,
                window_seconds: read.window.as_secs(),
                source: read.source,
                age_seconds: read.age.as_secs(),
            });
            let endpoint = |(origin, open): (&crate::registry::Origin, bool)| EndpointState {
                endpoint: origin.to_string(),
                left_alone: open,
            };
            let endpoints = traffic.endpoints().map(endpoint).collect();
            let sparing = traffic.should_spare(registry.egress.outbound.rate_limit_reserve);
            let registry = registry.name.to_string();
            RegistryLimits { registry, pull_limit, sparing, pull_limit_reached, other_limit_reached, endpoints }
        })
        .collect();
    registries.sort_by(|one, other| one.registry.cmp(&other.registry));
    Json(Limits { registries })
}
