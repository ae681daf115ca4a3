//! As much HTTP/1.1 as a load generator needs: a request as bytes, and the
//! head of an answer taken apart. Written by hand so that the client costs
//! nothing that could hide the server's costs.

use std::io::{self, Read};

/// Room for the head of an answer or of a request.
const MAX_HEAD: usize = 16 * 1024;

/// A GET of `path` on a connection that stays open.
pub(crate) fn get(host: &str, path: &str, headers: &[String]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nUser-Agent: load\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The head of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Its status.
    pub(crate) status: u16,
    /// How long the body is; `None` when the answer does not say.
    pub(crate) length: Option<u64>,
    /// Where in the buffer the body begins.
    pub(crate) end: usize,
}

/// The head at the beginning of `bytes`, once all of it is there.
pub(crate) fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() >= MAX_HEAD { Err(invalid("a head without an end")) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid("a head that is no text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| invalid("no status"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    Ok(Some(Head { status, length, end: end + 4 }))
}

/// Reads until the head of an answer or request is complete. `buffer` holds
/// it afterwards, and what came of the body with it.
pub(crate) fn read_head(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Head> {
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&chunk[..count]);
        if let Some(head) = parse_head(buffer)? {
            return Ok(head);
        }
    }
}

/// An answer that is not HTTP as this client knows it.
pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// An `http://` or `https://` address, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Url {
    /// Whether it is `https`.
    pub(crate) tls: bool,
    /// Host without port.
    pub(crate) host: String,
    /// Port, also where it is implied.
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) path: String,
}

impl std::str::FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        let url = url::Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(format!("`{other}` is neither http nor https")),
        };
        let host = url.host_str().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Url { tls, host, port: url.port_or_known_default().ok_or("the URL has no port")?, path })
    }
}
