//! Wrong logins, counted for each address they come from and each user name
//! they try: first answered late, then not looked at for a while.
//!
//! What is counted leaks away with time and is bounded in number. A login that
//! was right lately is not counted against anybody.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Bounds on guessing.
#[derive(Debug, Clone, Copy)]
pub struct LoginLimits {
    /// Wrong logins from one address before further ones have to wait.
    pub max_wrong_logins: u32,
    /// The longest they have to wait.
    pub max_login_wait: Duration,
}

impl Default for LoginLimits {
    fn default() -> Self {
        LoginLimits { max_wrong_logins: 10, max_login_wait: Duration::from_secs(300) }
    }
}

/// A user name may be got wrong so many times more often than an address may
/// get logins wrong: otherwise one stranger could lock a client out.
const NAME_FACTOR: u32 = 10;
/// One wrong login is forgiven in this time.
const FORGIVEN_IN: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_millis(500);
/// Who logged in rightly is remembered for so long.
const TRUSTED_FOR: Duration = Duration::from_secs(12 * 3600);
/// Addresses, names and pairs of them that are remembered.
const REMEMBERED: u64 = 20_000;

/// Whose wrong logins are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// An IPv4 address, or the /64 of an IPv6 address, which is what one
    /// customer has.
    Peer(IpAddr),
    /// A user name, hashed.
    Name(u64),
}

#[derive(Debug, Clone, Copy)]
struct Record {
    wrong: u32,
    at: Instant,
    wait_until: Instant,
}

/// Counts wrong logins.
pub(super) struct Throttle {
    limits: LoginLimits,
    records: moka::sync::Cache<Key, Record>,
    trusted: moka::sync::Cache<(Key, Key), ()>,
    hasher: RandomState,
}

impl Throttle {
    pub(super) fn new(limits: LoginLimits) -> Throttle {
        let forgotten = FORGIVEN_IN * limits.max_wrong_logins.saturating_mul(NAME_FACTOR).saturating_add(10);
        Throttle {
            limits,
            records: moka::sync::Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_idle(forgotten.max(limits.max_login_wait).min(TRUSTED_FOR))
                .build(),
            trusted: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(TRUSTED_FOR).build(),
            hasher: RandomState::new(),
        }
    }

    /// How long a login has to wait before it is looked at; `None`: it is.
    pub(super) fn wait(&self, peer: Option<IpAddr>, user: Option<&str>, now: Instant) -> Option<Duration> {
        let peer = of(peer);
        let left = |key| self.records.get(&key).map(|record| record.wait_until.saturating_duration_since(now));
        let name = user.map(|user| self.name(user)).filter(|name| !self.trusted.contains_key(&(peer, *name)));
        let wait = left(peer).max(name.and_then(left)).unwrap_or_default();
        (wait > Duration::ZERO).then_some(wait)
    }

    /// Counts a wrong login; how long its answer is held back.
    pub(super) fn wrong(&self, peer: Option<IpAddr>, user: Option<&str>, now: Instant) -> Duration {
        let wrong = self.count(of(peer), self.limits.max_wrong_logins, now);
        if let Some(user) = user {
            self.count(self.name(user), self.limits.max_wrong_logins.saturating_mul(NAME_FACTOR), now);
        }
        // The first third is answered without delay.
        match wrong.checked_sub(self.limits.max_wrong_logins / 3 + 1) {
            Some(more) => FIRST_DELAY.saturating_mul(1 << more.min(10)).min(LONGEST_DELAY),
            None => Duration::ZERO,
        }
    }

    /// Remembers that `peer` logged in rightly as `user`: whoever guesses that
    /// name elsewhere does not keep it out.
    pub(super) fn right(&self, peer: Option<IpAddr>, user: Option<&str>) {
        if let Some(user) = user {
            self.trusted.insert((of(peer), self.name(user)), ());
        }
    }

    fn count(&self, key: Key, limit: u32, now: Instant) -> u32 {
        let entry = self.records.entry(key).and_upsert_with(|before| {
            let before = before.map_or((0, now), |entry| {
                let Record { wrong, at, .. } = entry.into_value();
                // What is left of an interval counts towards the next one.
                let passed = now.saturating_duration_since(at).as_secs() / FORGIVEN_IN.as_secs();
                let forgiven = u32::try_from(passed).unwrap_or(u32::MAX);
                (wrong.saturating_sub(forgiven), at + FORGIVEN_IN.saturating_mul(forgiven))
            });
            let (wrong, at) = (before.0.saturating_add(1), if before.0 == 0 { now } else { before.1 });
            let wait = wrong
                .checked_sub(limit)
                .map(|over| Duration::from_secs(1 << over.min(20)).min(self.limits.max_login_wait));
            Record { wrong, at, wait_until: now + wait.unwrap_or_default() }
        });
        entry.into_value().wrong
    }

