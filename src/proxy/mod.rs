//! The whole proxy, put together: settings in, a running process out.
//!
//! The one place that knows every module. It opens the cache, makes an
//! upstream for each registry, starts the listeners, and takes it all down in
//! the order that loses nothing.

mod live;
mod names;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::live::{Live, Running};
use self::names::Names;
use crate::access::{Gate, Links, TokenKey};
use crate::admin::tokens::Tokens;
use crate::admin::{Admin, ListenError, Listeners, Operator, Readings};
use crate::api::{Api, Reached};
use crate::cache::{Cache, LayoutError};
use crate::config::{Configuration, Settings};
use crate::kernel;
use crate::pull::{Puller, Tags};
use crate::registry::Directory;
use crate::server::{self, Server, ServerError};
use crate::telemetry::{Audit, Metrics};
use crate::upstream::TlsError;

/// Tasks that look after things get so long to end.
const LAST_TASKS: Duration = Duration::from_millis(300);

/// Changes what is stored where no proxy runs.
pub fn offline(configuration: Configuration, settings: Settings) -> Box<dyn Operator> {
    let directory = Directory::new(settings.registries.clone()).mirrored(!settings.server.mirror_listen.is_empty());
    let directory = Arc::new(ArcSwap::from_pointee(directory));
    Box::new(Live::new(Some(configuration), directory, None, live::fixed(&settings)))
}

