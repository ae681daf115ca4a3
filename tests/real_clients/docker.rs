//! Docker: a daemon that knows the proxy as its mirror or by its address.

use serde_json::json;

use super::stage::{APP, MULTI, Stage};
use crate::support::real::dockerd::Docker;
use crate::support::real::images::GREETING;

/// A daemon whose `daemon.json` holds `registry-mirrors` and nothing else.
fn mirrored(stage: &Stage) -> Docker {
    Docker::start(&json!({"registry-mirrors": [stage.mirror()]}))
}

/// A daemon with no settings at all.
fn plain() -> Docker {
    Docker::start(&json!({}))
}

#[test]
fn a_docker_daemon_with_nothing_but_registry_mirrors_pulls_a_private_image_and_runs_it() {
    let Some(stage) = Stage::set() else { return };
    let docker = mirrored(&stage);
    let image = format!("{APP}:1");
    docker.pull(&image).expect_ok();
    assert_eq!(docker.digest(&image), stage.app.manifest.digest);
    assert_eq!(docker.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn a_docker_daemon_pulls_a_private_image_through_the_name_of_its_registry_and_runs_it() {
    let Some(stage) = Stage::set() else { return };
    let docker = plain();
    let image = stage.named("team/app:1");
    docker.pull(&image).expect_ok();
    assert_eq!(docker.digest(&image), stage.app.manifest.digest);
    assert_eq!(docker.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn a_docker_daemon_pulls_its_platform_of_an_index_and_runs_it() {
    let Some(stage) = Stage::set() else { return };
    let docker = mirrored(&stage);
    let image = format!("{MULTI}:1");
    docker.pull(&image).expect_ok();
    assert_eq!(docker.digest(&image), stage.index.document.digest);
    assert_eq!(docker.run(&image), GREETING);
    // The other platform's image was left where it was.
    stage.assert_fetched_once(MULTI, &stage.index.images[0]);
}

#[test]
fn a_second_docker_pull_asks_upstream_for_no_blob_and_no_token() {
    let Some(stage) = Stage::set() else { return };
    let docker = mirrored(&stage);
    let image = format!("{APP}:1");
    docker.pull(&image).expect_ok();
    docker.remove(&image);
    docker.pull(&image).expect_ok();
    assert_eq!(docker.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn what_one_docker_daemon_pulled_is_not_asked_upstream_for_another_under_another_address() {
    let Some(stage) = Stage::set() else { return };
    mirrored(&stage).pull(&format!("{APP}:1")).expect_ok();
    let docker = plain();
    let image = stage.named("team/app:1");
    docker.pull(&image).expect_ok();
    assert_eq!(docker.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn docker_says_that_an_image_does_not_exist() {
    let Some(stage) = Stage::set() else { return };
    let docker = plain();
    let said = docker.pull(&stage.named("team/app:nowhere")).expect_error();
    assert!(said.contains("manifest unknown") || said.contains("not found"), "{said}");
    let said = docker.pull(&format!("{}/nobody-configured/app:1", stage.address())).expect_error();
    assert!(said.contains("manifest unknown") || said.contains("not found"), "{said}");
}
