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

    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let headers = format!("Authorization: Bearer {}\r\nContent-Type: {media_type}\r\n", self.token);
        let answer = exchange(self.address, method, path, &headers, body).expect("the registry answers");
        assert!(answer.status / 100 == 2, "{method} {path}: {}\n{}", answer.status, answer.rest);
        answer
    }
}

/// What the registry answered.
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Headers and body, as text.
    rest: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.rest.lines().take_while(|line| !line.is_empty()).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One request on a connection of its own; `None` when nobody answers.
pub(crate) fn exchange(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (status_line, rest) = answer.split_once("\r\n")?;
    let status = status_line.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, rest: rest.to_owned() })
}
