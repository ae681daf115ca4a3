//! An image as operators write it: `registry/repository:tag`.

use std::fmt;
use std::str::FromStr;

use crate::oci::{Reference, Repository};

/// An image of a named registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The registry's name.
    pub registry: String,
    /// The repository, as it stands behind the registry's name in an address.
    pub repository: Repository,
    /// Its tag or digest.
    pub reference: Reference,
}

/// Why a text names no image of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no image of a registry; write it as `registry/repository:tag` or `registry/repository@sha256:…`")]
pub struct InvalidImage(String);

impl FromStr for ImageName {
    type Err = InvalidImage;

    /// As for `docker`: no tag means `latest`, and of tag and digest the digest
    /// counts.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidImage(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<ImageName> {
    let (registry, image) = text.split_once('/')?;
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse().ok()?)),
        None => (image, None),
    };
    let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let tag = tag.parse().ok()?;
    let reference = digest.map_or(Reference::Tag(tag), Reference::Digest);
    let registry = registry.trim().to_owned();
    (!registry.is_empty()).then_some(ImageName { registry, repository: name.parse().ok()?, reference })
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, shown) in [
            ("docker-hub/library/alpine:3.20", "docker-hub/library/alpine:3.20".to_owned()),
            ("My-Example-GHCR/app", "My-Example-GHCR/app:latest".to_owned()),
            (&format!("r/a/b@{digest}"), format!("r/a/b@{digest}")),
            (&format!("r/a:1@{digest}"), format!("r/a@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for text in ["", "alpine", "/a", "r/", "r/A", "r/a:", "r/a:b:c", "r/a@", "r/a@md5:1", "r/a:1/b", "r//a"] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }
}
