//! What an operator is told: log lines and metrics. Neither carries a secret,
//! a token, a presigned URL or a client's headers: what could is of a type
//! that does not print.

mod log;
mod metrics;

pub use log::{LogFormat, LogSettings, start};
pub use metrics::{Metrics, RequestLabels};
