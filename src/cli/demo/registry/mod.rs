//! A small private registry on loopback, as the tour's upstream.
//!
//! It does what the large ones do: it refuses whoever shows no token, gives
//! tokens to its one account only, and sends blobs from a second origin, by
//! redirects to signed addresses that end. It counts what it is asked for.

mod api;
mod line;
mod seen;
mod signature;
mod storage;
mod token;

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;

use self::line::Line;
use self::seen::Counters;
pub(super) use self::seen::Seen;
use self::signature::Signer;
use self::token::Tokens;
use super::sample::{Blob, Image};
use crate::oci::Digest;
use crate::registry::Secret;

/// Its one account.
pub(super) const USERNAME: &str = "demo-robot";
/// What its line carries: 256 Mbit/s.
pub(super) const BYTES_PER_SECOND: u32 = 32_000_000;

/// A running registry; it runs as long as the runtime that it was started in.
pub(super) struct SampleRegistry(Arc<Shared>);

/// What its two origins share.
struct Shared {
    api: SocketAddr,
    storage: SocketAddr,
    images: Vec<Image>,
    tokens: Tokens,
    signer: Signer,
    line: Line,
    counters: Counters,
}

impl SampleRegistry {
    /// Starts one that holds `images` and whose account has `secret`.
    pub(super) async fn start(images: Vec<Image>, secret: Secret) -> io::Result<SampleRegistry> {
        let (api, storage) = (listen().await?, listen().await?);
        let shared = Arc::new(Shared {
            api: api.local_addr()?,
            storage: storage.local_addr()?,
            images,
            tokens: Tokens::of(USERNAME, secret),
            signer: Signer::new()?,
            line: Line::new(BYTES_PER_SECOND),
            counters: Counters::default(),
        });
        let router = |router: Router<Arc<Shared>>| router.with_state(Arc::clone(&shared));
        tokio::spawn(axum::serve(api, router(Router::new().fallback(api::answer))).into_future());
        tokio::spawn(axum::serve(storage, router(Router::new().fallback(storage::answer))).into_future());
        Ok(SampleRegistry(shared))
    }

    /// Where its API and its token service are.
    pub(super) fn api(&self) -> SocketAddr {
        self.0.api
    }

    /// Where its redirects lead.
    pub(super) fn storage(&self) -> SocketAddr {
        self.0.storage
    }

    /// What it has seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.0.counters.look()
    }
}

impl Shared {
    fn blob(&self, digest: &Digest) -> Option<&Blob> {
        self.images.iter().flat_map(|image| &image.blobs).find(|blob| blob.digest == *digest)
    }
}

async fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}

/// 32 characters that nobody can guess.
pub(super) fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
