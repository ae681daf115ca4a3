//! Who is asking, what they may pull, and what upstream was shown to allow.

mod client;
mod grant;

pub use client::{Client, Proof};
pub use grant::{Grant, InvalidGrant};
