//! From a host name to a TCP connection: resolve, check each address, and try
//! the families side by side (RFC 8305), so that a broken one costs a quarter
//! of a second and not a timeout.
//!
//! Names are resolved anew for each connection: a changed address is found as
//! soon as one is made.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long one address has before the next is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum DialError<E> {
    /// No answer in time: from the name servers, or from any address.
    Timeout(&'static str),
    /// Its name leads to no address.
    Name(String),
    /// What the system says.
    Failed(String),
    /// An address that may not be dialled, and none that may.
    Forbidden(E),
}

/// Name look-ups of one registry at a time. One that takes long holds a thread
/// until the resolver gives up, whoever still waits; the disk needs some too.
const LOOK_UPS: usize = 8;

/// The look-ups of one registry.
#[derive(Debug, Clone)]
pub(super) struct LookUps(Arc<Semaphore>);

impl Default for LookUps {
    fn default() -> LookUps {
        LookUps(Arc::new(Semaphore::new(LOOK_UPS)))
    }
}

impl LookUps {
    async fn find(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let turn = Arc::clone(&self.0).acquire_owned().await.map_err(std::io::Error::other)?;
        let host = host.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
        });
        found.await?
    }
}

/// Connects to `host` within `limit`. `check` says of each address whether it
/// may be dialled; the connection is to one that it was asked about.
pub(super) async fn dial<E>(
    look_ups: &LookUps,
    (host, port): (&str, u16),
    limit: Duration,
    check: impl Fn(SocketAddr) -> Result<(), E>,
) -> Result<TcpStream, DialError<E>> {
    let deadline = Instant::now() + limit;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = match timeout_at(deadline, look_ups.find(host, port)).await {
        Err(_) => return Err(DialError::Timeout("the name servers")),
        Ok(Err(error)) => return Err(DialError::Name(lookup_failure(&error.to_string()))),
        Ok(Ok(found)) => found,
    };
    let mut forbidden = None;
    let mut permitted = Vec::new();
    for address in found {
        match check(address) {
            Ok(()) => permitted.push(address),
            Err(error) => forbidden = Some(error),
        }
    }
    if permitted.is_empty() {
        return Err(forbidden.map_or(DialError::Name("its name has no address".to_owned()), DialError::Forbidden));
    }
    let stream = race(interleave(permitted), deadline).await?;
    // Requests are small and answers are what counts.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The first of the resolver's families first, then one of each in turn.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut order = Vec::new();
    loop {
        match (preferred.next(), other.next()) {
            (None, None) => return order,
            (one, two) => order.extend(one.into_iter().chain(two)),
        }
    }
}

/// Connects to whichever answers first. The next address is tried when one
/// fails, or beside those that take long.
async fn race<E>(addresses: Vec<SocketAddr>, deadline: Instant) -> Result<TcpStream, DialError<E>> {
    let mut left = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = DialError::Timeout("it");
    attempts.extend(left.next().map(TcpStream::connect));
    let mut next = Instant::now() + STAGGER;
    loop {
        let is_last = left.len() == 0;
        tokio::select! {
            biased;
            attempt = attempts.next(), if !attempts.is_empty() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => {
                    failure = DialError::Failed(error.to_string());
                    if attempts.is_empty() && is_last {
                        return Err(failure);
                    }
                    next = Instant::now();
                }
                None => return Err(failure),
            },
            () = sleep_until(next), if !is_last => {
                attempts.extend(left.next().map(TcpStream::connect));
                next = Instant::now() + STAGGER;
            }
            () = sleep_until(deadline) => return Err(DialError::Timeout("it")),
        }
    }
}

