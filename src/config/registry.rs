//! `[[registry]]`: one named registry connection.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::outbound;
use super::problem::{Place, Problems, nearest};
use super::secret::Sources;
use super::section::{Found, Section};
use super::units;
use crate::registry::{
    AccessMode, EgressSettings, FieldKind, Form, HostPort, Kind, LinkSettings, Origin, Outbound, OwnerName, Registry,
    RegistryName, Scheme, Secret, TagPattern, Value,
};

/// Keys that every kind has.
const COMMON: &[&str] = &[
    "name",
    "address",
    "kind",
    "default",
    "access",
    "hosts",
    "endpoints",
    "ca",
    "insecure",
    "allow_private",
    "token_realms",
    "redirect_origins",
    "max_connections",
    "tag_ttl",
    "immutable_tags",
    "stale_if_error",
    "offline",
    "link_ttl",
    "link_stale_if_error",
];

/// What `[cache]` says for registries that do not say otherwise.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub(super) tag_ttl: Duration,
    pub(super) stale_if_error: Duration,
}

/// A registry of the file, and the places that later checks speak of.
pub(super) struct Parsed<'a> {
    pub(super) registry: Registry,
    /// What it says of the way to it; what all have in common is added later.
    pub(super) way: outbound::Own,
    pub(super) name_place: Place,
    pub(super) default_place: Option<Place>,
    pub(super) access_place: Place,
    /// Where what is wrong with it is noted.
    pub(super) problems: &'a Problems,
}

impl Parsed<'_> {
    /// The registry, reached as it and all registries say.
    pub(super) fn by_way_of(mut self, common: &Outbound) -> Registry {
        self.registry.egress.outbound = self.way.over(common);
        self.registry
    }
}

/// Reads one `[[registry]]`; `None` when too little of it is right. `names`
/// are those of all the registries so far, sound or not.
pub(super) fn read<'a>(
    section: Section<'a>,
    sources: &Sources<'_>,
    names: &mut Vec<RegistryName>,
    defaults: Defaults,
) -> Option<Parsed<'a>> {
    let problems = section.problems;
    let name = required(&section, "name", |text| text.parse::<RegistryName>().map_err(|error| error.to_string()));
    let address = section.text("address");
    let name = match (name, address) {
        (Some(name), Some(address)) => match name.at(&address.value) {
            Ok(name) => Some(name),
            Err(error) => {
                problems.add(&address.place, format!("`address`: {error}"), None);
                None
            }
        },
        (name, _) => name,
    };
    if let Some(name) = &name {
        if let Some(earlier) = names.iter().find(|earlier| earlier.collides(name)) {
            problems.add(
                &section.place_of("name"),
                format!("there is a registry `{earlier}` already"),
                "give it a name that differs in more than case and punctuation".to_owned(),
            );
        }
        names.push(name.clone());
    }
    let kind = required(&section, "kind", |text| {
        text.parse::<Kind>().map_err(|()| {
            let all: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
            match nearest(text, all.iter().copied()) {
                Some(near) => format!("there is no kind `{text}`; did you mean `{near}`?"),
                None => format!("there is no kind `{text}`; the kinds are {}", all.join(", ")),
            }
        })
    });
    let Some(kind) = kind else {
        // Without a kind nobody knows which keys there should be.
        return None;
    };
    let owner = name.as_ref().map_or_else(|| "this registry".to_owned(), |name| format!("registry `{name}`"));

    let plain_allowed = kind == Kind::Generic && section.flag("allow_plaintext").is_some_and(|flag| flag.value);
    let mut form = Form::new(kind);
    for field in kind.fields() {
        let value = match field.kind {
            FieldKind::Text => section.text(field.name).map(|found| Value::Text(found.value)),
            FieldKind::Secret => {
                let secret = sources.take(&section, (&owner, name.as_ref()), field.name, plain_allowed);
                // A secret that could not be taken has been told of; with one
                // in its stead the rest of the form is checked all the same.
                let stand_in = || section.has(field.name).then(|| Value::Secret(Secret::new("-".to_owned())));
                secret.or_else(stand_in)
            }
        };
        if let Some(value) = value {
            // The field is one of this kind's own.
            let _ = form.set(field.name, value);
        }
    }
    let connection = match form.connect() {
        Ok(connection) => Some(connection),
        Err(error) => {
            // Where a user name should be, people write `user:password`.
            let place = match section.place_of(error.field) {
                place if matches!(error.field, "username" | "email" | "access_key_id") => place.hidden(),
                place => place,
            };
            problems.add(&place, format!("{owner}: {}", error.message), None);
            None
        }
    };

    let insecure = section.flag("insecure").is_some_and(|flag| flag.value);
    let origins = |key| section.list(key, parse::<Origin>).unwrap_or_default();
    let (endpoints, token_realms, redirect_origins) =
        (origins("endpoints"), origins("token_realms"), origins("redirect_origins"));
    let allow_private = values(section.list("allow_private", units::network).unwrap_or_default());
    let hosts = section.list("hosts", parse::<HostPort>).unwrap_or_default();
    let access = section.read("access", |text| match text {
        "anyone" => Ok(AccessMode::Anyone),
        "grants" => Ok(AccessMode::Grants),
        _ => Err("it is \"anyone\" or \"grants\"".to_owned()),
    });
    let access_place = section.place_of("access");
    let default = section.flag("default").filter(|flag| flag.value);
    let ca_pem = section.read("ca", |path| if sources.withheld { Ok(Vec::new()) } else { authorities(path) });
    let max_connections = section.read("max_connections", units::count).unwrap_or(16);
    let tag_ttl = section.read("tag_ttl", units::duration).unwrap_or(defaults.tag_ttl);
    let immutable_tags = values(section.list("immutable_tags", parse::<TagPattern>).unwrap_or_default());
    let stale_if_error = section.read("stale_if_error", units::duration).unwrap_or(defaults.stale_if_error);
    let offline = section.flag("offline").is_some_and(|flag| flag.value);
    let link_ttl = section.read("link_ttl", units::duration);
    let link_stale_if_error = section.read("link_stale_if_error", units::duration);
    let name_place = section.place_of("name");
    let url_place = section.place_of("url");
    let endpoint_place = section.place_of("sign_in_endpoint");
    let quota = section.read("quota", units::size);
    let shows_certificate = section.has("client_certificate");
    let way = outbound::own(&section, sources, &owner);
    section.also_knows(COMMON.iter().copied());
    section.finish(|key| explain_field(kind, key));

    let check = |origin: &Origin, place: &Place| {
        check_origin(origin, insecure, &allow_private, |message, help| {
            problems.add(place, format!("{owner}: {message}"), help);
        })
    };
    for endpoint in &endpoints {
        check(&endpoint.value, &endpoint.place);
    }
    let connection = connection?;
    check(&connection.origin, &url_place);
    if let Some(endpoint) = connection.credential.endpoint() {
        check(endpoint, &endpoint_place);
    }
    let access = access.unwrap_or(match connection.credential.is_anonymous() && !shows_certificate {
        true => AccessMode::Anyone,
        false => AccessMode::Grants,
    });
    let usual = LinkSettings::for_credential(&connection.credential);
    let links = LinkSettings {
        ttl: link_ttl.unwrap_or(usual.ttl),
        stale_if_error: link_stale_if_error.unwrap_or(usual.stale_if_error),
    };
    let registry = Registry {
        name: name?,
        kind,
        origin: connection.origin,
        endpoints: values(endpoints),
        image_hosts: connection.image_hosts,
        prefix: connection.prefix,
        known_realms: connection.known_realms,
        credential: connection.credential,
        access,
        is_default: default.is_some(),
        is_implied: false,
        hosts: values(hosts),
        egress: EgressSettings {
            insecure,
            allow_private,
            token_realms: values(token_realms),
            redirect_origins: values(redirect_origins),
            ca_pem: ca_pem.map(Arc::from),
            max_connections,
            outbound: Outbound::default(),
        },
        tag_ttl,
        immutable_tags,
        stale_if_error,
        offline,
        links,
        quota,
        owner: OwnerName::default(),
    };
    Some(Parsed { way, registry, name_place, default_place: default.map(|flag| flag.place), access_place, problems })
}

