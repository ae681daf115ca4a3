//! How connections towards a registry are made, and how much of it is used.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Origin, Secret};

/// Everything about the way to a registry that an operator may choose.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outbound {
    /// How long is waited for what.
    pub timeouts: Timeouts,
    /// Goes through this proxy.
    pub proxy: Option<Arc<OutboundProxy>>,
    /// Shown to a registry that asks for a certificate.
    pub identity: Option<Identity>,
    /// Bytes a second that blobs are fetched at, at the most.
    pub max_bandwidth: Option<u64>,
    /// The part of a pull limit that is kept for what cannot be answered from
    /// cache, 0 to 1.
    pub rate_limit_reserve: Reserve,
}

/// How long is waited for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// To look a name up and to connect, together.
    pub connect: Duration,
    /// A TLS handshake, and an outbound proxy's answer.
    pub tls: Duration,
    /// From a request to the head of its answer.
    pub first_byte: Duration,
    /// A transfer that brings fewer bytes a second than this is opened again.
    pub low_speed: u64,
    /// For how long it has to be that slow.
    pub low_speed_time: Duration,
    /// A connection that is older is not used again, so that a changed address
    /// is noticed.
    pub connection_age: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            tls: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            low_speed: 8 << 10,
            low_speed_time: Duration::from_secs(60),
            connection_age: Duration::from_secs(300),
        }
    }
}

/// A part of a limit, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve(pub u16);

impl Default for Reserve {
    fn default() -> Self {
        Reserve(100)
    }
}

impl Reserve {
    /// Whether `remaining` of `limit` is within it.
    pub fn covers(self, remaining: u64, limit: u64) -> bool {
        self.0 > 0 && u128::from(remaining) * 1000 <= u128::from(limit) * u128::from(self.0)
    }
}

/// A certificate and its key, both in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The chain.
    pub certificate_pem: Arc<[u8]>,
    /// The key.
    pub key_pem: Secret,
}

/// A proxy that requests leave through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundProxy {
    /// Its host; IPv6 addresses in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it is shown, where it asks for something.
    pub account: Option<(String, Secret)>,
    /// What is reached without it.
    pub except: Vec<Exception>,
}

impl OutboundProxy {
    /// Whether `origin` is reached through it. What is on the machine's own
    /// link, as a cloud's metadata service is, has no way through anything.
    pub fn serves(&self, origin: &Origin) -> bool {
        let is_on_link = match origin.host().trim_matches(['[', ']']).parse() {
            Ok(IpAddr::V4(address)) => address.is_link_local(),
            Ok(IpAddr::V6(address)) => address.is_unicast_link_local(),
            Err(_) => false,
        };
        !is_on_link && !self.except.iter().any(|exception| exception.covers(origin))
    }
}

impl fmt::Display for OutboundProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

/// What is reached without the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    what: Excepted,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Excepted {
    Everything,
    /// This name and all below it.
    Name(String),
    /// All below this name.
    Below(String),
    /// Addresses, where the origin names one.
    Network(IpNet),
}

impl Exception {
    fn covers(&self, origin: &Origin) -> bool {
        if self.port.is_some_and(|port| port != origin.port()) {
            return false;
        }
        let host = origin.host().trim_matches(['[', ']']);
        let below = |name: &str| host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        match &self.what {
            Excepted::Everything => true,
            Excepted::Name(name) => host == name || below(name),
            Excepted::Below(name) => below(name),
            Excepted::Network(network) => host.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)),
        }
    }
}

impl FromStr for Exception {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "`{text}` is no host, domain or network; write it as `registry.internal`, `.internal` or `10.0.0.0/8`"
            )
        };
        if text == "*" {
            return Ok(Exception { what: Excepted::Everything, port: None });
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Exception { what: Excepted::Network(network), port: None });
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Exception { what: Excepted::Network(IpNet::from(address)), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Exception { what: Excepted::Network(IpNet::from(address)), port });
        }
        let host = host.to_ascii_lowercase();
        let bare = host.trim_start_matches("*.").trim_start_matches('.');
        let sound = !bare.is_empty()
            && bare.split('.').all(|label| {
                !label.is_empty()
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            });
        match (sound, bare == host) {
            (false, _) => Err(wrong()),
            (true, true) => Ok(Exception { what: Excepted::Name(host), port }),
            (true, false) => Ok(Exception { what: Excepted::Below(bare.to_owned()), port }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excepted(exception: &str, origin: &str) -> bool {
        exception.parse::<Exception>().unwrap().covers(&origin.parse().unwrap())
    }

    #[test]
    fn an_exception_covers_what_its_words_mean_elsewhere() {
        for (exception, origin, covered) in [
            ("*", "https://anything.example", true),
            ("internal", "https://internal", true),
            ("internal", "https://registry.internal", true),
            ("internal", "https://notinternal", false),
            (".internal", "https://internal", false),
            (".internal", "https://a.b.internal", true),
            ("*.internal", "https://a.internal", true),
            ("Registry.Internal", "https://registry.internal", true),
            ("registry.internal:5000", "https://registry.internal:5000", true),
            ("registry.internal:5000", "https://registry.internal", false),
            ("10.0.0.0/8", "http://10.1.2.3:5000", true),
            ("10.0.0.0/8", "http://11.1.2.3:5000", false),
            ("10.0.0.0/8", "https://ten.example", false),
            ("10.1.2.3:5000", "http://10.1.2.3:5000", true),
            ("10.1.2.3:5000", "http://10.1.2.3:5001", false),
            ("fd00::/8", "https://[fd00::1]", true),
            ("[::1]:5000", "http://[::1]:5000", true),
        ] {
            assert_eq!(excepted(exception, origin), covered, "{exception} {origin}");
        }
        for text in ["", ".", "a b", "http://a", "a:port", "a..b", "user@host"] {
            assert!(text.parse::<Exception>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_on_the_own_link_is_never_asked_of_a_proxy() {
        let proxy = OutboundProxy { host: "corp".into(), port: 3128, account: None, except: Vec::new() };
        for (origin, served) in [
            ("http://169.254.169.254", false),
            ("http://[fe80::1]", false),
            ("http://10.0.0.1", true),
            ("https://registry.example", true),
        ] {
            assert_eq!(proxy.serves(&origin.parse().unwrap()), served, "{origin}");
        }
    }

    #[test]
    fn a_reserve_covers_the_last_part_of_a_limit() {
        assert!(Reserve(100).covers(10, 100) && !Reserve(100).covers(11, 100));
        assert!(Reserve(100).covers(0, 0));
        assert!(!Reserve(0).covers(0, 100), "no reserve is none, even at the end");
        assert!(Reserve(1000).covers(u64::MAX, u64::MAX));
    }
}
