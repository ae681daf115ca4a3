//! The JSON documents of the admin API: written by its endpoints, read by the
//! commands that talk to it. Sizes are in bytes; a repository is named as
//! behind its registry's name in an address.

use std::collections::BTreeMap;

use super::caller::Role;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

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

/// What `PUT /api/v1/offline` is told.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offline {
    /// No upstream is asked from now on.
    pub offline: bool,
}

/// `GET` and `PUT /api/v1/offline`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OfflineStatus {
    /// No upstream is asked.
    pub offline: bool,
    /// Registries that are offline by their own configuration.
    pub registries: Vec<String>,
}

/// `GET /api/v1/registries`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registries {
    /// All that are in force, in the order in which they are looked through.
    pub registries: Vec<RegistryEntry>,
    /// Names that were taken away not long ago: they mean nothing, also at the
    /// default registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<RetiredEntry>,
}

/// A name that was a registry's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetiredEntry {
    /// The name as it stood in addresses.
    pub address: String,
    /// Until then it means nothing.
    pub until: String,
}

/// One registry; also the answer to adding or changing one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegistryEntry {
    /// Its name.
    pub name: String,
    /// Its name as it stands in addresses.
    pub address: String,
    /// The provider's kind.
    pub kind: String,
    /// Where its API is.
    pub upstream: String,
    /// Only repositories below this are its.
    pub prefix: Option<String>,
    /// `anyone` or `grants`.
    pub access: String,
    /// Whether it answers root mirror requests.
    pub default: bool,
    /// The default registry, where this one's name in a path hides what is
    /// called so there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hides: Option<String>,
    /// Whether upstream is shown a credential.
    pub has_credential: bool,
    /// Whether it is stored: one of the configuration file is changed there.
    pub stored: bool,
    /// The keys it is stored with, as `[[registry]]` has them; absent for one
    /// of the configuration file.
    pub settings: Option<serde_json::Map<String, serde_json::Value>>,
    /// Its stored secrets.
    pub secrets: Vec<SecretEntry>,
}

/// What is told of a stored secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretEntry {
    /// The field it is for.
    pub field: String,
    /// Tells it from others, and says nothing about it.
    pub fingerprint: String,
    /// When it was stored; RFC 3339, UTC.
    pub updated_at: String,
}

/// `POST /api/v1/registries` and `PUT /api/v1/registries/{name}`: what a
/// registry is to be. Has secrets, so it prints nothing.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryForm {
    /// The keys of `[[registry]]`, secrets left out. With PUT they may be
    /// absent: then only secrets change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<serde_json::Map<String, serde_json::Value>>,
    /// Secrets by field; `null` forgets the stored one. Those that are not
    /// named stay.
    #[serde(default)]
    pub secrets: BTreeMap<String, Option<Zeroizing<String>>>,
}

/// `POST /api/v1/registries/{name}/test` asks what this says; `POST
/// /api/v1/registries/test` asks it of a registry that is not stored yet.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestQuestion {
    /// The registry, where it is not stored yet, or as it would be changed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<RegistryForm>,
    /// An image of it whose manifest is asked for (HEAD): `repository:tag`, as
    /// behind the registry's name or in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What a test has shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestReport {
    /// Whether everything that was tried worked.
    pub passed: bool,
    /// What was tried, in order; what follows a failure was not tried.
    pub steps: Vec<TestStep>,
    /// What looks like a slip in the form, tried or not.
    pub notes: Vec<String>,
}

/// One step of a test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestStep {
    /// What was tried.
    pub what: String,
    /// Whether it worked.
    pub passed: bool,
    /// What came of it, in plain words; after a failure, what to do.
    pub message: String,
}

/// `POST /api/v1/reload`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys and tables that count only after a restart.
    pub after_restart: Vec<String>,
}

/// `GET /api/v1/limits`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// All registries, by name.
    pub registries: Vec<RegistryLimits>,
}

/// What one registry's upstream allows its credential, and how it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegistryLimits {
    /// The registry's name.
    pub registry: String,
    /// The pull limit, if upstream has named one.
    pub pull_limit: Option<PullLimitReading>,
    /// Whether only the reserve of it is left: tags are answered from cache
    /// where they can be.
    pub sparing: bool,
    /// How often upstream refused because of the pull limit.
    pub pull_limit_reached: u64,
    /// How often upstream refused because of any other limit.
    pub other_limit_reached: u64,
    /// Its own origins and token services.
    pub endpoints: Vec<EndpointState>,
}

/// A pull limit as upstream last told it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PullLimitReading {
    /// Pulls per window.
    pub limit: u64,
    /// How many of them are left.
    pub remaining: u64,
    /// Length of the window.
    pub window_seconds: u64,
    /// What they are counted for: an address or an account.
    pub source: Option<String>,
    /// How long ago upstream said so.
    pub age_seconds: u64,
}

/// An origin that is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndpointState {
    /// Scheme, host and port.
    pub endpoint: String,
    /// Nothing is asked of it for a while, because it failed again and again.
    pub left_alone: bool,
}

/// `DELETE /api/v1/links/{registry}` and `…/{repository}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Revoked {
    /// How many links there were.
    pub links: u64,
    /// Why it is in force in the running process only: it could not be written
    /// yet, and is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<String>,
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

/// A named token of the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminToken {
    /// Its name, which the audit trail has.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
}

/// `GET /api/v1/admin-tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminTokens {
    /// By name.
    pub tokens: Vec<AdminToken>,
}

/// The body of `PUT /api/v1/admin-tokens/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAdminToken {
    /// What it is to open.
    pub role: Role,
}

/// The answer to `PUT /api/v1/admin-tokens/{name}`; does not print.
#[derive(Clone, Serialize, Deserialize)]
pub struct AdminTokenAdded {
    /// The token, shown this once.
    pub token: String,
}

/// The answer to `PUT /api/v1/clients/{name}`; does not print.
#[derive(Clone, Serialize, Deserialize)]
pub struct ClientAdded {
    /// The client.
    pub client: ClientEntry,
    /// Its password or token, where that was made here: shown this once.
    pub secret: Option<String>,
}
