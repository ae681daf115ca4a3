//! What can go wrong upstream, in the terms that decide what a client is told.

use std::time::Duration;

use crate::printable::one_line;
use crate::registry::Origin;

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What stands between us and an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Its name leads to no address.
    Name,
    /// No address of it takes a connection.
    Connection,
    /// There is no TLS to be had with it.
    Tls,
    /// The outbound proxy.
    Proxy,
    /// The connection broke.
    Broken,
}

impl Obstacle {
    /// In one clause.
    pub fn as_str(self) -> &'static str {
        match self {
            Obstacle::Name => "name lookup failed",
            Obstacle::Connection => "no connection",
            Obstacle::Tls => "TLS handshake failed",
            Obstacle::Proxy => "the outbound proxy gives no connection to it",
            Obstacle::Broken => "the connection broke",
        }
    }
}

/// A failed upstream request. No message carries a secret, a token or a
/// redirect's query; redirect targets are named by their origin only.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The egress rule forbids it; nothing was sent.
    #[error("refused to contact {target}: {reason}")]
    Egress {
        /// The origin, or what stood in its place.
        target: String,
        /// The rule that forbids it, and how to allow it where that is possible.
        reason: String,
    },
    /// No connection, or it broke before an answer.
    #[error("{origin} could not be reached: {cause}")]
    Unreachable {
        /// Where to.
        origin: Origin,
        /// What stood in the way.
        obstacle: Obstacle,
        /// The system's reason.
        cause: String,
    },
    /// No answer in time.
    #[error("{origin} did not answer within {} s", limit.as_secs())]
    Timeout {
        /// Where to.
        origin: Origin,
        /// The time it had.
        limit: Duration,
    },
    /// It failed so often that it is left alone for a while; nothing was sent.
    #[error("{origin} failed again and again and is left alone for {} s more", retry_after.as_secs().max(1))]
    CircuitOpen {
        /// Where to.
        origin: Origin,
        /// When it is asked again.
        retry_after: Duration,
    },
    /// Upstream cannot answer now and says when it can.
    #[error("{origin} answered with status {status} and asks to wait {} s", retry_after.as_secs())]
    Busy {
        /// Who answered.
        origin: Origin,
        /// The status.
        status: u16,
        /// How long it asks to wait.
        retry_after: Duration,
    },
    /// Upstream does not have it.
    #[error("upstream does not have it")]
    NotFound,
    /// Upstream does not let this registry's credential read it.
    #[error("upstream denied access (status {status} after authenticating)")]
    Denied {
        /// The final status.
        status: u16,
    },
    /// Whoever has to accept the registry's credential does not.
    #[error(
        "{at} rejected the stored credential of registry `{registry}` (status {status}); check its user name and secret"
    )]
    CredentialRejected {
        /// The registry's name.
        registry: String,
        /// The token service, the provider's sign-in, or the registry itself.
        at: Origin,
        /// Its status.
        status: u16,
    },
    /// There is nothing to show for the registry's credential.
    #[error("there is no login for registry `{registry}`: {cause}")]
    NoLogin {
        /// The registry's name.
        registry: String,
        /// What stands in the way.
        cause: String,
    },
    /// A rate limit.
    #[error("upstream's rate limit is reached")]
    TooManyRequests {
        /// How long upstream asks to wait.
        retry_after: Option<Duration>,
    },
    /// All transfers that the registry may be asked for are running, and this
    /// one was not to wait.
    #[error("as many transfers of the registry run as may")]
    NoPlace,
    /// Upstream answered with a failure of its own.
    #[error("{origin} answered with status {status}")]
    Status {
        /// Who answered.
        origin: Origin,
        /// The status.
        status: u16,
    },
    /// An answer that makes no sense, or is not to be believed.
    #[error("{origin} sent an answer that cannot be used: {}", one_line(what))]
    Protocol {
        /// Who answered.
        origin: Origin,
        /// What is wrong with it.
        what: String,
    },
}

impl Error {
    /// What a client may be told: who it was and what happened, in one clause.
    /// Nothing of what upstream or the system said, which may name accounts and
    /// addresses.
    pub fn clause(&self) -> Option<String> {
        match self {
            Error::Unreachable { origin, obstacle, .. } => Some(format!("{origin}: {}", obstacle.as_str())),
            Error::Protocol { origin, .. } => Some(format!("{origin} sent an answer that cannot be used")),
            Error::Egress { .. } => Some("it leads to an address that is not allowed".to_owned()),
            Error::Timeout { .. } | Error::CircuitOpen { .. } | Error::Busy { .. } | Error::Status { .. } => {
                Some(self.to_string())
            }
            _ => None,
        }
    }

    /// Whether it is a HEAD's no: registries that refuse HEAD, or know content
    /// by GET alone, say so too, so that only GET can tell.
    pub fn may_be_of_head_alone(&self) -> bool {
        match self {
            Error::NotFound | Error::Denied { .. } => true,
            Error::Status { status, .. } => (400..500).contains(status) && *status != 429 || *status == 501,
            _ => false,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. }
            | Error::Timeout { .. }
            | Error::TooManyRequests { .. }
            | Error::CircuitOpen { .. }
            | Error::NoPlace
            | Error::Busy { .. } => true,
            Error::Status { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }

    /// Whether it is upstream that is in trouble, and not what was asked for:
    /// another endpoint with the same content may answer.
    pub fn is_outage(&self) -> bool {
        self.is_transient() && !matches!(self, Error::TooManyRequests { .. } | Error::NoPlace)
    }

    /// How long upstream asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::TooManyRequests { retry_after } => *retry_after,
            Error::CircuitOpen { retry_after, .. } | Error::Busy { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}
