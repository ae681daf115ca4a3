//! The file as a whole: its tables, and what holds between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigErrors, Place, Problems, nearest};
use super::registry::Parsed;
use super::secret::Sources;
use super::section::{Environment, Found, Section};
use super::{Addresses, Settings, client, registry, units};
use crate::access::Client;
use crate::api::PingMode;
use crate::cache::eviction::PolicyKind;
use crate::cache::{CacheSettings, Durability, MinFree};
use crate::pull::ImageName;
use crate::registry::{AccessMode, Kind, RegistryName};
use crate::server::{BodyMethod, ServerLimits, ServerSettings, TlsSettings};
use crate::telemetry::{LogFormat, LogSettings};

/// What is configured where nothing is.
const IMPLIED: &str = "[[registry]]\nname = \"docker-hub\"\nkind = \"docker-hub\"\ndefault = true\n";

/// How a parsed file is read, as a whole or in part.
type Read<T> = for<'a> fn(&'a Spanned<DeValue<'a>>, &'a Environment, &'a Problems) -> Option<T>;

pub(super) fn load(file: Option<&Path>, environment: &Environment) -> Result<Settings, ConfigErrors> {
    load_as(file, environment, read)
}

/// Where the admin listener is; nothing else is looked at, for whoever asks may
/// not have the secrets that the rest names.
pub(super) fn admin_listen(file: Option<&Path>, environment: &Environment) -> Result<SocketAddr, ConfigErrors> {
    load_as(file, environment, |root, environment, problems| {
        let root = Section::new("the file", Some(root), environment, problems);
        let admin = root.table("admin", "[admin]");
        let admin = admin.unwrap_or_else(|| Section::new("[admin]", None, environment, problems));
        Some(read_admin(&admin.overridden_by("admin")))
    })
}

/// What references are made of; no secret is taken, and no other file read.
pub(super) fn addresses(file: Option<&Path>, environment: &Environment) -> Result<Addresses, ConfigErrors> {
    load_as(file, environment, read_addresses)
}

fn read_addresses<'a>(
    root: &'a Spanned<DeValue<'a>>,
    environment: &'a Environment,
    problems: &'a Problems,
) -> Option<Addresses> {
    let root = Section::new("the file", Some(root), environment, problems);
    let server = root.table("server", "[server]");
    let server = server.unwrap_or_else(|| Section::new("[server]", None, environment, problems));
    let server = server.overridden_by("server");
    let public_url = read_public_url(&server, &read_listen(&server), server.has("tls"));
    let sources = Sources { environment, withheld: true };
    let registries =
        read_registries(root.tables("registry"), &sources, problems, &mut Vec::new(), Duration::from_secs(60))?;
    Some(Addresses {
        public_url: public_url?,
        registries: registries.into_iter().map(|parsed| Arc::new(parsed.registry)).collect(),
    })
}

fn load_as<T>(file: Option<&Path>, environment: &Environment, read: Read<T>) -> Result<T, ConfigErrors> {
    let Some(path) = file else { return parse_as(None, environment, read) };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse_as(Some((&name, &text)), environment, read),
        Err(error) => {
            let problems = Problems::of(None);
            let message = format!("the configuration file {name} cannot be read: {error}");
            problems.add(&Place::Nowhere, message, "check the path and its permissions".to_owned());
            problems.settle(None)
        }
    }
}

pub(super) fn parse(file: Option<(&str, &str)>, environment: &Environment) -> Result<Settings, ConfigErrors> {
    parse_as(file, environment, read)
}

fn parse_as<T>(file: Option<(&str, &str)>, environment: &Environment, read: Read<T>) -> Result<T, ConfigErrors> {
    let text: Arc<str> = file.map_or("", |(_, text)| text).into();
    let problems = Problems::of(file.map(|(name, _)| (name, &text)));
    let (document, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        // What of a broken line is key and what is secret, nobody knows.
        let place = error.span().map_or(Place::Nowhere, Place::Hidden);
        problems.add(&place, format!("this is no TOML: {}", error.message()), None);
    }
    let span = document.span();
    let root = Spanned::new(span, DeValue::Table(document.into_inner()));
    // The text around a broken line would only give rise to more complaints.
    problems.settle(Some(()))?;
    let problems = Problems::of(file.map(|(name, _)| (name, &text)));
    let settings = read(&root, environment, &problems);
    problems.settle(settings)
}

