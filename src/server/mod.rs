//! Connections: accepting, bounding, and moving bytes.

mod activity;
mod allowance;
mod budget;
mod connection;
mod listener;
mod proxy_protocol;
mod settings;
mod stream;
mod tls;

pub use listener::{Server, ServerError};
pub use settings::{BodyMethod, ServerLimits, ServerSettings, TlsSettings};
pub use tls::{Tls, TlsError};
