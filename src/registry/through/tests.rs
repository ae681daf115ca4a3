use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::Settings;

/// One registry of each form of the documentation, Docker Hub as a whole, and
/// an internal one with a port.
const REGISTRIES: &str = r#"
[[registry]]
name = "docker-hub"
kind = "docker-hub"
default = true
[[registry]]
name = "My-Example-DO-Registry"
kind = "digitalocean"
registry_name = "your-registry-name"
[[registry]]
name = "My-Example-DockerHub-Repository"
kind = "docker-hub"
namespace = "example-repository"
[[registry]]
name = "My-Example-GCR"
kind = "google"
region = "us-west1"
project = "project-name"
[[registry]]
name = "My-Example-GHCR"
kind = "ghcr"
organization = "example-org"
hosts = ["ghcr.proxy.example"]
[[registry]]
name = "My-Example-ACR"
kind = "azure"
url = "https://example-registry.azurecr.io"
namespace = "/"
[[registry]]
name = "internal"
kind = "generic"
url = "https://registry.internal:5000"
namespace = "team"
"#;

fn of(text: &str, url: &str) -> Through {
    let settings = Settings::parse("t.toml", text, &BTreeMap::new()).unwrap();
    Through::new(&url.parse().unwrap(), settings.registries).unwrap()
}

fn through() -> Through {
    of(REGISTRIES, "http://localhost:5000")
}

#[test]
fn every_pair_of_the_documentation_has_its_reference() {
    for (image, registry, expected) in [
        (
            "registry.digitalocean.com/your-registry-name/image:tag",
            "My-Example-DO-Registry",
            "localhost:5000/my-example-do-registry/image:tag",
        ),
        (
            "example-repository/streamlit-app:latest",
            "My-Example-DockerHub-Repository",
            "localhost:5000/my-example-dockerhub-repository/streamlit-app:latest",
        ),
        (
            "us-west1-docker.pkg.dev/project-name/repo-name/image:tag",
            "My-Example-GCR",
            "localhost:5000/my-example-gcr/repo-name/image:tag",
        ),
        (
            "ghcr.io/example-org/streamlit-app:latest",
            "My-Example-GHCR",
            "localhost:5000/my-example-ghcr/streamlit-app:latest",
        ),
        (
            "example-registry.azurecr.io/streamlit-app:latest",
            "My-Example-ACR",
            "localhost:5000/my-example-acr/streamlit-app:latest",
        ),
        // Names match without regard to case.
        ("ghcr.io/example-org/a", "my-EXAMPLE-ghcr", "localhost:5000/my-example-ghcr/a"),
        ("docker.io/alpine", "docker-hub", "localhost:5000/docker-hub/library/alpine"),
    ] {
        assert_eq!(through().reference(image, Some(registry)).as_deref(), Ok(expected));
        assert_eq!(through().reference(expected, None).as_deref(), Ok(expected), "and stays as it is");
        assert_eq!(through().reference(expected, Some(registry)).as_deref(), Ok(expected));
    }
}

#[test]
fn an_image_without_a_connection_goes_through_the_registry_that_answers_for_it() {
    let digest = format!("@sha256:{}", "a".repeat(64));
    for (image, expected) in [
        ("paperspace/gradient-sdk", "docker-hub/paperspace/gradient-sdk"),
        ("tensorflow/tensorflow:2.7.0-gpu-jupyter", "docker-hub/tensorflow/tensorflow:2.7.0-gpu-jupyter"),
        ("alpine", "docker-hub/library/alpine"),
        ("index.docker.io/library/alpine:3", "docker-hub/library/alpine:3"),
        // As for a mirror request: the longest prefix.
        ("example-repository/app", "my-example-dockerhub-repository/app"),
        ("registry.internal:5000/team/app:1", "internal/app:1"),
        // A repository that is called as a registry is.
        ("internal/app", "docker-hub/internal/app"),
        // A first part with a dot is taken for a host only where it is one.
        ("ghcr.io/example-org/v1.2/app", "my-example-ghcr/v1.2/app"),
        (&format!("alpine:3{digest}"), &format!("docker-hub/library/alpine:3{digest}")),
    ] {
        assert_eq!(through().reference(image, None), Ok(format!("localhost:5000/{expected}")));
    }
    assert_eq!(through().reference("ghcr.proxy.example/app:1", None).as_deref(), Ok("ghcr.proxy.example/app:1"));
}

#[test]
fn the_default_registry_takes_what_a_docker_daemon_would_ask_it_for() {
    let text =
        "[[registry]]\nname = \"corner\"\nkind = \"generic\"\nurl = \"https://mirror.internal\"\ndefault = true\n";
    let through = of(text, "http://localhost:5000");
    assert_eq!(through.reference("alpine:3", None).as_deref(), Ok("localhost:5000/corner/library/alpine:3"));
    assert!(matches!(through.reference("ghcr.io/a/b", None), Err(TurnError::HostUnknown { .. })));
    let part = "[[registry]]\nname = \"ours\"\nkind = \"docker-hub\"\nnamespace = \"ours\"\n";
    let through = of(part, "http://localhost:5000");
    assert!(matches!(through.reference("alpine:3", None), Err(TurnError::NotCovered { .. })));
}

