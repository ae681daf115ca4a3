//! Named registries: what an operator calls an upstream, where it is, which
//! part of it is meant, and which credential goes with it.
//!
//! The world is closed: an address that no configured registry answers for
//! resolves to nothing, and nothing is asked of anyone. A credential belongs
//! to its registry's origin and prefix and cannot be paired with another.

mod credential;
mod directory;
mod docker_config;
mod ecr;
mod form;
mod image;
mod kind;
mod lint;
mod name;
mod origin;
mod outbound;
mod owner;
mod pattern;
mod through;

pub use credential::{AwsKey, Credential, EntraApp, GoogleKey, HelperName, Secret, Source};
pub use directory::{Address, AddressHint, Directory, DirectoryError, Door, Resolved, RetiredName};
pub use docker_config::{Entry, NoEntry, Server, find as find_login};
pub use form::{Connection, Form, FormError, Value};
pub use image::{ImageLocation, InvalidReference, split_image};
pub use kind::{Field, FieldKind, Kind};
pub use lint::slips;
pub use name::{InvalidName, RegistryName};
pub use origin::{HostPort, InvalidOrigin, Origin, Scheme};
pub use outbound::{Exception, Identity, Outbound, OutboundProxy, Reserve, Timeouts};
pub use owner::{OwnerName, slug_of_owner};
pub use pattern::{InvalidPattern, TagPattern};
pub use through::{NotReferable, Through, TurnError, Turned};

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::oci::{Repository, Tag};

/// Who may pull through a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// Every client that reaches the listener.
    Anyone,
    /// Clients with a grant only.
    Grants,
}

/// Where a registry's requests may go, beyond its own origin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EgressSettings {
    /// Plain HTTP is allowed, to the registry's own origins only.
    pub insecure: bool,
    /// Non-public networks the registry's own origins may resolve into.
    pub allow_private: Vec<IpNet>,
    /// Token services beside those the kind implies.
    pub token_realms: Vec<Origin>,
    /// Redirect targets allowed although the rule would refuse them.
    pub redirect_origins: Vec<Origin>,
    /// PEM text of additional certificate authorities.
    pub ca_pem: Option<Arc<[u8]>>,
    /// Upper bound of connections at a time.
    pub max_connections: usize,
    /// How its connections are made.
    pub outbound: Outbound,
}

/// How long it counts that upstream let a registry's credential read something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSettings {
    /// So long, upstream is not asked again. Zero: it is asked every time.
    pub ttl: Duration,
    /// So much longer, when upstream cannot answer. Means nothing with a `ttl`
    /// of zero.
    pub stale_if_error: Duration,
}

impl LinkSettings {
    /// Public content changes hands rarely: a week; private content: a day.
    pub fn for_credential(credential: &Credential) -> LinkSettings {
        const DAY: Duration = Duration::from_secs(86_400);
        let ttl = if credential.is_anonymous() { 7 * DAY } else { DAY };
        LinkSettings { ttl, stale_if_error: 7 * DAY }
    }
}

/// One named registry connection, ready for use.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The operator's name for it.
    pub name: RegistryName,
    /// The provider's kind.
    pub kind: Kind,
    /// Where its API is.
    pub origin: Origin,
    /// Further origins with the same content, tried in order.
    pub endpoints: Vec<Origin>,
    /// Host names by which images of this registry are known.
    pub image_hosts: Vec<HostPort>,
    /// Only repositories below this belong to the connection.
    pub prefix: Option<Repository>,
    /// Token services this kind is known to use.
    pub known_realms: Vec<Origin>,
    /// What upstream is shown.
    pub credential: Credential,
    /// Who may pull.
    pub access: AccessMode,
    /// Answers root mirror requests.
    pub is_default: bool,
    /// Nobody wrote it down: it is there because nothing else serves docker.io.
    pub is_implied: bool,
    /// Virtual hosts that mean this registry.
    pub hosts: Vec<HostPort>,
    /// Where its requests may go.
    pub egress: EgressSettings,
    /// How long a tag is answered without asking upstream.
    pub tag_ttl: Duration,
    /// Tags that never move: once seen, upstream is not asked about them again.
    pub immutable_tags: Vec<TagPattern>,
    /// How long past its time an answer may be used when upstream is in trouble.
    pub stale_if_error: Duration,
    /// Upstream is never asked.
    pub offline: bool,
    /// How long upstream's word counts for cached content.
    pub links: LinkSettings,
    /// Bytes of the cache that may be this registry's.
    pub quota: Option<u64>,
    /// See [`owner`](Registry::owner).
    pub owner: OwnerName,
}