/// A running proxy.
pub struct Proxy {
    server: Server,
    admin: Admin,
    admin_address: Option<SocketAddr>,
    puller: Arc<Puller>,
    operator: Arc<dyn Operator>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cache directory cannot be used.
    #[error(transparent)]
    Cache(#[from] LayoutError),
    /// A registry's certificate authorities cannot be used.
    #[error("registry `{registry}`: {cause}")]
    Registry {
        /// The registry.
        registry: String,
        /// What is wrong.
        #[source]
        cause: TlsError,
    },
    /// The data listener could not be started.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Administration could not be started.
    #[error(transparent)]
    Admin(#[from] ListenError),
}

/// What the one process does that adds to the cache directory.
async fn look_after(puller: Arc<Puller>, links: PathBuf, tags: PathBuf, stopping: CancellationToken) {
    let mut taken = puller.cache().taken();
    tokio::select! {
        () = stopping.cancelled() => return,
        first = taken.wait_for(|times| *times > 0) => if first.is_err() { return },
    }
    let keep = async {
        loop {
            if let Err(error) = Arc::clone(&puller).keep_in(links.clone(), tags.clone()).await {
                warn!(%error, "what is remembered of upstreams is lost when this process ends");
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                again = taken.changed() => if again.is_err() { return },
            }
        }
    };
    let (quotas, pins) = (Arc::clone(&puller), Arc::clone(&puller));
    tokio::join!(keep, quotas.keep_quotas(stopping.clone()), pins.look_up_pins(stopping.clone()));
}

impl Proxy {
    /// Starts everything. `configuration` is where `settings` are from, and what
    /// the admin API changes; without one it changes nothing.
    ///
    /// # Errors
    /// As [`StartError`] says; nothing is left running then.
    pub async fn start(settings: Settings, configuration: Option<Configuration>) -> Result<Proxy, StartError> {
        let fixed = live::fixed(&settings);
        kernel::raise_file_limit();
        let (links_path, tags_path) = (settings.cache.dir.join("links.redb"), settings.cache.dir.join("tags.redb"));
        let names_path = settings.cache.dir.join("names.json");
        let cache = Cache::open(settings.cache)?;
        let mut names = Names::open(names_path, cache.is_writer());
        let (links, tags) = match cache.is_writer() {
            true => (Links::open(&links_path), Tags::open(&tags_path)),
            false => (Links::in_memory(), Tags::in_memory()),
        };
        let directory = Directory::new(settings.registries.clone())
            .mirrored(!settings.server.mirror_listen.is_empty())
            .without(names.update(&settings.registries, SystemTime::now()));
        match directory.of_docker_hub() {
            Some(registry) => {
                info!(registry = %registry.name, implied = registry.is_implied, "docker.io is answered by a registry");
            }
            None => info!("docker.io is not answered: no registry serves it, and none is the default"),
        }
        let mut pinned = Vec::new();
        for image in &settings.pins {
            match directory.within(&image.registry, &image.repository) {
                Ok(found) => pinned.push((found.registry, found.repository, image.reference.clone())),
                Err(error) => warn!(%image, %error, "this image cannot be pinned"),
            }
        }
        let directory = Arc::new(ArcSwap::from_pointee(directory));
        let puller = Puller::new(&settings.registries, cache, links, tags, &settings.freshness, &pinned)
            .map_err(|(registry, cause)| StartError::Registry { registry, cause })?;
        let puller = Arc::new(puller);
        let metrics = Arc::new(Metrics::new(Box::new(Readings::new(Arc::clone(&puller)))));
        let audit = Arc::new(Audit::default());
        let gate = Gate::new(settings.clients, settings.gate, Arc::clone(&audit));
        let token_key = configuration.as_ref().and_then(|configuration| configuration.store().token_key());
        let gate = Arc::new(match token_key {
            Some(key) => gate.with_token_key(TokenKey::new(key.as_slice())),
            None => gate,
        });
        let public_host = settings.public_url.host_str().and_then(|host| host.parse().ok());
        let reached = Reached {
            public_url: settings.public_url_is_given.then_some(settings.public_url),
            tls: settings.server.tls.is_some(),
        };
        let api = Api::new(
            Arc::clone(&directory),
            Arc::clone(&gate),
            Arc::clone(&puller),
            (settings.server.ping, reached),
            settings.server.limits.max_uri_bytes,
            Arc::clone(&metrics),
            Arc::clone(&audit),
        )
        .known_as(public_host)
        .behind(settings.server.trusted_proxies.clone());
        let listeners = Listeners::open(&settings.admin).await?;
        let admin_address = listeners.address();
        let tokens = Arc::new(Tokens::open(&settings.admin.token_file, settings.admin.named_tokens()));
        let server = Server::start(&settings.server, Arc::new(api))?;
        server::close_unused_listeners();
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let running = Running {
            puller: Arc::clone(&puller),
            gate,
            audit: Arc::clone(&audit),
            names: Mutex::new(names),
            is_beyond_loopback: settings.server.is_beyond_loopback(),
        };
        let live = Live::new(configuration, Arc::clone(&directory), Some(running), fixed);
        let operator: Arc<dyn Operator> = Arc::new(live);
        let admin = Admin::new(metrics, Arc::clone(&puller), directory, Arc::clone(&operator), audit, tokens)
            .with_audit(settings.log.audit_required);
        let looks_after = look_after(Arc::clone(&puller), links_path, tags_path, stopping.clone());
        tasks.spawn(looks_after);
        tasks.spawn(admin.clone().serve(listeners, stopping.clone()));
        admin.set_ready(true);
        Ok(Proxy { server, admin, admin_address, puller, operator, stopping, tasks })
    }

    /// Where clients pull.
    pub fn data_addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// Where health and metrics are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Reads the configuration file anew; what is wrong with it is logged, and
    /// changes nothing.
    pub async fn reload(&self) {
        let operator = Arc::clone(&self.operator);
        // It has said itself how it went.
        let _ = tokio::task::spawn_blocking(move || operator.reload()).await;
    }

    /// Stops: not ready at once, running transfers may finish, then what is
    /// under way to the disk is finished. Takes `drain_timeout` and a little
    /// more at the most.
    pub async fn shutdown(self) {
        let deadline = Instant::now() + self.server.drain_timeout();
        self.admin.set_ready(false);
        self.server.stop().await;
        self.puller.close(deadline).await;
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_TASKS, self.tasks.wait()).await.is_err() {
            warn!("not everything has ended in time");
        }
    }
}
