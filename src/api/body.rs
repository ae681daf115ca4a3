//! Response bodies.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;

use super::permit::Permit;
use crate::cache::{Content, Method};
use crate::kernel::{Mappings, Windows};
use crate::pull::{Delivery, Passthrough};

/// How the connection that a response goes to wants its bytes.
#[derive(Debug, Clone)]
pub struct Transport {
    /// How bytes get from a file to it.
    pub method: Method,
    /// Where it recognises slices of mappings, if it does.
    pub mappings: Option<Mappings>,
}

impl Transport {
    /// Slices of the mapping behind `delivery` come by.
    pub(super) fn expect(&self, delivery: &Delivery) {
        if let (Some(Content::Mapped(mapping)), Some(mappings)) = (delivery.content(), &self.mappings) {
            mappings.register(mapping, Some(delivery.spare()));
        }
    }
}

/// A response body. It ends cleanly only behind its last byte: a body that
/// breaks off ends with an error, which cuts the connection.
pub enum Body {
    /// Nothing.
    Empty,
    /// Nothing, where HEAD asked for something of this length.
    Head(u64),
    /// Bytes in memory.
    Full(Option<Bytes>),
    /// A blob, in windows.
    Stream {
        /// The windows.
        windows: Windows,
        /// Bytes still to come, if that is known.
        remaining: Option<u64>,
    },
}

impl Body {
    /// `bytes` as a body.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
        Body::Full(Some(bytes.into()))
    }

    /// A blob's bytes as a body for `transport`.
    pub(super) fn delivery(delivery: Delivery, transport: &Transport) -> Body {
        transport.expect(&delivery);
        let remaining = delivery.remaining();
        Body::Stream { windows: windows(delivery), remaining }
    }

    /// A blob's bytes, straight from upstream.
    pub(super) fn direct(passthrough: Box<Passthrough>, total: Option<u64>) -> Body {
        Body::Stream { windows: Box::pin(stream::unfold(passthrough, next_direct)), remaining: total }
    }

    /// The same, but it breaks off once `permit` ends.
    pub(super) fn under(self, permit: Permit) -> Body {
        match self {
            Body::Stream { windows, remaining } => {
                let permitted = move |window| if permit.holds() { window } else { Err(Permit::ended()) };
                Body::Stream { windows: Box::pin(windows.map(permitted)), remaining }
            }
            other => other,
        }
    }
}

/// A body whose bytes are counted as they go to the connection.
pub struct Counted {
    body: Body,
    sent: Counter,
}

impl Counted {
    pub(super) fn new(body: Body, sent: Counter) -> Counted {
        Counted { body, sent }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Counted { body, sent } = self.get_mut();
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if let Some(bytes) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            sent.inc_by(bytes.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of a delivery, as they come.
pub(super) fn windows(delivery: Delivery) -> Windows {
    Box::pin(stream::unfold(delivery, next_window))
}

async fn next_window(mut delivery: Delivery) -> Option<(io::Result<Bytes>, Delivery)> {
    let window = delivery.next_window().await?;
    Some((window.map_err(io::Error::other), delivery))
}

async fn next_direct(mut passthrough: Box<Passthrough>) -> Option<(io::Result<Bytes>, Box<Passthrough>)> {
    let bytes = passthrough.next().await?;
    Some((bytes.map_err(io::Error::other), passthrough))
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Body::Empty | Body::Head(_) => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Stream { windows, remaining } => {
                // Not waiting for the end of the stream lets the connection go
                // on as soon as the last byte is out.
                if *remaining == Some(0) {
                    return Poll::Ready(None);
                }
                let window = ready!(windows.as_mut().poll_next(cx));
                if let (Some(Ok(bytes)), Some(remaining)) = (&window, remaining) {
                    *remaining = remaining.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(window.map(|window| window.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty | Body::Head(_) => true,
            Body::Full(bytes) => bytes.is_none(),
            Body::Stream { remaining, .. } => *remaining == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Head(length) => SizeHint::with_exact(*length),
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Stream { remaining, .. } => remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
