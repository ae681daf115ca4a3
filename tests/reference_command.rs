//! `transship ref` prints a reference that pulls, or says why there is none.

use std::fs;
use std::process::Output;

use crate::support::digest::noise;
use crate::support::process::bounded;
use crate::support::proxy::{Setup, credential};
use crate::support::upstream::{Guard, Upstream};

const CONFIG: &str = r#"
[server]
public_url = "https://proxy.example.com"
[server.tls]
certificate = "/absent/server.crt"
key = "/absent/server.key"
[[registry]]
name = "docker-hub"
kind = "docker-hub"
default = true
[[registry]]
name = "My-Example-GHCR"
kind = "ghcr"
organization = "example-org"
email = "dev@example.com"
password = { file = "/absent/secret" }
"#;

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn reference(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("transship.toml"), config).unwrap();
    let mut command = bounded(env!("CARGO_BIN_EXE_transship"), home.path());
    command.args(["ref", "--config", "transship.toml"]).args(arguments).envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

#[test]
fn the_reference_is_printed_without_the_secrets_and_files_of_the_proxy() {
    for (arguments, expected) in [
        (&["alpine"][..], "proxy.example.com/docker-hub/library/alpine\n"),
        (
            &["ghcr.io/example-org/streamlit-app:latest", "--registry", "my-example-ghcr"],
            "proxy.example.com/my-example-ghcr/streamlit-app:latest\n",
        ),
        (&["proxy.example.com/my-example-ghcr/a"], "proxy.example.com/my-example-ghcr/a\n"),
    ] {
        let said = reference(CONFIG, arguments, &[]);
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), expected, ""));
    }
}

#[test]
fn without_a_configuration_there_is_docker_hub() {
    let home = tempfile::tempdir().unwrap();
    let mut command = bounded(env!("CARGO_BIN_EXE_transship"), home.path());
    let output = command.args(["ref", "tensorflow/tensorflow:2.7.0-gpu-jupyter"]).output().unwrap();
    assert_eq!(output.stdout, b"localhost:5000/docker-hub/tensorflow/tensorflow:2.7.0-gpu-jupyter\n");
}

#[test]
fn a_refusal_says_why_and_ends_with_1() {
    for (arguments, pieces) in [
        (
            &["alpine", "--registry", "dokcer-hub"][..],
            &["there is no registry `dokcer-hub`", "did you mean `docker-hub`?"][..],
        ),
        (&["quay.io/a/b"], &["no registry is configured for quay.io"]),
        (&["ghcr.io/example-org/a", "--registry", "docker-hub"], &["it belongs to registry `My-Example-GHCR`"]),
        (&["ghcr.io/Example-Org/a"], &["image names are lower case"]),
    ] {
        let said = reference(CONFIG, arguments, &[]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        // A terminal's lines are broken where they are full.
        let words: Vec<&str> = said.stderr.split_whitespace().filter(|word| !["×", "│"].contains(word)).collect();
        for piece in pieces {
            assert!(words.join(" ").contains(piece), "{}", said.stderr);
        }
    }
    let said = reference(CONFIG, &["alpine"], &[("TRANSSHIP_SERVER_PUBLIC_URL", "https://example.com/images")]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("public_url"), "{}", said.stderr);
}

#[test]
fn the_printed_reference_pulls_the_image() {
    let upstream = Upstream::start();
    upstream.guard(Guard::Token);
    let manifest = upstream.image("team/app", "1", &[&noise(1, 10_000)]);
    let public = upstream.image("library/alpine", "3", &[]);
    let open = Upstream::start();
    open.image("library/alpine", "3", &[]);
    let keys = format!("namespace = \"team\"\naccess = \"anyone\"\n{}", credential());
    let proxy = Setup::open(&open).registry("My-Team", &upstream, &keys).start();
    let config = format!(
        "[[registry]]\nname = \"sample\"\nkind = \"generic\"\nurl = \"{}\"\ninsecure = true\ndefault = true\n\
         allow_private = [\"127.0.0.0/8\"]\n[[registry]]\nname = \"My-Team\"\nkind = \"generic\"\nurl = \"{}\"\n\
         insecure = true\nallow_private = [\"127.0.0.0/8\"]\n{keys}\n",
        open.origin(),
        upstream.origin()
    );
    let url = format!("http://{}", proxy.address());
    let environment = [("TRANSSHIP_SERVER_PUBLIC_URL", url.as_str())];
    let image = format!("{}/team/app:1", upstream.address());
    for (arguments, expected) in
        [(&[image.as_str(), "--registry", "My-Team"][..], &manifest), (&["alpine:3"], &public), (&[&image], &manifest)]
    {
        let said = reference(&config, arguments, &environment);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let name = said.stdout.trim().strip_prefix(&format!("{}/", proxy.address())).unwrap();
        let (name, tag) = name.rsplit_once(':').unwrap();
        let answer = proxy.get(&format!("/v2/{name}/manifests/{tag}"));
        assert_eq!((answer.status, &answer.body), (200, expected), "{}", said.stdout);
    }
}
