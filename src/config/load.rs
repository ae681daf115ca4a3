//! The file as a whole: its tables, and what holds between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigErrors, Place, Problems, nearest};
use super::registry::Parsed;
use super::secret::Sources;
use super::section::{Environment, Found, Section};
use super::{Addresses, Settings, admin, client, outbound, registries, registry, store, units};
use crate::access::{Client, ForeignCredentials, GateSettings, LoginLimits, TrustedProxies};
use crate::admin::AdminSettings;
use crate::api::PingMode;
use crate::cache::eviction::PolicyKind;
use crate::cache::{CacheSettings, Durability, MinFree, Segments};
use crate::pull::{Freshness, ImageName};
use crate::registry::{AccessMode, RegistryName};
use crate::server::{BodyMethod, ServerLimits, ServerSettings, TlsSettings};
use crate::store::{Contents, StoreSettings};
use crate::telemetry::{LogFormat, LogSettings};

/// All there is to read.
pub(super) struct Input<'a> {
    root: &'a Document<'a>,
    /// Sections of the store, in the form of a file.
    stored: &'a Document<'a>,
    pub(super) contents: &'a Contents,
    pub(super) environment: &'a Environment,
    pub(super) problems: &'a Problems,
    stored_problems: &'a Problems,
}

type Document<'a> = Spanned<DeValue<'a>>;

/// A file's name in messages, and its text.
pub(super) type Source<'a> = Option<(&'a str, &'a str)>;

/// Everything: what the file says, and what the store adds to it.
pub(super) fn settings(
    file: Source<'_>,
    environment: &Environment,
    contents: &Contents,
) -> Result<Settings, ConfigErrors> {
    parse(file, environment, contents, read)
}

/// Where the proxy is administered; nothing else is looked at, for whoever asks
/// may not have the secrets that the rest names.
pub(super) fn administration(file: Source<'_>, environment: &Environment) -> Result<AdminSettings, ConfigErrors> {
    parse(file, environment, &Contents::default(), |input| {
        let store = store::read(input.table("store"));
        Some(admin::read(input.table("admin"), input.table("metrics"), &store).settings)
    })
}

/// Where the store is and what it is sealed with.
pub(super) fn store(file: Source<'_>, environment: &Environment) -> Result<StoreSettings, ConfigErrors> {
    parse(file, environment, &Contents::default(), |input| Some(store::read(input.table("store"))))
}

/// What references are made of; no secret is taken, and no other file read.
pub(super) fn addresses(
    file: Source<'_>,
    environment: &Environment,
    contents: &Contents,
) -> Result<Addresses, ConfigErrors> {
    parse(file, environment, contents, |input| {
        let root = input.root();
        let server = input.table_of(&root, "server");
        let public_url = read_public_url(&server, &read_listen(&server), server.has("tls"));
        let defaults = registry::Defaults { tag_ttl: Duration::ZERO, stale_if_error: Duration::ZERO };
        let (of_file, implied) = (root.tables("registry"), registries::implies_docker_hub(&root));
        let registries = registries::read(input, of_file, &mut Vec::new(), defaults, implied, true)?;
        Some(Addresses {
            public_url: public_url?,
            registries: registries.into_iter().map(|parsed| Arc::new(parsed.registry)).collect(),
        })
    })
}

/// Reads the configuration as a whole or in part.
fn parse<T>(
    file: Source<'_>,
    environment: &Environment,
    contents: &Contents,
    read: for<'a> fn(&Input<'a>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let text: Arc<str> = file.map_or("", |(_, text)| text).into();
    let problems = Problems::of(file.map(|(name, _)| (name, &text)));
    let (document, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        // What of a broken line is key and what is secret, nobody knows.
        let place = error.span().map_or(Place::Nowhere, Place::Hidden);
        problems.add(&place, format!("this is no TOML: {}", error.message()), None);
    }
    let root = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
    // The text around a broken line would only give rise to more complaints.
    problems.settle(Some(()))?;
    let stored = store::sections(contents);
    let (document, _) = DeTable::parse_recoverable(&stored);
    let stored = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
    let problems = Problems::of(file.map(|(name, _)| (name, &text)));
    let stored_problems = Problems::of_the_store();
    let input = Input {
        root: &root,
        stored: &stored,
        contents,
        environment,
        problems: &problems,
        stored_problems: &stored_problems,
    };
    let value = read(&input);
    problems.and(stored_problems).settle(value)
}

impl<'a> Input<'a> {
    fn root(&self) -> Section<'a> {
        Section::new("the file", Some(self.root), self.environment, self.problems)
    }

    /// A table of the file; empty where there is none.
    fn table(&self, key: &'static str) -> Section<'a> {
        self.table_of(&self.root(), key)
    }

    fn table_of(&self, root: &Section<'a>, key: &'static str) -> Section<'a> {
        let title = format!("[{key}]");
        root.table(key, &title)
            .unwrap_or_else(|| Section::new(title, None, self.environment, self.problems))
            .overridden_by(key)
    }

    /// The stored tables of `[[key]]`.
    pub(super) fn stored(&self, key: &'static str) -> Vec<Section<'a>> {
        Section::new("the store", Some(self.stored), self.environment, self.stored_problems).tables(key)
    }
}