fn read<'a>(root: &'a Spanned<DeValue<'a>>, environment: &'a Environment, problems: &'a Problems) -> Option<Settings> {
    let root = Section::new("the file", Some(root), environment, problems);
    let table = |key: &'static str| {
        let title = format!("[{key}]");
        root.table(key, &title).unwrap_or_else(|| Section::new(title, None, environment, problems)).overridden_by(key)
    };
    let (server, admin, cache, limits, log) =
        (table("server"), table("admin"), table("cache"), table("limits"), table("log"));
    let (registry_sections, client_sections) = (root.tables("registry"), root.tables("client"));
    root.finish(|_| None);

    let tag_ttl = cache.read("tag_ttl", units::duration).unwrap_or(Duration::from_secs(60));
    let stale_if_error = cache.read("stale_if_error", units::duration).unwrap_or(Duration::from_secs(86_400));
    let not_found_ttl = cache.read("not_found_ttl", units::duration).unwrap_or(Duration::from_secs(10));
    let pins = cache.list("pin", |text| text.parse::<ImageName>().map_err(|error| error.to_string()));
    let cache = read_cache(cache, &limits);
    let (server, public_url, expose_private) = read_server(server, admin, limits);
    let log = read_log(log);

    let mut names = Vec::new();
    let sources = Sources { environment, withheld: false };
    let registries = read_registries(registry_sections, &sources, problems, &mut names, tag_ttl)?;
    let pins = check_pins(pins.unwrap_or_default(), &names, problems);
    let clients = read_clients(client_sections, &names, problems);
    if !expose_private && server.listen.iter().any(|address| !address.ip().is_loopback()) {
        check_exposure(&registries, problems);
    }
    Some(Settings {
        server,
        public_url: public_url?,
        cache,
        pins,
        stale_if_error,
        not_found_ttl,
        registries: registries.into_iter().map(|parsed| Arc::new(parsed.registry)).collect(),
        clients,
        log,
    })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address; write it as `127.0.0.1:5000` or `[::]:5000`"))
}

fn read_admin(admin: &Section<'_>) -> SocketAddr {
    admin.read("listen", address).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 5001)))
}

fn read_listen(server: &Section<'_>) -> Vec<SocketAddr> {
    let problems = server.problems;
    let listen = server.list("listen", address).map(|found| found.into_iter().map(|found| found.value).collect());
    let listen: Vec<SocketAddr> = listen.unwrap_or_else(|| vec![SocketAddr::from(([127, 0, 0, 1], 5000))]);
    if listen.is_empty()
        && matches!(server.value("listen"), Some(found) if found.value.as_array().is_some_and(|list| list.is_empty()))
    {
        problems.add(
            &server.place_of("listen"),
            "`listen` names no address",
            "write it as `127.0.0.1:5000`".to_owned(),
        );
    }
    listen
}

fn read_public_url(server: &Section<'_>, listen: &[SocketAddr], tls: bool) -> Option<url::Url> {
    let scheme = if tls { "https" } else { "http" };
    let port = listen.first().map_or(5000, SocketAddr::port);
    let public_url = server.read("public_url", |text| match text.parse::<url::Url>() {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("a URL must not carry a user name or password".to_owned())
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ if text.contains('@') => Err("it is no URL; write it as `https://proxy.example.com`".to_owned()),
        _ => Err(format!("`{text}` is no URL; write it as `https://proxy.example.com`")),
    });
    public_url.or_else(|| format!("{scheme}://localhost:{port}").parse().ok())
}

