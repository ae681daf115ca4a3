//! `[[client]]`: one client, how it is known, and what it may pull.

use ipnet::IpNet;

use super::problem::Place;
use super::section::{Found, Section};
use crate::access::{Client, Grant, Proof};
use crate::registry::Registry;

/// Reads one `[[client]]`; gives the place of its name too.
pub(super) fn read(section: Section<'_>, registries: &[&Registry]) -> Option<(Client, Place)> {
    let problems = section.problems;
    let name = section.read("name", |text| {
        let sound = !text.is_empty() && text.len() <= 64 && !text.contains(':') && !text.chars().any(char::is_control);
        if sound { Ok(text.to_owned()) } else { Err("a name has 1 to 64 characters and no colon".to_owned()) }
    });
    let place = section.place_of("name");
    if name.is_none() && section.value("name").is_none() {
        problems.add(&section.place, "[[client]] needs a `name`", None);
    }
    let password = section.read("password_hash", |text| {
        let parsed = argon2::password_hash::phc::PasswordHash::new(text);
        match parsed {
            Ok(hash) if hash.algorithm.as_str() == "argon2id" => Ok(Proof::Password { hash: text.to_owned() }),
            _ => Err("this is no argon2id hash in PHC form (`$argon2id$v=19$…`)".to_owned()),
        }
    });
    let token = section.read("token_hash", |text| {
        let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex {
            Ok(Proof::Token { sha256: text.to_owned() })
        } else {
            Err("this is no SHA-256 in 64 lower-case hexadecimal characters".to_owned())
        }
    });
    let certificate = section.text("certificate").map(|found| Proof::Certificate { subject: found.value });
    let networks = section
        .list("networks", |text| {
            text.parse::<IpNet>().map_err(|_| format!("`{text}` is no network; write it as `10.1.0.0/16`"))
        })
        .map(|found| Proof::Networks(found.into_iter().map(|found| found.value).collect()));
    let grants =
        section.list("grants", |text| text.parse::<Grant>().map_err(|error| error.to_string())).unwrap_or_default();
    for Found { value: grant, place } in &grants {
        if !registries.iter().any(|registry| registry.name.matches(grant.registry())) {
            let names: Vec<&str> = registries.iter().map(|registry| registry.name.display()).collect();
            problems.add(
                place,
                format!("there is no registry `{}`", grant.registry()),
                format!("the registries are {}", names.join(", ")),
            );
        }
    }
    let client_place = section.place.clone();
    section.finish(|_| None);
    let mut proofs: Vec<Proof> = [password, token, certificate, networks].into_iter().flatten().collect();
    match (proofs.pop(), proofs.is_empty()) {
        (Some(proof), true) => {
            Some((Client { name: name?, proof, grants: grants.into_iter().map(|found| found.value).collect() }, place))
        }
        (Some(_), false) => {
            problems.add(
                &client_place,
                "a client is known by one proof",
                "make it two clients with the same grants".to_owned(),
            );
            None
        }
        (None, _) => {
            problems.add(
                &client_place,
                "nothing says how this client is known",
                "add `password_hash`, `token_hash`, `certificate` or `networks`".to_owned(),
            );
            None
        }
    }
}
