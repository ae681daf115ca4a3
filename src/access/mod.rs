//! Who is asking, what they may pull, and what upstream was shown to allow.

mod certificate;
mod client;
mod gate;
mod grant;
mod link;
mod link_index;
mod record;
mod secret;
mod throttle;
mod token;
mod trusted;

pub use certificate::{CertificateName, CertificateNames, InvalidCertificateName};
pub use client::{Client, Proof};
pub use gate::{Evidence, ForeignCredentials, Gate, GateSettings, Identity, Principal, Rejected, Shown};
pub use grant::{Grant, InvalidGrant};
pub use link::{Generation, Link, LinkKey, Links, Revocation};
pub use record::{ClientRecord, InvalidClient, ProofRecord, check_name, check_password_hash, check_token_hash};
pub use secret::{SecretError, make_secret, password_proof, token_proof};
pub use throttle::{LoginLimits, customer};
pub use token::{Issued, Scope, TokenKey};
pub use trusted::TrustedProxies;
