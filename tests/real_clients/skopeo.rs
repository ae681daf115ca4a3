//! skopeo: the exact bytes, by tag and by digest.

use super::stage::{APP, MULTI, Stage};
use crate::support::real::images::Image;
use crate::support::real::skopeo::{Copy, Skopeo};
use crate::support::real::token_server::{SECRET, USERNAME};

/// Fails unless `copy` is `image`, byte for byte.
#[track_caller]
fn assert_same(copy: &Copy, image: &Image) {
    assert_eq!(copy.manifest(), image.manifest.bytes);
    for blob in &image.blobs {
        assert!(copy.blob(&blob.digest) == blob.bytes, "{} differs", blob.digest);
    }
}

#[test]
fn the_registry_itself_is_private() {
    let Some(stage) = Stage::set() else { return };
    let skopeo = Skopeo::new();
    let image = format!("{}/{APP}:1", stage.registry.address());
    let (refused, _) = skopeo.copy(&image, &[]);
    assert!(refused.expect_error().contains("unauthorized"));
    let (allowed, copy) = skopeo.copy(&image, &["--src-creds", &format!("{USERNAME}:{SECRET}")]);
    allowed.expect_ok();
    assert_same(&copy, &stage.app);
}

#[test]
fn skopeo_copies_a_private_image_by_tag_and_by_digest() {
    let Some(stage) = Stage::set() else { return };
    let skopeo = Skopeo::new();
    for reference in ["team/app:1", &format!("team/app@{}", stage.app.manifest.digest)] {
        let (outcome, copy) = skopeo.copy(&stage.named(reference), &[]);
        outcome.expect_ok();
        assert_same(&copy, &stage.app);
    }
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn skopeo_copies_a_public_image_for_which_the_proxy_holds_no_credential() {
    let Some(stage) = Stage::set() else { return };
    let (outcome, copy) = Skopeo::new().copy(&format!("{}/public-example/app:1", stage.address()), &[]);
    outcome.expect_ok();
    assert_same(&copy, &stage.app);
    assert_eq!(stage.tokens.requests_for("public/app"), 1);
    assert!(stage.tokens.requests().iter().all(|request| request.username.is_none()));
}

#[test]
fn skopeo_sees_the_exact_bytes_of_an_index() {
    let Some(stage) = Stage::set() else { return };
    let index = &stage.index.document;
    for reference in ["team/multi:1", &format!("team/multi@{}", index.digest)] {
        assert_eq!(Skopeo::new().raw(&stage.named(reference)), index.bytes);
    }
}

#[test]
fn skopeo_copies_an_index_with_every_platform() {
    let Some(stage) = Stage::set() else { return };
    let (outcome, copy) = Skopeo::new().copy(&stage.named("team/multi:1"), &["--all"]);
    outcome.expect_ok();
    assert_eq!(copy.manifest(), stage.index.document.bytes);
    for blob in stage.index.images.iter().flat_map(|image| &image.blobs) {
        assert!(copy.blob(&blob.digest) == blob.bytes, "{} differs", blob.digest);
    }
    assert_eq!(stage.tokens.requests_for(MULTI), 1);
}

#[test]
fn after_a_restart_a_cached_image_is_copied_without_asking_upstream_for_a_blob() {
    let Some(mut stage) = Stage::set() else { return };
    let skopeo = Skopeo::new();
    let (first, _) = skopeo.copy(&stage.named("team/app:1"), &[]);
    first.expect_ok();
    let before = stage.registry.blob_requests();
    stage.restart();
    let (second, copy) = skopeo.copy(&stage.named("team/app:1"), &[]);
    second.expect_ok();
    assert_same(&copy, &stage.app);
    assert_eq!(stage.registry.blob_requests(), before);
}

#[test]
fn skopeo_says_that_an_image_does_not_exist() {
    let Some(stage) = Stage::set() else { return };
    let (outcome, _) = Skopeo::new().copy(&stage.named("team/app:nowhere"), &[]);
    let said = outcome.expect_error();
    assert!(said.contains("manifest unknown"), "{said}");
}
