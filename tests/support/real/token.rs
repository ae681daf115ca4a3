//! JSON Web Tokens in the form that `docker-registry` accepts.
//!
//! Signed with RS256, because that is what `rcgen` can sign in the form that a
//! token wants; the registry finds the key by the certificate in `x5c`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, SigningKey as _};
use serde_json::{Value, json};

/// The `iss` of every token and the issuer that the registry trusts.
pub(crate) const ISSUER: &str = "token server of the tests";
/// The `aud` of every token and the service that the registry is.
pub(crate) const SERVICE: &str = "registry of the tests";

/// What a token allows on one repository.
#[derive(Debug)]
pub(crate) struct Access {
    repository: String,
    actions: &'static [&'static str],
}

impl Access {
    /// What `scope` is granted: pulling, whatever else it asks for.
    pub(crate) fn pull(scope: &str) -> Option<Self> {
        let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
        let pull = actions.split(',').any(|action| action == "pull");
        pull.then(|| Self { repository: name.to_owned(), actions: &["pull"] })
    }

    /// Putting content into `repository`.
    pub(crate) fn push(repository: &str) -> Self {
        Self { repository: repository.to_owned(), actions: &["pull", "push"] }
    }

    /// The repository it is for.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }
}

/// Makes the tokens.
#[derive(Debug)]
pub(crate) struct Signer {
    key: KeyPair,
    certificate_der: Vec<u8>,
    certificate_pem: String,
    lifetime: Duration,
}

impl Signer {
    /// One with a new key, whose tokens live for `lifetime`.
    pub(crate) fn new(lifetime: Duration) -> Self {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let certificate = CertificateParams::new(Vec::<String>::new()).unwrap().self_signed(&key).unwrap();
        let certificate_der = certificate.der().to_vec();
        Self { key, certificate_der, certificate_pem: certificate.pem(), lifetime }
    }

    /// The certificate by which tokens are verified.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// How long a token lives.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token that allows `subject` all of `accesses`, from now on.
    pub(crate) fn sign(&self, subject: &str, accesses: &[Access]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let access: Vec<Value> = accesses
            .iter()
            .map(|access| json!({"type": "repository", "name": access.repository, "actions": access.actions}))
            .collect();
        let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(&self.certificate_der)]});
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": subject,
            "iat": now, "nbf": now, "exp": now + self.lifetime.as_secs(),
            "jti": now.to_string(), "access": access,
        });
        let signed = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
