//! What a client certificate says of its holder, and how a client is named by
//! one.
//!
//! The TLS layer has already found the certificate valid: here it is only read.

use crate::printable;
use std::fmt;
use std::str::FromStr;

use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The names of the holder of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames(Vec<String>);

/// The name by which a client's certificate is known:
///
/// * `CN=ci`: its common name, whatever else the subject says
/// * `CN=ci,O=Example`: its whole subject, in the text form of RFC 4514
/// * `DNS:ci.example`, `URI:spiffe://example/ci`, `email:ci@example`: one of
///   its alternative names
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateName(String);

/// Why a text names no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write it as `CN=ci` (the common name), `CN=ci,O=Example` (the whole subject), or `DNS:…`, `URI:…`, `email:…` (an alternative name)"
)]
pub struct InvalidCertificateName;

impl CertificateNames {
    /// Reads a certificate in DER form; `None` when it cannot be read.
    pub fn read(der: &[u8]) -> Option<CertificateNames> {
        let certificate = Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let mut names = vec![certificate.subject().to_string()];
        let mut common = certificate.subject().iter().map(ToString::to_string).filter(|part| part.starts_with("CN="));
        // Of two common names nobody knows which one is meant.
        if let (Some(only), None) = (common.next(), common.next()) {
            names.push(only);
        }
        if let Ok(Some((_, alternatives))) = certificate.get_extension::<SubjectAltName>() {
            names.extend(alternatives.0.iter().filter_map(|name| match name {
                GeneralName::DnsName(name) => Some(format!("DNS:{}", name.as_str().to_ascii_lowercase())),
                GeneralName::UniformResourceIdentifier(uri) => Some(format!("URI:{}", uri.as_str())),
                GeneralName::Rfc822Name(address) => Some(format!("email:{}", address.as_str())),
                _ => None,
            }));
        }
        Some(CertificateNames(names))
    }

    /// Whether the holder is called `name`.
    pub fn contain(&self, name: &CertificateName) -> bool {
        self.0.contains(&name.0)
    }
}

impl FromStr for CertificateName {
    type Err = InvalidCertificateName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((kind, name)) = text.split_once(':')
            && !kind.contains('=')
        {
            let name = name.trim();
            return match kind.to_ascii_lowercase().as_str() {
                _ if name.is_empty() || name.chars().any(printable::is_disturbing) => Err(InvalidCertificateName),
                "dns" => Ok(CertificateName(format!("DNS:{}", name.to_ascii_lowercase()))),
                "uri" => Ok(CertificateName(format!("URI:{name}"))),
                "email" => Ok(CertificateName(format!("email:{name}"))),
                _ => Err(InvalidCertificateName),
            };
        }
        let parts: Option<Vec<String>> = attributes(text).into_iter().map(attribute).collect();
        parts.map(|parts| CertificateName(parts.join(","))).ok_or(InvalidCertificateName)
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Splits at commas that no backslash stands before.
fn attributes(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

/// `cn = ci` as `CN=ci`.
fn attribute(text: &str) -> Option<String> {
    let (key, value) = text.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let sound = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    (sound && !value.is_empty()).then(|| format!("{}={value}", key.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn names(subject: &[(DnType, &str)], alternatives: &[SanType]) -> CertificateNames {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = alternatives.to_vec();
        let key = KeyPair::generate().unwrap();
        CertificateNames::read(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn is(names: &CertificateNames, text: &str) -> bool {
        names.contain(&text.parse().unwrap())
    }

    #[test]
    fn a_holder_is_known_by_common_name_whole_subject_and_alternative_names() {
        let alternatives = [
            SanType::DnsName("Node-1.Example".try_into().unwrap()),
            SanType::URI("spiffe://example/Node".try_into().unwrap()),
            SanType::Rfc822Name("node@example".try_into().unwrap()),
        ];
        let subject = [(DnType::CountryName, "DE"), (DnType::OrganizationName, "Ex, Inc"), (DnType::CommonName, "ci")];
        let names = names(&subject, &alternatives);
        for text in [
            "CN=ci",
            "cn = ci",
            r"CN=ci,O=Ex\, Inc,C=DE",
            "DNS:node-1.example",
            "dns:NODE-1.example",
            "URI:spiffe://example/Node",
            "email:node@example",
        ] {
            assert!(is(&names, text), "{text}: {names:?}");
        }
        for text in
            ["CN=CI", "CN=c", "CN=cii", "O=Ex", r"C=DE,O=Ex\, Inc,CN=ci", "CN=ci,C=DE", "URI:spiffe://example/node"]
        {
            assert!(!is(&names, text), "{text}: {names:?}");
        }
    }

    #[test]
    fn a_text_inside_a_name_never_passes_for_another_name() {
        let sly = names(&[(DnType::OrganizationName, "x,CN=ci"), (DnType::CommonName, "ci,O=Example")], &[]);
        for text in ["CN=ci", "CN=ci,O=Example", "O=x,CN=ci"] {
            assert!(!is(&sly, text), "{text}: {sly:?}");
        }
        let dns = names(&[], &[SanType::URI("DNS:node".try_into().unwrap())]);
        assert!(!is(&dns, "DNS:node"));
    }

    #[test]
    fn what_names_no_certificate_is_refused() {
        for text in ["", "ci", "CN=", "=ci", "CN", "DNS:", "IP:10.0.0.1", "CN=ci,", "CN=ci,,O=x", "c n=x"] {
            assert!(text.parse::<CertificateName>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(CertificateNames::read(b"\x30\x03\x02\x01\x01"), None);
        assert_eq!(CertificateNames::read(b""), None);
    }
}
