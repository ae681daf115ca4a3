//! What an operator is told: log lines and metrics. Neither carries a secret,
//! a token, a presigned URL or a client's headers: what could is of a type
//! that does not print.

mod audit;
mod lines;
mod log;
mod metrics;
mod plain;
mod trail;

pub use audit::{Audit, Event};
pub use lines::Lines;
pub use log::{LogError, LogFormat, LogSettings, start};
pub use metrics::{Metrics, RequestLabels};
pub use trail::{is_audit_failing, lost_audit_lines};
