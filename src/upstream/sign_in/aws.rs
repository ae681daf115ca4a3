//! Amazon ECR: an access key for a login of twelve hours.
//!
//! `GetAuthorizationToken` is asked for over the API that belongs to the
//! registry's host, signed with the access key; the answer is a Basic parameter
//! that goes to the registry as it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::signature::{Signer, timestamp};
use super::{Fresh, Login, no_login};
use crate::registry::{AwsKey, RegistryName};
use crate::upstream::egress::Purpose;
use crate::upstream::error::{Error, Result};
use crate::upstream::send::{Ask, Sender, collect};

const MAX_BODY: usize = 256 * 1024;
/// How long a login lasts where the answer does not say.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    authorization_token: Zeroizing<String>,
    expires_at: Option<f64>,
}

/// ECR gives a list, ECR Public an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Data>),
    One(Data),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    authorization_data: OneOrMany,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "__type", default)]
    kind: String,
}

pub(super) async fn sign_in(key: &AwsKey, registry: &RegistryName, sender: &Sender) -> Result<Fresh> {
    const BODY: &[u8] = b"{}";
    let (service, target) = if key.public {
        ("ecr-public", "SpencerFrontendService.GetAuthorizationToken")
    } else {
        ("ecr", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
    };
    let time = timestamp(SystemTime::now());
    let host = key.endpoint.host_port().to_string();
    let session = key.session_token.as_ref().map(|token| token.secret().expose());
    let mut signed = vec![("content-type", "application/x-amz-json-1.1"), ("host", &host), ("x-amz-date", &time)];
    signed.extend(session.map(|token| ("x-amz-security-token", token)));
    signed.push(("x-amz-target", target));
    let secret = key.secret.secret().expose();
    let signer = Signer { id: &key.id, secret, region: &key.region, service, time: &time };
    let authorization = signer.authorization("POST", &signed, BODY);
    let no_header = || no_login(registry, "its access key fits no header");
    let value = |text: &str| {
        let mut value = HeaderValue::from_str(text).map_err(|_| no_header())?;
        value.set_sensitive(true);
        Ok(value)
    };
    let headers = signed.iter().filter(|(name, _)| *name != "host").map(|(name, text)| {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| no_header())?;
        Ok((name, value(text)?))
    });
    let ask = Ask {
        method: Method::POST,
        authorization: Some(value(&authorization)?),
        form: Some(Bytes::from_static(BODY)),
        headers: headers.collect::<Result<_>>()?,
        ..Ask::default()
    };
    let url = format!("{}/", key.endpoint).parse().map_err(|_| no_header())?;
    let (response, origin) = sender.send(Purpose::SignIn, &url, &ask).await?;
    let status = response.status().as_u16();
    let body = Zeroizing::new(collect(response, &origin, MAX_BODY).await?.to_vec());
    match status {
        200 => read(&body).map_err(|what| Error::Protocol { origin, what: what.to_owned() }),
        // Failures of the key and of limits have one status.
        400 if failure(&body).ends_with("ThrottlingException") => Err(Error::TooManyRequests { retry_after: None }),
        400..500 => Err(Error::CredentialRejected { registry: registry.to_string(), at: origin, status }),
        status => Err(Error::Status { origin, status }),
    }
}

fn failure(body: &[u8]) -> String {
    serde_json::from_slice(body).map(|failure: Failure| failure.kind).unwrap_or_default()
}

fn read(body: &[u8]) -> std::result::Result<Fresh, &'static str> {
    let document: Document = serde_json::from_slice(body).map_err(|_| "an answer without a login")?;
    let data = match document.authorization_data {
        OneOrMany::One(data) => Some(data),
        OneOrMany::Many(list) => list.into_iter().next(),
    };
    let data = data.ok_or("an answer without a login")?;
    let pair = Zeroizing::new(STANDARD.decode(data.authorization_token.as_bytes()).unwrap_or_default());
    let user = pair.split(|byte| *byte == b':').next().and_then(|user| std::str::from_utf8(user).ok());
    let user = user.filter(|user| pair.len() > user.len() + 1).ok_or("a login that is none")?;
    let login = Login::ready(Some(user), &data.authorization_token).ok_or("a login that fits no header")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // A clock that is wrong must not make the login useless: the registry says
    // when it has ended.
    let left = data.expires_at.map_or(LIFETIME.as_secs_f64(), |end| end - now);
    let lifetime =
        if (60.0..=LIFETIME.as_secs_f64()).contains(&left) { Duration::from_secs_f64(left) } else { LIFETIME };
    Ok(Fresh::given_for(login, lifetime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_of_the_answer_are_understood() {
        // "AWS:secret"
        for body in [
            r#"{"authorizationData":[{"authorizationToken":"QVdTOnNlY3JldA==","expiresAt":4.0e9,"proxyEndpoint":"x"}]}"#,
            r#"{"authorizationData":{"authorizationToken":"QVdTOnNlY3JldA==","expiresAt":1.5}}"#,
            r#"{"authorizationData":[{"authorizationToken":"QVdTOnNlY3JldA=="}]}"#,
        ] {
            let fresh = read(body.as_bytes()).ok().unwrap();
            let Login::Basic { account, header } = fresh.login else { panic!("basic") };
            assert_eq!((account.as_deref(), header.to_str().unwrap()), (Some("AWS"), "Basic QVdTOnNlY3JldA=="));
            assert_eq!((fresh.good_for, fresh.renew_in), (Some(LIFETIME), Some(LIFETIME / 2)));
        }
    }

    #[test]
    fn what_is_no_login_is_refused() {
        for body in [
            "",
            "{}",
            r#"{"authorizationData":[]}"#,
            r#"{"authorizationData":[{"authorizationToken":"%"}]}"#,
            r#"{"authorizationData":[{"authorizationToken":"QVdT"}]}"#,
            r#"{"authorizationData":[{"authorizationToken":1}]}"#,
        ] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
    }
}
