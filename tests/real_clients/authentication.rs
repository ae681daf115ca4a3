//! Real clients that show who they are, as `docs/clients.md` says: a login, a
//! header, a certificate.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use serde_json::json;

use super::stage::{APP, Guard, Stage};
use crate::clients::{Authority, Pair, with_password};
use crate::support::process::state_dir;
use crate::support::real::containerd::Containerd;
use crate::support::real::dockerd::Docker;
use crate::support::real::images::GREETING;
use crate::support::real::podman::Podman;
use crate::support::real::skopeo::Skopeo;

const PASSWORD: &str = "client-canary-password";

/// A proxy that wants a login of `ci`.
fn with_login() -> Option<Stage> {
    let clients = with_password("ci", PASSWORD, "my-example-registry/**");
    Stage::guarded(Guard { server: String::new(), clients, beside_open: false })
}

#[test]
fn docker_login_works_and_a_wrong_password_does_not() {
    let Some(stage) = with_login() else { return };
    let docker = Docker::start(&json!({}));
    let (host, image) = (stage.address().to_string(), stage.named("team/app:1"));
    docker.pull(&image).expect_error();
    let said = docker.login(&host, "ci", "wrong").expect_error();
    assert!(said.to_lowercase().contains("unauthorized"), "{said}");
    assert!(docker.login(&host, "ci", PASSWORD).expect_ok().text().contains("Login Succeeded"));
    docker.pull(&image).expect_ok();
    assert_eq!(docker.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
    assert!(!stage.log().contains(PASSWORD));
}

/// A proxy with an open default registry, and one that wants a login of `ci`.
fn beside_an_open_one() -> Option<Stage> {
    let clients = with_password("ci", PASSWORD, "my-example-registry/**");
    Stage::guarded(Guard { server: String::new(), clients, beside_open: true })
}

#[test]
fn docker_login_beside_an_open_default_fails_when_wrong_and_pulls_when_right() {
    let Some(stage) = beside_an_open_one() else { return };
    let docker = Docker::start(&json!({"registry-mirrors": [stage.mirror()]}));
    let (host, private) = (stage.address().to_string(), stage.named("team/app:1"));
    // Nobody needs a login for what is open, by name or through the mirror.
    docker.pull(&format!("{host}/open-example/team/app:1")).expect_ok();
    docker.pull(&format!("{APP}:1")).expect_ok();
    docker.pull(&private).expect_error();
    for (user, password) in [("ci", "wrong"), ("nobody", PASSWORD)] {
        let said = docker.login(&host, user, password).expect_error();
        assert!(said.to_lowercase().contains("unauthorized"), "{said}");
    }
    assert!(docker.login(&host, "ci", PASSWORD).expect_ok().text().contains("Login Succeeded"));
    docker.pull(&private).expect_ok();
    docker.pull(&format!("{host}/open-example/team/app:1")).expect_ok();
    assert_eq!(docker.run(&private), GREETING);
    assert!(!stage.log().contains(PASSWORD));
}

#[test]
fn docker_pulls_from_a_mirror_of_its_own_and_by_name_from_the_other_listener() {
    let clients = with_password("ci", PASSWORD, "my-example-registry/**");
    let server = "mirror_listen = \"127.0.0.1:0\"\n".to_owned();
    let Some(stage) = Stage::guarded(Guard { server, clients, beside_open: true }) else { return };
    let docker = Docker::start(&json!({"registry-mirrors": [stage.mirror_alone()]}));
    docker.pull(&format!("{APP}:1")).expect_ok();
    assert_eq!(docker.run(&format!("{APP}:1")), GREETING);
    let host = stage.address();
    docker.pull(&format!("{host}/open-example/{APP}:1")).expect_ok();
    docker.pull(&format!("{host}/{APP}:1")).expect_error();
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn podman_and_skopeo_pull_what_is_open_without_a_login_and_the_rest_with_one() {
    let Some(stage) = beside_an_open_one() else { return };
    let (host, private) = (stage.address().to_string(), stage.named("team/app:1"));
    let open = format!("{host}/open-example/team/app:1");
    let podman = Podman::new("");
    podman.podman(&["pull", "--tls-verify=false", &open]).expect_ok();
    podman.podman(&["pull", "--tls-verify=false", &private]).expect_error();
    let auth = podman.file("auth.json");
    let login = |password: &str| {
        let words =
            ["login", "--tls-verify=false", "--authfile", &auth, "--username", "ci", "--password", password, &host];
        podman.podman(&words)
    };
    login("wrong").expect_error();
    login(PASSWORD).expect_ok();
    podman.podman(&["pull", "--tls-verify=false", "--authfile", &auth, &private]).expect_ok();
    assert_eq!(podman.run(&private), GREETING);

    let skopeo = Skopeo::new();
    let inspect = |image: &str, more: &[&str]| {
        let image = format!("docker://{image}");
        skopeo.skopeo(&[&["inspect", "--tls-verify=false"], more, &[&image]].concat())
    };
    inspect(&open, &[]).expect_ok();
    inspect(&private, &[]).expect_error();
    inspect(&private, &["--creds", "ci:wrong"]).expect_error();
    inspect(&private, &["--creds", &format!("ci:{PASSWORD}")]).expect_ok();
}

#[test]
fn containerd_pulls_with_a_login_and_what_is_open_without() {
    let Some(stage) = beside_an_open_one() else { return };
    let containerd = Containerd::start();
    let host = stage.registry.address().to_string();
    let image = format!("{host}/team/app:1");
    let private = format!("{}/v2/my-example-registry", stage.mirror());
    containerd.mirror_with(&host, &private, "override_path = true\n");
    containerd.pull(&image, &[]).expect_error();
    containerd.pull(&image, &["--user", "ci:wrong"]).expect_error();
    containerd.pull(&image, &["--user", &format!("ci:{PASSWORD}")]).expect_ok();
    assert_eq!(containerd.run(&image), GREETING);
    containerd.ctr(&["images", "rm", "--sync", &image]).expect_ok();
    let open = format!("{}/v2/open-example", stage.mirror());
    containerd.mirror_with(&host, &open, "override_path = true\n");
    containerd.pull(&image, &[]).expect_ok();
}

#[test]
fn a_docker_daemon_pulls_through_a_mirror_with_the_login_kept_where_docker_hubs_would_be() {
    let Some(stage) = with_login() else { return };
    let docker = Docker::start(&json!({"registry-mirrors": [stage.mirror()]}));
    let image = format!("{APP}:1");
    docker.store_login("https://index.docker.io/v1/", "ci", PASSWORD);
    docker.pull(&image).expect_ok();
    assert_eq!(docker.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn containerd_pulls_with_a_header_and_not_without() {
    let Some(stage) = with_login() else { return };
    let containerd = Containerd::start();
    let host = stage.registry.address().to_string();
    let image = format!("{host}/team/app:1");
    containerd.mirror(&host, &stage.mirror());
    containerd.pull(&image, &[]).expect_error();
    let value = base64::engine::general_purpose::STANDARD.encode(format!("ci:{PASSWORD}"));
    let header = format!("[host.'{}'.header]\nAuthorization = 'Basic {value}'\n", stage.mirror());
    containerd.mirror_with(&host, &stage.mirror(), &header);
    containerd.pull(&image, &[]).expect_ok();
    assert_eq!(containerd.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn podman_pulls_with_creds_and_through_a_mirror_with_a_stored_login() {
    let Some(stage) = with_login() else { return };
    let image = stage.named("team/app:1");
    let podman = Podman::new("");
    podman.podman(&["pull", "--tls-verify=false", &image]).expect_error();
    podman.podman(&["pull", "--tls-verify=false", "--creds", &format!("ci:{PASSWORD}"), &image]).expect_ok();
    assert_eq!(podman.run(&image), GREETING);

    let podman = Podman::new(&format!(
        "[[registry]]\nprefix = 'registry.example'\nlocation = '127.0.0.1:1'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{}/my-example-registry'\ninsecure = true\n",
        stage.address()
    ));
    let auth = podman.file("auth.json");
    let login = ["login", "--tls-verify=false", "--authfile", &auth, "--username", "ci", "--password", PASSWORD];
    podman.podman(&[&login[..], &[&stage.address().to_string()]].concat()).expect_ok();
    podman.podman(&["pull", "--authfile", &auth, "registry.example/team/app:1"]).expect_ok();
    assert_eq!(podman.run("registry.example/team/app:1"), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

/// A proxy over TLS that knows `ci` by its certificate, and the files that a
/// client needs, in `dir`: `ca.crt`, `client.cert`, `client.key`.
fn with_certificate(dir: &Path) -> Option<Stage> {
    let (servers, clients) = (Authority::new("server authority"), Authority::new("client authority"));
    let (server, ci) = (servers.server(), clients.client("ci"));
    let Pair { certificate, key } = &server;
    let client_dir = dir.join("client");
    fs::create_dir(&client_dir).unwrap();
    for (name, text) in [
        ("server.crt", certificate),
        ("server.key", key),
        ("clients.crt", &clients.pem()),
        ("client/ca.crt", &servers.pem()),
        ("client/client.cert", &ci.certificate),
        ("client/client.key", &ci.key),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let path = |name: &str| dir.join(name);
    let server = format!(
        "[server.tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
        path("server.crt"),
        path("server.key"),
        path("clients.crt")
    );
    let clients =
        "[[client]]\nname = \"ci\"\ncertificate = \"CN=ci\"\ngrants = [\"my-example-registry/**\"]\n".to_owned();
    Stage::guarded(Guard { server, clients, beside_open: false })
}

#[test]
fn containerd_pulls_with_a_client_certificate_and_not_without() {
    let dir = state_dir();
    let Some(stage) = with_certificate(dir.path()) else { return };
    let containerd = Containerd::start();
    let host = stage.registry.address().to_string();
    let (image, mirror) = (format!("{host}/team/app:1"), format!("https://{}", stage.address()));
    let file = |name: &str| dir.path().join("client").join(name).display().to_string();
    let ca = format!("ca = '{}'\n", file("ca.crt"));
    containerd.mirror_with(&host, &mirror, &ca);
    containerd.pull(&image, &[]).expect_error();
    let client = format!("{ca}client = [['{}', '{}']]\n", file("client.cert"), file("client.key"));
    containerd.mirror_with(&host, &mirror, &client);
    containerd.pull(&image, &[]).expect_ok();
    assert_eq!(containerd.run(&image), GREETING);
    stage.assert_fetched_once(APP, &stage.app);
}

#[test]
fn skopeo_copies_with_a_client_certificate_and_not_without() {
    let dir = state_dir();
    let Some(stage) = with_certificate(dir.path()) else { return };
    let skopeo = Skopeo::new();
    let source = format!("docker://{}", stage.named("team/app:1"));
    let certificates = dir.path().join("client");
    let (into, into_too) =
        (format!("dir:{}", dir.path().join("a").display()), format!("dir:{}", dir.path().join("b").display()));
    let copy = |from: &Path, into: &str| {
        skopeo.skopeo(&["copy", "--src-cert-dir", &from.display().to_string(), &source, into])
    };
    copy(&certificates, &into).expect_ok();
    assert_eq!(fs::read(dir.path().join("a/manifest.json")).unwrap(), stage.app.manifest.bytes);
    // Trusting the proxy is not being known to it.
    let stranger = dir.path().join("stranger");
    fs::create_dir(&stranger).unwrap();
    fs::copy(certificates.join("ca.crt"), stranger.join("ca.crt")).unwrap();
    copy(&stranger, &into_too).expect_error();
}
