//! What the tour needs to be there: two images, the private registry that
//! holds them, and the proxy that holds its credential.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};

use super::registry::{self, SampleRegistry};
use super::sample::Image;
use crate::config::Settings;
use crate::proxy::Proxy;
use crate::registry::Secret;

/// The registry's name in the proxy's configuration.
pub(super) const NAME: &str = "sample";
/// The variable that the proxy takes the password from.
const PASSWORD: &str = "SAMPLE_PASSWORD";

/// All parts, running.
pub(super) struct Stage {
    pub(super) upstream: SampleRegistry,
    pub(super) proxy: Proxy,
    pub(super) proxy_address: SocketAddr,
    /// One client pulls this.
    pub(super) image: Image,
    /// Many clients pull this.
    pub(super) storm_image: Image,
}

impl Stage {
    /// Sets it up; the proxy's cache is below `scratch`.
    pub(super) async fn set_up(scratch: &Path) -> miette::Result<Stage> {
        let make = || {
            let image = Image::make("demo/app", "1.0", &[24, 16, 12, 8, 4], 1);
            (image, Image::make("demo/app", "2.0", &[12, 10, 6, 4], 2))
        };
        let (image, storm_image) = tokio::task::spawn_blocking(make).await.into_diagnostic()?;
        let password = registry::random().into_diagnostic().wrap_err("the system gives no random bytes")?;
        let images = vec![image.clone(), storm_image.clone()];
        let upstream = SampleRegistry::start(images, Secret::new(password.clone()))
            .await
            .into_diagnostic()
            .wrap_err("the sample registry cannot be started")?;

        let environment = BTreeMap::from([(PASSWORD.to_owned(), password)]);
        let mut settings = Settings::parse("demo", &configuration(&upstream), &environment)?;
        settings.cache.dir = scratch.join("cache");
        settings.admin.socket = scratch.join("admin.sock");
        settings.admin.token_file = scratch.join("admin.token");
        let proxy =
            Proxy::start(settings, None).await.map_err(|error| miette!("the proxy cannot be started: {error}"))?;
        let proxy_address = proxy.data_addresses().first().copied();
        let proxy_address = proxy_address.ok_or_else(|| miette!("the proxy listens nowhere"))?;
        Ok(Stage { upstream, proxy, proxy_address, image, storm_image })
    }
}

/// What an operator would write, but for what only loopback needs.
fn configuration(upstream: &SampleRegistry) -> String {
    let (api, storage, username) = (upstream.api(), upstream.storage(), registry::USERNAME);
    format!(
        r#"
        [server]
        listen = "127.0.0.1:0"

        [admin]
        listen = "127.0.0.1:0"

        [cache]
        min_free = "0"
        durability = "lazy"

        [limits]
        drain_timeout = "1s"

        [[registry]]
        name = "{NAME}"
        kind = "generic"
        url = "http://{api}"
        username = "{username}"
        password = {{ env = "{PASSWORD}" }}
        access = "anyone"
        insecure = true
        allow_private = ["127.0.0.1"]
        redirect_origins = ["http://{storage}"]
        "#
    )
}
