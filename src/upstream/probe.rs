//! Trying a registry as it is configured: can it be reached, does it take the
//! login, may the login read an image.
//!
//! For an operator who is there and waits; what a pull would do, one step after
//! the other, each with what came of it.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};

use super::error::{Error, Obstacle, Result};
use super::registry::Upstream;
use crate::oci::{Reference, Repository};

/// One step of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was tried.
    pub what: String,
    /// What came of it: good, or bad and what to do.
    pub outcome: std::result::Result<String, String>,
}

impl Upstream {
    /// Tries everything that a pull of `image` needs, or without one as much as
    /// can be tried. What follows a failure is not tried.
    pub async fn probe(&self, image: Option<(&Repository, &Reference)>) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut note = |what: String, outcome: Result<String>| {
            let outcome = outcome.map_err(|error| advice(&error));
            let good = outcome.is_ok();
            steps.push(Step { what, outcome });
            good
        };
        let origin = self.registry().origin.clone();
        let (answer, reached) = match self.ping().await {
            // Whatever it says of the image will be as useless.
            Ok((status, headers)) if status != StatusCode::UNAUTHORIZED && is_page(&headers) => {
                let what = "a web page: what answers at `url` is not the API of a registry".to_owned();
                (None, Err(Error::Protocol { origin: origin.clone(), what }))
            }
            Ok((status, headers)) => {
                let said = match status {
                    StatusCode::OK => "it answers, and asks for no login there".to_owned(),
                    StatusCode::UNAUTHORIZED => "it answers, and asks for a login".to_owned(),
                    status => format!("it answers with status {}", status.as_u16()),
                };
                (Some((status, headers)), Ok(said))
            }
            Err(error) => (None, Err(error)),
        };
        if !note(format!("reach {origin}"), reached) {
            return steps;
        }
        let signed_in = match answer {
            _ if self.registry().credential.is_anonymous() => {
                Ok("nothing is stored: what is public can be pulled".to_owned())
            }
            Some((StatusCode::UNAUTHORIZED, headers)) => self.sign_in(&headers).await,
            _ if image.is_none() => {
                Ok("not tried: without a challenge only an image shows whether the login is right".to_owned())
            }
            _ => Ok("the image will show it: the registry asked for no login so far".to_owned()),
        };
        if !note("sign in".to_owned(), signed_in) {
            return steps;
        }
        if let Some((repository, reference)) = image {
            let separator = if matches!(reference, Reference::Digest(_)) { '@' } else { ':' };
            let found = self.manifest(Method::HEAD, repository, reference, None).await.map(|answer| {
                let media_type = answer.media_type.map_or_else(String::new, |media_type| format!(", {media_type}"));
                match answer.digest {
                    Some(digest) => format!("it is there: {digest}{media_type}"),
                    None => format!("it is there{media_type}"),
                }
            });
            note(format!("read {repository}{separator}{reference}"), found);
        }
        steps
    }

    async fn ping(&self) -> Result<(StatusCode, HeaderMap)> {
        let response = self.ask_ping().await?;
        Ok((response.status(), response.headers().clone()))
    }
}

/// Whether an answer is for people.
fn is_page(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// What went wrong, and what to do about it.
fn advice(error: &Error) -> String {
    let hint = match error {
        Error::NotFound => {
            "there is no such image, or the login may not see it (registries answer alike): check its name, and what the \
             login was granted"
        }
        Error::Denied { .. } => "the login is not allowed to read this: grant it read access at the provider",
        Error::CredentialRejected { .. } => {
            "the user name or the secret is wrong, or the secret has expired: make a new one at the provider"
        }
        // What is wrong with TLS says itself what to do.
        Error::Unreachable { obstacle: Obstacle::Tls, .. } => return error.to_string(),
        Error::Unreachable { .. } => "check its address and the network",
        Error::Timeout { .. } => "check its address, firewalls, and whether a proxy is needed (`proxy`)",
        Error::TooManyRequests { .. } => "wait, or pull with a login that has a higher limit",
        _ => return error.to_string(),
    };
    format!("{error}; {hint}")
}
