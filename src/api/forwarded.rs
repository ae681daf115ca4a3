//! What a proxy in front of this one says of its client: `Forwarded` (RFC 7239)
//! and `X-Forwarded-For`.
//!
//! Both are read from their end, where the last hop has written. What cannot be
//! read, and two headers that name two clients, are refused: a client that adds
//! one of its own must not choose who it is taken for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

use crate::access::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers of a trusted proxy that do not tell who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclear {
    /// One of them is not what its specification says.
    Unreadable,
    /// There are both, and they do not agree.
    Contradiction,
}

impl Unclear {
    /// What the client is told.
    pub(super) fn message(self) -> &'static str {
        match self {
            Unclear::Unreadable => "`Forwarded` or `X-Forwarded-For` cannot be read",
            Unclear::Contradiction => {
                "`Forwarded` and `X-Forwarded-For` name different clients: the proxy in front has to remove one of them"
            }
        }
    }
}

/// The client that `peer`, a trusted proxy, asks for.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, proxies: &TrustedProxies) -> Result<IpAddr, Unclear> {
    let hops = |name: &HeaderName, hops: fn(&str) -> Option<Vec<Option<IpAddr>>>| {
        let mut all = Vec::new();
        for line in headers.get_all(name) {
            all.extend(line.to_str().ok().and_then(hops).ok_or(Unclear::Unreadable)?);
        }
        let said = !all.is_empty();
        Ok(said.then(|| proxies.client(peer, all.into_iter().rev())))
    };
    match (hops(&FORWARDED, forwarded)?, hops(&X_FORWARDED_FOR, x_forwarded_for)?) {
        (Some(one), Some(other)) if one != other => Err(Unclear::Contradiction),
        (one, other) => Ok(one.or(other).unwrap_or(peer)),
    }
}

fn x_forwarded_for(line: &str) -> Option<Vec<Option<IpAddr>>> {
    Some(line.split(',').map(|hop| node(hop.trim())).collect())
}

/// The `for` of each element; `None` as a whole if a quoted string does not end,
/// which could hide what the last hop has written.
fn forwarded(line: &str) -> Option<Vec<Option<IpAddr>>> {
    split(line, ',')?
        .iter()
        .map(|element| Some(split(element, ';')?.iter().find_map(|pair| for_of(pair)).flatten()))
        .collect()
}

/// What a pair says if it is a `for`.
fn for_of(pair: &str) -> Option<Option<IpAddr>> {
    let (name, value) = pair.split_once('=')?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    name.trim().eq_ignore_ascii_case("for").then(|| node(value))
}

/// Splits outside quoted strings; `None` if one does not end.
fn split(text: &str, at: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == at && !quoted => {
                parts.push(text.get(start..index)?);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    (!quoted).then_some(parts)
}

/// An address with or without a port; `None` for one that is kept secret.
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    text.parse().ok().or_else(bracketed).or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked_by(lines: &[(&str, &str)]) -> Result<String, Unclear> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        client(&headers, "10.0.0.1".parse().unwrap(), &proxies).map(|address| address.to_string())
    }

    #[test]
    fn both_headers_are_read_from_their_end() {
        for (line, wanted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("203.0.113.9, 192.0.2.7, 10.2.3.4", "192.0.2.7"),
            ("192.0.2.7:4711", "192.0.2.7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("192.0.2.7, unknown", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(asked_by(&[("x-forwarded-for", line)]).unwrap(), wanted, "{line}");
        }
        for (line, wanted) in [
            ("for=192.0.2.7", "192.0.2.7"),
            ("For=\"[2001:db8::7]:4711\";proto=https;by=10.0.0.1", "2001:db8::7"),
            ("for=203.0.113.9, for=192.0.2.7;host=\"a,b\", proto=http;for=10.2.3.4", "192.0.2.7"),
            ("for=192.0.2.7, for=_hidden", "10.0.0.1"),
            ("for=192.0.2.7, proto=https", "10.0.0.1"),
        ] {
            assert_eq!(asked_by(&[("forwarded", line)]).unwrap(), wanted, "{line}");
        }
        let lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(asked_by(&lines).unwrap(), "192.0.2.7");
        assert_eq!(asked_by(&[]).unwrap(), "10.0.0.1");
    }

    #[test]
    fn a_client_cannot_hide_what_the_proxy_says() {
        assert_eq!(asked_by(&[("forwarded", "for=\"x, for=192.0.2.7")]), Err(Unclear::Unreadable));
        assert_eq!(asked_by(&[("forwarded", "for=\"x"), ("forwarded", "for=192.0.2.7")]), Err(Unclear::Unreadable));
        let both = [("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(asked_by(&both), Err(Unclear::Contradiction));
        let both = [("forwarded", "for=192.0.2.7"), ("x-forwarded-for", "203.0.113.9, 192.0.2.7")];
        assert_eq!(asked_by(&both).unwrap(), "192.0.2.7");
    }

    proptest! {
        #[test]
        fn whatever_a_client_writes_what_the_proxy_adds_counts(before in "[ -~]{0,64}") {
            let added = format!("{before}, for=192.0.2.7");
            let found = asked_by(&[("forwarded", &added)]);
            prop_assert!(found == Ok("192.0.2.7".to_owned()) || found == Err(Unclear::Unreadable), "{:?}", found);
            let added = format!("{before}, 192.0.2.7");
            prop_assert_eq!(asked_by(&[("x-forwarded-for", &added)]).unwrap(), "192.0.2.7");
        }
    }
}
