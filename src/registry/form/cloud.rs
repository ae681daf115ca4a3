//! The forms of the clouds, whose keys are no logins: each is exchanged for one
//! at a place that follows from where the registry is.

use super::{Connection, Form, FormError, origin, wrong};
use crate::registry::ecr::EcrHost;
use crate::registry::{AwsKey, Credential, EntraApp, GoogleKey, InvalidOrigin, Origin};

impl Form {
    pub(super) fn google(&self) -> Result<Connection, FormError> {
        let api = match self.text("url") {
            Some(_) => self.with_url(None)?.origin.to_string(),
            None => format!("https://{}-docker.pkg.dev", self.label("region")?),
        };
        let mut google = self.at(&api, &[], &["project"])?;
        let endpoint = self.endpoint("https://oauth2.googleapis.com")?;
        google.credential = match self.text("sign_in") {
            None | Some("json-key") => {
                self.shown(&google, "json_key", |key| Ok(Credential::new("_json_key".into(), key)))?
            }
            Some("access-token") => match self.own("json_key")? {
                Some(key) => Credential::Google(GoogleKey { key, endpoint }),
                None => return wrong("json_key", "an access token is signed for with a `json_key`"),
            },
            Some(_) => return wrong("sign_in", "it is \"json-key\" or \"access-token\""),
        };
        Ok(google)
    }

    pub(super) fn azure(&self) -> Result<Connection, FormError> {
        let mut azure = self.with_url(None)?;
        let Some(tenant) = self.text("tenant") else { return self.with_login(azure) };
        let sound = tenant.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if !sound || !tenant.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return wrong("tenant", "a directory is named by its ID or its domain");
        }
        let (Some(id), Some(secret)) = (self.text("username"), self.own("password")?) else {
            return wrong(
                "tenant",
                "signing in to a directory takes `username` (the client ID) and `password` as well",
            );
        };
        // Each cloud has a directory of its own.
        let sign_in = match azure.origin.host().rsplit_once('.').map_or("", |(_, end)| end) {
            "cn" => "https://login.partner.microsoftonline.cn",
            "us" => "https://login.microsoftonline.us",
            _ => "https://login.microsoftonline.com",
        };
        azure.credential = Credential::Entra(EntraApp {
            tenant: tenant.to_owned(),
            client_id: id.to_owned(),
            secret,
            endpoint: self.endpoint(sign_in)?,
            registry: azure.origin.clone(),
        });
        Ok(azure)
    }

    pub(super) fn ecr(&self) -> Result<Connection, FormError> {
        let mut ecr = match self.text("url") {
            Some(_) => self.with_url(None)?,
            None => {
                let (account, region) = (self.label("account_id")?, self.label("region")?);
                if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
                    return wrong("account_id", "an AWS account id has twelve digits");
                }
                let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
                self.at(&format!("https://{account}.dkr.ecr.{region}.amazonaws.com{suffix}"), &[], &["namespace"])?
            }
        };
        let (id, secret) = (self.text("access_key_id"), self.own("secret_access_key")?);
        let (Some(id), Some(secret)) = (id, secret.clone()) else {
            if let Some(field) = id.map(|_| "secret_access_key").or(secret.map(|_| "access_key_id")) {
                return wrong(field, "an access key is an `access_key_id` and a `secret_access_key`; give both");
            }
            if self.values.contains_key("session_token") {
                return wrong("session_token", "a session token belongs to an access key; give that too");
            }
            ecr.credential = self.shown(&ecr, "password", |password| Ok(Credential::new("AWS".into(), password)))?;
            return Ok(ecr);
        };
        if self.values.contains_key("password") {
            return wrong("password", "an access key makes the password itself; give the one or the other");
        }
        if !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return wrong("access_key_id", "an access key's id is letters and digits");
        }
        // Behind an address of its own (VPC endpoint) the host says nothing.
        let known = EcrHost::parse(ecr.origin.host());
        let region = match (self.text("region"), &known) {
            (Some(_), _) => self.label("region")?.to_owned(),
            (None, Some(known)) => known.region.clone(),
            (None, None) => return wrong("region", "this URL does not say which `region` it is in"),
        };
        let endpoint = match &known {
            Some(known) => self.endpoint(&format!("https://{}", known.api))?,
            None => self.endpoint(&format!("https://api.ecr.{region}.amazonaws.com"))?,
        };
        ecr.credential = Credential::Aws(AwsKey {
            id: id.to_owned(),
            secret,
            session_token: self.own("session_token")?,
            region,
            public: known.is_some_and(|known| known.public),
            endpoint,
        });
        Ok(ecr)
    }

    /// Where the provider signs in, unless the operator wrote another place.
    fn endpoint(&self, usual: &str) -> Result<Origin, FormError> {
        match self.text("sign_in_endpoint") {
            None => origin(usual),
            Some(text) => text
                .trim_end_matches('/')
                .parse()
                .or_else(|error: InvalidOrigin| wrong("sign_in_endpoint", error.to_string())),
        }
    }
}
