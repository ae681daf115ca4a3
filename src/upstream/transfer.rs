//! Blobs: an authorised stream at an offset.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderValue, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::{Error, Obstacle, Result};
use super::limits::Sort;
use super::places::{Place, SMALL, Share};
use super::registry::Upstream;
use super::send::{Ask, root_cause};
use super::speed::{Bandwidth, LowSpeed};
use super::traffic::Traffic;
use crate::oci::{Digest, Repository};
use crate::registry::Origin;

/// A transfer that is given up after so long without a byte was a stalled one.
const STALL: Duration = Duration::from_secs(1);

/// A blob's bytes from some offset to its end.
pub struct BlobAnswer {
    /// Length of the whole blob, where upstream says it.
    pub total: Option<u64>,
    /// Offset of the first byte: the one asked for, or 0 from an upstream that
    /// does not do ranges.
    pub start: u64,
    /// The bytes.
    pub body: BlobBody,
}

impl BlobAnswer {
    fn at(mut self, mut place: Place) -> BlobAnswer {
        place.delivers();
        self.body.place = Some(place);
        self
    }
}

/// How a transfer comes to its place among those of its registry.
#[derive(Debug, Clone, Copy)]
pub enum Turn<'a> {
    /// It waits for its turn. The content is as large as this, where known;
    /// small content does not wait behind large content.
    Wait {
        /// Length of the whole content in bytes.
        size: Option<u64>,
        /// What the client may have of the registry's places.
        share: Option<&'a Share>,
    },
    /// It only helps a running transfer: now or not at all. Its failure says
    /// nothing about the registry.
    IfFree {
        /// What the client may have of the registry's places.
        share: Option<&'a Share>,
    },
}

impl Upstream {
    /// Opens a blob at `offset`, up to its end or to before `until`. The
    /// registry itself is asked each time: a redirect it gives is for one
    /// attempt.
    ///
    /// # Errors
    /// As [`Error`] says; [`Error::NoPlace`] where `turn` does not wait.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        (offset, until): (u64, Option<u64>),
        turn: Turn<'_>,
    ) -> Result<BlobAnswer> {
        let (place, share) = match turn {
            Turn::Wait { size, share } => (self.places.begin(size, share).await, share),
            Turn::IfFree { share } => (self.places.large_if_free(share).ok_or(Error::NoPlace)?, share),
        };
        let helps = matches!(turn, Turn::IfFree { .. });
        let answer = self.open_blob(repository, digest, (offset, until), place, helps).await?;
        if answer.total.is_some_and(|total| total <= SMALL) || answer.body.place.as_ref().is_some_and(Place::is_large) {
            return Ok(answer);
        }
        if let Some(large) = self.places.large_if_free(share) {
            return Ok(answer.at(large));
        }
        // It turned out to be large and there is no room. To wait with it open
        // would be to hold a place while waiting for another.
        drop(answer);
        let place = self.places.large(share).await;
        self.open_blob(repository, digest, (offset, until), place, helps).await
    }

    async fn open_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        (offset, until): (u64, Option<u64>),
        place: Place,
        helps: bool,
    ) -> Result<BlobAnswer> {
        let range = match until {
            Some(until) => HeaderValue::from_str(&format!("bytes={offset}-{}", until.saturating_sub(1))).ok(),
            None if offset > 0 => HeaderValue::from_str(&format!("bytes={offset}-")).ok(),
            None => None,
        };
        let is_part = range.is_some();
        let ask = Ask { range, sort: Sort::Transfer, helps, ..Ask::default() };
        let asked = self.ask(&format!("/v2/{repository}/blobs/{digest}"), repository, "pull", ask).await;
        if let Err(Error::TooManyRequests { .. } | Error::Busy { .. } | Error::Status { status: 503, .. }) = &asked {
            self.places.refused();
        }
        let answer = asked?;
        let protocol = |what: &str| Error::Protocol { origin: answer.origin.clone(), what: what.to_owned() };
        let headers = answer.response.headers();
        let (start, total) = match answer.response.status() {
            StatusCode::OK => {
                let length =
                    headers.get(CONTENT_LENGTH).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
                match length {
                    Some(None) => return Err(protocol("a Content-Length that is no number")),
                    length => (0, length.flatten()),
                }
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = headers.get(CONTENT_RANGE).and_then(|value| content_range(value.to_str().ok()?));
                match range {
                    Some((start, end, total)) if is_part && start == offset && end == until.unwrap_or(total) => {
                        (start, Some(total))
                    }
                    _ => return Err(protocol("another range than was asked for")),
                }
            }
            other => return Err(Error::Status { origin: answer.origin.clone(), status: other.as_u16() }),
        };
        let traffic = Arc::clone(self.traffic());
        let timeouts = &self.registry().egress.outbound.timeouts;
        let body = BlobBody {
            body: answer.response.into_body(),
            origin: answer.origin,
            traffic,
            bandwidth: self.bandwidth.clone(),
            held: None,
            speed: LowSpeed::new(timeouts.low_speed, timeouts.low_speed_time),
            patience: timeouts.low_speed_time,
            place: None,
        };
        Ok(BlobAnswer { total, start, body }.at(place))
    }

    /// The size of a blob whose HEAD did not say it: from the headers of a
    /// one-byte range, wherever it leads.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
        let ask = Ask { range: Some(HeaderValue::from_static("bytes=0-0")), ..Ask::default() };
        let answer = match self.ask(&format!("/v2/{repository}/blobs/{digest}"), repository, "pull", ask).await {
            // Only the empty blob has no first byte.
            Err(Error::Status { status: 416, .. }) => return Ok(Some(0)),
            other => other?,
        };
        let headers = answer.response.headers();
        let number = |text: &str| text.parse().ok();
        Ok(match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                range.and_then(|range| number(range.rsplit_once('/')?.1))
            }
            _ => headers.get(CONTENT_LENGTH).and_then(|value| number(value.to_str().ok()?)),
        })
    }
}

