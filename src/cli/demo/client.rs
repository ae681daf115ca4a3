//! The tour's clients: ordinary ones, without a credential.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, Result};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use tokio::io::AsyncWrite;

use super::progress::Progress;
use super::sample::Image;

/// Blobs that a client pulls at a time, as Docker does.
const AT_A_TIME: usize = 3;
/// Nothing on loopback takes this long: whoever waits so long waits in vain.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client and the image it wants.
pub(super) struct Client {
    client: oci_client::Client,
    reference: Reference,
}

/// What a client has pulled; every digest matched.
#[derive(Debug)]
pub(super) struct Pulled {
    /// The manifest's digest.
    pub(super) manifest: String,
    /// Bytes of the config and the layers.
    pub(super) bytes: u64,
}

impl Client {
    /// A client of the registry at `address`, which knows `image` under
    /// `prefix` and its own name.
    pub(super) fn new(address: SocketAddr, prefix: &str, image: &Image) -> Result<Client> {
        let config = ClientConfig {
            protocol: ClientProtocol::Http,
            read_timeout: Some(PATIENCE),
            connect_timeout: Some(PATIENCE),
            // A proxy that the environment names is for the world outside:
            // naming one here, for nobody, keeps it out.
            http_proxy: Some(format!("http://{address}")),
            no_proxy: Some(address.ip().to_string()),
            ..ClientConfig::default()
        };
        let repository = format!("{prefix}{}", image.repository);
        let reference = Reference::with_tag(address.to_string(), repository, image.tag.to_owned());
        Ok(Client { client: oci_client::Client::try_from(config)?, reference })
    }

    /// As a user would write it.
    pub(super) fn reference(&self) -> String {
        self.reference.to_string()
    }

    /// Pulls manifest, config and layers; what arrives of the blob with this
    /// number moves the lane that `lane` says.
    pub(super) async fn pull(&self, progress: &Progress, lane: impl Fn(usize) -> usize) -> Result<Pulled> {
        let (client, reference) = (&self.client, &self.reference);
        let (manifest, digest) = client.pull_image_manifest(reference, &RegistryAuth::Anonymous).await?;
        let blobs = std::iter::once(manifest.config).chain(manifest.layers).enumerate();
        let pulls = blobs.map(|(n, blob)| {
            let mut meter = Meter { progress, lane: lane(n), bytes: 0 };
            async move {
                // It hashes what it writes and ends with an error where that
                // is not what the digest says.
                client.pull_blob(reference, &blob, &mut meter).await?;
                Ok::<u64, OciDistributionError>(meter.bytes)
            }
        });
        let pulls = stream::iter(pulls).buffer_unordered(AT_A_TIME);
        let bytes = pulls.try_fold(0, |sum, bytes| async move { Ok(sum + bytes) }).await?;
        Ok(Pulled { manifest: digest, bytes })
    }

    /// Asks to be authorised, as it does before each pull, and says whether it
    /// was given anything to hold.
    pub(super) async fn holds_credential(&self) -> Result<bool> {
        let token = self.client.auth(&self.reference, &RegistryAuth::Anonymous, RegistryOperation::Pull).await?;
        Ok(token.is_some())
    }
}

/// Where pulled bytes go: they are counted and gone.
struct Meter<'a> {
    progress: &'a Progress,
    lane: usize,
    bytes: u64,
}

impl AsyncWrite for Meter<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len() as u64;
        self.bytes += count;
        self.progress.add(self.lane, count);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
