//! Rate limits of upstream: what is left of them, and when to ask again after
//! one was reached.
//!
//! Docker Hub counts GET of manifests as *pulls* and says with each answer how
//! many are left (`ratelimit-limit: 100;w=21600`, `ratelimit-remaining`).
//! HEAD and blobs are free. Beyond the pull limit there is another one, for
//! clients that ask too fast; it has no name and no such headers.
//!
//! After a 429 no request of the same sort is made until upstream wants to be
//! asked again: each would only be counted too. All of this belongs to one
//! credential of one registry; `docker-ratelimit-source` may be an address or
//! an account, so no client is ever told it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use crate::registry::{Origin, Reserve};

/// What a request is, to a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    /// GET of a manifest: counted as a pull.
    Pull,
    /// HEAD, lists: not counted.
    #[default]
    Question,
    /// A blob.
    Transfer,
    /// To a token service.
    Token,
}

/// No cool-down is longer, whatever `Retry-After` says.
const LONGEST: Duration = Duration::from_secs(300);
/// A storage that does not say how long gets a little patience.
const ELSEWHERE: Duration = Duration::from_secs(1);
/// Storages that are remembered at a time.
const MAX_ELSEWHERE: usize = 256;
/// A window of pulls that names no length.
const WINDOW: Duration = Duration::from_secs(6 * 3600);

/// A reading of the pull limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullLimit {
    /// Pulls per window.
    pub limit: u64,
    /// How many of them are left.
    pub remaining: u64,
    /// The window.
    pub window: Duration,
    /// What they are counted for: an address or an account.
    pub source: Option<String>,
    /// How long ago upstream said so.
    pub age: Duration,
}

/// What is known of the limits of one credential.
#[derive(Debug, Default)]
pub(super) struct RateLimits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pulls: Option<(PullLimit, Instant)>,
    /// By [`Sort`].
    cooling: [Option<Instant>; 4],
    /// Where the registry redirects to.
    elsewhere: HashMap<Origin, Instant>,
    /// 429 for the pull limit, and for anything else.
    reached: (u64, u64),
}

impl RateLimits {
    /// Reads what an answer says about the pull limit, if anything.
    pub(super) fn read(&self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(limit), Some(remaining)) =
            (text("ratelimit-limit").and_then(quota), text("ratelimit-remaining").and_then(quota))
        else {
            return;
        };
        let source = text("docker-ratelimit-source").map(|source| source.chars().take(128).collect());
        let window = limit.1.or(remaining.1).unwrap_or(WINDOW);
        let reading = PullLimit { limit: limit.0, remaining: remaining.0, window, source, age: Duration::ZERO };
        self.state().pulls = Some((reading, Instant::now()));
    }

    /// A limit is reached; gives how long nothing of this sort is asked.
    pub(super) fn reached(
        &self,
        sort: Sort,
        headers: &HeaderMap,
        body: &[u8],
        retry_after: Option<Duration>,
    ) -> Duration {
        let is_pull_limit = headers.contains_key("ratelimit-limit") || mentions_pulls(body);
        let otherwise = match sort {
            Sort::Pull if is_pull_limit => Duration::from_secs(60),
            Sort::Pull | Sort::Question | Sort::Token => Duration::from_secs(5),
            // Storage that asks for a little patience.
            Sort::Transfer => Duration::from_secs(1),
        };
        let pause = retry_after.unwrap_or(otherwise).min(LONGEST);
        let mut state = self.state();
        let count = if is_pull_limit { &mut state.reached.0 } else { &mut state.reached.1 };
        *count += 1;
        let until = Instant::now() + pause;
        if let Some(cooling) = state.cooling.get_mut(sort as usize) {
            *cooling = (*cooling).max(Some(until));
        }
        pause
    }

    /// How long nothing of this sort is to be asked.
    pub(super) fn cooling(&self, sort: Sort) -> Option<Duration> {
        let until = (*self.state().cooling.get(sort as usize)?)?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| *left > Duration::ZERO)
    }

    /// `origin`, where the registry redirects to, has reached a limit of its own;
    /// gives how long it is not asked.
    pub(super) fn reached_elsewhere(&self, origin: &Origin, retry_after: Option<Duration>) -> Duration {
        let pause = retry_after.unwrap_or(ELSEWHERE).min(LONGEST);
        let mut state = self.state();
        state.reached.1 += 1;
        let now = Instant::now();
        state.elsewhere.retain(|_, until| *until > now);
        if state.elsewhere.len() < MAX_ELSEWHERE {
            state.elsewhere.insert(origin.clone(), now + pause);
        }
        pause
    }

    /// How long `origin`, where the registry redirects to, is not to be asked.
    pub(super) fn cooling_elsewhere(&self, origin: &Origin) -> Option<Duration> {
        let until = *self.state().elsewhere.get(origin)?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| *left > Duration::ZERO)
    }

    /// Whether the pulls that are left should be kept for what cannot be had
    /// otherwise.
    pub(super) fn should_spare(&self, reserve: Reserve) -> bool {
        self.cooling(Sort::Pull).is_some()
            || self
                .pulls()
                .is_some_and(|pulls| pulls.age < pulls.window && reserve.covers(pulls.remaining, pulls.limit))
    }

    /// The latest reading.
    pub(super) fn pulls(&self) -> Option<PullLimit> {
        let state = self.state();
        let (reading, at) = state.pulls.as_ref()?;
        Some(PullLimit { age: at.elapsed(), ..reading.clone() })
    }

    /// How often the pull limit was reached, and any other.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.state().reached
    }

    /// Another credential has limits of its own.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        *state = State { reached: state.reached, ..State::default() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `100;w=21600`: the number and the window.
