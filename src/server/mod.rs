//! Connections: accepting, bounding, and moving bytes.

mod settings;

pub use settings::{PingMode, ServerLimits, ServerSettings, TlsSettings};
