//! Why a pull failed, in the terms that a client may be told.

use std::fmt;
use std::time::Duration;

use crate::cache::{FillError, SourceError};
use crate::upstream;

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What upstream's trouble is: for the operator, and as much of it as a client
/// may be told.
#[derive(Debug, Clone)]
pub struct Cause {
    text: String,
    told: Option<String>,
}

impl Cause {
    /// What a client may be told of it.
    pub fn told(&self) -> Option<&str> {
        self.told.as_deref()
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Cause {
        Cause { text, told: None }
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Cause {
        text.to_owned().into()
    }
}

impl From<&upstream::Error> for Cause {
    fn from(error: &upstream::Error) -> Cause {
        Cause { text: error.to_string(), told: error.clause() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A failed pull.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Upstream does not have it, or not for us to know.
    #[error("not found")]
    NotFound,
    /// Upstream does not let the registry's credential read it.
    #[error("denied by upstream")]
    Denied,
    /// Upstream refuses it for a reason of its own.
    #[error("upstream refuses it with status {status}")]
    Refused {
        /// Upstream's status: 400, 402, 405, 410 or 451.
        status: u16,
    },
    /// The range lies outside the content of this length.
    #[error("the range lies outside the {total} bytes of the content")]
    RangeNotSatisfiable {
        /// Length of the content.
        total: u64,
    },
    /// A rate limit of upstream, or of ours.
    #[error("too many requests")]
    TooManyRequests {
        /// When to ask again.
        retry_after: Option<Duration>,
    },
    /// This client has begun as many transfers as it may.
    #[error("this client has begun as many transfers as it may")]
    TooManyFills,
    /// Upstream is in trouble and is to be asked later.
    #[error("upstream is to be asked later: {cause}")]
    Later {
        /// What the trouble is.
        cause: Cause,
        /// When to ask again.
        retry_after: Duration,
    },
    /// Upstream cannot be reached, or fails.
    #[error("upstream gave no usable answer: {0}")]
    Trouble(Cause),
    /// Upstream answered, but not with what was asked for.
    #[error("upstream gave no usable answer: {0}")]
    BadUpstream(Cause),
    /// The registry's credential does not work, or there is none to be had.
    #[error("{cause}")]
    Credential {
        /// The registry's name.
        registry: String,
        /// For the operator.
        cause: String,
    },
    /// Upstream did not answer in time.
    #[error("upstream did not answer in time: {0}")]
    Timeout(Cause),
    /// It is not in the cache, and upstream is not to be asked.
    #[error("not in the cache, and this registry is offline")]
    Offline,
    /// We cannot serve now.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl Error {
    /// Whether it is gone, or not for this registry's credential: what was known
    /// of it is worth nothing any more.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Error::NotFound | Error::Denied | Error::Refused { status: 402 | 410 | 451 })
    }
}

impl From<upstream::Error> for Error {
    fn from(error: upstream::Error) -> Self {
        match error {
            upstream::Error::NotFound => Error::NotFound,
            upstream::Error::Denied { .. } => Error::Denied,
            upstream::Error::TooManyRequests { retry_after } => Error::TooManyRequests { retry_after },
            upstream::Error::CircuitOpen { retry_after, .. } | upstream::Error::Busy { retry_after, .. } => {
                Error::Later { cause: Cause::from(&error), retry_after }
            }
            timeout @ upstream::Error::Timeout { .. } => Error::Timeout(Cause::from(&timeout)),
            upstream::Error::CredentialRejected { ref registry, .. }
            | upstream::Error::NoLogin { ref registry, .. } => {
                Error::Credential { registry: registry.clone(), cause: error.to_string() }
            }
            upstream::Error::Status { status: status @ (400 | 402 | 405 | 410 | 451), .. } => Error::Refused { status },
            // What upstream cannot do it will not do a little later.
            upstream::Error::Status { status: 501 | 505, .. } => Error::BadUpstream(Cause::from(&error)),
            other if other.is_transient() => Error::Trouble(Cause::from(&other)),
            other => Error::BadUpstream(Cause::from(&other)),
        }
    }
}

impl From<FillError> for Error {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Source(cause) => Error::from(cause),
            FillError::WrongDigest | FillError::TooLarge { .. } => Error::BadUpstream(error.to_string().into()),
            FillError::Disk(_) | FillError::DoesNotFit | FillError::Abandoned | FillError::Stopped => {
                Error::Unavailable(error.to_string())
            }
        }
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        match error.cause::<upstream::Error>() {
            Some(cause) => Error::from(cause.clone()),
            None => Error::BadUpstream(error.to_string().into()),
        }
    }
}