impl Registry {
    /// Whether upstream knows who asks, so that it may give what others do not
    /// get: by a credential or by a certificate.
    pub fn is_known_upstream(&self) -> bool {
        !self.credential.is_anonymous() || self.egress.outbound.identity.is_some()
    }

    /// The same, for whoever needs no secret and may have it for long: a secret
    /// that is replaced is to be held by nobody.
    #[must_use]
    pub fn without_secrets(&self) -> Registry {
        // It is made of the secrets, too.
        let _ = self.owner();
        Registry { credential: self.credential.clone().without_secrets(), ..self.clone() }
    }

    /// Whether `other` is this registry, but for what upstream is shown.
    pub fn differs_in_credential_only(&self, other: &Registry) -> bool {
        // Whoever adds a field has to say here what a change of it means.
        let Registry {
            name,
            kind,
            origin,
            endpoints,
            image_hosts,
            prefix,
            known_realms,
            credential: _,
            access,
            is_default,
            is_implied,
            hosts,
            egress,
            tag_ttl,
            immutable_tags,
            stale_if_error,
            offline,
            links,
            quota,
            // Made of the others.
            owner: _,
        } = self;
        (name.display(), name.address()) == (other.name.display(), other.name.address())
            && (kind, origin, endpoints, image_hosts)
                == (&other.kind, &other.origin, &other.endpoints, &other.image_hosts)
            && (prefix, known_realms, access) == (&other.prefix, &other.known_realms, &other.access)
            && (is_default, is_implied) == (&other.is_default, &other.is_implied)
            && (hosts, egress) == (&other.hosts, &other.egress)
            && (tag_ttl, immutable_tags, stale_if_error)
                == (&other.tag_ttl, &other.immutable_tags, &other.stale_if_error)
            && (offline, links, quota) == (&other.offline, &other.links, &other.quota)
    }

    /// Whether images of docker.io, or some of them, are its.
    pub fn serves_docker_hub(&self) -> bool {
        self.image_hosts.iter().any(HostPort::is_docker_hub)
    }

    /// Whether what upstream allowed to this registry counts for `other` too:
    /// the same place, asked with the same account.
    pub fn reads_what(&self, other: &Registry) -> bool {
        (self.kind, &self.origin, &self.endpoints) == (other.kind, &other.origin, &other.endpoints)
            && self.credential.is_account_of(&other.credential)
    }

    /// The registry's own origins: the first is preferred.
    pub fn origins(&self) -> impl Iterator<Item = &Origin> {
        std::iter::once(&self.origin).chain(&self.endpoints)
    }

    /// Whether `origin` may be asked for tokens with this registry's credential.
    pub fn trusts_realm(&self, origin: &Origin) -> bool {
        self.origins().chain(&self.known_realms).chain(&self.egress.token_realms).any(|known| known == origin)
    }

    /// Whether images of `host` may be this registry's.
    pub fn serves(&self, host: &HostPort) -> bool {
        self.image_hosts.iter().any(|known| known.same_registry(host))
    }

    /// Whether `repository` (its full upstream name) belongs to this connection.
    pub fn covers(&self, repository: &Repository) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| repository.strip_prefix(prefix).is_some())
    }

    /// Whether `tag` never moves. A tag that stands for the referrers of a
    /// digest always does: there is one signature more tomorrow.
    pub fn is_immutable(&self, tag: &Tag) -> bool {
        self.immutable_tags.iter().any(|pattern| pattern.matches(tag)) && !tag.is_about_digest()
    }

    /// `repository` (its full upstream name) as it stands behind this
    /// registry's name in an address.
    pub fn relative(&self, repository: &Repository) -> Repository {
        let inner = self.prefix.as_ref().and_then(|prefix| repository.strip_prefix(prefix));
        inner.unwrap_or_else(|| repository.clone())
    }
}
