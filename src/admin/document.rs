//! The JSON documents of the admin API: written by its endpoints, read by the
//! commands that talk to it. Sizes are in bytes; a repository is named as
//! behind its registry's name in an address.

use serde::{Deserialize, Serialize};

/// The answer to what could not be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// What was tried, what is wrong, and what to do.
    pub error: String,
}

/// `GET /api/v1/cache`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Complete blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that may be kept at the most.
    pub max_size: u64,
    /// Blobs that are pinned.
    pub pinned_blobs: usize,
    /// Their bytes.
    pub pinned_bytes: u64,
    /// Fills running now.
    pub fills: usize,
    /// Whether this process adds to the cache directory.
    pub writes: bool,
}

/// `GET /api/v1/cache/blobs`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Blobs {
    /// The registry that was asked about, as links name it.
    pub registry: Option<String>,
    /// The repository that was asked about, as links name it.
    pub repository: Option<String>,
    /// How many fit the question.
    pub total: usize,
    /// Bytes of all that fit the question.
    pub bytes: u64,
    /// The largest of them.
    pub blobs: Vec<BlobEntry>,
}

/// One stored blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlobEntry {
    /// Its digest.
    pub digest: String,
    /// Its size.
    pub size: u64,
    /// Whether it stays whatever comes.
    pub pinned: bool,
    /// Through what it may be pulled without asking upstream.
    pub links: Vec<LinkEntry>,
}

/// A registry's repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntry {
    /// The registry's name.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
}

/// `GET /api/v1/cache/usage`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Usage {
    /// Every configured registry; a blob counts for each that it is linked to.
    pub registries: Vec<RegistryUsage>,
    /// Blobs that are linked to none (any more).
    pub unlinked: Amount,
    /// All stored blobs, each once.
    pub total: Amount,
}

/// What a registry uses of the cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegistryUsage {
    /// The registry's name.
    pub registry: String,
    /// Repositories with stored blobs.
    pub repositories: usize,
    /// Stored blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Blobs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Blobs.
    pub blobs: usize,
    /// Bytes.
    pub bytes: u64,
}

/// `PUT /api/v1/cache/blobs/{digest}/verification`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verification {
    /// The blob.
    pub digest: String,
    /// What hashing it has shown.
    pub verdict: Soundness,
}

/// What hashing a stored blob has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Soundness {
    /// It is what its name says.
    Sound,
    /// It was not, and has been taken out of service.
    Damaged,
    /// It is not stored.
    Absent,
}

/// `GET /api/v1/cache/pins`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pins {
    /// All pins.
    pub pins: Vec<PinEntry>,
}

/// One pinned image; also the answer to `PUT /api/v1/cache/pins/{registry}/{image}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinEntry {
    /// The image: `registry/repository:tag` or `registry/repository@digest`.
    pub image: String,
    /// Whether it is the configuration that says so.
    pub configured: bool,
    /// What the reference meant when it was last seen.
    pub digest: Option<String>,
    /// Blobs that it keeps, as far as they are known.
    pub blobs: usize,
    /// Those of them that are stored.
    pub stored_blobs: usize,
    /// Their bytes.
    pub stored_bytes: u64,
}

/// `DELETE /api/v1/links/{registry}` and `…/{repository}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Revoked {
    /// How many links there were.
    pub links: u64,
}

/// `GET /api/v1/clients`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Clients {
    /// All clients, by name.
    pub clients: Vec<ClientEntry>,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientEntry {
    /// Its name.
    pub name: String,
    /// How it is known: `password`, `token`, `certificate` or `networks`.
    pub proof: String,
    /// Which certificate, or which networks.
    pub detail: String,
    /// What it may pull.
    pub grants: Vec<String>,
    /// Whether it stands in the configuration.
    pub configured: bool,
}

/// The body of `PUT /api/v1/clients/{name}`; does not print, for it may hold a
/// secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewClient {
    /// How it is known.
    pub proof: NewProof,
    /// Its password or token; without one, one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<zeroize::Zeroizing<String>>,
    /// What it may pull.
    #[serde(default)]
    pub grants: Vec<String>,
    /// Whether it may take the place of another of that name.
    #[serde(default)]
    pub replace: bool,
}

/// How a new client is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewProof {
    /// HTTP Basic.
    Password,
    /// HTTP Bearer.
    Token,
    /// The name in its certificate.
    Certificate(String),
    /// Where it comes from.
    Networks(Vec<String>),
}

/// The answer to `PUT /api/v1/clients/{name}`; does not print.
#[derive(Clone, Serialize, Deserialize)]
pub struct ClientAdded {
    /// The client.
    pub client: ClientEntry,
    /// Its password or token, where that was made here: shown this once.
    pub secret: Option<String>,
}
