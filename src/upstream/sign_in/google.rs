//! Google: a service account's key for an access token.
//!
//! The key signs a statement (RFC 7523, RS256) that Google's token endpoint
//! exchanges. The key names that endpoint itself; it is believed only where it
//! names the one that is expected.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::{Fresh, Login, no_login};
use crate::registry::{GoogleKey, Origin, RegistryName, Secret};
use crate::upstream::egress::Purpose;
use crate::upstream::error::{Error, Result};
use crate::upstream::send::{Ask, Sender, collect};

const MAX_BODY: usize = 64 * 1024;
const SCOPE: &str =
    "https://www.googleapis.com/auth/devstorage.read_only https://www.googleapis.com/auth/cloud-platform.read-only";
const USERNAME: &str = "oauth2accesstoken";
/// What an answer means that names no lifetime, and the longest believed.
const LIFETIME: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: Zeroizing<String>,
    #[serde(default)]
    private_key_id: String,
    token_uri: String,
}

#[derive(Deserialize)]
struct Grant {
    access_token: Zeroizing<String>,
    expires_in: Option<f64>,
}

pub(super) async fn sign_in(key: &GoogleKey, registry: &RegistryName, sender: &Sender) -> Result<Fresh> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (url, assertion) =
        statement(key.key.secret(), &key.endpoint, now).map_err(|cause| no_login(registry, cause))?;
    let grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let ask = Ask::form(&[("grant_type", grant_type), ("assertion", &assertion)]);
    let (response, origin) = sender.send(Purpose::SignIn, &url, &ask).await?;
    match response.status().as_u16() {
        200 => {
            let body = Zeroizing::new(collect(response, &origin, MAX_BODY).await?.to_vec());
            read(&body).ok_or(Error::Protocol { origin, what: "an answer without an access token".to_owned() })
        }
        429 => Err(Error::TooManyRequests { retry_after: None }),
        status @ 400..500 => Err(Error::CredentialRejected { registry: registry.to_string(), at: origin, status }),
        status => Err(Error::Status { origin, status }),
    }
}

fn read(body: &[u8]) -> Option<Fresh> {
    let grant: Grant = serde_json::from_slice(body).ok().filter(|grant: &Grant| !grant.access_token.is_empty())?;
    let login = Login::basic(USERNAME, &Secret::new(grant.access_token.to_string()))?;
    let seconds = grant.expires_in.filter(|seconds| *seconds > 0.0 && *seconds < LIFETIME.as_secs_f64());
    Some(Fresh::given_for(login, seconds.map_or(LIFETIME, Duration::from_secs_f64)))
}

/// Where to send it, and what the key says. The error names nothing of the key.
fn statement(key: &Secret, endpoint: &Origin, now: u64) -> std::result::Result<(Url, Zeroizing<String>), String> {
    let file: KeyFile =
        serde_json::from_str(key.expose()).map_err(|_| "its JSON key is no key of a service account".to_owned())?;
    let url = file.token_uri.parse::<Url>().ok();
    let url = url.filter(|url| Origin::of(url).is_ok_and(|origin| origin == *endpoint)).ok_or_else(|| {
        format!("the `token_uri` of its JSON key is not at {endpoint}; if it should be, name its origin by `sign_in_endpoint`")
    })?;
    let unusable = || "the private key of its JSON key cannot be used".to_owned();
    let der = PrivatePkcs8KeyDer::from_pem_slice(file.private_key.as_bytes()).map_err(|_| unusable())?;
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| unusable())?;
    let header = serde_json::json!({ "alg": "RS256", "typ": "JWT", "kid": file.private_key_id });
    let claims = serde_json::json!({
        "iss": file.client_email,
        "scope": SCOPE,
        "aud": file.token_uri,
        "iat": now,
        "exp": now + 3600,
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).map_err(|_| unusable())?;
    Ok((url, Zeroizing::new(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn key_file(pair: &RsaKeyPair, token_uri: &str) -> Secret {
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        let file = serde_json::json!({
            "type": "service_account",
            "client_email": "puller@project.example",
            "private_key_id": "k1",
            "private_key": pem,
            "token_uri": token_uri,
        });
        Secret::new(file.to_string())
    }

    #[test]
    fn the_statement_is_signed_by_the_key_and_says_who_for_whom_and_how_long() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let endpoint: Origin = "https://oauth2.googleapis.com".parse().unwrap();
        let uri = "https://oauth2.googleapis.com/token";
        let (url, statement) = statement(&key_file(&pair, uri), &endpoint, 1000).unwrap();
        assert_eq!(url.as_str(), uri);
        let (text, signature) = statement.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
        public.verify(text.as_bytes(), &signature).unwrap();
        let part = |at: usize| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').nth(at).unwrap()).unwrap()).unwrap()
        };
        assert_eq!(part(0), serde_json::json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
        assert_eq!(part(1)["iss"], "puller@project.example");
        assert_eq!((&part(1)["aud"], &part(1)["iat"], &part(1)["exp"]), (&uri.into(), &1000.into(), &4600.into()));
    }

    #[test]
    fn a_key_that_names_another_place_is_not_believed() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let endpoint: Origin = "https://oauth2.googleapis.com".parse().unwrap();
        for uri in [
            "https://evil.example/token",
            "http://oauth2.googleapis.com/token",
            "https://oauth2.googleapis.com.evil.example/token",
            "https://oauth2.googleapis.com:444/token",
            "https://me@oauth2.googleapis.com/token",
            "token",
        ] {
            let error = statement(&key_file(&pair, uri), &endpoint, 0).unwrap_err();
            assert!(error.contains("is not at https://oauth2.googleapis.com") && !error.contains("evil"), "{error}");
        }
        for text in [
            "",
            "canary",
            "{}",
            r#"{"client_email":"a","private_key":"canary","token_uri":"https://oauth2.googleapis.com/token"}"#,
        ] {
            let error = statement(&Secret::new(text.into()), &endpoint, 0).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
