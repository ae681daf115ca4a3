//! Microsoft Entra ID: an application's secret for a refresh token of an Azure
//! container registry.
//!
//! The directory gives an access token; the registry exchanges that for its own
//! refresh token, which is then shown to its token service as any identity
//! token is.

use std::time::Duration;

use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::token_claims::lifetime;
use super::{Fresh, Login, no_login};
use crate::registry::{EntraApp, Origin, RegistryName};
use crate::upstream::egress::Purpose;
use crate::upstream::error::{Error, Result};
use crate::upstream::send::{Ask, Sender, collect};

const MAX_BODY: usize = 64 * 1024;
const SCOPE: &str = "https://containerregistry.azure.net/.default";
/// What a refresh token means that does not say how long it lives.
const LIFETIME: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
struct Grant {
    access_token: Option<Zeroizing<String>>,
    refresh_token: Option<Zeroizing<String>>,
}

pub(super) async fn sign_in(app: &EntraApp, name: &RegistryName, sender: &Sender) -> Result<Fresh> {
    let EntraApp { tenant, client_id, secret, endpoint, registry: acr } = app;
    let without = |at: &Origin| Error::Protocol {
        origin: at.clone(),
        what: "a grant without the token that was asked for".to_owned(),
    };
    let post = Post { registry: name, sender };
    let directory = [
        ("grant_type", "client_credentials"),
        ("client_id", client_id),
        ("client_secret", secret.secret().expose()),
        ("scope", SCOPE),
    ];
    let granted = post.form(Purpose::SignIn, format!("{endpoint}/{tenant}/oauth2/v2.0/token"), &directory).await?;
    let access = granted.access_token.ok_or_else(|| without(endpoint))?;
    let service = acr.host_port().to_string();
    let exchange = [
        ("grant_type", "access_token"),
        ("service", service.as_str()),
        ("tenant", tenant),
        ("access_token", access.as_str()),
    ];
    let granted = post.form(Purpose::Token, format!("{acr}/oauth2/exchange"), &exchange).await?;
    let refresh = granted.refresh_token.ok_or_else(|| without(acr))?;
    let lifetime = lifetime(&refresh).unwrap_or(LIFETIME);
    Ok(Fresh::given_for(Login::Identity(refresh), lifetime))
}

/// Posts the forms of one sign-in.
struct Post<'a> {
    registry: &'a RegistryName,
    sender: &'a Sender,
}

impl Post<'_> {
    async fn form(&self, purpose: Purpose, url: String, pairs: &[(&str, &str)]) -> Result<Grant> {
        let url: Url = url.parse().map_err(|_| no_login(self.registry, "its directory makes no URL"))?;
        let (response, origin) = self.sender.send(purpose, &url, &Ask::form(pairs)).await?;
        match response.status().as_u16() {
            200 => {
                let body = Zeroizing::new(collect(response, &origin, MAX_BODY).await?.to_vec());
                let what = "an answer that is no grant".to_owned();
                serde_json::from_slice(&body).map_err(|_| Error::Protocol { origin, what })
            }
            429 => Err(Error::TooManyRequests { retry_after: None }),
            status @ 400..500 => {
                Err(Error::CredentialRejected { registry: self.registry.to_string(), at: origin, status })
            }
            status => Err(Error::Status { origin, status }),
        }
    }
}
