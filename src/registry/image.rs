//! Images as people write them: `alpine`, `ghcr.io/org/app:1@sha256:…`.

use super::HostPort;
use crate::oci::{Digest, Repository, Tag};

/// The host of an image that names none.
const HUB: &str = "docker.io";

/// Where an image is: a repository of a host, without tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLocation {
    /// The host, Docker Hub where the image names none.
    pub host: HostPort,
    /// The repository there; on Docker Hub never of one part.
    pub repository: Repository,
}

/// Why a text is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// Only its capitals are in the way.
    #[error("image names are lower case: `{lower}`")]
    Capitals {
        /// The name as it would be right.
        lower: String,
    },
    /// Anything else.
    #[error("not an image reference; write it as `host/repository:tag` or `host/repository@sha256:…`")]
    Other,
}

/// Splits an image into its name and what follows, `:tag`, `@digest` or both;
/// the second part is empty where there is neither.
///
/// # Errors
/// When tag or digest are none.
pub fn split_image(text: &str) -> Result<(&str, &str), InvalidReference> {
    let (tagged, digest) = match text.split_once('@') {
        Some((tagged, digest)) => (tagged, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| digest.parse::<Digest>().is_err()) {
        return Err(InvalidReference::Other);
    }
    // A colon before the last slash belongs to a port.
    let last = tagged.rfind('/').map_or(0, |slash| slash + 1);
    let colon = tagged.get(last..).and_then(|last_part| last_part.find(':')).map(|colon| last + colon);
    let (name, tag) = colon.and_then(|colon| tagged.split_at_checked(colon)).unwrap_or((tagged, ""));
    if tag.strip_prefix(':').is_some_and(|tag| tag.parse::<Tag>().is_err()) {
        return Err(InvalidReference::Other);
    }
    Ok((name, text.get(name.len()..).unwrap_or_default()))
}

impl ImageLocation {
    /// Where the image called `name` is; `name` is without tag and digest.
    ///
    /// As container runtimes read it: the first component is a host when it has
    /// a dot or a colon, or is `localhost`.
    ///
    /// # Errors
    /// When it is no name of an image.
    pub fn of(name: &str) -> Result<ImageLocation, InvalidReference> {
        let (host, rest) = match name.split_once('/') {
            Some((first, rest)) if HostPort::looks_like_host(first) => (first, rest),
            _ => (HUB, name),
        };
        let host: HostPort = host.parse().map_err(|_| InvalidReference::Other)?;
        let Ok(repository) = rest.parse::<Repository>() else {
            let lower = name.to_ascii_lowercase();
            let capitals = rest.to_ascii_lowercase().parse::<Repository>().is_ok();
            return Err(if capitals { InvalidReference::Capitals { lower } } else { InvalidReference::Other });
        };
        let repository = super::directory::with_library(host.is_docker_hub(), &repository);
        Ok(ImageLocation { host, repository })
    }
}

impl std::fmt::Display for ImageLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, String)> {
        let (name, rest) = split_image(text).ok()?;
        Some((ImageLocation::of(name).ok()?.to_string(), rest.to_owned()))
    }

    #[test]
    fn images_are_read_as_container_runtimes_read_them() {
        let digest = format!("@sha256:{}", "0".repeat(64));
        for (text, place, rest) in [
            ("alpine", "docker.io/library/alpine", ""),
            ("alpine:3.20", "docker.io/library/alpine", ":3.20"),
            ("org/app", "docker.io/org/app", ""),
            ("docker.io/alpine", "docker.io/library/alpine", ""),
            ("index.docker.io/org/app:1", "index.docker.io/org/app", ":1"),
            ("localhost/app", "localhost/app", ""),
            ("registry.internal:5000/team/app:1", "registry.internal:5000/team/app", ":1"),
            ("[::1]:5000/app:1", "[::1]:5000/app", ":1"),
            ("GHCR.io/org/app", "ghcr.io/org/app", ""),
            (&format!("ghcr.io/org/app:1{digest}"), "ghcr.io/org/app", &format!(":1{digest}")),
            (&format!("a{digest}"), "docker.io/library/a", &digest),
        ] {
            assert_eq!(read(text), Some((place.to_owned(), rest.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for text in
            ["", "a:", "a@", "a@sha256:1", "/a", "a/", "a b", "https://ghcr.io/a", "a:1:2", "a:1/b:2/", "$X", "a//b"]
        {
            assert_eq!(read(text), None, "{text}");
        }
        let lower = InvalidReference::Capitals { lower: "ghcr.io/example-org/app".to_owned() };
        assert_eq!(ImageLocation::of("ghcr.io/Example-Org/app"), Err(lower));
    }
}
