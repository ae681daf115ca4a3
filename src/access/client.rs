//! A configured client: how it is known, and what it may pull.

use ipnet::IpNet;

use super::{CertificateName, Grant};

/// How a client shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Basic authentication; an argon2id hash in PHC form.
    Password {
        /// `$argon2id$…`
        hash: String,
    },
    /// A bearer token; the lower-case hexadecimal SHA-256 of it.
    Token {
        /// 64 hexadecimal characters.
        sha256: String,
    },
    /// A TLS client certificate whose holder is called so (`CN=ci`).
    Certificate(CertificateName),
    /// Coming from one of these networks is enough.
    Networks(Vec<IpNet>),
}

/// One client: who may pull, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name; the user name of Basic authentication.
    pub name: String,
    /// How it is known.
    pub proof: Proof,
    /// What it may pull.
    pub grants: Vec<Grant>,
}
