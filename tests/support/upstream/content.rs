//! What an honest registry with this content would answer.

use std::collections::HashMap;

use super::answer::Answer;
use super::request::Request;
use crate::support::digest::sha256;

/// Repositories with their blobs, manifests and tags.
#[derive(Default)]
pub(super) struct Content {
    /// `repository/digest` → bytes.
    blobs: HashMap<String, Vec<u8>>,
    /// `repository/reference` → media type and bytes.
    manifests: HashMap<String, (String, Vec<u8>)>,
    /// Where blobs are redirected to.
    pub(super) blobs_elsewhere: Option<String>,
}

impl Content {
    pub(super) fn add_blob(&mut self, repository: &str, digest: &str, bytes: Vec<u8>) {
        self.blobs.insert(format!("{repository}/{digest}"), bytes);
    }

    pub(super) fn add_manifest(&mut self, repository: &str, reference: &str, media_type: &str, bytes: Vec<u8>) {
        let digest = sha256(&bytes);
        for name in [reference, &digest] {
            self.manifests.insert(format!("{repository}/{name}"), (media_type.to_owned(), bytes.clone()));
        }
    }

    pub(super) fn answer(&self, request: &Request) -> Answer {
        let Some(path) = request.path().strip_prefix("/v2/") else { return self.elsewhere(request) };
        if path.is_empty() {
            return Answer::status(200);
        }
        let (head, last) = path.rsplit_once('/').unwrap_or((path, ""));
        let (repository, word) = head.rsplit_once('/').unwrap_or((head, ""));
        if word == "manifests" {
            let reference = last;
            return match self.manifests.get(&format!("{repository}/{reference}")) {
                Some((media_type, bytes)) => Answer::status(200)
                    .header("Content-Type", media_type)
                    .header("Docker-Content-Digest", sha256(bytes))
                    .body(bytes.clone()),
                None => unknown("MANIFEST_UNKNOWN"),
            };
        }
        if word == "blobs" {
            let digest = last;
            let Some(bytes) = self.blobs.get(&format!("{repository}/{digest}")) else {
                return unknown("BLOB_UNKNOWN");
            };
            return match &self.blobs_elsewhere {
                Some(origin) => Answer::status(307)
                    .header("Location", format!("{origin}/storage/{repository}/{digest}?signature=s3cr3t")),
                None => ranged(request, bytes),
            };
        }
        if (word, last) == ("tags", "list") {
            let prefix = format!("{repository}/");
            let mut tags: Vec<&str> = self
                .manifests
                .keys()
                .filter_map(|key| key.strip_prefix(&prefix).filter(|tag| !tag.contains([':', '/'])))
                .collect();
            tags.sort_unstable();
            if tags.is_empty() {
                return unknown("NAME_UNKNOWN");
            }
            let document = serde_json::json!({ "name": repository, "tags": tags });
            return Answer::status(200).header("Content-Type", "application/json").body(document.to_string());
        }
        unknown("UNSUPPORTED")
    }

    /// The storage that blobs are redirected to: it knows digests only.
    fn elsewhere(&self, request: &Request) -> Answer {
        let Some(path) = request.path().strip_prefix("/storage/") else { return Answer::status(404) };
        match self.blobs.get(path) {
            Some(bytes) => ranged(request, bytes),
            None => Answer::status(403).body("<Error><Code>AccessDenied</Code></Error>"),
        }
    }
}

fn unknown(code: &str) -> Answer {
    let document = serde_json::json!({ "errors": [{ "code": code, "message": "unknown to the scripted upstream" }] });
    Answer::status(404).header("Content-Type", "application/json").body(document.to_string())
}

fn ranged(request: &Request, bytes: &[u8]) -> Answer {
    let answer = Answer::status(200).header("Content-Type", "application/octet-stream");
    let Some((start, end)) = request.range() else { return answer.body(bytes) };
    if start >= bytes.len() {
        return Answer::status(416).header("Content-Range", format!("bytes */{}", bytes.len()));
    }
    let end = end.min(bytes.len() - 1);
    Answer { status: 206, ..answer }
        .header("Content-Range", format!("bytes {start}-{end}/{}", bytes.len()))
        .body(&bytes[start..=end])
}
