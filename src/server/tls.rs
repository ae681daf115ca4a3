//! TLS of the data listener.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
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
    /// Not done yet.
    #[error("`client_ca` is not supported by this version")]
    ClientCa,
}

/// The certificate of the data listener. Its files are looked at now and then:
/// one that was renewed is used from the next handshake on.
#[derive(Debug)]
pub(super) struct Certificate {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertifiedKey>,
}

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Certificate {
    /// Reads the files. AES-128-GCM comes first: it is the fastest on
    /// processors with AES instructions, and no less safe here.
    pub(super) fn open(settings: &TlsSettings) -> Result<Arc<Certificate>, TlsError> {
        if settings.client_ca.is_some() {
            return Err(TlsError::ClientCa);
        }
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let key = read(settings, &provider)?;
        let current = ArcSwap::from_pointee(key);
        Ok(Arc::new(Certificate { settings: settings.clone(), provider: Arc::new(provider), current }))
    }

    /// An acceptor that always shows the current certificate.
    pub(super) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        // Without this the client's order would decide.
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Watches the files until cancelled. Files that cannot be used leave the
    /// certificate as it is: a renewal writes one after the other.
    pub(super) async fn keep_current(self: Arc<Self>, stopping: CancellationToken) {
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
                Ok(key) => {
                    self.current.store(Arc::new(key));
                    seen = now;
                    info!(path = %self.settings.certificate.display(), "the certificate has been renewed");
                }
                Err(error) => warn!(%error, "the changed certificate cannot be used, the old one stays"),
            }
        }
    }

    /// What tells one version of the files from another.
    fn stamp(&self) -> [Option<(SystemTime, u64)>; 2] {
        [&self.settings.certificate, &self.settings.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(settings: &TlsSettings, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let file = |path: &PathBuf, what| {
        let path = path.clone();
        move |cause| TlsError::File { path, what, cause }
    };
    let chain = CertificateDer::pem_file_iter(&settings.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(file(&settings.certificate, "certificate"))?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(file(&settings.key, "private key"))?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}
