//! TLS towards upstreams.

use std::sync::{Arc, LazyLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// The system's authorities; Mozilla's where the system has none.
static SYSTEM_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
});

/// Why a registry's own authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file holds no usable certificate.
    #[error("the `ca` file holds no usable certificate")]
    NoCertificate,
    /// The TLS library refuses its settings.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// A client configuration that trusts the system's authorities and those of
/// `ca_pem`. Only HTTP/1.1 is offered: each transfer then has a TCP connection
/// of its own, where one HTTP/2 connection would share a congestion window
/// among all of them.
pub(super) fn client_config(ca_pem: Option<&[u8]>) -> Result<ClientConfig, TlsError> {
    let mut roots = SYSTEM_ROOTS.clone();
    if let Some(pem) = ca_pem {
        let own: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().collect();
        let (added, _) = roots.add_parsable_certificates(own);
        if added == 0 {
            return Err(TlsError::NoCertificate);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
