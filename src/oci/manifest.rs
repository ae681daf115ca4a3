//! The little a proxy has to know of a manifest: that it is one, of which type,
//! and what it names. Bytes are never changed, descriptors never become paths
//! or URLs, and what a manifest names is permission for nothing.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Digest, MediaType};

/// Why a body cannot be a manifest of the type its header claims.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or nested deeper than any manifest is.
    #[error("the body is not a JSON object")]
    NotJson,
    /// The document's `mediaType` contradicts the header.
    #[error("the body says it is {body}, the header says {header}")]
    TypeMismatch {
        /// `mediaType` of the document.
        body: String,
        /// `Content-Type` of the answer.
        header: String,
    },
    /// Both an index and an image manifest (CVE-2021-41190).
    #[error("the body is both an index and an image manifest")]
    Ambiguous,
    /// JSON, but nothing that says it is a manifest.
    #[error("the body is not a manifest")]
    NotManifest,
}

/// Only what decides the type; arrays are skipped, not collected.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sketch {
    media_type: Option<String>,
    schema_version: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    blobs: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Checks that `body` is a manifest of the type that the `Content-Type` header
/// claims, and gives the type to serve it with.
///
/// # Errors
/// When the body is no manifest, or may be read as two different ones.
pub fn check_manifest(header: Option<&MediaType>, body: &[u8]) -> Result<MediaType, ManifestError> {
    if nesting(body) > MAX_NESTING {
        return Err(ManifestError::NotJson);
    }
    let sketch: Sketch = serde_json::from_slice(body).map_err(|_| ManifestError::NotJson)?;
    let is_index = sketch.manifests.is_some();
    let is_image = sketch.layers.is_some() || sketch.config.is_some() || sketch.fs_layers.is_some();
    if is_index && is_image {
        return Err(ManifestError::Ambiguous);
    }
    let inner = sketch.media_type.as_deref().and_then(MediaType::parse);
    let header = header.filter(|header| !header.is_generic());
    let served = match (header, inner) {
        (Some(header), Some(inner)) if *header != inner => {
            return Err(ManifestError::TypeMismatch { body: inner.to_string(), header: header.to_string() });
        }
        (Some(header), _) => header.clone(),
        (None, Some(inner)) => inner,
        (None, None) if sketch.schema_version.is_some() && is_index => {
            known("application/vnd.oci.image.index.v1+json")?
        }
        (None, None) if sketch.schema_version.is_some() && is_image => {
            known("application/vnd.oci.image.manifest.v1+json")?
        }
        (None, None) => return Err(ManifestError::NotManifest),
    };
    let shaped = is_index || is_image || sketch.blobs.is_some();
    let contradicts = served.is_index() && is_image || !served.is_index() && is_index && is_image_type(&served);
    if contradicts || !shaped && sketch.schema_version.is_none() && sketch.media_type.is_none() {
        return Err(ManifestError::NotManifest);
    }
    Ok(served)
}

/// Deeper than any manifest; the parsers of clients recurse.
const MAX_NESTING: usize = 64;

/// How deep arrays and objects are nested, at the most, in JSON text.
fn nesting(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn is_image_type(media_type: &MediaType) -> bool {
    matches!(
        media_type.as_str(),
        "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

fn known(text: &str) -> Result<MediaType, ManifestError> {
    MediaType::parse(text).ok_or(ManifestError::NotManifest)
}

/// The content that a manifest names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Configuration and layers.
    pub blobs: Vec<Digest>,
    /// Children of an index.
    pub manifests: Vec<Digest>,
}

impl Mentions {
    /// What `body` names; nothing where it is no manifest.
    pub fn of(body: &[u8]) -> Mentions {
        #[derive(Deserialize)]
        struct Descriptor {
            digest: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Named {
            config: Option<Descriptor>,
            layers: Vec<Descriptor>,
            blobs: Vec<Descriptor>,
            manifests: Vec<Descriptor>,
        }
        let Named { config, layers, blobs, manifests } = serde_json::from_slice(body).unwrap_or_default();
        let parsed = |descriptor: Descriptor| descriptor.digest.parse().ok();
        Mentions {
            blobs: config.into_iter().chain(layers).chain(blobs).filter_map(parsed).collect(),
            manifests: manifests.into_iter().filter_map(parsed).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn check(header: Option<&str>, body: &str) -> Result<String, ManifestError> {
        let header = header.map(|text| MediaType::parse(text).unwrap());
        check_manifest(header.as_ref(), body.as_bytes()).map(|media_type| media_type.to_string())
    }

    #[test]
    fn the_header_names_the_type_where_the_body_agrees_or_is_silent() {
        let body = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        assert_eq!(check(Some(IMAGE), body).unwrap(), IMAGE);
        assert_eq!(check(None, body).unwrap(), IMAGE);
        assert_eq!(check(Some("application/json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap(), INDEX);
    }

    #[test]
    fn a_body_that_contradicts_its_header_is_refused() {
        let body = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[]}}"#);
        assert!(matches!(check(Some(IMAGE), &body), Err(ManifestError::TypeMismatch { .. })));
        assert_eq!(check(Some(IMAGE), r#"{"schemaVersion":2,"manifests":[]}"#), Err(ManifestError::NotManifest));
        assert_eq!(check(Some(INDEX), r#"{"schemaVersion":2,"layers":[]}"#), Err(ManifestError::NotManifest));
    }

    #[test]
    fn an_index_that_is_also_an_image_is_refused() {
        assert_eq!(check(None, r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#), Err(ManifestError::Ambiguous));
    }

    #[test]
    fn a_login_page_is_no_manifest() {
        assert_eq!(check(Some("text/html"), "<html>log in</html>"), Err(ManifestError::NotJson));
        assert_eq!(check(Some("application/json"), r#"{"login":"please"}"#), Err(ManifestError::NotManifest));
        assert_eq!(check(Some(IMAGE), "[]"), Err(ManifestError::NotJson));
    }

    #[test]
    fn deep_nesting_ends_with_an_error() {
        let deep = format!(r#"{{"schemaVersion":2,"layers":{}{}}}"#, "[".repeat(2_000_000), "]".repeat(2_000_000));
        assert_eq!(check(Some(IMAGE), &deep), Err(ManifestError::NotJson));
        let quoted = format!(r#"{{"schemaVersion":2,"layers":[],"note":"\"{}"}}"#, "[".repeat(1000));
        assert!(check(Some(IMAGE), &quoted).is_ok());
    }

    #[test]
    fn what_a_manifest_names_is_found() {
        let digest = |n: u8| Digest::Sha256([n; 32]);
        let body = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":2}},"layers":[{{"digest":"{}"}},{{"digest":"md5:1"}}]}}"#,
            digest(1),
            digest(2)
        );
        assert_eq!(Mentions::of(body.as_bytes()), Mentions { blobs: vec![digest(1), digest(2)], manifests: vec![] });
        let body = format!(r#"{{"manifests":[{{"digest":"{}","platform":{{}}}}]}}"#, digest(3));
        assert_eq!(Mentions::of(body.as_bytes()), Mentions { blobs: vec![], manifests: vec![digest(3)] });
        for body in ["", "[]", "{}", r#"{"layers":7}"#, r#"{"layers":[7]}"#] {
            assert_eq!(Mentions::of(body.as_bytes()), Mentions::default(), "{body}");
        }
    }
}