fn required<T>(section: &Section<'_>, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    if !section.has(key) {
        let example = match key {
            "name" => "for example `name = \"My-Registry\"`".to_owned(),
            _ => format!("it is one of {}", Kind::ALL.map(Kind::as_str).join(", ")),
        };
        section.problems.add(&section.place, format!("{} needs a `{key}`", section.title), example);
        return None;
    }
    section.read(key, parse)
}

/// What an origin needs that the registry does not say.
fn check_origin(origin: &Origin, insecure: bool, allow_private: &[IpNet], report: impl Fn(String, Option<String>)) {
    if origin.scheme() == Scheme::Http && !insecure {
        report(
            format!("{origin} is plain HTTP"),
            Some("use https, or add `insecure = true`, which allows plain HTTP to this origin only".to_owned()),
        );
    }
    let literal = origin.host().trim_matches(['[', ']']).parse::<IpAddr>();
    if let Ok(address) = literal
        && !crate::upstream::is_public(address)
        && !allow_private.iter().any(|network| network.contains(&address))
    {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        report(
            format!("{origin} is not a public address"),
            Some(format!("to allow it, add `allow_private = [\"{address}/{bits}\"]`")),
        );
    }
}

/// The certificates of a PEM file.
fn authorities(path: &str) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    match CertificateDer::pem_slice_iter(&pem).next() {
        Some(Ok(_)) => Ok(pem),
        _ => Err(format!("{path} holds no certificate in PEM form")),
    }
}

fn explain_field(kind: Kind, key: &str) -> Option<String> {
    if key == "allow_plaintext" {
        return Some("only a registry of kind `generic` may have its secret in the file".to_owned());
    }
    let others: Vec<&str> = Kind::ALL
        .into_iter()
        .filter(|other| *other != kind && other.fields().iter().any(|field| field.name == key))
        .map(Kind::as_str)
        .collect();
    if others.is_empty() {
        return None;
    }
    let own: Vec<&str> = kind.fields().iter().map(|field| field.name).collect();
    Some(format!("that is a field of kind {}; the fields of `{kind}` are {}", others.join(", "), own.join(", ")))
}

fn parse<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn values<T>(found: Vec<Found<T>>) -> Vec<T> {
    found.into_iter().map(|found| found.value).collect()
}
