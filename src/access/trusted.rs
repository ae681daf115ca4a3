//! Proxies in front of this one, which are believed when they say for whom
//! they ask.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// The networks of such proxies; none by default.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Proxies that have an address in one of these networks.
    pub fn new(networks: Vec<IpNet>) -> TrustedProxies {
        TrustedProxies(networks.into())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client that `peer` asks for. `said` is what each hop wrote of the one
    /// before it, the last hop first: what a hop says counts only if it is a
    /// trusted one. The first that does not say is taken for the client.
    pub fn client(&self, peer: IpAddr, said: impl IntoIterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut client = peer;
        for before in said {
            match before {
                Some(before) if self.contains(client) => client = before.to_canonical(),
                _ => break,
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_hop_is_believed_only_if_it_is_trusted() {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let client = |peer: &str, said: &[&str]| {
            proxies.client(address(peer), said.iter().map(|text| text.parse().ok())).to_string()
        };
        assert_eq!(client("10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("::ffff:10.0.0.1", &["::ffff:192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("fd00::1", &["10.0.0.1", "192.0.2.7", "198.51.100.1"]), "192.0.2.7");
        assert_eq!(client("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["unknown", "198.51.100.1"]), "10.0.0.1");
        assert!(TrustedProxies::default().is_empty() && !TrustedProxies::default().contains(address("10.0.0.1")));
    }
}
