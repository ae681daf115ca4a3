//! A configured client: how it is known, and what it may pull.

use ipnet::IpNet;

use super::Grant;

/// How a client shows who it is.
#[derive(Debug, Clone)]
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
    /// A TLS client certificate with this subject (`CN=ci`).
    Certificate {
        /// The subject.
        subject: String,
    },
    /// Coming from one of these networks is enough.
    Networks(Vec<IpNet>),
}

/// One `[[client]]` of the configuration.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its name; the user name of Basic authentication.
    pub name: String,
    /// How it is known.
    pub proof: Proof,
    /// What it may pull.
    pub grants: Vec<Grant>,
}
