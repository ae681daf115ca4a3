//! The way through an outbound proxy: CONNECT for https (RFC 9110 §9.3.6).
//! What is plain HTTP is asked of the proxy itself, in absolute form.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::registry::{Origin, OutboundProxy};

/// Longest answer to a CONNECT.
const MAX_ANSWER: usize = 16 * 1024;

/// What a proxy is shown, as `Proxy-Authorization`.
pub(super) fn authorization(proxy: &OutboundProxy) -> Option<HeaderValue> {
    let (username, password) = proxy.account.as_ref()?;
    let pair = Zeroizing::new(format!("{username}:{}", password.expose()));
    let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&encoded).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Makes `stream`, a connection to `proxy`, one to `origin`.
///
/// # Errors
/// In words for the log, without what the proxy was shown.
pub(super) async fn open(
    stream: &mut TcpStream,
    proxy: &OutboundProxy,
    origin: &Origin,
    limit: Duration,
) -> Result<(), String> {
    let target = format!("{}:{}", origin.host(), origin.port());
    let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(authorization) = authorization(proxy) {
        request.push_str("Proxy-Authorization: ");
        request.push_str(authorization.to_str().unwrap_or_default());
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let exchange = async {
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the head is the tunnel's.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_ANSWER {
                return Err("its answer is too long".to_owned());
            }
            match stream.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(error) => return Err(format!("it closed the connection: {error}")),
            }
        }
        verdict(&answer)
    };
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(format!("it did not answer within {} s", limit.as_secs())))
}

fn verdict(answer: &[u8]) -> Result<(), String> {
    let status =
        answer.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
    match status {
        Some(200..=299_u16) => Ok(()),
        Some(407) => {
            Err("it wants other credentials (407): check the user name in `proxy` and `proxy_password`".to_owned())
        }
        Some(403) => {
            Err("it does not connect to this host (403): ask who runs it, or add the host to `no_proxy`".to_owned())
        }
        Some(status) => Err(format!("it answered CONNECT with {status}")),
        None => Err("it does not speak HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_says_to_connect_is_told_with_what_to_do() {
        assert_eq!(verdict(b"HTTP/1.1 200 Connection established\r\n\r\n"), Ok(()));
        assert_eq!(verdict(b"HTTP/1.0 200\r\n\r\n"), Ok(()));
        for (answer, piece) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "proxy_password"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "no_proxy"),
            ("HTTP/1.1 503 x\r\n\r\n", "503"),
            ("SSH-2.0-x\r\n\r\n", "does not speak HTTP"),
            ("HTTP/1.1\r\n\r\n", "does not speak HTTP"),
        ] {
            assert!(verdict(answer.as_bytes()).unwrap_err().contains(piece), "{answer}");
        }
    }
}
