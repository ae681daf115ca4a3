//! The way to upstreams: `[upstream]`, the timeouts of `[limits]`, and what a
//! `[[registry]]` says of its own.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::secret::Sources;
use super::section::Section;
use super::units;
use crate::registry::{Exception, Identity, Outbound, OutboundProxy, Reserve, Secret, Timeouts, Value};

/// The least that `max_bandwidth` may be: below it, transfers look like
/// stalled ones.
const MIN_BANDWIDTH: u64 = 64 * 1024;

/// What a registry says of the way to it.
pub(super) struct Own {
    outbound: Outbound,
    /// It says something about a proxy, if only that there is none.
    about_proxy: bool,
}

impl Own {
    /// Whether the registry is shown a certificate.
    pub(super) fn shows_certificate(&self) -> bool {
        self.outbound.identity.is_some()
    }

    /// Puts what holds for all registries under what this one says.
    pub(super) fn over(self, common: &Outbound) -> Outbound {
        let proxy = if self.about_proxy { self.outbound.proxy } else { common.proxy.clone() };
        Outbound { timeouts: common.timeouts.clone(), proxy, ..self.outbound }
    }
}

/// What holds for all registries.
pub(super) fn common(upstream: Section<'_>, limits: &Section<'_>, sources: &Sources<'_>) -> Outbound {
    let default = Timeouts::default();
    let time = |key| limits.read(key, units::some_time);
    let timeouts = Timeouts {
        connect: time("upstream_connect_timeout").unwrap_or(default.connect),
        tls: time("upstream_tls_timeout").unwrap_or(default.tls),
        first_byte: time("upstream_first_byte_timeout").unwrap_or(default.first_byte),
        low_speed: limits.read("upstream_low_speed", units::size).unwrap_or(default.low_speed),
        low_speed_time: time("upstream_low_speed_time").unwrap_or(default.low_speed_time),
        connection_age: time("upstream_connection_age").unwrap_or(default.connection_age),
    };
    let (proxy, _) = proxy(&upstream, sources, "[upstream]");
    upstream.finish(|_| None);
    Outbound { timeouts, proxy, ..Outbound::default() }
}

/// What one registry, `owner` in messages, says.
pub(super) fn own(section: &Section<'_>, sources: &Sources<'_>, owner: &str) -> Own {
    let (proxy, about_proxy) = proxy(section, sources, owner);
    let max_bandwidth = section.read("max_bandwidth", |text| {
        let bytes = text.trim().strip_suffix("/s").unwrap_or(text);
        match units::size(bytes) {
            Ok(rate) if rate < MIN_BANDWIDTH => Err("it has to be at least `64KiB/s`".to_owned()),
            Ok(rate) => Ok(rate),
            Err(_) => Err(format!("`{text}` is no bandwidth; write it as `50MB/s`")),
        }
    });
    let rate_limit_reserve = section.read("rate_limit_reserve", units::share).map_or_else(Reserve::default, Reserve);
    let outbound = Outbound {
        proxy,
        identity: identity(section, owner),
        max_bandwidth,
        rate_limit_reserve,
        ..Outbound::default()
    };
    Own { outbound, about_proxy }
}

