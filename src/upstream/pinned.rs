//! Certificates that are trusted because they stand in `ca` themselves.
//!
//! A registry with a self-signed certificate has no authority: its certificate
//! is what an operator has, and puts into `ca`. TLS libraries take only
//! authorities from there. One that the usual rules refuse is trusted when it is
//! byte for byte one of `ca`, has the server's name and is valid now.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::handshake::SelfSigned;

/// The usual rules, and those certificates.
#[derive(Debug)]
pub(super) struct Pinned {
    usual: Arc<dyn ServerCertVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl Pinned {
    /// `own` besides what `usual` trusts.
    pub(super) fn new(usual: Arc<dyn ServerCertVerifier>, own: Vec<CertificateDer<'static>>) -> Pinned {
        Pinned { usual, own }
    }
}

/// Whether it names itself as its authority. Its signature is not looked at: it
/// is refused one way or the other.
fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    Certificate::from_der(certificate)
        .is_ok_and(|certificate| certificate.tbs_certificate().issuer() == certificate.tbs_certificate().subject())
}

fn self_signed() -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(SelfSigned))))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        if !self.own.iter().any(|own| own == end_entity) {
            // Nobody, or another one of that name, stands for it.
            let stands_alone = matches!(
                &refused,
                Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_)
                )
            );
            return Err(if stands_alone && is_self_signed(end_entity) { self_signed() } else { refused });
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        let certificate =
            Certificate::from_der(end_entity).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let validity = certificate.tbs_certificate().validity();
        let (not_before, not_after) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
        let time = Duration::from_secs(now.as_secs());
        if time < not_before {
            let not_before = UnixTime::since_unix_epoch(not_before);
            return Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { time: now, not_before }));
        }
        if time > not_after {
            let not_after = UnixTime::since_unix_epoch(not_after);
            return Err(Error::InvalidCertificate(CertificateError::ExpiredContext { time: now, not_after }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    use crate::upstream::handshake::in_words;

    fn made(name: &str, change: impl Fn(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verdict(shown: &CertificateDer<'static>, own: &[&CertificateDer<'static>], name: &str) -> Result<(), Error> {
        let roots = {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates([made("authority", |_| ())]);
            Arc::new(roots)
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let usual = rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider).build().unwrap();
        let pinned = Pinned::new(usual, own.iter().map(|own| (*own).clone()).collect());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        pinned.verify_server_cert(shown, &[], &name, &[], UnixTime::now()).map(drop)
    }

    #[test]
    fn a_certificate_that_is_its_own_authority_is_trusted_for_its_name_and_time_alone() {
        let own = made("r.example", |_| ());
        let other = made("r.example", |_| ());
        assert_eq!(verdict(&own, &[&other, &own], "r.example"), Ok(()));
        assert!(verdict(&own, &[&own], "elsewhere.example").is_err());
        assert!(verdict(&own, &[&other], "r.example").is_err());
        let ended = made("r.example", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 2));
        assert!(words(&ended, &[&ended], "r.example").starts_with("its certificate expired on 2020-01-02T"));
        let to_come = made("r.example", |params| params.not_before = rcgen::date_time_ymd(2999, 1, 2));
        assert!(words(&to_come, &[&to_come], "r.example").starts_with("its certificate is valid from 2999-01-02T"));
    }

    fn words(shown: &CertificateDer<'static>, own: &[&CertificateDer<'static>], name: &str) -> String {
        in_words(&verdict(shown, own, name).unwrap_err())
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_words() {
        let own = made("r.example", |_| ());
        assert!(
            words(&own, &[], "r.example").contains("is self-signed") && words(&own, &[], "r.example").contains("`ca`")
        );
        let wrong_name = words(&own, &[&own], "elsewhere.example");
        assert_eq!(wrong_name, "its certificate is for r.example, and not for elsewhere.example");
        let issuer = rcgen::Issuer::new(
            {
                let mut params = CertificateParams::new(vec![]).unwrap();
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
                params
            },
            KeyPair::generate().unwrap(),
        );
        let params = CertificateParams::new(vec!["r.example".to_owned()]).unwrap();
        let issued = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        assert!(words(&issued, &[], "r.example").contains("from an authority that is not known here"));
    }
}
