//! TLS towards upstreams.

use std::sync::{Arc, LazyLock};

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::pinned::Pinned;
use crate::registry::Identity;

/// The system's authorities; Mozilla's where the system has none.
static SYSTEM_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
});

/// Why a registry's own authorities or certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file holds no usable certificate.
    #[error("the `ca` file holds no usable certificate")]
    NoCertificate,
    /// The client certificate or its key is none.
    #[error("`client_certificate` and `client_key` cannot be used: {0}")]
    Identity(String),
    /// The TLS library refuses its settings.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// It refuses the authorities.
    #[error("the certificate authorities cannot be used: {0}")]
    Authorities(#[from] rustls::client::VerifierBuilderError),
}

/// Whether a registry can be shown `identity`.
///
/// # Errors
/// What is wrong with it.
pub fn check_identity(identity: &Identity) -> Result<(), TlsError> {
    client_config(None, Some(identity)).map(|_| ())
}

/// A client configuration that trusts the system's authorities, for a
/// connection to something else than a registry.
///
/// # Errors
/// When the TLS library refuses its settings.
pub fn system_tls() -> Result<ClientConfig, TlsError> {
    client_config(None, None)
}

/// A client configuration that trusts the system's authorities and those of
/// `ca_pem`, and shows `identity` where it is asked for. Only HTTP/1.1 is offered: each transfer then has a TCP connection
/// of its own, where one HTTP/2 connection would share a congestion window
/// among all of them.
pub(super) fn client_config(ca_pem: Option<&[u8]>, identity: Option<&Identity>) -> Result<ClientConfig, TlsError> {
    let mut roots = SYSTEM_ROOTS.clone();
    let mut own = Vec::new();
    if let Some(pem) = ca_pem {
        own = CertificateDer::pem_slice_iter(pem).flatten().collect();
        let (added, _) = roots.add_parsable_certificates(own.iter().cloned());
        if added == 0 {
            return Err(TlsError::NoCertificate);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        // It refuses what the usual rules refuse, but for what stands in `ca`
        // itself.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(usual, own)));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&identity.certificate_pem).flatten().collect();
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes())
                .map_err(|_| TlsError::Identity("the key file holds no private key in PEM form".to_owned()))?;
            if chain.is_empty() {
                return Err(TlsError::Identity("the certificate file holds no certificate in PEM form".to_owned()));
            }
            builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Identity(error.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