fn read_server(
    server: Section<'_>,
    admin: Section<'_>,
    limits: Section<'_>,
) -> (ServerSettings, Option<url::Url>, bool) {
    let problems = server.problems;
    let listen = read_listen(&server);
    let admin_listen = read_admin(&admin);
    if admin_listen.port() != 0 && listen.contains(&admin_listen) {
        let message = format!("clients pull at {admin_listen} already: administration needs an address of its own");
        problems.add(&admin.place_of("listen"), message, None);
    }
    let ping = server.read("ping", |text| match text {
        "auto" => Ok(PingMode::Auto),
        "open" => Ok(PingMode::Open),
        "challenge" => Ok(PingMode::Challenge),
        _ => Err("it is \"auto\", \"open\" or \"challenge\"".to_owned()),
    });
    let body = server.read("body", |text| match text {
        "auto" => Ok(BodyMethod::Auto),
        "splice" => Ok(BodyMethod::Splice),
        "mmap" => Ok(BodyMethod::Mmap),
        "read" => Ok(BodyMethod::Read),
        _ => Err("it is \"auto\", \"splice\", \"mmap\" or \"read\"".to_owned()),
    });
    let tls = server.table("tls", "[server.tls]").and_then(read_tls);
    let public_url = read_public_url(&server, &listen, tls.is_some());
    let expose_private = server.flag("expose_private").is_some_and(|flag| flag.value);
    let default = ServerLimits::default();
    let time = |key| limits.read(key, units::some_time);
    let number = |key| limits.read(key, units::count);
    let bytes = |key| limits.read(key, |text| units::count(&units::size(text)?.to_string()));
    let read = ServerLimits {
        header_timeout: time("header_timeout").unwrap_or(default.header_timeout),
        max_headers: number("max_headers").unwrap_or(default.max_headers),
        max_header_bytes: bytes("max_header_bytes").unwrap_or(default.max_header_bytes),
        max_uri_bytes: bytes("max_uri_bytes").unwrap_or(default.max_uri_bytes),
        tls_handshake_timeout: time("tls_handshake_timeout").unwrap_or(default.tls_handshake_timeout),
        write_stall_timeout: time("write_stall_timeout").unwrap_or(default.write_stall_timeout),
        max_connections: number("max_connections").unwrap_or(default.max_connections),
        max_connections_per_client: number("max_connections_per_client").unwrap_or(default.max_connections_per_client),
        max_streams: limits
            .read("max_streams", |text| u32::try_from(units::count(text)?).map_err(|_| format!("`{text}` is too many")))
            .unwrap_or(default.max_streams),
        drain_timeout: limits.read("drain_timeout", units::duration).unwrap_or(default.drain_timeout),
    };
    limits.also_knows(["max_fills", "max_blob_size", "upstream_idle_timeout"]);
    for section in [server, admin, limits] {
        section.finish(|_| None);
    }
    let (body, ping) = (body.unwrap_or_default(), ping.unwrap_or_default());
    let settings = ServerSettings { listen, admin_listen, tls, body, ping, limits: read };
    (settings, public_url, expose_private)
}

fn read_tls(section: Section<'_>) -> Option<TlsSettings> {
    let readable = |text: &str| match std::fs::metadata(text) {
        Ok(metadata) if metadata.is_file() => Ok(PathBuf::from(text)),
        Ok(_) => Err(format!("{text} is no file")),
        Err(error) => Err(format!("{text} cannot be read: {error}")),
    };
    let (certificate, key) = (section.read("certificate", readable), section.read("key", readable));
    let (problems, place) = (section.problems, section.place.clone());
    for name in ["certificate", "key"] {
        if !section.has(name) {
            problems.add(&place, format!("[server.tls] needs a `{name}`"), "name a PEM file".to_owned());
        }
    }
    if let Some(found) = section.value("client_ca") {
        let message = "client certificates are not supported by this version";
        problems.add(&found.place, message, "remove `client_ca`".to_owned());
    }
    section.finish(|_| None);
    let settings = TlsSettings { certificate: certificate?, key: key?, client_ca: None };
    if let Err(error) = settings.check() {
        problems.add(&place, format!("[server.tls]: {error}"), None);
    }
    Some(settings)
}

fn read_cache(cache: Section<'_>, limits: &Section<'_>) -> CacheSettings {
    let settings = CacheSettings {
        dir: cache.text("dir").map_or_else(|| "cache".into(), |found| found.value.into()),
        max_size: cache.read("max_size", units::size).unwrap_or(100 << 30),
        min_free: cache.read("min_free", units::min_free).unwrap_or(MinFree::Percent(5.0)),
        policy: cache
            .read("policy", |text| match text {
                "s3-fifo" => Ok(PolicyKind::S3Fifo),
                "lru" => Ok(PolicyKind::Lru),
                _ => Err("it is \"s3-fifo\" or \"lru\"".to_owned()),
            })
            .unwrap_or_default(),
        scrub_rate: cache.read("scrub_rate", units::size).unwrap_or(8 << 20),
        durability: cache
            .read("durability", |text| match text {
                "sync" => Ok(Durability::Sync),
                "lazy" => Ok(Durability::Lazy),
                _ => Err("it is \"sync\" or \"lazy\"".to_owned()),
            })
            .unwrap_or_default(),
        max_fills: limits.read("max_fills", units::count).unwrap_or(256),
        max_segments: limits.read("max_segments", units::count).unwrap_or(12),
        max_blob_size: limits.read("max_blob_size", units::size).unwrap_or(64 << 30),
        idle_timeout: limits.read("upstream_idle_timeout", units::some_time).unwrap_or(Duration::from_secs(30)),
    };
    cache.finish(|_| None);
    settings
}

