//! Who calls the admin API, and what they may do there.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::http::Method;
use serde::{Deserialize, Serialize};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything that the API shows.
    Read,
    /// Everything.
    Write,
}

impl Role {
    /// Whether a request with this method is within it.
    pub(super) fn covers(self, method: &Method) -> bool {
        self == Role::Write || matches!(*method, Method::GET | Method::HEAD)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Read => "read",
            Role::Write => "write",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "read" => Ok(Role::Read),
            "write" => Ok(Role::Write),
            other => Err(format!("`{other}` is not a role; it is \"read\" or \"write\"")),
        }
    }
}

/// Whoever sent a request that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name, or the user at the other end of the socket.
    pub name: String,
    /// From where, if not from this machine's socket.
    pub address: Option<IpAddr>,
    /// What they may do.
    pub role: Role,
}

impl Caller {
    /// A process of the user `uid`, at the socket or on the store itself.
    pub fn local(uid: u32) -> Caller {
        Caller { name: format!("uid {uid}"), address: None, role: Role::Write }
    }
}
