//! Clients, what holds between the tables, and the file as a whole.

use std::sync::Arc;

use proptest::prelude::*;

use super::mistakes::{GENERIC, one};
use super::{Settings, environment, parse, problems};
use crate::registry::Registry;

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn docker_hub_stays_implied_until_something_else_serves_it() {
    let registries = |text: &str| {
        let settings = parse(text).unwrap_or_else(|errors| panic!("{text}: {}", errors.render()));
        let show = |registry: &Arc<Registry>| {
            let mark = |on, mark| if on { mark } else { "" };
            format!("{}{}{}", registry.name, mark(registry.is_default, "*"), mark(registry.is_implied, "?"))
        };
        settings.registries.iter().map(show).collect::<Vec<_>>().join(" ")
    };
    let quay = "[[registry]]\nname = \"quay\"\nkind = \"quay\"\n";
    let hub = "[[registry]]\nname = \"hub\"\nkind = \"docker-hub\"\n";
    for (text, expected) in [
        (String::new(), "docker-hub*?"),
        (quay.to_owned(), "quay docker-hub*?"),
        (format!("{quay}default = true\n"), "quay* docker-hub?"),
        (format!("{quay}{hub}"), "quay hub*"),
        (format!("{hub}namespace = \"team\"\n"), "hub"),
        (format!("{hub}namespace = \"team\"\ndefault = true\n"), "hub*"),
        (format!("docker_hub = false\n{quay}"), "quay"),
        ("docker_hub = false\n".to_owned(), ""),
        // The name is taken: it is that registry's.
        (quay.replace("name = \"quay\"", "name = \"docker-hub\""), "docker-hub"),
    ] {
        assert_eq!(registries(&text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_client_is_told_with_its_place() {
    let token = "0".repeat(64);
    for (text, place, piece, help) in [
        ("networks = \"::/0\"", (1, 1), "[[client]] needs a `name`", "for example `name = \"ci\"`"),
        (
            "name = \"\"\nnetworks = \"::/0\"",
            (2, 8),
            "a name has 1 to 64 characters, none of them a colon or invisible",
            "",
        ),
        ("name = \"a:b\"\nnetworks = \"::/0\"", (2, 8), "none of them a colon", ""),
        ("name = \"a\"", (1, 1), "nothing says how this client is known", "add `password_hash`, `token_hash`"),
        ("name = \"a\"\nnetworks = [\"10.1\"]", (3, 13), "`10.1` is no network; write it as", ""),
        ("name = \"a\"\npassword_hash = \"hunter2\"", (3, 17), "this is no argon2id hash in PHC form", ""),
        ("name = \"a\"\npassword_hash = \"$argon2i$v=19$m=1,t=1,p=1$c2FsdHNhbHQ\"", (3, 17), "no argon2id hash", ""),
        ("name = \"a\"\ntoken_hash = \"00ff\"", (3, 14), "no SHA-256 in 64 lower-case hexadecimal", ""),
        (
            "name = \"a\"\ncertificate = \"CN=a\"",
            (3, 15),
            "known by a certificate, but none is asked for",
            "name the authority that signs them: `client_ca = ",
        ),
        (
            "name = \"a\"\ntoken_hash = \"TOKEN\"\ngrants = [\"docker-hub\"]",
            (4, 11),
            "write a grant as `registry/pattern`",
            "",
        ),
        (
            "name = \"a\"\npassword = \"p\"\nnetworks = \"::1\"",
            (3, 1),
            "[[client]] has no key `password`",
            "known here: ",
        ),
        ("name = \"a\"\nnetworks = \"::1\"\ngrants = [\"*\"]", (4, 11), "write a grant as `registry/pattern`", ""),
        (
            "name = \"a\"\nnetworks = \"::1\"\ngrants = [\"hub/**\"]",
            (4, 11),
            "there is no registry `hub`",
            "the registries are docker-hub",
        ),
        (
            "name = \"a\"\nnetworks = \"::1\"\n[[client]]\nname = \"a\"\nnetworks = \"::2\"",
            (5, 8),
            "there is a client `a` already",
            "",
        ),
    ] {
        one(&format!("[[client]]\n{text}\n").replace("TOKEN", &token), place, piece, help);
    }
    let two = format!("[[client]]\nname = \"a\"\npassword_hash = \"{HASH}\"\ntoken_hash = \"{token}\"\n");
    one(&two, (1, 1), "a client is known by one proof", "make it two clients with the same grants");
    let both = format!(
        "[[client]]\nname = \"a\"\npassword_hash = \"{HASH}\"\n[[client]]\nname = \"b\"\ntoken_hash = \"{token}\"\n"
    );
    assert_eq!(parse(&both).unwrap().clients.len(), 2);
}

#[test]
fn what_names_no_certificate_is_told() {
    for text in ["node", "CN=", "IP:10.0.0.1"] {
        let text = format!("[[client]]\nname = \"a\"\ncertificate = \"{text}\"\n");
        let found = problems(&text);
        assert!(found.iter().any(|found| found.to_string().contains("write it as `CN=ci`")), "{found:?}");
    }
}

#[test]
fn a_mistake_in_a_registry_is_no_mistake_of_those_who_are_granted_it() {
    let text = "[[registry]]\nname = \"Mine\"\nkind = \"generic\"\nurl = \"mine\"\n\
                [[client]]\nname = \"a\"\nnetworks = [\"::1\"]\ngrants = [\"mine/**\"]\n";
    one(text, (4, 7), "not a URL", "");
}

#[test]
fn a_credential_is_not_open_to_a_network_by_oversight() {
    let variables = environment(&[("PW", "secret")]);
    let load = |head: &str, tail: &str| {
        let text = format!("{head}\n{GENERIC}username = \"u\"\npassword = {{ env = \"PW\" }}\n{tail}\n");
        Settings::parse("t.toml", &text, &variables)
    };
    let client = "[[client]]\nname = \"a\"\nnetworks = [\"10.0.0.0/8\"]\n";
    for (head, tail) in [
        ("server.listen = \"0.0.0.0:5000\"", "access = \"anyone\""),
        ("server.listen = [\"127.0.0.1:5000\", \"10.0.0.1:5000\"]", "access = \"anyone\""),
        // A client that is known does not keep those out who are not.
        ("server.listen = \"[::]:5000\"", &format!("access = \"anyone\"\n{client}")),
    ] {
        let errors = load(head, tail).unwrap_err();
        assert_eq!(errors.problems.len(), 1);
        let said = errors.problems[0].to_string();
        assert!(said.starts_with("t.toml:8:10: registry `r` has a credential and is open to anyone"), "{said}");
        assert!(errors.problems[0].fix().unwrap().contains("`expose_private = true` in [server]"));
    }
    for (head, tail) in [
        ("server.listen = \"127.0.0.1:5000\"", "access = \"anyone\""),
        ("server.listen = \"0.0.0.0:5000\"", "access = \"grants\""),
        ("server.listen = \"0.0.0.0:5000\"", ""),
        ("server.listen = \"0.0.0.0:5000\"\nserver.expose_private = true", "access = \"anyone\""),
    ] {
        assert!(load(head, tail).is_ok(), "{head} {tail}");
    }
}

#[test]
fn a_table_that_lacks_several_things_is_told_of_each() {
    let found: Vec<String> = problems("[server.tls]\n").iter().map(ToString::to_string).collect();
    assert_eq!(found, ["t.toml:1:1: [server.tls] needs a `certificate`", "t.toml:1:1: [server.tls] needs a `key`",]);
    one("[server.tls]\ncertificate = \"Cargo.toml\"\nkey = \"src\"", (3, 7), "src is no file", "");
    one("[server.tls]\ncertificate = \"no.crt\"\nkey = \"Cargo.toml\"", (2, 15), "no.crt cannot be read", "");
    one("[server.tls]\ncertificate = \"Cargo.toml\"\nkey = \"Cargo.toml\"", (1, 1), "holds no usable private key", "");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "[[registry]]\nname = \"a\"\nkind = \"x\"\n[log]\nformat = 1\nlevel = \"?\"\n[cache]\n\
                max_size = \"?\"\nmin_free = \"?\"\n[server]\nlistn = 1\nlisten = [\"?\", \"!\"]\n";
    let variables = environment(&[("TRANSSHIP_ADMIN_LISTEN", "?"), ("TRANSSHIP_CACHE_DIRR", "?")]);
    let errors = Settings::parse("t.toml", text, &variables).unwrap_err();
    let places: Vec<_> = errors.problems.iter().map(super::super::Problem::line_and_column).collect();
    let in_file = [(3, 8), (5, 10), (6, 9), (8, 12), (9, 12), (11, 1), (12, 11), (12, 16)];
    let expected: Vec<_> = in_file.into_iter().map(Some).chain([None, None]).collect();
    assert_eq!(places, expected, "{}", errors.render());
    assert_eq!(errors.to_string(), "the configuration has 10 mistakes");
    assert!(errors.render().ends_with("\nthe configuration has 10 mistakes"));
}

#[test]
fn a_file_that_is_no_toml_is_told_where() {
    one("[server]\nlisten = ", (2, 10), "this is no TOML: ", "");
    one("[server\n", (1, 8), "this is no TOML: ", "");
    one("[log]\nlevel = \"a\"\nlevel = \"b\"\n", (3, 1), "this is no TOML: duplicate key", "");
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&deep).is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    for path in [dir.path().join("absent.toml"), dir.path().to_owned(), binary] {
        let errors = super::super::configuration::read(Some(&path)).err().unwrap();
        let said = errors.render();
        let named = format!("the configuration file {} cannot be read: ", path.display());
        assert!(said.contains(&named) && errors.problems.len() == 1, "{said}");
    }
}

#[test]
fn what_is_quoted_in_a_message_cannot_command_a_terminal() {
    let found = problems("[cache]\nmax_size = \"\\u001b[2J\\nx\"\n");
    assert!(found[0].to_string().contains(r"`\u001b[2J\u000ax` is no size"), "{}", found[0]);
}

proptest! {
    #[test]
    fn no_text_panics_the_parser(text in "\\PC*") {
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.render().is_empty());
        }
    }

    #[test]
    fn nor_does_what_looks_like_a_configuration(
        lines in proptest::collection::vec(
            "(\\[\\[?(server|cache|registry|client|server\\.tls)\\]?\\]|(name|kind|url|listen|password|grants|max_size)( = )\
             (\"[a-z:/*\\\\]{0,9}\"|\\[\"ghcr\", *1\\]|\\{ ?(env|file)? ?=? ?\"é?\" ?\\}|-?[0-9]{1,3}|\"ghcr\"|\"\"\"|true))",
            0..12,
        )
    ) {
        if let Err(errors) = parse(&lines.join("\n")) {
            prop_assert!(!errors.render().is_empty());
        }
    }
}
