//! Everything outbound: where requests may go, how they are authorised, what
//! of the answers is believed.
//!
//! One [`Upstream`] stands for one named registry. Its connections, learned
//! challenges and tokens are its own, so nothing that one upstream says can
//! touch another's credential. Upstream knows no cache and no clients; the only
//! files it reads are those that secrets stand in (`sign_in`).

mod behind;
mod breaker;
mod challenge;
mod connect;
mod dial;
mod egress;
mod error;
mod handshake;
mod limits;
mod link;
mod pinned;
mod places;
mod probe;
mod question;
mod registry;
mod send;
mod sign_in;
mod speed;
mod tls;
mod token;
mod traffic;
mod transfer;
mod tunnel;

pub use egress::is_public;
pub use error::{Error, Obstacle, Result};
pub use limits::PullLimit;
pub use places::Share;
pub use probe::Step;
pub use registry::{ManifestAnswer, Page, Upstream};
pub use tls::{TlsError, check_identity, system_tls};
pub use traffic::Traffic;
pub use transfer::{BlobAnswer, BlobBody, Turn};
