//! TLS of the data listener.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::settings::TlsSettings;

/// Why the listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is no PEM of the right sort.
    #[error("{path} holds no usable {what}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// The reason.
        cause: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not fit, or are not supported.
    #[error("the certificate and key cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    /// Not done yet.
    #[error("`client_ca` is not supported by this version")]
    ClientCa,
}

/// An acceptor for the given files. AES-128-GCM comes first: it is the fastest
/// on processors with AES instructions, and no less safe here.
pub(super) fn acceptor(settings: &TlsSettings) -> Result<TlsAcceptor, TlsError> {
    if settings.client_ca.is_some() {
        return Err(TlsError::ClientCa);
    }
    let file = |path: &PathBuf, what| {
        let path = path.clone();
        move |cause| TlsError::File { path, what, cause }
    };
    let chain = CertificateDer::pem_file_iter(&settings.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(file(&settings.certificate, "certificate"))?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(file(&settings.key, "private key"))?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
