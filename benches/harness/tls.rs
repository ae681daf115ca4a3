//! TLS for the measurements: one certificate that every server shows, and the
//! client's side.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A certificate for 127.0.0.1 and its key, as PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    /// The certificate.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// Makes one in `dir`.
    pub(crate) fn create(dir: &Path) -> io::Result<Certificate> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let paths = Certificate { certificate: dir.join("server.crt"), key: dir.join("server.key") };
        std::fs::write(&paths.certificate, made.cert.pem())?;
        std::fs::write(&paths.key, made.signing_key.serialize_pem())?;
        Ok(paths)
    }
}

/// A client that trusts `ca` (PEM), or the system's authorities. `protocol` is
/// what it offers by ALPN.
pub(crate) fn client(ca: Option<&Path>, protocol: &str) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in CertificateDer::pem_file_iter(ca).map_err(io::Error::other)? {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // Servers may follow the client's order. Docker and containerd are written
    // in Go, whose order begins so.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(Arc::new(config))
}

/// The name that `host` has in a certificate.
pub(crate) fn name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}

/// `stream` with TLS on it; the handshake happens at the first use.
pub(crate) fn wrap<S: io::Read + io::Write>(
    stream: S,
    host: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, S>> {
    let connection = ClientConnection::new(Arc::clone(config), name(host)?).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}
