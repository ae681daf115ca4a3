//! Origins and host names, normalised once.

use std::fmt;
use std::str::FromStr;

/// URL scheme of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP: only where the operator said so.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Scheme, host and port: what a credential is pinned to.
///
/// The host is lower-case, without a trailing dot, IDNA-encoded, and an IP
/// literal in its usual form, so that equality is identity.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

/// Why a text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrigin {
    /// Not a URL at all.
    #[error("not a URL; write it as `https://registry.example.com`")]
    NotUrl,
    /// Neither http nor https.
    #[error("the scheme must be https (or http)")]
    Scheme,
    /// `user:password@host`.
    #[error("a URL must not carry a user name or password")]
    UserInfo,
    /// Something behind the host and port.
    #[error("only scheme, host and port belong here; put a path prefix into `namespace`")]
    Path,
}

impl Origin {
    /// The origin of an absolute URL.
    ///
    /// # Errors
    /// When the URL has another scheme, user information or no host.
    pub fn of(url: &url::Url) -> Result<Origin, InvalidOrigin> {
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(InvalidOrigin::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidOrigin::UserInfo);
        }
        let host = url.host_str().ok_or(InvalidOrigin::NotUrl)?;
        // A trailing dot is the same host to DNS but not to TLS or to a pin.
        if host.is_empty() || host.ends_with('.') {
            return Err(InvalidOrigin::NotUrl);
        }
        let port = url.port().unwrap_or(scheme.default_port());
        Ok(Origin { scheme, host: host.to_owned(), port })
    }

    /// Its scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its host; IPv6 addresses in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as in an image reference: the default port is left out.
    pub fn host_port(&self) -> HostPort {
        let port = (self.port != self.scheme.default_port()).then_some(self.port);
        HostPort { host: self.host.clone(), port }
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains("://") {
            return Err(InvalidOrigin::NotUrl);
        }
        let url: url::Url = text.parse().map_err(|_| InvalidOrigin::NotUrl)?;
        let origin = Origin::of(&url)?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidOrigin::Path);
        }
        Ok(origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host_port())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host with an optional port, as it stands in image references, in `ns`
/// and in `Host`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: Option<u16>,
}

impl HostPort {
    /// The host without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Docker Hub, by the name that image references have for it.
    pub fn docker_hub() -> HostPort {
        HostPort { host: "docker.io".to_owned(), port: None }
    }

    /// Whether this names Docker Hub, which answers to three names.
    pub fn is_docker_hub(&self) -> bool {
        self.port.is_none() && matches!(self.host.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io")
    }

    /// Whether both are the same registry host.
    pub fn same_registry(&self, other: &HostPort) -> bool {
        self == other || self.is_docker_hub() && other.is_docker_hub()
    }

    /// Whether a path component can only be meant as a host: container
    /// runtimes read a first component with a dot, or `localhost`, as one.
    pub fn looks_like_host(component: &str) -> bool {
        component.contains(['.', ':']) || component == "localhost"
    }
}

impl FromStr for HostPort {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.to_ascii_lowercase();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                let port: u16 = digits.then(|| port.parse().ok()).flatten().ok_or(InvalidOrigin::NotUrl)?;
                (host, Some(port))
            }
            _ => (text.as_str(), None),
        };
        // Written with its root, a name is the same name.
        let host = host.strip_suffix('.').unwrap_or(host);
        let named = !host.is_empty()
            && host.len() <= 253
            && host.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let literal = v6.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        if !named && !literal {
            return Err(InvalidOrigin::NotUrl);
        }
        Ok(HostPort { host: host.to_owned(), port: port.filter(|port| *port != 443) })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_equal_exactly_when_they_are_the_same_place() {
        let origin: Origin = "https://Registry.Example.com".parse().unwrap();
        assert_eq!(origin, "https://registry.example.com:443/".parse().unwrap());
        assert_ne!(origin, "http://registry.example.com:443".parse().unwrap());
        assert_ne!(origin, "https://registry.example.com:444".parse().unwrap());
        assert_eq!(origin.to_string(), "https://registry.example.com");
    }

    #[test]
    fn numeric_disguises_of_an_address_are_seen_through() {
        for disguise in ["http://0x7f.1", "http://2130706433", "http://0177.0.0.1"] {
            assert_eq!(disguise.parse::<Origin>().unwrap().host(), "127.0.0.1", "{disguise}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for (text, error) in [
            ("registry.example.com", InvalidOrigin::NotUrl),
            ("https://", InvalidOrigin::NotUrl),
            ("https://example.com.", InvalidOrigin::NotUrl),
            ("ftp://example.com", InvalidOrigin::Scheme),
            ("https://user:secret@example.com", InvalidOrigin::UserInfo),
            ("https://example.com/v2", InvalidOrigin::Path),
            ("https://example.com?x", InvalidOrigin::Path),
        ] {
            assert_eq!(text.parse::<Origin>(), Err(error), "{text}");
        }
    }

    #[test]
    fn hosts_of_requests_are_parsed_strictly() {
        for text in ["docker.io", "LOCALHOST:5000", "[::1]:80", "a_b.c", "127.0.0.1"] {
            assert!(text.parse::<HostPort>().is_ok(), "{text}");
        }
        for text in [
            "",
            ":80",
            "http://evil/",
            "user:p@docker.io",
            "docker.io/../x",
            "docker.io\r\nX:1",
            "a b",
            "a..b",
            "a:65536",
            "a:+1",
            "[::g]",
            "a:",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_three_names_of_docker_hub_are_one() {
        let hub: HostPort = "docker.io".parse().unwrap();
        for alias in ["index.docker.io", "registry-1.docker.io:443", "Docker.IO"] {
            assert!(hub.same_registry(&alias.parse().unwrap()), "{alias}");
        }
        assert!(!hub.same_registry(&"auth.docker.io".parse().unwrap()));
    }
}
