//! The OCI surface: a request becomes typed values, an answer or an error
//! becomes a response. No policy here.
//!
//! What a client sent is parsed once, from the raw bytes, and refused with a
//! clear 4xx where it is not what the specification allows; nothing of it is
//! ever sent upstream or reflected, but for the checked host and name that a
//! challenge has to tell its client.

mod body;
mod forwarded;
mod handler;
mod login;
mod multipart;
mod pages;
mod path;
mod permit;
mod query;
mod response;

pub use body::{Body, Counted, Transport};
pub use handler::{Api, Peer, PingMode};
pub use login::Reached;
