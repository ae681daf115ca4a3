//! Who may not use the admin API although the listener is reached: web pages.
//!
//! The API has no passwords: it is for whoever reaches the listener, which is
//! why that is on loopback. A browser reaches loopback too. A page whose own
//! name was made to point here (DNS rebinding) is told by its `Host`; one that
//! sends requests across sites (CSRF) is told by its `Origin`, which no
//! command-line client sends.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::failure;

/// Lets a request pass that no web page can have made.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    match refusal(request.method(), request.headers()) {
        Some(reason) => failure(StatusCode::FORBIDDEN, reason).into_response(),
        None => next.run(request).await,
    }
}

fn refusal(method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_address) {
        return Some("the Host header has to be an IP address or `localhost`: use the admin listener's address");
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    if changes && headers.contains_key(header::ORIGIN) {
        return Some("changes are not accepted from web pages: send the request without an Origin header");
    }
    None
}

/// Whether `host`, with or without a port, is an address that no name server
/// has a say in.
fn is_address(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((inner, port)) = rest.split_once(']') else { return false };
        return inner.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: header::HeaderName = name;
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn addresses_are_told_from_names() {
        for host in ["127.0.0.1", "127.0.0.1:5001", "localhost", "LocalHost:1", "[::1]", "[::1]:5001", "10.1.2.3:80"] {
            assert!(is_address(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:x",
            "[::1",
            "[evil]",
            "[::1]x",
            "::1",
            "localhost:",
            "user@127.0.0.1",
        ] {
            assert!(!is_address(host), "{host}");
        }
    }

    #[test]
    fn what_a_web_page_can_send_is_refused() {
        let own = ("host", "127.0.0.1:5001");
        assert_eq!(refusal(&Method::GET, &headers(&[own])), None);
        assert_eq!(refusal(&Method::DELETE, &headers(&[own])), None);
        // Reading across sites is the browser's to prevent.
        assert_eq!(refusal(&Method::GET, &headers(&[own, ("origin", "http://evil.example")])), None);
        for method in [Method::PUT, Method::DELETE, Method::POST, Method::OPTIONS] {
            for origin in ["http://evil.example", "null", "http://127.0.0.1:5001"] {
                assert!(refusal(&method, &headers(&[own, ("origin", origin)])).is_some(), "{method} {origin}");
            }
        }
        for hosts in [&[][..], &[own, own], &[("host", "evil.example:5001")]] {
            assert!(refusal(&Method::GET, &headers(hosts)).is_some(), "{hosts:?}");
        }
    }
}