fn read_log(log: Section<'_>) -> LogSettings {
    let default = LogSettings::default();
    let settings = LogSettings {
        level: log.text("level").map_or(default.level, |found| found.value),
        format: log
            .read("format", |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("it is \"text\" or \"json\"".to_owned()),
            })
            .unwrap_or_default(),
    };
    if let (Err(error), Some(found)) = (settings.check(), log.text("level")) {
        log.problems.add(&found.place, format!("`level`: {error}"), None);
    }
    log.finish(|_| None);
    settings
}

fn read_registries<'a>(
    sections: Vec<Section<'a>>,
    sources: &Sources<'a>,
    problems: &Problems,
    names: &mut Vec<RegistryName>,
    tag_ttl: Duration,
) -> Option<Vec<Parsed>> {
    if sections.is_empty() {
        return implied(sources, names, tag_ttl);
    }
    let mut registries: Vec<Parsed> = Vec::new();
    for section in sections {
        let Some(parsed) = registry::read(section, sources, names, tag_ttl) else { continue };
        for earlier in &registries {
            let (new, old) = (&parsed.registry, &earlier.registry);
            if let (Some(place), true) = (&parsed.default_place, old.is_default) {
                problems.add(
                    place,
                    format!("registry `{}` is the default already", old.name),
                    "only one registry can be it".to_owned(),
                );
            }
            if let Some(host) = new.hosts.iter().find(|host| old.hosts.contains(host)) {
                problems.add(
                    &parsed.name_place,
                    format!("the virtual host {host} belongs to registry `{}` already", old.name),
                    None,
                );
            }
        }
        registries.push(parsed);
    }
    if !registries.iter().any(|parsed| parsed.registry.is_default)
        && let Some(hub) = registries.iter_mut().find(|parsed| parsed.registry.kind == Kind::DockerHub)
    {
        hub.registry.is_default = true;
    }
    Some(registries)
}

/// Docker Hub, anonymous.
fn implied(sources: &Sources<'_>, names: &mut Vec<RegistryName>, tag_ttl: Duration) -> Option<Vec<Parsed>> {
    let problems = Problems::of(None);
    let document = DeTable::parse(IMPLIED).ok()?;
    let root = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
    let root = Section::new("the defaults", Some(&root), sources.environment, &problems);
    let sections = root.tables("registry").into_iter();
    Some(sections.filter_map(|section| registry::read(section, sources, names, tag_ttl)).collect())
}

fn read_clients(sections: Vec<Section<'_>>, registries: &[RegistryName], problems: &Problems) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    for section in sections {
        let Some((client, place)) = client::read(section, registries) else { continue };
        if clients.iter().any(|earlier| earlier.name == client.name) {
            problems.add(&place, format!("there is a client `{}` already", client.name), None);
        }
        clients.push(client);
    }
    clients
}

fn check_pins(pins: Vec<Found<ImageName>>, registries: &[RegistryName], problems: &Problems) -> Vec<ImageName> {
    for Found { value: image, place } in &pins {
        if !registries.iter().any(|name| name.matches(&image.registry)) {
            let near = nearest(&image.registry, registries.iter().map(RegistryName::slug));
            let help = near.map(|near| format!("did you mean `{near}`?"));
            problems.add(place, format!("`pin`: there is no registry `{}`", image.registry), help);
        }
    }
    pins.into_iter().map(|found| found.value).collect()
}

/// A stored credential must not be open to a network by oversight.
fn check_exposure(registries: &[Parsed], problems: &Problems) {
    for parsed in registries {
        let registry = &parsed.registry;
        if registry.access == AccessMode::Anyone && !registry.credential.is_anonymous() {
            problems.add(
                &parsed.access_place,
                format!(
                    "registry `{}` has a credential and is open to anyone, and the listener is not on loopback: everybody who reaches it \
                     could read what the credential reads",
                    registry.name
                ),
                "add [[client]] entries and `access = \"grants\"`, or write `expose_private = true` in [server] if that is meant".to_owned(),
            );
        }
    }
}
