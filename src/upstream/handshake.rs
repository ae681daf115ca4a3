//! Why a TLS handshake with an upstream failed, in words that say what to do.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use x509_cert::der::DateTime;

use crate::printable::one_line;

/// Names of a certificate that are told.
const NAMES: usize = 3;

/// The certificate is its own authority, and nobody trusts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "its certificate is self-signed; when you are sure that it is the right one, put it into a file and name \
             that as `ca`",
        )
    }
}

impl std::error::Error for SelfSigned {}

/// What `error`, which ended a handshake, means.
pub(super) fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
        Some(cause) => in_words(cause),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it ended the connection in the middle of the TLS handshake; it may not speak TLS on this port".to_owned()
        }
        None => format!("TLS handshake: {error}"),
    }
}

/// As [`explain`], of an error of TLS itself.
pub(super) fn in_words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS on this port; if it speaks plain HTTP, write its address with `http://`, and \
             `insecure = true`"
                .to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a client certificate: name one with `client_certificate` and `client_key`".to_owned()
        }
        Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked),
        ) => format!("it does not accept the client certificate, or wants one ({alert:?})"),
        Error::AlertReceived(AlertDescription::UnrecognisedName) => "it does not know this host name".to_owned(),
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            "it speaks only versions or ciphers of TLS that are too old".to_owned()
        }
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "it has no version and cipher of TLS in common with this proxy, or wants a client certificate".to_owned()
        }
        other => format!("TLS handshake: {}", one_line(&other.to_string())),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Other(other) if other.0.is::<SelfSigned>() => SelfSigned.to_string(),
        CertificateError::UnknownIssuer => {
            "its certificate is from an authority that is not known here; put that authority's certificate into a file \
             and name it as `ca`"
                .to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => {
            format!("its certificate expired on {}; the clock here says {}", date(*not_after), date(*time))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("its certificate is valid from {} on; the clock here says {}", date(*not_before), date(*time))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            // Each is what it is and, in quotation marks, its text.
            let name = |name: &String| one_line(name.split('"').nth(1).unwrap_or(name)).to_string();
            let names: Vec<String> = presented.iter().take(NAMES).map(name).collect();
            let more = if presented.len() > NAMES { " and others" } else { "" };
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("its certificate is for {names}{more}, and not for {}", expected.to_str())
        }
        other => format!("its certificate cannot be used: {}", one_line(&other.to_string())),
    }
}

/// `2020-01-02T03:04:05Z`.
fn date(time: UnixTime) -> String {
    let seconds = time.as_secs();
    DateTime::from_unix_duration(Duration::from_secs(seconds))
        .map_or_else(|_| format!("{seconds} s after 1970"), |date| date.to_string())
}
