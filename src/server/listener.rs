//! Accepting connections, within bounds, until told to stop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::budget::Budgets;
use super::connection::Shared;
use super::inherited;
use super::settings::ServerSettings;
use super::tls::{Tls, TlsError};
use crate::access::customer;
use crate::api::Api;
use crate::kernel::PipePool;
use crate::registry::Door;

/// Connections the kernel keeps waiting while we are busy.
const BACKLOG: u32 = 4096;

/// Why a listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The data listeners, running.
pub struct Server {
    addresses: Vec<SocketAddr>,
    /// Drain has begun: connections end with what they are answering.
    stopping: CancellationToken,
    /// Drain has ended: nothing more is accepted.
    closing: CancellationToken,
    acceptors: TaskTracker,
    /// Connections that came before drain began.
    tasks: TaskTracker,
    /// Those that have come since.
    late: TaskTracker,
    drain_timeout: Duration,
}

impl Server {
    /// Listens and serves `api`.
    ///
    /// # Errors
    /// When an address cannot be had or TLS cannot be set up; nothing is left
    /// running then.
    pub fn start(settings: &ServerSettings, api: Arc<Api>) -> Result<Server, ServerError> {
        let tls = settings.tls.as_ref().map(Tls::open).transpose()?;
        let (pipes, stopping, closing) = (PipePool::default(), CancellationToken::new(), CancellationToken::new());
        let budgets = Arc::new(Budgets::default());
        let shared = |door| {
            Arc::new(Shared {
                api: Arc::clone(&api),
                limits: settings.limits.clone(),
                tls: tls.clone(),
                body: settings.body,
                pipes: pipes.clone(),
                budgets: Arc::clone(&budgets),
                trusted_proxies: settings.trusted_proxies.clone(),
                stopping: stopping.clone(),
                closing: closing.clone(),
                door,
            })
        };
        let (mut listeners, mut mirrors) = (Vec::new(), Vec::new());
        for (addresses, into) in [(&settings.listen, &mut listeners), (&settings.mirror_listen, &mut mirrors)] {
            for address in addresses {
                let listener = listen(*address).map_err(|cause| ServerError::Listen { address: *address, cause })?;
                into.push(listener);
            }
        }
        let server = Server {
            addresses: listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect(),
            stopping: stopping.clone(),
            closing: closing.clone(),
            acceptors: TaskTracker::new(),
            tasks: TaskTracker::new(),
            late: TaskTracker::new(),
            drain_timeout: settings.limits.drain_timeout,
        };
        let places = Arc::new(Places::new(settings.limits.max_connections, settings.limits.max_connections_per_client));
        if let Some(tls) = &tls {
            server.acceptors.spawn(Arc::clone(tls).keep_current(server.closing.clone()));
        }
        for (name, door, listeners) in [("data", Door::Main, listeners), ("mirror", Door::Mirror, mirrors)] {
            let shared = shared(door);
            for listener in listeners {
                if let Ok(address) = listener.local_addr() {
                    info!(listener = name, %address, tls = tls.is_some(), "listening");
                }
                let tasks = (server.tasks.clone(), server.late.clone());
                server.acceptors.spawn(accept(listener, Arc::clone(&shared), Arc::clone(&places), tasks));
            }
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How long [`stop`](Server::stop) lets transfers run.
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }

    /// Lets running transfers finish within the drain time, then cuts them.
    /// Until they have, whoever comes is answered: the next process can listen
    /// only when this one has ended, and clients do not ask again after a
    /// refused connection.
    pub async fn stop(self) {
        let deadline = Instant::now() + self.drain_timeout;
        self.stopping.cancel();
        self.tasks.close();
        let in_time = tokio::time::timeout_at(deadline, self.tasks.wait()).await.is_ok();
        self.closing.cancel();
        self.late.close();
        if !in_time || tokio::time::timeout_at(deadline, self.late.wait()).await.is_err() {
            let connections = self.tasks.len() + self.late.len();
            warn!(connections, "cutting transfers that did not finish in time");
        }
    }
}

/// Listens on `address`; takes the listener that a service manager has opened
/// there.
///
/// # Errors
/// As the system has them.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if let Some(listener) = inherited::take(address) {
        listener.set_nonblocking(true)?;
        return TcpListener::from_std(listener);
    }
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    // A restart must not wait for the last process's closed connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, places: Arc<Places>, tasks: (TaskTracker, TaskTracker)) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.closing.cancelled() => return,
        };
        match accepted {
            Ok((mut tcp, address)) => {
                let address = address.ip();
                let is_proxy = shared.trusted_proxies.contains(address);
                // Over the bound a connection is closed at once: answering it
                // would cost what the bound protects.
                let client = (!is_proxy).then(|| customer(address));
                let Some(mut place) = places.take(client) else { continue };
                let shared = Arc::clone(&shared);
                let is_late = shared.stopping.is_cancelled();
                let tasks = if is_late { &tasks.1 } else { &tasks.0 };
                tasks.spawn(async move {
                    let (mut client, mut ahead) = (address, Bytes::new());
                    if is_proxy {
                        let Some(announced) = shared.announced(&mut tcp, address).await else { return };
                        (client, ahead) = announced;
                        let is_client = !shared.trusted_proxies.contains(client);
                        if is_client && !place.becomes(customer(client)) {
                            return;
                        }
                    }
                    shared.serve(tcp, client, ahead, is_late).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file handles, usually: connections that end free some.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// How many connections there may be, in all and from one address.
struct Places {
    all: Arc<Semaphore>,
    each: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

struct Place {
    places: Arc<Places>,
    /// Of the client; those of a proxy are many clients'.
    address: Option<IpAddr>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Places {
    fn new(all: usize, each: usize) -> Places {
        Places { all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))), each, taken: Mutex::default() }
    }

    /// For the client with this address, or for nobody in particular.
    fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut place = Place { places: Arc::clone(self), address: None, _permit: permit };
        address.is_none_or(|address| place.becomes(address)).then_some(place)
    }
}

impl Place {
    /// Makes it that client's; `false`: it has as many as it may.
    fn becomes(&mut self, address: IpAddr) -> bool {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_insert(0);
        if *count >= self.places.each {
            return false;
        }
        *count += 1;
        drop(taken);
        self.address = Some(address);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_address() {
        let places = Arc::new(Places::new(3, 2));
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = places.take(Some(a)).unwrap();
        let _second = places.take(Some(a)).unwrap();
        assert!(places.take(Some(a)).is_none());
        let _third = places.take(Some(b)).unwrap();
        assert!(places.take(Some(b)).is_none());
        drop(first);
        assert!(places.take(Some(a)).is_some());
    }

    #[test]
    fn a_place_of_a_proxy_becomes_its_clients() {
        let places = Arc::new(Places::new(4, 1));
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let (mut one, mut other) = (places.take(None).unwrap(), places.take(None).unwrap());
        assert!(one.becomes(client) && !other.becomes(client));
        assert!(places.take(Some(client)).is_none());
        drop(one);
        assert!(other.becomes(client));
    }
}