/// A failed lookup in words that tell a wrong name from name servers in
/// trouble. The system's are kept: they are the same in every language.
fn lookup_failure(said: &str) -> String {
    let said = said.trim_start_matches("failed to lookup address information: ");
    if said.contains("not known") || said.contains("does not resolve") || said.contains("No address associated") {
        format!("its name does not exist (DNS: {said})")
    } else {
        format!("its name could not be looked up (DNS: {said})")
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};

    use super::*;

    /// A listener that lets connections in no more: SYNs are dropped.
    struct BlackHole {
        listener: TcpListener,
        _waiting: Vec<std::net::TcpStream>,
    }

    impl BlackHole {
        fn open() -> BlackHole {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let address = listener.local_addr().unwrap();
            let mut waiting = Vec::new();
            while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                waiting.push(stream);
            }
            BlackHole { listener, _waiting: waiting }
        }

        fn address(&self) -> SocketAddr {
            self.listener.local_addr().unwrap()
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn families_take_turns_and_the_resolvers_choice_begins() {
        let parse = |text: &str| -> Vec<SocketAddr> { text.split(' ').map(|one| one.parse().unwrap()).collect() };
        let order = interleave(parse("[2001:db8::1]:1 [2001:db8::2]:1 [2001:db8::3]:1 192.0.2.1:1 192.0.2.2:1"));
        assert_eq!(order, parse("[2001:db8::1]:1 192.0.2.1:1 [2001:db8::2]:1 192.0.2.2:1 [2001:db8::3]:1"));
        assert_eq!(interleave(parse("192.0.2.1:1 [2001:db8::1]:1")), parse("192.0.2.1:1 [2001:db8::1]:1"));
        assert_eq!(interleave(Vec::new()), Vec::new());
    }

    #[tokio::test]
    async fn f23_an_address_that_never_answers_costs_a_moment_when_there_is_another() {
        let (dead, alive) = (BlackHole::open(), TcpListener::bind("127.0.0.1:0").unwrap());
        let begun = Instant::now();
        let found = race::<()>(vec![dead.address(), alive.local_addr().unwrap()], soon()).await.unwrap();
        assert_eq!(found.peer_addr().unwrap(), alive.local_addr().unwrap());
        assert!(begun.elapsed() >= STAGGER, "it had its chance");
        assert!(begun.elapsed() < Duration::from_secs(15), "nobody waited for its timeout");
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let alive = TcpListener::bind("[::1]:0").unwrap();
        assert!(race::<()>(vec![closed, closed, alive.local_addr().unwrap()], soon()).await.is_ok());
        assert!(matches!(race::<()>(vec![closed, closed], soon()).await, Err(DialError::Failed(_))));
    }

    #[tokio::test]
    async fn nothing_is_waited_for_longer_than_the_limit() {
        let dead = BlackHole::open();
        let addresses = vec![dead.address(); 3];
        let refused = race::<()>(addresses, Instant::now() + Duration::from_millis(600)).await;
        assert!(matches!(refused, Err(DialError::Timeout(_))));
    }

    #[tokio::test]
    async fn every_address_is_checked_and_only_a_permitted_one_dialled() {
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = alive.local_addr().unwrap().port();
        let limit = Duration::from_secs(20);
        let refused = dial(&LookUps::default(), ("127.0.0.1", port), limit, |_| Err("no")).await;
        assert!(matches!(refused, Err(DialError::Forbidden("no"))));
        // `localhost` is both families; one of them is not wanted.
        let v4_only = |address: SocketAddr| if address.ip() == IpAddr::from([127, 0, 0, 1]) { Ok(()) } else { Err(()) };
        let found = dial(&LookUps::default(), ("localhost", port), limit, v4_only).await.unwrap();
        assert!(found.peer_addr().unwrap().is_ipv4());
    }

    #[test]
    fn f22_a_name_that_does_not_exist_is_told_from_name_servers_in_trouble() {
        let said = |code: &str| lookup_failure(&format!("failed to lookup address information: {code}"));
        assert!(said("Name or service not known").starts_with("its name does not exist"));
        assert!(said("No address associated with hostname").starts_with("its name does not exist"));
        assert!(said("Temporary failure in name resolution").starts_with("its name could not be looked up"));
    }
}