fn read(input: &Input<'_>) -> Option<Settings> {
    let problems = input.problems;
    let root = input.root();
    let table = |key: &'static str| input.table_of(&root, key);
    let (server, cache, limits, log) = (table("server"), table("cache"), table("limits"), table("log"));
    let store = store::read(table("store"));
    let admin::Read { settings: admin, places } = admin::read(table("admin"), table("metrics"), &store);
    let sources = Sources { environment: input.environment, stored: None, withheld: false };
    let way = outbound::common(table("upstream"), &limits, &sources);
    let (registry_sections, client_sections) = (root.tables("registry"), root.tables("client"));
    let docker_hub = registries::implies_docker_hub(&root);
    root.finish(|_| None);

    let tag_ttl = cache.read("tag_ttl", units::duration).unwrap_or(Duration::from_secs(60));
    let stale_if_error = cache.read("stale_if_error", units::duration).unwrap_or(Duration::from_secs(86_400));
    let defaults = registry::Defaults { tag_ttl, stale_if_error };
    let freshness = Freshness {
        not_found_ttl: cache.read("not_found_ttl", units::duration).unwrap_or(Duration::from_secs(10)),
        revalidate_timeout: limits.read("revalidate_timeout", units::some_time).unwrap_or(Duration::from_secs(3)),
        offline: cache.flag("offline").is_some_and(|flag| flag.value),
        outage_patience: outage_patience(&limits),
    };
    let pins = cache.list("pin", |text| text.parse::<ImageName>().map_err(|error| error.to_string()));
    let cache = read_cache(cache, &limits);
    let gate = read_gate(&server, &limits);
    let public_url_is_given = server.has("public_url") || server.text("public_url").is_some();
    let (server, public_url, expose_private) = read_server(server, &places, limits);
    let log = read_log(log);

    let mut names = Vec::new();
    let registries = registries::read(input, registry_sections, &mut names, defaults, docker_hub, false)?;
    let pins = check_pins(pins.unwrap_or_default(), &names, problems);
    let certificates = server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let clients = read_clients(client_sections.into_iter().chain(input.stored("client")), &names, certificates);
    if !expose_private && server.is_beyond_loopback() {
        check_exposure(&registries);
    }
    Some(Settings {
        expose_private,
        server,
        admin,
        public_url: public_url?,
        public_url_is_given,
        cache,
        pins,
        freshness,
        registries: registries.into_iter().map(|parsed| Arc::new(parsed.by_way_of(&way))).collect(),
        clients,
        store,
        gate,
        log,
    })
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address; write it as `127.0.0.1:5000` or `[::]:5000`"))
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

/// Whose word counts when it names its client.
fn read_trusted_proxies(server: &Section<'_>) -> TrustedProxies {
    let found = server.list("trusted_proxies", units::network).unwrap_or_default();
    for Found { value, place } in found.iter().filter(|found| found.value.prefix_len() == 0) {
        let message = format!("`{value}` is everybody: each client could say that it is any other");
        server.problems.add(place, message, "name the addresses of the proxies alone".to_owned());
    }
    TrustedProxies::new(found.into_iter().map(|found| found.value).collect())
}

/// Addresses where the default registry alone answers.
fn read_mirror_listen(server: &Section<'_>, taken: &[SocketAddr]) -> Vec<SocketAddr> {
    let found = server.list("mirror_listen", address).unwrap_or_default();
    for Found { value, place } in &found {
        if value.port() != 0 && taken.contains(value) {
            let message = format!("{value} is taken already: a mirror needs an address of its own");
            server.problems.add(place, message, None);
        }
    }
    found.into_iter().map(|found| found.value).collect()
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
    apart: &[(SocketAddr, Place)],
    limits: Section<'_>,
) -> (ServerSettings, Option<url::Url>, bool) {
    let problems = server.problems;
    let listen = read_listen(&server);
    for (address, place) in apart.iter().filter(|(address, _)| address.port() != 0 && listen.contains(address)) {
        let message = format!("clients pull at {address} already: administration needs an address of its own");
        problems.add(place, message, None);
    }
    let apart: Vec<_> = apart.iter().map(|(address, _)| *address).collect();
    let mirror_listen = read_mirror_listen(&server, &[&listen[..], &apart[..]].concat());
    let trusted_proxies = read_trusted_proxies(&server);
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
    let tls = server.table("tls", "[server.tls]").and_then(|section| read_tls(section, "[server.tls]"));
    let public_url = read_public_url(&server, &listen, tls.is_some());
    let expose_private = server.flag("expose_private").is_some_and(|flag| flag.value);
    let default = ServerLimits::default();
    let time = |key| limits.read(key, units::some_time);
    let number = |key| limits.read(key, units::count);
    let bytes = |key| limits.read(key, |text| units::count(&units::size(text)?.to_string()));
    let read = ServerLimits {
        header_timeout: time("header_timeout").unwrap_or(default.header_timeout),
        keep_alive_timeout: time("keep_alive_timeout").unwrap_or(default.keep_alive_timeout),
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
    limits.also_knows([
        "max_fills",
        "max_fills_per_client",
        "max_blob_size",
        "upstream_idle_timeout",
        "revalidate_timeout",
        "outage_patience",
    ]);
    for section in [server, limits] {
        section.finish(|_| None);
    }
    let (body, ping) = (body.unwrap_or_default(), ping.unwrap_or_default());
    let settings = ServerSettings { listen, mirror_listen, trusted_proxies, tls, body, ping, limits: read };
    (settings, public_url, expose_private)
}

fn read_gate(server: &Section<'_>, limits: &Section<'_>) -> GateSettings {
    let foreign_credentials = server.read("foreign_credentials", |text| match text {
        "refuse" => Ok(ForeignCredentials::Refuse),
        "ignore" => Ok(ForeignCredentials::Ignore),
        _ => Err("it is \"refuse\" or \"ignore\"".to_owned()),
    });
    let default = LoginLimits::default();
    let max_wrong_logins = limits.read("max_wrong_logins", |text| {
        u32::try_from(units::count(text)?).map_err(|_| format!("`{text}` is too many"))
    });
    let limits = LoginLimits {
        max_wrong_logins: max_wrong_logins.unwrap_or(default.max_wrong_logins),
        max_login_wait: limits.read("max_login_wait", units::some_time).unwrap_or(default.max_login_wait),
    };
    GateSettings {
        foreign_credentials: foreign_credentials.unwrap_or_default(),
        limits,
        cut_on_revoke: server.flag("cut_on_revoke").is_some_and(|flag| flag.value),
    }
}

pub(super) fn read_tls(section: Section<'_>, label: &str) -> Option<TlsSettings> {
    let readable = |text: &str| match std::fs::metadata(text) {
        Ok(metadata) if metadata.is_file() => Ok(PathBuf::from(text)),
        Ok(_) => Err(format!("{text} is no file")),
        Err(error) => Err(format!("{text} cannot be read: {error}")),
    };
    let (certificate, key) = (section.read("certificate", readable), section.read("key", readable));
    let (problems, place) = (section.problems, section.place.clone());
    for name in ["certificate", "key"] {
        if !section.has(name) {
            problems.add(&place, format!("{label} needs a `{name}`"), "name a PEM file".to_owned());
        }
    }
    let client_ca = section.read("client_ca", readable);
    section.finish(|_| None);
    let settings = TlsSettings { certificate: certificate?, key: key?, client_ca };
    if let Err(error) = settings.check() {
        problems.add(&place, format!("{label}: {error}"), None);
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
        max_fills_per_client: limits.read("max_fills_per_client", units::count).unwrap_or(64),
        max_segments: limits.read("max_segments", units::count).unwrap_or(12),
        segments: Segments::default(),
        max_blob_size: limits.read("max_blob_size", units::size).unwrap_or(64 << 30),
        outage_patience: outage_patience(limits),
        idle_timeout: limits.read("upstream_idle_timeout", units::some_time).unwrap_or(Duration::from_secs(30)),
    };
    cache.finish(|_| None);
    settings
}

/// How long trouble of upstream is waited out: under containerd's patience for
/// a header, 30 s.
fn outage_patience(limits: &Section<'_>) -> Duration {
    limits.read("outage_patience", units::duration).unwrap_or(Duration::from_secs(25))
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
        audit: log.text("audit").map(|found| found.value.into()),
        audit_required: log.flag("audit_required").is_some_and(|flag| flag.value),
    };
    if settings.audit_required && settings.audit.is_none() {
        let help = "name the file: `audit = \"/var/log/transship/audit.jsonl\"`".to_owned();
        log.problems.add(&log.place_of("audit_required"), "`audit_required` needs an `audit`", help);
    }
    if let (Err(error), Some(found)) = (settings.check(), log.text("level")) {
        log.problems.add(&found.place, format!("`level`: {error}"), None);
    }
    log.finish(|_| None);
    settings
}

fn read_clients<'a>(
    sections: impl Iterator<Item = Section<'a>>,
    registries: &[RegistryName],
    certificates: bool,
) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    for section in sections {
        let problems = section.problems;
        let Some((client, place)) = client::read(section, registries, certificates) else { continue };
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
fn check_exposure(registries: &[Parsed<'_>]) {
    for parsed in registries {
        let registry = &parsed.registry;
        if registry.access == AccessMode::Anyone
            && (parsed.way.shows_certificate() || !registry.credential.is_anonymous())
        {
            parsed.problems.add(
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
