//! podman: a mirror in `registries.conf`.

use super::stage::{APP, MULTI, NAME, Stage};
use crate::support::real::images::GREETING;
use crate::support::real::podman::Podman;

/// podman told that the images of `registry.example`, a registry that is out
/// of reach, are to be had from the proxy.
fn mirrored(stage: &Stage) -> Podman {
    Podman::new(&format!(
        "[[registry]]\n\
         prefix = 'registry.example'\n\
         location = '127.0.0.1:1'\n\
         insecure = true\n\
         [[registry.mirror]]\n\
         location = '{}/{NAME}'\n\
         insecure = true\n",
        stage.address()
    ))
}

#[test]
fn podman_pulls_a_private_image_through_a_mirror_and_runs_it() {
    let Some(stage) = Stage::set() else { return };
    let podman = mirrored(&stage);
    let image = "registry.example/team/app:1";
    podman.pull(image).expect_ok();
    assert_eq!(podman.digest(image), stage.app.manifest.digest);
    assert_eq!(podman.run(image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn podman_pulls_an_index_by_digest_through_a_mirror_and_runs_it() {
    let Some(stage) = Stage::set() else { return };
    let podman = mirrored(&stage);
    let image = format!("registry.example/team/multi@{}", stage.index.document.digest);
    podman.pull(&image).expect_ok();
    assert_eq!(podman.run(&image), GREETING);
    stage.assert_fetched_once(MULTI, &stage.index.images[0]);
}

#[test]
fn a_second_podman_asks_upstream_for_no_blob() {
    let Some(stage) = Stage::set() else { return };
    for _ in 0..2 {
        mirrored(&stage).pull("registry.example/team/app:1").expect_ok();
    }
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn podman_says_that_an_image_does_not_exist() {
    let Some(stage) = Stage::set() else { return };
    let said = mirrored(&stage).pull("registry.example/team/app:nowhere").expect_error();
    assert!(said.contains("manifest unknown"), "{said}");
}
