//! Putting content into the real registry, over plain HTTP/1.1.
//!
//! Written on a socket and nothing else, so that no part of what is under
//! test, and no client's idea of what a manifest should look like, comes
//! between the bytes a test made and the bytes the registry stores.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::images::{Blob, Document, Image, Index};

/// Uploads to one repository with one token.
pub(crate) struct Push<'a> {
    /// Where the registry listens.
    pub(crate) address: SocketAddr,
    /// The repository.
    pub(crate) repository: &'a str,
    /// A token that allows pushing to it.
    pub(crate) token: &'a str,
}

impl Push<'_> {
    /// An image with all its blobs, under `reference` (a tag or its digest).
    pub(crate) fn image(&self, image: &Image, reference: &str) {
        image.blobs.iter().for_each(|blob| self.blob(blob));
        self.manifest(&image.manifest, reference);
    }

    /// An index under the tag `tag`, its images under their digests.
    pub(crate) fn index(&self, index: &Index, tag: &str) {
        index.images.iter().for_each(|image| self.image(image, &image.manifest.digest));
        self.manifest(&index.document, tag);
    }

    fn blob(&self, blob: &Blob) {
        let begun = self.send("POST", &format!("/v2/{}/blobs/uploads/", self.repository), "text/plain", &[]);
        let location = begun.header("location").expect("an upload has a place");
        let origin = format!("http://{}", self.address);
        let path = location.strip_prefix(&origin).unwrap_or(location);
        let joint = if path.contains('?') { '&' } else { '?' };
        let done = format!("{path}{joint}digest={}", blob.digest);
        self.send("PUT", &done, "application/octet-stream", &blob.bytes);
    }

    fn manifest(&self, document: &Document, reference: &str) {
        let path = format!("/v2/{}/manifests/{reference}", self.repository);
        let stored = self.send("PUT", &path, document.media_type, &document.bytes);
        assert_eq!(stored.header("docker-content-digest"), Some(document.digest.as_str()));
    }

    /// One request, on a connection of its own, that has to succeed.
    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\n\
             Host: {host}\r\n\
             Connection: close\r\n\
             Authorization: Bearer {token}\r\n\
             Content-Type: {media_type}\r\n\
             Content-Length: {length}\r\n\r\n",
            host = self.address,
            token = self.token,
            length = body.len(),
        );
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        Answer(answer)
    }
}

/// What the registry answered, as text.
struct Answer(String);

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().take_while(|line| !line.is_empty()).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}
