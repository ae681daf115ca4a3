//! Connections: accepting, bounding, and moving bytes.

mod activity;
mod allowance;
mod budget;
mod connection;
mod inherited;
mod listener;
mod proxy_protocol;
mod settings;
mod stream;
mod tls;

pub use inherited::close_unused_listeners;
pub use listener::{Server, ServerError, listen};
pub use settings::{BodyMethod, ServerLimits, ServerSettings, TlsSettings};
pub use tls::{Tls, TlsError};
