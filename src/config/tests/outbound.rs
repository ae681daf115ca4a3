//! The way to upstreams: proxies, client certificates, timeouts and bounds.

use std::time::Duration;

use super::mistakes::{GENERIC, one};
use super::{Settings, environment, parse, private, problems};
use crate::registry::{Outbound, Reserve};

/// What the registry of `text`, after `head`, comes to.
fn outbound(head: &str, text: &str) -> Outbound {
    let variables = environment(&[("PROXY_PW", "c4nary")]);
    let settings = Settings::parse("t.toml", &format!("{head}\n{GENERIC}{text}\n"), &variables);
    settings.unwrap_or_else(|errors| panic!("{}", errors.render())).registries[0].egress.outbound.clone()
}

#[test]
fn a_proxy_for_all_is_everyones_unless_it_has_its_own_or_none() {
    let common = "[upstream]\nproxy = \"http://corp:3128\"\nno_proxy = \".internal\"";
    let proxy = outbound(common, "").proxy.unwrap();
    assert_eq!((proxy.to_string().as_str(), proxy.account.is_none()), ("http://corp:3128", true));
    assert!(!proxy.serves(&"https://r.internal".parse().unwrap()));
    let own = outbound(common, "proxy = \"http://other\"").proxy.unwrap();
    assert_eq!(own.to_string(), "http://other:80");
    assert!(own.serves(&"https://r.internal".parse().unwrap()), "its exceptions are its own too");
    assert!(outbound(common, "proxy = \"direct\"").proxy.is_none());
    assert!(outbound("", "").proxy.is_none());
}

#[test]
fn a_proxys_password_comes_from_a_source_and_is_not_printed() {
    let text = "proxy = \"http://u@corp:3128\"\nproxy_password = { env = \"PROXY_PW\" }";
    let outbound = outbound("", text);
    let account = outbound.proxy.clone().unwrap().account.clone().unwrap();
    assert_eq!((account.0.as_str(), account.1.expose()), ("u", "c4nary"));
    assert!(!format!("{outbound:?}").contains("c4nary"));
}

#[test]
fn timeouts_and_bounds_are_what_is_written() {
    let limits =
        "[limits]\nupstream_connect_timeout = \"1s\"\nupstream_low_speed = 0\nupstream_connection_age = \"1m\"";
    let found = outbound(limits, "max_bandwidth = \"50MB/s\"\nrate_limit_reserve = \"25%\"");
    assert_eq!(found.timeouts.connect, Duration::from_secs(1));
    assert_eq!(found.timeouts.first_byte, Duration::from_secs(30));
    assert_eq!((found.timeouts.low_speed, found.timeouts.connection_age), (0, Duration::from_secs(60)));
    assert_eq!((found.max_bandwidth, found.rate_limit_reserve), (Some(50_000_000), Reserve(250)));
}

#[test]
fn what_is_wrong_with_the_way_to_upstreams_is_told_with_its_place() {
    let example = "write it as `http://proxy.example:3128`";
    for (text, place, piece, help) in [
        ("proxy = \"corp\"", (5, 9), example, ""),
        ("proxy = \"http://corp/path\"", (5, 9), example, ""),
        ("proxy = \"https://corp:3128\"", (5, 9), "spoken to in plain HTTP", ""),
        ("proxy = \"socks5://corp:1080\"", (5, 9), "spoken to in plain HTTP", ""),
        ("proxy = \"http://u:c4nary@corp\"", (5, 9), "name its source in `proxy_password`", ""),
        (
            "proxy = \"http://corp\"\nproxy_password = \"c4nary\"",
            (6, 18),
            "is a secret and must not stand",
            "name its source",
        ),
        ("no_proxy = \".internal\"", (5, 12), "registry `r`: `no_proxy` is about a proxy", "add `proxy = "),
        ("proxy = \"http://corp\"\nno_proxy = \"a b\"", (6, 12), "`a b` is no host, domain or network", ""),
        ("max_bandwidth = \"fast\"", (5, 17), "`fast` is no bandwidth; write it as `50MB/s`", ""),
        ("max_bandwidth = \"1KiB/s\"", (5, 17), "it has to be at least `64KiB/s`", ""),
        ("rate_limit_reserve = \"ten\"", (5, 22), "`ten` is no share; write it as `10%`", ""),
        ("client_key = \"nowhere.key\"", (5, 14), "nowhere.key cannot be read", ""),
        ("client_certificate = \"Cargo.toml\"", (5, 22), "Cargo.toml holds no certificate in PEM form", ""),
    ] {
        let all: Vec<String> = problems(&format!("{GENERIC}{text}\n")).iter().map(ToString::to_string).collect();
        assert!(all.iter().all(|said| !said.contains("c4nary")), "{all:?}");
        if !text.starts_with("client_") {
            one(&format!("{GENERIC}{text}\n"), place, piece, help);
            continue;
        }
        assert!(all.iter().any(|said| said.contains(piece)), "{all:?}");
        assert!(all.iter().any(|said| said.contains("needs a `client_")), "one of the two is none: {all:?}");
    }
    one("[upstream]\nproxy = \"x\"\n", (2, 9), example, "");
    one("[upstream]\nprxy = \"x\"\n", (2, 1), "[upstream] has no key `prxy`", "did you mean `proxy`?");
    one("[limits]\nupstream_tls_timeout = \"0s\"\n", (2, 24), "it has to be longer than nothing", "");
}

#[test]
fn a_client_certificate_needs_its_own_key_and_that_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        let pair = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
        std::fs::write(path(&format!("{name}.crt")), pair.cert.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), pair.signing_key.serialize_pem()).unwrap();
    }
    let text = |certificate: &str, key: &str| {
        let here = dir.path().display();
        format!("{GENERIC}client_certificate = \"{here}/{certificate}\"\nclient_key = \"{here}/{key}\"\n")
    };
    one(&text("a.crt", "a.key"), (6, 14), "is a private key that everybody may read; `chmod o=", "");
    for name in ["a.key", "b.key"] {
        private(&path(name));
    }
    assert!(parse(&text("a.crt", "a.key")).unwrap().registries[0].egress.outbound.identity.is_some());
    one(&text("a.crt", "b.key"), (6, 14), "`client_certificate` and `client_key` cannot be used", "");
}
