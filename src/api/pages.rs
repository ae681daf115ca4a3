//! Who may not pull although the listener is reached: web pages.
//!
//! A browser beside the proxy reaches its loopback address too. A page that
//! asks across sites is told by `Origin` or `Sec-Fetch-Site`, which no client
//! of registries sends. One whose own name was made to point here (DNS
//! rebinding) is told by its `Host`: on loopback that is an address, or a name
//! which the operator has given the proxy.

use std::net::IpAddr;

use http::{HeaderMap, header};

use crate::registry::{Directory, HostPort};

/// Whether a web page has made the request.
pub(super) fn asks_across_sites(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    headers.contains_key(header::ORIGIN) || site.is_some_and(|site| !matches!(site, b"none" | b"same-origin"))
}

/// Whether the proxy may be called `host` by a client on the same machine.
pub(super) fn is_own_name(host: &HostPort, public: Option<&HostPort>, directory: &Directory) -> bool {
    let name = host.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || public.is_some_and(|public| public.host() == name)
        || directory.registries().iter().flat_map(|registry| &registry.hosts).any(|own| own.host() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_registries_are_told_from_pages() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(header::HeaderName::from_static(name), header::HeaderValue::from_static(value))])
        };
        assert!(asks_across_sites(&headers("origin", "http://evil.example")));
        assert!(asks_across_sites(&headers("origin", "null")));
        assert!(asks_across_sites(&headers("sec-fetch-site", "cross-site")));
        assert!(asks_across_sites(&headers("sec-fetch-site", "same-site")));
        assert!(!asks_across_sites(&headers("sec-fetch-site", "none")));
        assert!(!asks_across_sites(&headers("user-agent", "docker/29.0")));
    }

    #[test]
    fn a_name_counts_only_where_the_operator_has_given_it() {
        let (directory, public) = (Directory::new(Vec::new()), "proxy.example".parse().unwrap());
        for own in ["127.0.0.1", "127.0.0.1:5000", "[::1]:5000", "localhost:5000", "proxy.example:5000"] {
            assert!(is_own_name(&own.parse().unwrap(), Some(&public), &directory), "{own}");
        }
        for other in ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "localhost.evil.example"] {
            assert!(!is_own_name(&other.parse().unwrap(), Some(&public), &directory), "{other}");
        }
    }
}
