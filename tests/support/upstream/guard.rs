//! Who may read from the upstream: nobody is asked, Basic, or a token.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::answer::Answer;
use super::request::Request;

/// The name of the account that may read.
pub(crate) const USERNAME: &str = "robot";
/// Its secret.
pub(crate) const SECRET: &str = "c4nary-s3cret-of-the-robot";
/// What tells a token of this upstream from other text.
pub(crate) const TOKEN_PREFIX: &str = "c4nary-token-";

/// How readers prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Everybody may read.
    #[default]
    Open,
    /// Username and secret with each request.
    Basic,
    /// A token, which the account gets at `/token`.
    Token,
    /// A token, which everybody gets at `/token`.
    AnonymousToken,
}

/// The tokens given out, each with the scope it is for.
#[derive(Default)]
pub(super) struct Tokens(HashMap<String, String>);

impl Tokens {
    /// No token is good any more.
    pub(super) fn revoke(&mut self) {
        self.0.clear();
    }

    /// What has to be answered in place of the content, if anything.
    pub(super) fn check(&mut self, guard: Guard, origin: &str, request: &Request) -> Option<Answer> {
        let account = format!("Basic {}", STANDARD.encode(format!("{USERNAME}:{SECRET}")));
        let authorization = request.header("authorization");
        if request.path() == "/token" {
            return Some(match guard {
                Guard::Token if authorization != Some(&account) => Answer::status(401),
                Guard::Token | Guard::AnonymousToken => self.issue(request),
                Guard::Open | Guard::Basic => Answer::status(404),
            });
        }
        let path = request.path().strip_prefix("/v2/")?;
        // `<repository>/<word>/<reference>`
        let repository = path.rsplitn(3, '/').nth(2).unwrap_or_default();
        let scope = format!("repository:{repository}:pull");
        match guard {
            Guard::Open => None,
            Guard::Basic if authorization == Some(&account) => None,
            Guard::Basic => Some(Answer::status(401).header("WWW-Authenticate", "Basic realm=\"scripted\"")),
            Guard::Token | Guard::AnonymousToken => {
                let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
                let good = token.and_then(|token| self.0.get(token)).is_some_and(|allowed| *allowed == scope);
                (!good).then(|| {
                    Answer::status(401).header(
                        "WWW-Authenticate",
                        format!("Bearer realm=\"{origin}/token\",service=\"scripted\",scope=\"{scope}\""),
                    )
                })
            }
        }
    }

    fn issue(&mut self, request: &Request) -> Answer {
        let scope = url::Url::parse(&format!("http://upstream{}", request.target))
            .unwrap()
            .query_pairs()
            .find_map(|(key, value)| (key == "scope").then(|| value.into_owned()))
            .unwrap_or_default();
        let token = format!("{TOKEN_PREFIX}{:032x}", fastrand::u128(..));
        self.0.insert(token.clone(), scope);
        let document = serde_json::json!({ "token": token, "expires_in": 300 });
        Answer::status(200).header("Content-Type", "application/json").body(document.to_string())
    }
}
