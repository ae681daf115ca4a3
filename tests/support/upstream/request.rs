//! What the upstream was asked.

use std::io::{self, BufRead};

/// One request, as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Header lines, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, if there was one.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// Whether method and path are these; the path may be a part.
    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }

    /// The first byte asked for by an open-ended `Range`.
    pub(crate) fn range_start(&self) -> Option<usize> {
        self.range().map(|(start, _)| start)
    }

    /// First and last byte of `Range: bytes=a-b`; without `b`, the last there can be.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (start, end) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, if end.is_empty() { usize::MAX } else { end.parse().ok()? }))
    }

    /// Reads one; `None` at the end of the connection.
    pub(super) fn read(wire: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if wire.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other("no request line"));
        };
        let mut request =
            Self { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: Vec::new() };
        loop {
            let mut line = String::new();
            wire.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if let Some(length) = request.header("content-length") {
            request.body = vec![0; length.parse().map_err(io::Error::other)?];
            wire.read_exact(&mut request.body)?;
        }
        Ok(Some(request))
    }
}
