//! Who is asking, what they may pull, and what upstream was shown to allow.

mod certificate;
mod client;
mod gate;
mod grant;
mod link;
mod throttle;

pub use certificate::{CertificateName, CertificateNames, InvalidCertificateName};
pub use client::{Client, Proof};
pub use gate::{Evidence, ForeignCredentials, Gate, GateSettings, Principal, Rejected};
pub use grant::{Grant, InvalidGrant};
pub use link::{Link, LinkKey, Links};
pub use throttle::LoginLimits;
