//! Who is asking, what they may pull, and what upstream was shown to allow.

mod client;
mod gate;
mod grant;
mod link;

pub use client::{Client, Proof};
pub use gate::{Evidence, Gate, Principal, Rejected};
pub use grant::{Grant, InvalidGrant};
pub use link::{Link, LinkKey, Links};