    fn name(&self, user: &str) -> Key {
        Key::Name(self.hasher.hash_one(user))
    }
}

fn of(peer: Option<IpAddr>) -> Key {
    Key::Peer(peer.map_or(Ipv6Addr::UNSPECIFIED.into(), customer))
}

/// What one customer of a provider has: an IPv4 address, or of an IPv6 address
/// its /64.
pub fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn throttle() -> (Throttle, Instant) {
        (Throttle::new(LoginLimits::default()), Instant::now())
    }

    #[test]
    fn wrong_logins_are_answered_ever_later_then_not_looked_at() {
        let (throttle, now) = throttle();
        let from = peer("10.0.0.1");
        let delays: Vec<u128> = (0..9).map(|_| throttle.wrong(from, Some("ci"), now).as_millis()).collect();
        assert_eq!(delays, [0, 0, 0, 50, 100, 200, 400, 500, 500]);
        assert_eq!(throttle.wait(from, Some("ci"), now), None);
        throttle.wrong(from, Some("ci"), now);
        assert_eq!(throttle.wait(from, Some("ci"), now), Some(Duration::from_secs(1)));
        assert_eq!(throttle.wait(from, None, now), Some(Duration::from_secs(1)));
        let mut now = now;
        for seconds in [2, 4, 8, 16, 32] {
            now += throttle.wait(from, None, now).unwrap();
            assert_eq!(throttle.wait(from, None, now), None);
            throttle.wrong(from, Some("ci"), now);
            assert_eq!(throttle.wait(from, None, now), Some(Duration::from_secs(seconds)));
        }
        for _ in 0..100 {
            throttle.wrong(from, Some("ci"), now);
        }
        assert_eq!(throttle.wait(from, None, now), Some(Duration::from_secs(300)));
        // Others are not held up, nor is the same name elsewhere.
        assert_eq!(throttle.wait(peer("10.0.0.2"), Some("other"), now), None);
    }

    #[test]
    fn wrong_logins_are_forgiven_with_time() {
        let (throttle, now) = throttle();
        let from = peer("10.0.0.1");
        for _ in 0..10 {
            throttle.wrong(from, None, now);
        }
        let later = now + FORGIVEN_IN * 9;
        throttle.wrong(from, None, later);
        assert_eq!(throttle.wait(from, None, later), None);
        // Once a minute is never too often.
        for minute in 0..100 {
            let then = later + FORGIVEN_IN * minute;
            throttle.wrong(from, None, then);
            assert_eq!(throttle.wait(from, None, then), None, "{minute}");
        }
    }

    #[test]
    fn a_name_that_many_guess_is_held_up_except_where_it_logged_in() {
        let (throttle, now) = throttle();
        throttle.right(peer("10.9.9.9"), Some("ci"));
        for n in 0..100 {
            throttle.wrong(peer(&format!("10.0.{n}.1")), Some("ci"), now);
        }
        assert!(throttle.wait(peer("10.7.7.7"), Some("ci"), now).is_some());
        assert_eq!(throttle.wait(peer("10.9.9.9"), Some("ci"), now), None);
        assert_eq!(throttle.wait(peer("10.7.7.7"), Some("other"), now), None);
        assert_eq!(throttle.wait(peer("10.7.7.7"), None, now), None);
    }

    #[test]
    fn an_ipv6_customer_is_one_address_and_a_mapped_one_is_itself() {
        let (throttle, now) = throttle();
        for n in 0..10 {
            throttle.wrong(peer(&format!("2001:db8:1:2::{n}")), None, now);
            throttle.wrong(peer("10.0.0.1"), None, now);
        }
        assert!(throttle.wait(peer("2001:db8:1:2:ffff::1"), None, now).is_some());
        assert!(throttle.wait(peer("2001:db8:1:3::1"), None, now).is_none());
        assert!(throttle.wait(peer("::ffff:10.0.0.1"), None, now).is_some());
    }
}
