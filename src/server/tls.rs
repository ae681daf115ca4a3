//! TLS of the listeners.
//!
//! Where client authorities are named, a client may show a certificate: one
//! that they did not sign, or that is not valid now or not for clients, ends
//! the handshake. A client without one gets in, and may show who it is by
//! other means.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

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
    /// Nobody could be known by these authorities.
    #[error("{path} holds no usable authority for client certificates: {reason}")]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// How a listener speaks TLS. Its files are looked at now and then: what
/// was renewed is used from the next handshake on.
pub struct Tls {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<ServerConfig>,
}

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used.
    // AES-128-GCM comes first: it is the fastest on
    /// processors with AES instructions, and no less safe here.
    pub fn open(settings: &TlsSettings) -> Result<Arc<Tls>, TlsError> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let current = ArcSwap::from_pointee(read(settings, &provider)?);
        Ok(Arc::new(Tls { settings: settings.clone(), provider, current }))
    }

    /// An acceptor for the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Watches the files until cancelled. Files that cannot be used leave
    /// everything as it is: a renewal writes one after the other.
    pub async fn keep_current(self: Arc<Self>, stopping: CancellationToken) {
        let mut seen = self.stamp();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = self.stamp();
            if now == seen {
                continue;
            }
            match read(&self.settings, &self.provider) {
                Ok(config) => {
                    // With the configuration goes its memory of sessions: what
                    // an authority no longer vouches for is not resumed.
                    self.current.store(Arc::new(config));
                    seen = now;
                    info!(path = %self.settings.certificate.display(), "the certificates have been renewed");
                }
                Err(error) => warn!(%error, "the changed certificates cannot be used, the old ones stay"),
            }
        }
    }

    /// What tells one version of the files from another.
    fn stamp(&self) -> Vec<Option<(SystemTime, u64)>> {
        let TlsSettings { certificate, key, client_ca } = &self.settings;
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [certificate, key].into_iter().chain(client_ca).map(stamp).collect()
    }
}

fn read(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&settings.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|cause| TlsError::File {
        path: settings.key.clone(),
        what: "private key",
        cause,
    })?;
    let key = CertifiedKey::from_der(chain, key, provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions()?;
    let builder = match &settings.client_ca {
        Some(path) => builder.with_client_cert_verifier(verifier(path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    // Without this the client's order would decide.
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |reason: String| TlsError::ClientCa { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|cause| TlsError::File { path: path.to_owned(), what: "certificate", cause })
}
