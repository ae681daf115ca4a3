use super::*;
use crate::registry::{AccessMode, EgressSettings, Form, Value};

fn registry(name: &str, kind: Kind, fields: &[(&str, &str)]) -> Registry {
    let mut form = Form::new(kind);
    for (field, value) in fields {
        form.set(field, Value::Text((*value).into())).unwrap();
    }
    let connection = form.connect().unwrap();
    Registry {
        name: name.parse().unwrap(),
        kind,
        origin: connection.origin,
        endpoints: vec![],
        image_hosts: connection.image_hosts,
        prefix: connection.prefix,
        known_realms: connection.known_realms,
        credential: connection.credential,
        access: AccessMode::Anyone,
        is_default: name == "docker-hub",
        owner: Default::default(),
        is_implied: false,
        hosts: if name == "ghcr-public" { vec!["ghcr.proxy.example".parse().unwrap()] } else { vec![] },
        egress: EgressSettings::default(),
        tag_ttl: std::time::Duration::ZERO,
        immutable_tags: vec![],
        stale_if_error: std::time::Duration::ZERO,
        offline: false,
        links: crate::registry::LinkSettings::for_credential(&crate::registry::Credential::Anonymous),
        quota: None,
    }
}

fn directory() -> Directory {
    Directory::new(
        [
            registry("docker-hub", Kind::DockerHub, &[]),
            registry("My-Hub-Team", Kind::DockerHub, &[("namespace", "example-repository")]),
            registry("ghcr-public", Kind::Ghcr, &[]),
            registry("My-Example-GHCR", Kind::Ghcr, &[("organization", "example-org")]),
            registry("ghcr-app", Kind::Ghcr, &[("organization", "example-org/app")]),
            registry("internal", Kind::Generic, &[("url", "https://registry.internal:5000"), ("namespace", "team")]),
        ]
        .map(Arc::new)
        .into(),
    )
}

/// Resolves `before_v2|name|ns|host` and prints `registry repository`.
fn resolve(before: &str, name: &str, ns: &str, host: &str) -> String {
    let address = Address {
        name: name.parse().unwrap(),
        hint: AddressHint {
            before_v2: Some(before.to_owned()).filter(|b| !b.is_empty()),
            ns: ns.parse().ok(),
            host: host.parse().ok(),
            door: Door::Main,
        },
    };
    match directory().resolve(&address, |_, _| false) {
        Ok(found) => {
            format!("{} {}{}", found.registry.name, found.repository, if found.by_ns { " ns" } else { "" })
        }
        Err(DirectoryError::Unknown) => "unknown".into(),
    }
}