fn quota(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((number, window.filter(|seconds| *seconds > 0).map(Duration::from_secs)))
}

fn mentions_pulls(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).to_ascii_lowercase().contains("pull rate limit")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const WORDS: &[u8] =
        br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit."}]}"#;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    fn limits(limit: &'static str, remaining: &'static str) -> RateLimits {
        let limits = RateLimits::default();
        limits.read(&headers(&[("RateLimit-Limit", limit), ("RateLimit-Remaining", remaining)]));
        limits
    }

    #[tokio::test(start_paused = true)]
    async fn the_headers_of_docker_hub_are_read_in_every_form_they_come_in() {
        let limits = RateLimits::default();
        limits.read(&headers(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
            ("docker-ratelimit-source", "192.0.2.7"),
        ]));
        let read = limits.pulls().unwrap();
        assert_eq!((read.limit, read.remaining, read.window.as_secs()), (100, 76, 21600));
        assert_eq!(read.source.as_deref(), Some("192.0.2.7"));
        for (limit, remaining) in [("200", "1"), ("200;w=60", "1"), ("200 ; w=60", "1 ; w=60"), ("200;w=0;x", "1;y")] {
            assert_eq!(limits_of(limit, remaining), Some((200, 1)), "{limit}");
        }
        for (limit, remaining) in [("", ""), ("many", "1"), ("-1", "1"), ("100", "x"), ("1e3", "1")] {
            assert_eq!(limits_of(limit, remaining), None, "{limit} {remaining}");
        }
        // An answer without them says nothing new.
        limits.read(&HeaderMap::new());
        assert_eq!(limits.pulls().unwrap().remaining, 76);
    }

    fn limits_of(limit: &'static str, remaining: &'static str) -> Option<(u64, u64)> {
        limits(limit, remaining).pulls().map(|read| (read.limit, read.remaining))
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_pulls_are_spared_while_the_reading_can_be_true() {
        let reserve = Reserve::default();
        assert!(!limits("100;w=21600", "11;w=21600").should_spare(reserve));
        let low = limits("100;w=21600", "10;w=21600");
        assert!(low.should_spare(reserve));
        assert!(!low.should_spare(Reserve(0)));
        tokio::time::advance(Duration::from_secs(21_600)).await;
        assert!(!low.should_spare(reserve), "the window is over");
        assert!(!RateLimits::default().should_spare(reserve), "who names no limit has none");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pull_limit_and_the_other_one_are_told_apart_and_stop_only_their_own_sort() {
        let limits = RateLimits::default();
        limits.reached(Sort::Pull, &HeaderMap::new(), WORDS, None);
        assert_eq!(limits.counts(), (1, 0));
        assert_eq!(limits.cooling(Sort::Pull), Some(Duration::from_secs(60)));
        assert!(limits.should_spare(Reserve(0)));
        assert_eq!(limits.cooling(Sort::Question), None, "a HEAD is no pull");
        limits.reached(Sort::Pull, &headers(&[("ratelimit-limit", "100;w=21600")]), b"", None);
        limits.reached(Sort::Question, &HeaderMap::new(), b"429 Too Many Requests", None);
        assert_eq!(limits.counts(), (2, 1));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!((limits.cooling(Sort::Pull), limits.cooling(Sort::Question)), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honoured_and_bounded_and_a_shorter_one_does_not_end_a_longer() {
        let limits = RateLimits::default();
        let reach =
            |seconds| limits.reached(Sort::Transfer, &HeaderMap::new(), b"", Some(Duration::from_secs(seconds)));
        assert_eq!(reach(7), Duration::from_secs(7));
        assert_eq!(reach(1), Duration::from_secs(1));
        assert_eq!(limits.cooling(Sort::Transfer), Some(Duration::from_secs(7)));
        assert_eq!(reach(86_400), LONGEST);
        limits.forget();
        assert_eq!(limits.cooling(Sort::Transfer), None, "another credential has limits of its own");
    }
}
