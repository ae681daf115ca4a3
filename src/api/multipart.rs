//! Several parts of a blob in one answer: `multipart/byteranges` (RFC 9110
//! §14.6).
//!
//! Clients that pull lazily ask so (podman and CRI-O for zstd:chunked, eStargz
//! and SOCI snapshotters). They count the parts, and take them in the order in
//! which they asked.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::body::{self, Body, Transport};
use super::response::content_range;
use crate::oci::ByteRange;
use crate::pull::Delivery;

/// The parts of a blob of `total` bytes, one after the other, and the type that
/// tells how they are divided.
pub(super) fn body(parts: Vec<(ByteRange, Delivery)>, total: u64, transport: &Transport) -> (String, Body) {
    // Made up for each answer: content that was made to have it inside, to pass
    // for other parts, would have to know it.
    let boundary = format!("{:032x}", fastrand::u128(..));
    parts.iter().take(1).for_each(|(_, delivery)| transport.expect(delivery));
    let head = |range: ByteRange| {
        let range = content_range(range, total);
        format!("\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {range}\r\n\r\n")
    };
    let end = format!("\r\n--{boundary}--\r\n");
    let mut length = end.len() as u64;
    let mut all = Vec::with_capacity(parts.len());
    for (range, delivery) in parts {
        let head = head(range);
        length += head.len() as u64 + range.len();
        all.push((head, delivery));
    }
    let parts = stream::iter(all).flat_map(|(head, delivery)| alone(head).chain(body::windows(delivery)));
    let body = Body::Stream { windows: Box::pin(parts.chain(alone(end))), remaining: Some(length) };
    (format!("multipart/byteranges; boundary={boundary}"), body)
}

fn alone(text: String) -> stream::Once<std::future::Ready<std::io::Result<Bytes>>> {
    stream::once(std::future::ready(Ok(Bytes::from(text))))
}
