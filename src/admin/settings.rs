//! Where administration happens.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::server::TlsSettings;

/// Where the proxy is administered, and where it is looked at.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// The socket that commands use.
    pub socket: PathBuf,
    /// Whether somebody named that socket: then it has to be had.
    pub socket_is_given: bool,
    /// Where health, readiness and metrics are told to everybody, and the API is
    /// for who has a token.
    pub listen: SocketAddr,
    /// The token that is made at the first start.
    pub token_file: PathBuf,
    /// Absent: plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Where health, readiness and metrics are, and nothing else.
    pub metrics: Option<SocketAddr>,
}

impl AdminSettings {
    /// Where named tokens are kept, as hashes.
    pub fn named_tokens(&self) -> PathBuf {
        self.token_file.with_file_name("admin-tokens.json")
    }
}
