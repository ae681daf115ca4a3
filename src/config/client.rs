//! `[[client]]`: one client, how it is known, and what it may pull.

use super::problem::Place;
use super::section::{Found, Section};
use super::units;
use crate::access::{self, CertificateName, Client, Grant, Proof};
use crate::registry::RegistryName;

/// Ways to be known.
const PROOFS: [&str; 4] = ["password_hash", "token_hash", "certificate", "networks"];

/// Reads one `[[client]]`; gives the place of its name too. `certificates`:
/// clients may show one.
pub(super) fn read(section: Section<'_>, registries: &[RegistryName], certificates: bool) -> Option<(Client, Place)> {
    let problems = section.problems;
    let name = section.read("name", |text| {
        access::check_name(text)?;
        Ok(text.to_owned())
    });
    let place = section.place_of("name");
    if name.is_none() && !section.has("name") {
        problems.add(&section.place, "[[client]] needs a `name`", "for example `name = \"ci\"`".to_owned());
    }
    let password = section.read_hidden("password_hash", |text| {
        access::check_password_hash(text)?;
        Ok(Proof::Password { hash: text.to_owned() })
    });
    let token = section.read_hidden("token_hash", |text| {
        access::check_token_hash(text)?;
        Ok(Proof::Token { sha256: text.to_owned() })
    });
    let certificate = section.read("certificate", |text| {
        text.parse::<CertificateName>().map(Proof::Certificate).map_err(|error| error.to_string())
    });
    if section.has("certificate") && !certificates {
        problems.add(
            &section.place_of("certificate"),
            "this client is known by a certificate, but none is asked for",
            "name the authority that signs them: `client_ca = \"certs/clients-ca.crt\"` in [server.tls]".to_owned(),
        );
    }
    let networks = section
        .list("networks", units::network)
        .map(|found| Proof::Networks(found.into_iter().map(|found| found.value).collect()));
    let given = PROOFS.into_iter().filter(|key| section.has(key)).count();
    let grants =
        section.list("grants", |text| text.parse::<Grant>().map_err(|error| error.to_string())).unwrap_or_default();
    for Found { value: grant, place } in &grants {
        if !registries.iter().any(|registry| registry.matches(grant.registry())) {
            let names: Vec<&str> = registries.iter().map(RegistryName::display).collect();
            problems.add(
                place,
                format!("there is no registry `{}`", grant.registry()),
                format!("the registries are {}", names.join(", ")),
            );
        }
    }
    let client_place = section.place.clone();
    section.finish(|_| None);
    let issue = match given {
        0 => Some((
            "nothing says how this client is known",
            "add `password_hash`, `token_hash`, `certificate` or `networks`",
        )),
        1 => None,
        _ => Some(("a client is known by one proof", "make it two clients with the same grants")),
    };
    if let Some((message, help)) = issue {
        problems.add(&client_place, message, help.to_owned());
        return None;
    }
    let proof = [password, token, certificate, networks].into_iter().flatten().next()?;
    Some((Client { name: name?, proof, grants: grants.into_iter().map(|found| found.value).collect() }, place))
}