#[test]
fn every_style_of_address_finds_its_registry() {
    for (before, name, ns, host, expected) in [
        // root mirror
        ("", "library/alpine", "", "", "docker-hub library/alpine"),
        ("", "alpine", "", "", "docker-hub library/alpine"),
        ("", "example-repository/streamlit-app", "", "", "My-Hub-Team example-repository/streamlit-app"),
        // ns
        ("", "library/alpine", "docker.io", "", "docker-hub library/alpine ns"),
        ("", "library/alpine", "registry-1.docker.io", "", "docker-hub library/alpine ns"),
        ("", "example-org/web", "ghcr.io", "", "My-Example-GHCR example-org/web ns"),
        ("", "app", "registry.internal:5000", "", "unknown"),
        ("", "team/app", "registry.internal:5000", "", "internal team/app ns"),
        // host in the path
        ("", "ghcr.io/example-org/web", "", "", "My-Example-GHCR example-org/web"),
        ("", "ghcr.io/example-org/app/x", "", "", "ghcr-app example-org/app/x"),
        ("", "ghcr.io/example-orgs/web", "", "", "ghcr-public example-orgs/web"),
        ("", "docker.io/alpine", "", "", "docker-hub library/alpine"),
        // name in the path
        ("", "my-example-ghcr/web", "", "", "My-Example-GHCR example-org/web"),
        ("", "docker-hub/alpine", "", "", "docker-hub library/alpine"),
        ("", "internal/app", "docker.io", "", "docker-hub internal/app ns"),
        ("", "internal/library/app", "docker.io", "", "internal team/library/app"),
        ("", "internal/v2/library/app", "docker.io", "", "internal team/library/app"),
        ("", "internal/app", "registry.internal:5000", "", "internal team/app"),
        // name and full image
        ("", "my-example-ghcr/ghcr.io/example-org/web", "", "", "My-Example-GHCR example-org/web"),
        ("", "docker-hub/docker.io/alpine", "", "", "docker-hub library/alpine"),
        // before /v2
        ("My-Example-GHCR", "web", "", "", "My-Example-GHCR example-org/web"),
        ("ghcr.io", "example-org/web", "", "", "My-Example-GHCR example-org/web"),
        ("registry.internal:5000", "team/app", "", "", "internal team/app"),
        ("docker-hub", "library/alpine", "docker.io", "", "docker-hub library/alpine"),
        // virtual host
        ("", "other/app", "", "ghcr.proxy.example", "ghcr-public other/app"),
        ("", "other/app", "", "ghcr.proxy.example:5000", "ghcr-public other/app"),
        ("", "library/alpine", "", "localhost:5000", "docker-hub library/alpine"),
    ] {
        assert_eq!(resolve(before, name, ns, host), expected, "{before}|{name}|{ns}|{host}");
    }
}

#[test]
fn what_nobody_configured_is_unknown() {
    for (before, name, ns) in [
        ("", "library/alpine", "169.254.169.254"),
        ("", "library/alpine", "localhost:6379"),
        ("", "quay.io/org/app", ""),
        ("", "localhost/app", ""),
        ("nowhere", "app", ""),
        ("quay.io", "org/app", ""),
    ] {
        assert_eq!(resolve(before, name, ns, ""), "unknown", "{before}|{name}|{ns}");
    }
}

#[test]
fn a_registry_named_with_an_image_of_another_host_or_prefix_is_refused() {
    for name in [
        "my-example-ghcr/docker.io/library/alpine",
        "my-example-ghcr/ghcr.io/other-org/web",
        "internal/ghcr.io/team/app",
    ] {
        assert_eq!(resolve("", name, "", ""), "unknown", "{name}");
    }
    // A host that nobody serves is the beginning of a repository.
    let dotted = resolve("", "my-example-ghcr/v1.2/app", "", "");
    assert_eq!(dotted, "My-Example-GHCR example-org/v1.2/app");
}

#[test]
fn of_equal_prefixes_the_granted_one_wins_then_configuration_order() {
    let directory =
        Directory::new([registry("first", Kind::Ghcr, &[]), registry("second", Kind::Ghcr, &[])].map(Arc::new).into());
    let address = Address { name: "ghcr.io/a/b".parse().unwrap(), hint: AddressHint::default() };
    let chosen =
        |granted: &str| directory.resolve(&address, |r, _| r.name.slug() == granted).unwrap().registry.name.to_string();
    assert_eq!(chosen(""), "first");
    assert_eq!(chosen("second"), "second");
}

#[test]
fn pings_are_about_the_addressed_registry() {
    let directory = directory();
    let ping = |before: &str| {
        let hint =
            AddressHint { before_v2: Some(before.into()).filter(|b: &String| !b.is_empty()), ..AddressHint::default() };
        directory.resolve_ping(&hint).map(|found| found.map(|registry| registry.name.slug().to_owned()))
    };
    assert_eq!(ping(""), Ok(Some("docker-hub".into())));
    assert_eq!(ping("ghcr.io"), Ok(Some("ghcr-public".into())));
    assert_eq!(ping("internal"), Ok(Some("internal".into())));
    assert_eq!(ping("nowhere"), Err(DirectoryError::Unknown));
}