#[test]
fn a_refusal_says_why_and_what_would_fit() {
    for (image, registry, message, fix) in [
        (
            "ghcr.io/example-org/a",
            Some("My-Exmple-GHCR"),
            "there is no registry `My-Exmple-GHCR`",
            "did you mean `My-Example-GHCR`?",
        ),
        (
            "ghcr.io/example-org/a",
            Some("ghcr.io"),
            "there is no registry `ghcr.io`",
            "the registries are `docker-hub`, ",
        ),
        (
            "ghcr.io/example-org/a",
            Some("internal"),
            "`ghcr.io/example-org/a` is no image of registry `internal`, which is registry.internal:5000/team",
            "it belongs to registry `My-Example-GHCR`",
        ),
        (
            "ghcr.io/other-org/a",
            Some("My-Example-GHCR"),
            "`ghcr.io/other-org/a` is no image of registry `My-Example-GHCR`, which is ghcr.io/example-org",
            "no other registry covers it",
        ),
        (
            "streamlit-app",
            Some("My-Example-GHCR"),
            "`docker.io/library/streamlit-app` is no image of registry `My-Example-GHCR`",
            "it belongs to registry `docker-hub`",
        ),
        ("quay.io/org/a", None, "no registry is configured for quay.io", "add a registry for quay.io"),
        ("ghcr.io/other-org/a", None, "no registry covers `ghcr.io/other-org/a`", "covered are `ghcr.io/example-org`"),
        ("ghcr.io/Example-Org/a", None, "image names are lower case: `ghcr.io/example-org/a`", ""),
        ("localhost:5000/my-example-ghcr/a", Some("internal"), "no image of registry `internal`", "`My-Example-GHCR`"),
    ] {
        let error = through().reference(image, registry).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.fix().unwrap_or_default().contains(fix), "{error}: {:?}", error.fix());
    }
    let unserved = of("docker_hub = false\n[[registry]]\nname = \"g\"\nkind = \"ghcr\"\n", "http://localhost:5000");
    assert!(matches!(unserved.reference("localhost:5000/gone/a", None), Err(TurnError::NotServed { .. })));
}

#[test]
fn the_public_url_becomes_the_host_of_references() {
    for (url, host) in [
        ("http://localhost:5000", "localhost:5000"),
        ("https://proxy.example.com", "proxy.example.com"),
        ("https://proxy.example.com:443/", "proxy.example.com"),
        ("http://proxy.example.com:443/", "proxy.example.com:443"),
        // Runtimes read a first part without dot and colon as a name on Docker Hub.
        ("https://transship", "transship:443"),
        ("http://transship", "transship:80"),
        ("http://[::1]:5000", "[::1]:5000"),
    ] {
        let reference = of(REGISTRIES, url).reference("alpine:3", None).unwrap();
        assert_eq!(reference, format!("{host}/docker-hub/library/alpine:3"));
        assert_eq!(of(REGISTRIES, url).reference(&reference, None), Ok(reference));
    }
    let path = "https://example.com/images".parse().unwrap();
    assert!(Through::new(&path, vec![]).unwrap_err().to_string().contains("must have no path"));
}

/// A registry of any kind, and an image's repository below its prefix.
fn any_registry() -> impl Strategy<Value = (String, &'static str)> {
    let prefix = prop::sample::select(vec!["", "team", "a/b", "v1.2", "localhost", "a.b/c"]);
    (0..6_usize, prefix).prop_map(|(kind, prefix)| match kind {
        0 => (format!("kind = \"docker-hub\"\nnamespace = \"{prefix}\""), "docker.io"),
        1 => (format!("kind = \"ghcr\"\norganization = \"{prefix}\""), "ghcr.io"),
        2 => (format!("kind = \"quay\"\norganization = \"{prefix}\""), "quay.io"),
        3 => (format!("kind = \"gitlab\"\nnamespace = \"{prefix}\""), "registry.gitlab.com"),
        4 => (
            format!("kind = \"generic\"\nurl = \"https://r.internal:5000\"\nnamespace = \"{prefix}\""),
            "r.internal:5000",
        ),
        _ => (format!("kind = \"azure\"\nurl = \"https://x.azurecr.io\"\nnamespace = \"{prefix}\""), "x.azurecr.io"),
    })
}

proptest! {
    #[test]
    fn a_reference_resolves_to_what_it_was_made_for(
        (keys, host) in any_registry(),
        others in prop::collection::vec(any_registry(), 0..3),
        repository in "(team/|a/b/|v1\\.2/|a\\.b/c/|reg-1/|library/|localhost/)?[a-z]{1,3}(\\.[a-z]{1,3})?(/[a-z]{1,3}){0,2}",
        named in any::<bool>(),
    ) {
        let mut text = format!("[[registry]]\nname = \"Reg 1\"\n{keys}\n");
        for (index, (keys, _)) in others.iter().enumerate() {
            text += &format!("[[registry]]\nname = \"Other {index}\"\n{keys}\n");
        }
        let through = of(&text, "http://localhost:5000");
        let image = format!("{host}/{repository}");
        match through.turn(&image, named.then_some("Reg 1")) {
            Ok(turned) => {
                let address = turned.name.strip_prefix("localhost:5000/").unwrap().parse().unwrap();
                let address = Address { name: address, hint: AddressHint::default() };
                let meant = through.directory.resolve(&address, |_, _| false).unwrap();
                prop_assert_eq!(&meant.repository, &ImageLocation::of(&image).unwrap().repository);
                prop_assert_eq!(&meant.registry.name, &turned.registry.name);
                prop_assert!(!named || turned.registry.name.slug() == "reg-1");
                // Turned again, it stays.
                prop_assert!(through.turn(&turned.name, None).unwrap().unchanged);
            }
            // Only a host with a port stands in nobody's repository name.
            Err(TurnError::NotReferable { .. }) => prop_assert_eq!(host, "r.internal:5000"),
            Err(TurnError::NotOfRegistry { .. }) => prop_assert!(named),
            Err(TurnError::NotCovered { .. }) => prop_assert!(!named),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }
}