/// The proxy, and whether anything is said about one.
fn proxy(section: &Section<'_>, sources: &Sources<'_>, owner: &str) -> (Option<Arc<OutboundProxy>>, bool) {
    let problems = section.problems;
    let except = section.list("no_proxy", str::parse::<Exception>);
    let has_password = section.has("proxy_password");
    let password = has_password.then(|| sources.take(section, (owner, None), "proxy_password", false)).flatten();
    let password = password.and_then(|value| match value {
        Value::Secret(secret) => Some(secret),
        // As it is at the start.
        Value::Source(source) => Some(source.secret().clone()),
        _ => {
            let message = format!("{owner}: `proxy_password` is taken from a variable or a file");
            problems.add(&section.place_of("proxy_password").hidden(), message, "use `env` or `file`".to_owned());
            None
        }
    });
    // What is written here by mistake may hold a password.
    let address = section.read_hidden("proxy", address);
    match address {
        None => {
            for key in ["no_proxy", "proxy_password"] {
                if section.has(key) && !section.has("proxy") && section.text("proxy").is_none() {
                    let message = format!("{owner}: `{key}` is about a proxy, and there is none");
                    problems.add(
                        &section.place_of(key),
                        message,
                        "add `proxy = \"http://proxy.example:3128\"`".to_owned(),
                    );
                }
            }
            (None, section.has("proxy"))
        }
        Some(Address::Direct) => (None, true),
        Some(Address::Proxy { host, port, username }) => {
            let account = match (username, password) {
                (Some(username), password) if password.is_some() || !has_password => {
                    Some((username, password.unwrap_or_else(|| Secret::new(String::new()))))
                }
                (None, Some(_)) => {
                    let message = format!("{owner}: `proxy_password` belongs to a user name");
                    let help = "write it before the host: `proxy = \"http://user@proxy.example:3128\"`".to_owned();
                    problems.add(&section.place_of("proxy_password"), message, help);
                    None
                }
                _ => None,
            };
            let except = except.unwrap_or_default().into_iter().map(|found| found.value).collect();
            (Some(Arc::new(OutboundProxy { host, port, account, except })), true)
        }
    }
}

enum Address {
    Direct,
    Proxy { host: String, port: u16, username: Option<String> },
}

fn address(text: &str) -> Result<Address, String> {
    if text == "direct" {
        return Ok(Address::Direct);
    }
    let wrong = || "it is no proxy; write it as `http://proxy.example:3128`, or `direct` for none".to_owned();
    let url: url::Url = text.parse().map_err(|_| wrong())?;
    if url.password().is_some() {
        return Err("a password must not stand in the file: name its source in `proxy_password`".to_owned());
    }
    if url.scheme() == "https" || url.scheme().starts_with("socks") {
        return Err("a proxy is spoken to in plain HTTP; write it as `http://proxy.example:3128`".to_owned());
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let host = url.host_str().filter(|host| url.scheme() == "http" && bare && !host.is_empty()).ok_or_else(wrong)?;
    let username = Some(url.username()).filter(|username| !username.is_empty()).map(str::to_owned);
    if username.as_ref().is_some_and(|username| username.contains('%')) {
        return Err("the user name of a proxy is written plainly, without `%`".to_owned());
    }
    Ok(Address::Proxy { host: host.to_owned(), port: url.port().unwrap_or(80), username })
}

/// The client certificate and its key.
fn identity(section: &Section<'_>, owner: &str) -> Option<Identity> {
    let problems = section.problems;
    let certificate = section.read("client_certificate", |path| {
        let pem = std::fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
        match CertificateDer::pem_slice_iter(&pem).next() {
            Some(Ok(_)) => Ok(pem),
            _ => Err(format!("{path} holds no certificate in PEM form")),
        }
    });
    let key = section.read("client_key", key);
    for (one, other) in [("client_certificate", "client_key"), ("client_key", "client_certificate")] {
        if section.has(one) && !section.has(other) {
            let message = format!("{owner}: `{one}` needs a `{other}`");
            problems.add(&section.place_of(one), message, "name a PEM file".to_owned());
        }
    }
    let identity = Identity { certificate_pem: certificate?.into(), key_pem: key? };
    match crate::upstream::check_identity(&identity) {
        Ok(()) => Some(identity),
        Err(error) => {
            problems.add(&section.place_of("client_key"), format!("{owner}: {error}"), None);
            None
        }
    }
}

fn key(path: &str) -> Result<Secret, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let unreadable = |error| format!("{path} cannot be read: {error}");
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!("{path} is a private key that everybody may read; `chmod o= {path}`"));
    }
    std::fs::read_to_string(path).map(Secret::new).map_err(unreadable)
}
