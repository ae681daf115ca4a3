//! What the server needs to know before it listens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::TlsError;
use crate::access::TrustedProxies;
use crate::api::PingMode;

/// Where and how to listen.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Addresses of the data listener; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Addresses where the default registry alone answers. With any, the data
    /// listener is closed to names that no registry has.
    pub mirror_listen: Vec<SocketAddr>,
    /// Proxies in front that say for whom they ask.
    pub trusted_proxies: TrustedProxies,
    /// TLS of the data listener; absent: plain HTTP.
    pub tls: Option<TlsSettings>,
    /// How cached bytes get to plain connections.
    pub body: BodyMethod,
    /// What a ping without credentials is told.
    pub ping: PingMode,
    /// Bounds that protect the process.
    pub limits: ServerLimits,
}

impl ServerSettings {
    /// Whether clients on other machines can reach it, be it through a proxy on
    /// this one.
    pub fn is_beyond_loopback(&self) -> bool {
        !self.trusted_proxies.is_empty()
            || self.listen.iter().chain(&self.mirror_listen).any(|address| !address.ip().is_loopback())
    }
}

/// How the bytes of cached blobs get from their files to a plain connection.
/// Over TLS they are always read into memory, where they are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyMethod {
    /// The fastest that is measured: [`Splice`](BodyMethod::Splice).
    #[default]
    Auto,
    /// Moved by the kernel through a pipe.
    Splice,
    /// Written from a mapping.
    Mmap,
    /// Read into memory and written.
    Read,
}

/// Files of the data listener's TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM file of the authorities whose certificates clients may show.
    pub client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// Whether a listener could use these files.
    ///
    /// # Errors
    /// When it could not.
    pub fn check(&self) -> Result<(), TlsError> {
        super::tls::Tls::open(self).map(drop)
    }
}

/// Bounds on what clients may hold.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Time for a request's whole header, from its first byte, and for a new
    /// connection to bring one.
    pub header_timeout: Duration,
    /// Time for a kept connection to begin its next request.
    pub keep_alive_timeout: Duration,
    /// Header lines of a request.
    pub max_headers: usize,
    /// Bytes of a request's header.
    pub max_header_bytes: usize,
    /// Bytes of a request target.
    pub max_uri_bytes: usize,
    /// Time for a TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// Time without progress after which a response is cut.
    pub write_stall_timeout: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one address.
    pub max_connections_per_client: usize,
    /// Concurrent streams of one HTTP/2 connection.
    pub max_streams: u32,
    /// Time that running transfers get when the process is asked to end.
    pub drain_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            max_headers: 64,
            max_header_bytes: 64 * 1024,
            max_uri_bytes: 4 * 1024,
            tls_handshake_timeout: Duration::from_secs(10),
            write_stall_timeout: Duration::from_secs(60),
            max_connections: 10_000,
            max_connections_per_client: 2_000,
            max_streams: 128,
            drain_timeout: Duration::from_secs(30),
        }
    }
}
