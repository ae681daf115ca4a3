//! Manifest media types.

use std::fmt;
use std::sync::Arc;

/// A media type without parameters, lower-cased: `application/vnd.oci.…+json`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

impl MediaType {
    /// The type upstream is asked for, best first: all that a client of today
    /// may understand, so that one answer serves every client.
    pub const ACCEPT: &'static str = "application/vnd.oci.image.index.v1+json, \
         application/vnd.oci.image.manifest.v1+json, \
         application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.docker.distribution.manifest.v2+json, \
         application/vnd.oci.artifact.manifest.v1+json, \
         */*;q=0.1";

    /// Reads the value of a `Content-Type` header: parameters are dropped.
    /// `None` when it is not of the form `type/subtype`.
    pub fn parse(text: &str) -> Option<MediaType> {
        let essence = text.split(';').next()?.trim();
        let (kind, subtype) = essence.split_once('/')?;
        let is_token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        (essence.len() <= 255 && is_token(kind) && is_token(subtype))
            .then(|| MediaType(essence.to_ascii_lowercase().into()))
    }

    /// The type as it stands in a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is an index or a Docker manifest list.
    pub fn is_index(&self) -> bool {
        matches!(
            self.as_str(),
            "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json"
        )
    }

    /// Whether manifests have this type, today's or those of old.
    pub fn is_of_manifests(&self) -> bool {
        self.is_schema1() || Self::ACCEPT.split(',').any(|known| known.trim() == self.as_str())
    }

    /// Whether this is the withdrawn Docker schema 1, whose digest does not
    /// cover its signatures and so cannot be checked against the body.
    pub fn is_schema1(&self) -> bool {
        self.as_str().starts_with("application/vnd.docker.distribution.manifest.v1+")
    }

    /// Whether registries use this type for something other than manifests
    /// (a login page, plain JSON): the body then has to say what it is.
    pub fn is_generic(&self) -> bool {
        matches!(
            self.as_str(),
            "application/json" | "text/html" | "text/plain" | "application/octet-stream" | "binary/octet-stream"
        )
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_are_dropped() {
        let parsed = MediaType::parse("Application/vnd.OCI.image.manifest.v1+JSON; charset=utf-8").unwrap();
        assert_eq!(parsed.as_str(), "application/vnd.oci.image.manifest.v1+json");
    }

    #[test]
    fn what_is_no_media_type_is_refused() {
        for text in ["", "json", "/", "a/", "a/b c", "a/b\r\nX: y", "a/\u{e4}"] {
            assert_eq!(MediaType::parse(text), None, "{text:?}");
        }
    }
}
