//! `WWW-Authenticate` (RFC 9110 §11), as registries really send it.
//!
//! Seen in the wild and accepted: bare values (`service=gcr.io`), names and
//! schemes in any case, commas inside quoted values, several challenges in one
//! line or in several lines, and parameters with blanks where commas belong.
//! Everything else a registry could say is ignored rather than guessed at.

/// One challenge that this program can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Get a token from `realm`.
    Bearer {
        /// URL of the token service.
        realm: String,
        /// Opaque name of the registry there.
        service: Option<String>,
        /// The scope that the resource asks for.
        scope: Option<String>,
    },
    /// Send user name and password to the registry itself.
    Basic,
}

/// Longest header line that is looked at.
const MAX_LINE: usize = 16 * 1024;

impl Challenge {
    /// The best challenge of all header lines: Bearer before Basic.
    pub(super) fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Challenge> {
        let mut basic = None;
        for line in lines.filter(|line| line.len() <= MAX_LINE) {
            for (scheme, parameters) in challenges(line) {
                if scheme.eq_ignore_ascii_case("bearer") {
                    let find = |name: &str| {
                        parameters
                            .iter()
                            .find(|(key, _)| key.eq_ignore_ascii_case(name))
                            .map(|(_, value)| value.clone())
                    };
                    if let Some(realm) = find("realm").filter(|realm| !realm.is_empty()) {
                        let non_empty = |value: Option<String>| value.filter(|value| !value.is_empty());
                        return Some(Challenge::Bearer {
                            realm,
                            service: non_empty(find("service")),
                            scope: non_empty(find("scope")),
                        });
                    }
                } else if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Challenge::Basic);
                }
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// Splits a header line into its challenges.
fn challenges(line: &[u8]) -> Vec<(String, Parameters)> {
    let mut rest = Scanner { line, at: 0 };
    let mut found: Vec<(String, Parameters)> = Vec::new();
    loop {
        rest.skip(b" \t,");
        let word = rest.token();
        if word.is_empty() {
            if rest.advance() {
                continue;
            }
            return found;
        }
        let before_blanks = rest.at;
        rest.skip(b" \t");
        if rest.peek() == Some(b'=') && !rest.is_token68_end() {
            rest.advance();
            rest.skip(b" \t");
            let value = if rest.peek() == Some(b'"') { rest.quoted() } else { rest.value() };
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word, value));
            }
        } else {
            rest.at = before_blanks;
            found.push((word, Vec::new()));
        }
    }
}

struct Scanner<'a> {
    line: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn advance(&mut self) -> bool {
        self.at += 1;
        self.at <= self.line.len()
    }

    fn skip(&mut self, set: &[u8]) {
        while self.peek().is_some_and(|byte| set.contains(&byte)) {
            self.at += 1;
        }
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&keep) {
            self.at += 1;
        }
        String::from_utf8_lossy(self.line.get(start..self.at).unwrap_or_default()).into_owned()
    }

    fn token(&mut self) -> String {
        self.take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    }

    /// A bare value: more than a token, because URLs come unquoted too.
    fn value(&mut self) -> String {
        self.take_while(|byte| !byte.is_ascii_whitespace() && byte != b',' && byte != b'"')
    }

    /// `=` that ends a token68 (`Negotiate abc==`) is no parameter.
    fn is_token68_end(&self) -> bool {
        let rest = self.line.get(self.at..).unwrap_or_default();
        let padding = rest.iter().take_while(|byte| **byte == b'=').count();
        matches!(rest.get(padding), None | Some(b',')) && padding > 0
    }

    fn quoted(&mut self) -> String {
        self.at += 1;
        let mut value = Vec::new();
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    value.extend(self.peek());
                    self.at += 1;
                }
                other => value.push(other),
            }
        }
        String::from_utf8_lossy(&value).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(lines: &[&str]) -> Option<Challenge> {
        Challenge::parse(lines.iter().map(|line| line.as_bytes()))
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) })
    }

    #[test]
    fn the_challenges_of_the_providers_are_understood() {
        for (line, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push")),
            ),
            (
                r#"Bearer realm="https://gcr.io/v2/token",service=gcr.io"#,
                bearer("https://gcr.io/v2/token", Some("gcr.io"), None),
            ),
            (r#"Bearer realm="https://nvcr.io/proxy_auth",scope="""#, bearer("https://nvcr.io/proxy_auth", None, None)),
            (
                r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#,
                Some(Challenge::Basic),
            ),
            (
                r#"bearer REALM="https://public.ecr.aws/token/",Service="public.ecr.aws",scope="aws""#,
                bearer("https://public.ecr.aws/token/", Some("public.ecr.aws"), Some("aws")),
            ),
            (
                r#"Bearer realm="https://harbor/service/token" service="harbor-registry""#,
                bearer("https://harbor/service/token", Some("harbor-registry"), None),
            ),
            (r#"Bearer realm="https://r/\"q\"" , scope = "x""#, bearer("https://r/\"q\"", None, Some("x"))),
        ] {
            assert_eq!(parse(&[line]), expected, "{line}");
        }
    }

    #[test]
    fn bearer_is_preferred_whatever_comes_first() {
        let expected = bearer("https://r/t", None, None);
        assert_eq!(parse(&[r#"Negotiate, Basic realm="x", Bearer realm="https://r/t""#]), expected);
        assert_eq!(parse(&[r#"Basic realm="x""#, r#"Bearer realm="https://r/t""#]), expected);
        assert_eq!(parse(&[r#"Negotiate abc==, Bearer realm="https://r/t""#]), expected);
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        for line in [
            "",
            "Negotiate",
            "Bearer",
            r#"Bearer service="x""#,
            r#"Digest realm="x",nonce="y""#,
            ",,,",
            "=",
            "\"",
            &"B".repeat(20_000),
        ] {
            assert_eq!(parse(&[line]), None, "{line:.40}");
        }
        assert_eq!(parse(&["Basic"]), Some(Challenge::Basic));
    }

    proptest! {
        #[test]
        fn parsing_ends_and_never_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Challenge::parse([line.as_slice()].into_iter());
        }

        #[test]
        fn any_quoted_realm_comes_through(realm in "[ -~&&[^\"\\\\]]{1,60}") {
            let line = format!("Bearer service=x, realm=\"{realm}\"");
            let parsed = Challenge::parse([line.as_bytes()].into_iter());
            prop_assert_eq!(parsed, Some(Challenge::Bearer { realm, service: Some("x".into()), scope: None }));
        }
    }
}
