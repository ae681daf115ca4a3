//! The egress rule: the one place that says where a request may go.
//!
//! A registry's credential goes to the registry's own origins and to token
//! services the operator or the provider's kind named, and nowhere else. A
//! redirect may lead to any public HTTPS origin, never with a credential. No
//! connection is made to an address that is not public, except where the
//! operator wrote it down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use url::Url;

use super::error::{Error, Result};
use crate::registry::{Credential, Origin, Registry, Scheme};

/// What a request is for; decides which origins are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The registry's own API.
    Registry,
    /// Asking for a token, with the credential.
    Token,
    /// Exchanging the credential at the provider's own sign-in.
    SignIn,
    /// Following a redirect, without any credential.
    Redirect,
}

/// The rule for one registry.
#[derive(Debug, Clone)]
pub(super) struct Egress {
    registry: Arc<Registry>,
    /// Where the credential in use is exchanged.
    sign_in: Arc<ArcSwapOption<Origin>>,
}

impl Egress {
    pub(super) fn new(registry: Arc<Registry>) -> Egress {
        let egress = Egress { sign_in: Arc::default(), registry };
        egress.follow_credential(&egress.registry.credential);
        egress
    }

    /// `credential` is in use from now on.
    pub(super) fn follow_credential(&self, credential: &Credential) {
        self.sign_in.store(credential.endpoint().cloned().map(Arc::new));
    }

    /// Whether the operator has named `origin` as one that redirects lead to.
    pub(super) fn is_named(&self, origin: &Origin) -> bool {
        self.registry.egress.redirect_origins.contains(origin)
    }

    fn is_sign_in(&self, origin: &Origin) -> bool {
        self.sign_in.load().as_deref() == Some(origin)
    }

    /// Whether `url` may be requested for `purpose`; gives its origin.
    pub(super) fn check(&self, purpose: Purpose, url: &Url) -> Result<Origin> {
        let refuse = |target: String, reason: String| Err(Error::Egress { target, reason });
        let origin = match Origin::of(url) {
            Ok(origin) => origin,
            Err(error) => return refuse("the given URL".into(), error.to_string()),
        };
        let registry = &self.registry;
        let allowed = match purpose {
            Purpose::Registry => registry.origins().any(|own| *own == origin),
            Purpose::Token => registry.trusts_realm(&origin),
            Purpose::SignIn => self.is_sign_in(&origin),
            // What signs in may be within a private network: nobody is sent there.
            Purpose::Redirect if self.is_sign_in(&origin) => false,
            Purpose::Redirect => {
                origin.scheme() == Scheme::Https
                    || registry.egress.redirect_origins.contains(&origin)
                    || registry.egress.insecure && registry.origins().any(|own| *own == origin)
            }
        };
        if !allowed {
            let reason = match purpose {
                Purpose::Registry => "it is not an origin of this registry".to_owned(),
                Purpose::Token => format!(
                    "it is not a token service of registry `{0}`; if it is one, add `token_realms = [\"{origin}\"]` to the registry",
                    registry.name
                ),
                Purpose::SignIn => format!("it is not where the credential of registry `{}` signs in", registry.name),
                Purpose::Redirect => format!(
                    "redirects go to https only; to allow this one, add `redirect_origins = [\"{origin}\"]` to registry `{}`",
                    registry.name
                ),
            };
            return refuse(origin.to_string(), reason);
        }
        let plain_ok = registry.egress.insecure || registry.egress.redirect_origins.contains(&origin);
        if origin.scheme() == Scheme::Http && !plain_ok {
            return refuse(
                origin.to_string(),
                format!("plain HTTP needs `insecure = true` at registry `{}`", registry.name),
            );
        }
        Ok(origin)
    }

    /// Whether a connection to `address` may be made for `origin`. Called with
    /// the very address that is then dialled.
    pub(super) fn permits(&self, origin: &Origin, address: SocketAddr) -> bool {
        let registry = &self.registry;
        if is_public(address.ip()) || registry.egress.redirect_origins.contains(origin) {
            return true;
        }
        let own = registry.trusts_realm(origin) || self.is_sign_in(origin);
        own && registry.egress.allow_private.iter().any(|network| network.contains(&canonical(address.ip())))
    }

    /// Whether `origin` may be asked for without looking its name up, because a
    /// proxy does that. Its address stays unknown; what its name says already
    /// has to pass.
    pub(super) fn check_unresolved(&self, origin: &Origin) -> Result<()> {
        let host = origin.host().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.ends_with(".localhost");
        let known = if is_here { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { host.parse().ok() };
        match known.map(|address| SocketAddr::new(address, origin.port())) {
            Some(address) if !self.permits(origin, address) => Err(self.not_permitted(origin, address)),
            _ => Ok(()),
        }
    }

    /// What to tell the operator when [`permits`](Self::permits) said no.
    pub(super) fn not_permitted(&self, origin: &Origin, address: SocketAddr) -> Error {
        let network = match canonical(address.ip()) {
            IpAddr::V4(address) => format!("{address}/32"),
            IpAddr::V6(address) => format!("{address}/128"),
        };
        let key = if self.registry.trusts_realm(origin) || self.is_sign_in(origin) {
            format!("`allow_private = [\"{network}\"]`")
        } else {
            format!("`redirect_origins = [\"{origin}\"]`")
        };
        Error::Egress {
            target: origin.to_string(),
            reason: format!("its address is not public; to allow it, add {key} to registry `{}`", self.registry.name),
        }
    }
}

/// IPv4 addresses in IPv6 clothing are what they contain.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    let segments = v6.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056)
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // IPv4-compatible (RFC 4291 §2.5.5.1), but not :: and ::1
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => embedded(high, low),
        _ => address,
    }
}

/// Whether an address is somebody else's public one (IANA special-purpose
/// address registries). Azure's 168.63.129.16 is its machines' own agent and no
/// part of the internet, wherever it lies.
pub fn is_public(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            !(matches!(a, 0 | 10 | 127 | 224..)
                || a == 100 && (64..128).contains(&b)
                || a == 168 && b == 63 && c == 129 && d == 16
                || a == 169 && b == 254
                || a == 172 && (16..32).contains(&b)
                || a == 192 && b == 88 && c == 99
                || a == 192 && b == 168
                || a == 192 && b == 0 && (c == 0 || c == 2)
                || a == 198 && (18..20).contains(&b)
                || a == 198 && b == 51 && c == 100
                || a == 203 && b == 0 && c == 113)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            !(v6 == Ipv6Addr::UNSPECIFIED
                || v6 == Ipv6Addr::LOCALHOST
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || first & 0xffc0 == 0xfec0
                || first & 0xff00 == 0xff00
                || first == 0x100 && second == 0
                || first == 0x2001 && (second < 0x200 || second == 0xdb8)
                || first == 0x3fff && second & 0xf000 == 0
                || first == 0x5f00
                || first == 0x64 && second == 0xff9b)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_nobody_elses_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "192.88.99.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::1",
            "::10.0.0.1",
            "64:ff9b:1::1",
            "2001::5",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "5f00::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for address in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.1.0.1",
            "198.20.0.1",
            "168.63.129.17",
            "192.88.98.1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "3ffe::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
