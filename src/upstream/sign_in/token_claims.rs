//! What a JSON web token says about its own lifetime. It is not verified: it
//! comes from the service that gave it out, and all that depends on it is when
//! that service is asked again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

const MAX_LENGTH: usize = 64 * 1024;
/// No token is believed to be good for longer than a day.
const MAX_SECONDS: f64 = 86_400.0;

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    iat: Option<f64>,
    nbf: Option<f64>,
}

/// How long `token` is good from now on; `None` where it does not say, or says
/// something that clocks cannot agree on.
pub(in crate::upstream) fn lifetime(token: &str) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    lifetime_at(token, now)
}

fn lifetime_at(token: &str, now: f64) -> Option<Duration> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let end = claims.exp?;
    let given = [claims.iat, claims.nbf].into_iter().flatten().reduce(f64::max);
    // It may have been given out earlier; our clock may go wrong. The shorter
    // of what both say is safe.
    let left = (end - now).min(given.map_or(MAX_SECONDS, |given| end - given)).min(MAX_SECONDS);
    (left > 0.0).then(|| Duration::from_secs_f64(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(claims: &str) -> Option<u64> {
        let token = format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims));
        lifetime_at(&token, 1000.0).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn a_lifetime_is_what_both_clocks_allow() {
        assert_eq!(lives(r#"{"iat":1000,"exp":5500}"#), Some(4500));
        assert_eq!(lives(r#"{"iat":400,"nbf":500,"exp":5000}"#), Some(4000), "given out earlier");
        assert_eq!(lives(r#"{"iat":2000,"exp":5000}"#), Some(3000), "their clock is ahead");
        assert_eq!(lives(r#"{"iat":100,"exp":900}"#), None, "ended, or our clock is ahead");
        assert_eq!(lives(r#"{"exp":1e300}"#), Some(86_400));
        for claims in ["{}", "[]", "", r#"{"exp":"soon"}"#, r#"{"exp":-5}"#] {
            assert_eq!(lives(claims), None, "{claims}");
        }
        for token in ["", "opaque", "a.b", "a.%%.c", "a.b.c.d"] {
            assert_eq!(lifetime_at(token, 0.0), None, "{token}");
        }
    }
}