/// `bytes first-last/total`: (start, end, total), the end behind the last byte.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then(|| (first, last + 1, total))
}

/// A blob's bytes as they arrive; holds one of the registry's transfers.
pub struct BlobBody {
    body: Incoming,
    origin: Origin,
    traffic: Arc<Traffic>,
    bandwidth: Option<Arc<Bandwidth>>,
    /// Nothing is read before this: enough has come for now.
    held: Option<Pin<Box<Sleep>>>,
    speed: LowSpeed,
    patience: Duration,
    place: Option<Place>,
}

impl BlobBody {
    fn broken(&self, cause: String) -> Error {
        if let Some(endpoint) = self.traffic.breaker(&self.origin) {
            endpoint.stumble();
        }
        Error::Unreachable { obstacle: Obstacle::Broken, origin: self.origin.clone(), cause }
    }
}

impl Drop for BlobBody {
    /// Whoever gives up a stalled transfer does so by dropping it.
    fn drop(&mut self) {
        if self.speed.waiting_for(Instant::now()) >= STALL
            && let Some(endpoint) = self.traffic.breaker(&self.origin)
        {
            endpoint.stumble();
        }
    }
}

impl Stream for BlobBody {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(held) = &mut self.held {
            ready!(held.as_mut().poll(cx));
            self.held = None;
        }
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                self.speed.waits(Instant::now());
                return Poll::Pending;
            };
            match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(root_cause(&error))))),
                Some(Ok(frame)) => {
                    // Trailers are nothing to us.
                    let Ok(bytes) = frame.into_data() else { continue };
                    let now = Instant::now();
                    self.traffic.received(bytes.len());
                    if self.speed.received(bytes.len(), now) {
                        let cause = format!("the transfer hardly went on for {} s", self.patience.as_secs());
                        return Poll::Ready(Some(Err(self.broken(cause))));
                    }
                    let until = self.bandwidth.as_ref().and_then(|bandwidth| bandwidth.take(bytes.len(), now));
                    self.held = until.map(|until| Box::pin(sleep_until(until)));
                    return Poll::Ready(Some(Ok(bytes)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_counts_only_when_it_makes_sense() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 10, 10)));
        assert_eq!(content_range("bytes 5-8/10"), Some((5, 9, 10)));
        for text in [
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes 5-9/*",
            "bytes */10",
            "items 5-9/10",
            "bytes 5-18446744073709551615/10",
            "",
        ] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
