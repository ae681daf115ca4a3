//! containerd: images keep their own names, `hosts.toml` says where to ask.

use super::stage::{APP, MULTI, NAME, Stage};
use crate::support::process::{Outcome, bounded, state_dir};
use crate::support::real::available;
use crate::support::real::containerd::Containerd;
use crate::support::real::images::GREETING;

/// The name of `image` at the registry itself, and containerd told to ask the
/// proxy, at `path`, for the images of that registry.
fn mirrored(stage: &Stage, path: &str, image: &str) -> (Containerd, String) {
    let containerd = Containerd::start();
    let host = stage.registry.address().to_string();
    containerd.mirror(&host, &format!("{}{path}", stage.mirror()));
    (containerd, format!("{host}/{image}"))
}

#[test]
fn containerd_pulls_a_private_image_by_its_own_name_with_ns_and_runs_it() {
    let Some(stage) = Stage::set() else { return };
    let (containerd, image) = mirrored(&stage, "", "team/app:1");
    containerd.pull(&image, &[]).expect_ok();
    assert!(containerd.content().contains(&stage.app.manifest.digest));
    assert_eq!(containerd.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn containerd_pulls_its_platform_of_an_index_with_ns_and_runs_it() {
    let Some(stage) = Stage::set() else { return };
    let (containerd, image) = mirrored(&stage, "", "team/multi:1");
    containerd.pull(&image, &[]).expect_ok();
    let index = &stage.index.document;
    assert_eq!(containerd.bytes(&index.digest), index.bytes);
    assert_eq!(containerd.run(&image), GREETING);
    stage.assert_fetched_once(MULTI, &stage.index.images[0]);
}

#[test]
fn containerd_pulls_every_platform_of_an_index() {
    let Some(stage) = Stage::set() else { return };
    let (containerd, image) = mirrored(&stage, "", "team/multi:1");
    containerd.pull(&image, &["--all-platforms"]).expect_ok();
    let content = containerd.content();
    for blob in stage.index.images.iter().flat_map(|image| &image.blobs) {
        assert!(content.contains(&blob.digest), "{} is not in {content:#?}", blob.digest);
        assert_eq!(stage.registry.blob_gets(&blob.digest), 1);
    }
}

#[test]
fn containerd_pulls_through_the_name_of_a_registry_before_v2() {
    let Some(stage) = Stage::set() else { return };
    let (containerd, image) = mirrored(&stage, &format!("/{NAME}"), "team/app:1");
    containerd.pull(&image, &[]).expect_ok();
    assert_eq!(containerd.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn a_second_containerd_asks_upstream_for_no_blob() {
    let Some(stage) = Stage::set() else { return };
    for _ in 0..2 {
        let (containerd, image) = mirrored(&stage, "", "team/app:1");
        containerd.pull(&image, &[]).expect_ok();
    }
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn containerd_says_that_an_image_does_not_exist() {
    let Some(stage) = Stage::set() else { return };
    let (containerd, image) = mirrored(&stage, "", "team/app:nowhere");
    let said = containerd.pull(&image, &[]).expect_error();
    assert!(said.contains(&format!("{image}: not found")), "{said}");
}

#[test]
fn an_ns_that_nobody_configured_is_not_found_and_asks_upstream_nothing() {
    let Some(stage) = Stage::set() else { return };
    let containerd = Containerd::start();
    containerd.mirror("registry.example", &stage.mirror());
    let before = stage.registry.requests();
    let said = containerd.pull("registry.example/team/app:1", &[]).expect_error();
    assert!(said.contains("registry.example/team/app:1: not found"), "{said}");
    assert_eq!(stage.registry.requests(), before);
    assert_eq!(stage.tokens.requests(), []);
}

#[test]
fn containerd_reads_hosts_toml_only_with_the_configuration_that_the_docs_show() {
    if !available() {
        return;
    }
    let dir = state_dir();
    let containerd =
        |arguments: &[&str]| Outcome::of(bounded("containerd", dir.path()).args(arguments)).expect_ok().text();
    let config_path = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("config_path"));
        lines.map(|line| line.replace('\'', "\"")).collect()
    };
    let guide = include_str!("../../docs/runtimes.md");
    let default = containerd(&["config", "default"]);
    let version = default.lines().find_map(|line| line.strip_prefix("version = ")).unwrap();
    let mut recipes = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let recipe = recipes.find(|recipe| recipe.starts_with(&format!("version = {version}\n"))).unwrap();
    let wanted = "config_path = \"/etc/containerd/certs.d\"";
    assert!(config_path(&default).iter().all(|line| line != wanted), "{default}");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, recipe).unwrap();
    let understood = containerd(&["--config", &file.display().to_string(), "config", "dump"]);
    assert!(config_path(&understood).iter().any(|line| line == wanted), "{understood}");
}
