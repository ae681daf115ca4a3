//! What every test here starts from: a private registry with images in it and
//! a `transship` in front that holds the credential.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::process::Daemon;
use crate::support::real::available;
use crate::support::real::images::{Flavour, Image, Index, app, multi_architecture};
use crate::support::real::registry::RealRegistry;
use crate::support::real::token_server::{SECRET, TokenServer, USERNAME};

/// The registry's name as it appears in the path of a pull.
pub(super) const NAME: &str = "my-example-registry";
/// A private repository with the image [`Stage::app`] under the tag `1`.
pub(super) const APP: &str = "team/app";
/// A private repository with the index [`Stage::index`] under the tag `1`.
pub(super) const MULTI: &str = "team/multi";

/// The environment variable from which the proxy takes its secret.
const PASSWORD: &str = "REAL_REGISTRY_PASSWORD";

/// The parts, running.
pub(super) struct Stage {
    proxy: Option<Proxy>,
    pub(super) registry: RealRegistry,
    pub(super) tokens: TokenServer,
    pub(super) app: Image,
    pub(super) index: Index,
    /// What the configuration says besides, and instead of `access = "anyone"`.
    guard: Option<Guard>,
    dir: TempDir,
}

/// A proxy that asks its clients who they are.
pub(super) struct Guard {
    /// `[server]`, without `listen`, and what belongs to it.
    pub(super) server: String,
    /// `[[client]]` entries.
    pub(super) clients: String,
    /// Beside the guarded registries there is an open one, the default.
    pub(super) beside_open: bool,
}

struct Proxy {
    _process: Daemon,
    address: SocketAddr,
}

impl Stage {
    /// Starts them all; `None` where the real parts cannot be had.
    pub(super) fn set() -> Option<Self> {
        Self::set_with(None)
    }

    /// As [`set`](Stage::set), with a proxy that asks its clients who they are.
    pub(super) fn guarded(guard: Guard) -> Option<Self> {
        Self::set_with(Some(guard))
    }

    fn set_with(guard: Option<Guard>) -> Option<Self> {
        if !available() {
            return None;
        }
        let tokens = TokenServer::start(Duration::from_secs(300));
        let registry = RealRegistry::start(&tokens);
        let (app, index) = (app(Flavour::Docker), multi_architecture(Flavour::Oci));
        registry.push_image(&tokens, APP, "1", &app);
        registry.push_index(&tokens, MULTI, "1", &index);
        registry.push_image(&tokens, "public/app", "1", &app);
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Self { proxy: None, registry, tokens, app, index, guard, dir };
        stage.restart();
        Some(stage)
    }

    /// Ends the proxy, if it runs, and starts it anew on the same cache.
    pub(super) fn restart(&mut self) {
        self.proxy = None;
        let config = self.dir.path().join("transship.toml");
        fs::write(&config, self.configuration()).unwrap();
        let mut process = Daemon::start(env!("CARGO_BIN_EXE_transship"), self.dir.path(), |command| {
            command.arg("serve").arg("--config").arg(&config).env(PASSWORD, SECRET);
        });
        process.wait_until(|log| listening(log, "data").is_some());
        let address = listening(&process.log(), "data").unwrap();
        self.proxy = Some(Proxy { _process: process, address });
    }

    /// Host and port of the proxy.
    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.as_ref().unwrap().address
    }

    /// The mirror that a client is pointed at.
    pub(super) fn mirror(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The name by which a client pulls `image` directly from the proxy.
    pub(super) fn named(&self, image: &str) -> String {
        format!("{}/{NAME}/{image}", self.address())
    }

    /// Where the default registry alone answers, as `registry-mirrors` has it.
    pub(super) fn mirror_alone(&self) -> String {
        format!("http://{}", listening(&self.log(), "mirror").unwrap())
    }

    /// What the proxy has logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("transship.log")).unwrap()
    }

    fn configuration(&self) -> String {
        let access = if self.guard.is_some() { "grants" } else { "anyone" };
        let server = self.guard.as_ref().map_or("", |guard| &guard.server);
        let clients = self.guard.as_ref().map_or("", |guard| &guard.clients);
        let beside_open = self.guard.as_ref().is_some_and(|guard| guard.beside_open);
        let (url, realm) = (self.registry.origin(), self.tokens.origin());
        let connection = format!(
            r#"
kind = "generic"
url = "{url}"
insecure = true
allow_private = ["127.0.0.0/8"]
token_realms = ["{realm}"]
access = "{access}"
"#
        );
        let open = connection.replace("access = \"grants\"", "access = \"anyone\"");
        let open = match beside_open {
            true => format!(
                "[[registry]]\nname = \"Open-Example\"\ndefault = true\nusername = \"{USERNAME}\"\n\
                 password = {{ env = \"{PASSWORD}\" }}\n{open}"
            ),
            false => String::new(),
        };
        let is_default = !beside_open;
        format!(
            r#"
docker_hub = false
[server]
listen = "127.0.0.1:0"
{server}
[admin]
listen = "127.0.0.1:0"
[cache]
dir = "{cache}"
[log]
format = "json"

[[registry]]
name = "My-Example-Registry"
default = {is_default}
username = "{USERNAME}"
password = {{ env = "{PASSWORD}" }}
{connection}

# The same place without a credential: for what is public there.
[[registry]]
name = "Public-Example"
namespace = "public"
{connection}
{open}
{clients}
"#,
            cache = self.dir.path().join("cache").display(),
        )
    }

    /// Fails unless upstream gave each of `image`'s blobs exactly once, whatever
    /// it was asked about them, and one token for `repository`.
    #[track_caller]
    pub(super) fn assert_fetched_once(&self, repository: &str, image: &Image) {
        let asked = self.registry.blob_requests();
        println!("blobs asked of the registry: {asked:#?}\ntokens asked for: {:#?}", self.tokens.requests());
        for blob in &image.blobs {
            let path = format!("GET /v2/{repository}/blobs/{} 200", blob.digest);
            assert_eq!(asked.iter().filter(|&line| *line == path).count(), 1, "{path} in {asked:#?}");
        }
        let given = asked.iter().filter(|line| line.starts_with("GET ")).count();
        assert_eq!(given, image.blobs.len(), "{asked:#?}");
        assert_eq!(self.tokens.requests_for(repository), 1, "{:#?}", self.tokens.requests());
    }
}

/// The address of a listener, once the log tells it.
fn listening(log: &str, listener: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let this = event["message"] == "listening" && event["listener"] == listener;
        this.then(|| event["address"].as_str()?.parse().ok())?
    })
}
