//! Paths of the distribution API.
//!
//! Read from the right, because a repository name may contain words like
//! `manifests` and `blobs` itself.

use std::borrow::Cow;

use crate::oci::{Digest, ErrorCode, Reference, Repository};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v2/`
    Ping,
    /// `/v2/<name>/manifests/<reference>`
    Manifest { name: Repository, reference: Reference },
    /// `/v2/<name>/blobs/<digest>`
    Blob { name: Repository, digest: Digest },
    /// `/v2/<name>/tags/list`
    Tags { name: Repository },
    /// `/v2/<name>/referrers/<digest>`
    Referrers { name: Repository, digest: Digest },
}

impl Endpoint {
    /// The name in the path.
    pub(super) fn name(&self) -> Option<&Repository> {
        match self {
            Endpoint::Ping => None,
            Endpoint::Manifest { name, .. }
            | Endpoint::Blob { name, .. }
            | Endpoint::Tags { name }
            | Endpoint::Referrers { name, .. } => Some(name),
        }
    }
}

/// A parsed path: the segment before `/v2/`, if any, and what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) before_v2: Option<String>,
    pub(super) endpoint: Endpoint,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathError {
    pub(super) status: u16,
    pub(super) code: ErrorCode,
    pub(super) message: &'static str,
}

fn refuse<T>(status: u16, code: ErrorCode, message: &'static str) -> Result<T, PathError> {
    Err(PathError { status, code, message })
}

/// Whether the path belongs to the distribution API at all, well-formed or not.
pub(super) fn is_api(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/") || split_before(path).is_some()
}

/// Parses the raw path of a request.
pub(super) fn parse(raw: &str) -> Result<Target, PathError> {
    let path = decode(raw)?;
    if path.split('/').any(|segment| segment == "." || segment == "..") || path.contains("//") {
        return refuse(400, ErrorCode::NameInvalid, "the path has empty or dot segments");
    }
    let (before_v2, rest) = match path.strip_prefix("/v2") {
        Some("") => (None, ""),
        Some(rest) if rest.starts_with('/') => (None, rest.get(1..).unwrap_or_default()),
        _ => match split_before(&path) {
            Some((before, rest)) => (Some(before.to_owned()), rest),
            None => return refuse(404, ErrorCode::Unsupported, "no such endpoint; the registry API is below /v2/"),
        },
    };
    // `/v2/NAME/v2/`: from clients that put `/v2` behind an address with it.
    if before_v2.is_none()
        && let Some((name, "v2" | "v2/")) = rest.split_once('/')
    {
        return Ok(Target { before_v2: Some(name.to_owned()), endpoint: Endpoint::Ping });
    }
    Ok(Target { before_v2, endpoint: endpoint(rest)? })
}

/// `/before/v2/rest` → (`before`, `rest`), with one segment before.
fn split_before(path: &str) -> Option<(&str, &str)> {
    let (before, rest) = path.strip_prefix('/')?.split_once('/')?;
    let rest = if rest == "v2" { "" } else { rest.strip_prefix("v2/")? };
    (!before.is_empty()).then_some((before, rest))
}

fn endpoint(rest: &str) -> Result<Endpoint, PathError> {
    if rest.is_empty() {
        return Ok(Endpoint::Ping);
    }
    if rest == "_catalog" {
        return refuse(404, ErrorCode::Unsupported, "the catalog is not part of the OCI specification and not offered");
    }
    let no_endpoint = || refuse(404, ErrorCode::Unsupported, "no such endpoint");
    let Some((head, last)) = rest.rsplit_once('/') else { return no_endpoint() };
    let Some((name, word)) = head.rsplit_once('/') else { return no_endpoint() };
    match (word, last) {
        ("manifests", reference) => {
            let name = repository(name)?;
            let reference = if reference.contains(':') {
                Reference::Digest(digest(reference)?)
            } else {
                match reference.parse() {
                    Ok(tag) => Reference::Tag(tag),
                    Err(_) => return refuse(404, ErrorCode::ManifestUnknown, "no manifest can have this tag"),
                }
            };
            Ok(Endpoint::Manifest { name, reference })
        }
        ("blobs", text) => Ok(Endpoint::Blob { name: repository(name)?, digest: digest(text)? }),
        ("tags", "list") => Ok(Endpoint::Tags { name: repository(name)? }),
        ("referrers", text) => Ok(Endpoint::Referrers { name: repository(name)?, digest: digest(text)? }),
        _ => no_endpoint(),
    }
}

fn repository(text: &str) -> Result<Repository, PathError> {
    match text.parse() {
        Ok(name) => Ok(name),
        Err(_) => refuse(400, ErrorCode::NameInvalid, "this is no repository name"),
    }
}

fn digest(text: &str) -> Result<Digest, PathError> {
    match text.parse() {
        Ok(digest) => Ok(digest),
        Err(_) => refuse(400, ErrorCode::DigestInvalid, "this is no sha256 or sha512 digest"),
    }
}

/// Only what a name, tag or digest can consist of passes; of percent-encoding
/// only `%3A`, which some clients write for the colon of a digest.
fn decode(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw.bytes().all(is_plain) {
        return Ok(Cow::Borrowed(raw));
    }
    let bad = || refuse(400, ErrorCode::NameInvalid, "the path has characters that no name, tag or digest has");
    let mut path = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(character) = rest.chars().next() {
        if character == '%' {
            let escaped = rest.get(..3).unwrap_or_default();
            if !escaped.eq_ignore_ascii_case("%3a") {
                return bad();
            }
            path.push(':');
            rest = rest.get(3..).unwrap_or_default();
        } else if u8::try_from(character).is_ok_and(is_plain) {
            path.push(character);
            rest = rest.get(1..).unwrap_or_default();
        } else {
            return bad();
        }
    }
    Ok(Cow::Owned(path))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._/:@+=-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn shown(path: &str) -> String {
        match parse(path) {
            Err(error) => format!("{} {}", error.status, error.code.as_str()),
            Ok(Target { before_v2, endpoint }) => {
                let before = before_v2.map(|before| format!("[{before}] ")).unwrap_or_default();
                let what = match endpoint {
                    Endpoint::Ping => "ping".to_owned(),
                    Endpoint::Manifest { name, reference } => format!("manifest {name} {reference}"),
                    Endpoint::Blob { name, digest } => format!("blob {name} {digest}"),
                    Endpoint::Tags { name } => format!("tags {name}"),
                    Endpoint::Referrers { name, digest } => format!("referrers {name} {digest}"),
                };
                before + &what
            }
        }
    }

    #[test]
    fn every_endpoint_is_found_from_the_right() {
        for (path, expected) in [
            ("/v2", "ping".to_owned()),
            ("/v2/", "ping".into()),
            ("/hub/v2/", "[hub] ping".into()),
            ("/v2/hub/v2", "[hub] ping".into()),
            ("/v2/hub/v2/", "[hub] ping".into()),
            ("/v2/a/manifests/latest", "manifest a latest".into()),
            ("/v2/v2/manifests/x", "manifest v2 x".into()),
            ("/v2/manifests/manifests/x", "manifest manifests x".into()),
            ("/v2/a/manifests/b/manifests/x", "manifest a/manifests/b x".into()),
            ("/v2/a/blobs/tags/list", "tags a/blobs".into()),
            (&format!("/v2/a/b/blobs/sha256:{HEX}"), format!("blob a/b sha256:{HEX}")),
            (&format!("/v2/a/b/blobs/sha256%3A{HEX}"), format!("blob a/b sha256:{HEX}")),
            (&format!("/v2/a/referrers/sha256%3a{HEX}"), format!("referrers a sha256:{HEX}")),
            ("/ghcr.io/v2/org/app/manifests/1.0", "[ghcr.io] manifest org/app 1.0".into()),
            ("/My-Hub/v2/v2/v2/manifests/x", "[My-Hub] manifest v2/v2 x".into()),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }

    #[test]
    fn malformed_paths_are_refused_with_the_code_that_fits() {
        for (path, expected) in [
            ("/v2/../../etc/passwd/manifests/x", "400 NAME_INVALID"),
            (&format!("/v2/a/../b/blobs/sha256:{HEX}"), "400 NAME_INVALID"),
            ("/v2/%2e%2e%2fa/manifests/x", "400 NAME_INVALID"),
            ("/v2/a%2Fb/manifests/x", "400 NAME_INVALID"),
            ("/v2/a%00/manifests/x", "400 NAME_INVALID"),
            ("/v2/a%252e/manifests/x", "400 NAME_INVALID"),
            ("/v2/a%/manifests/x", "400 NAME_INVALID"),
            ("/v2/A/manifests/x", "400 NAME_INVALID"),
            ("/v2/a//b/manifests/x", "400 NAME_INVALID"),
            ("/v2/-a/manifests/x", "400 NAME_INVALID"),
            ("/v2/a\\b/manifests/x", "400 NAME_INVALID"),
            ("/v2/ä/manifests/x", "400 NAME_INVALID"),
            ("/v2/a/manifests/.INVALID_MANIFEST_NAME", "404 MANIFEST_UNKNOWN"),
            ("/v2/a/manifests/sha256:baddigeststring", "400 DIGEST_INVALID"),
            ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", "400 DIGEST_INVALID"),
            ("/v2/a/blobs/latest", "400 DIGEST_INVALID"),
            ("/v2/_catalog", "404 UNSUPPORTED"),
            ("/v2/a", "404 UNSUPPORTED"),
            ("/", "404 UNSUPPORTED"),
            ("/healthz", "404 UNSUPPORTED"),
            ("/a/b/v2/c/manifests/x", "404 UNSUPPORTED"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
        assert_eq!(shown(&format!("/v2/{}/manifests/x", "a".repeat(256))), "400 NAME_INVALID");
        assert_eq!(shown(&format!("/v2/a/manifests/{}", "t".repeat(129))), "404 MANIFEST_UNKNOWN");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(path in "\\PC{0,80}") {
            let _ = parse(&path);
        }

        #[test]
        fn no_name_that_parses_has_a_dot_segment(path in "/v2/[a-z./%2eE]{0,30}/manifests/x") {
            if let Ok(Target { endpoint: Endpoint::Manifest { name, .. }, .. }) = parse(&path) {
                prop_assert!(name.components().all(|part| part != "." && part != ".."));
            }
        }
    }
}
