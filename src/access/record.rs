//! A client as it is stored and shown: no secret, only what one is checked
//! against.

use serde::{Deserialize, Serialize};

use super::{Client, Proof};
use crate::printable;

/// One client, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRecord {
    /// Its name.
    pub name: String,
    /// How it is known.
    pub proof: ProofRecord,
    /// What it may pull.
    pub grants: Vec<String>,
}

/// How a client is known, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofRecord {
    /// An argon2id hash in PHC form.
    PasswordHash(String),
    /// The SHA-256 of a token, in hexadecimal.
    TokenHash(String),
    /// A name in a certificate.
    Certificate(String),
    /// Networks.
    Networks(Vec<String>),
}

/// Why plain data is no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("client `{name}`: {what}")]
pub struct InvalidClient {
    name: String,
    what: String,
}

/// Whether a client may be called so.
///
/// # Errors
/// When it may not; the error says how it may.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let sound =
        !name.is_empty() && name.len() <= 64 && !name.contains(':') && !name.chars().any(printable::is_disturbing);
    sound.then_some(()).ok_or("a name has 1 to 64 characters, none of them a colon or invisible")
}

/// Whether this is an argon2id hash in PHC form.
///
/// # Errors
/// When it is none.
pub fn check_password_hash(text: &str) -> Result<(), &'static str> {
    match argon2::password_hash::phc::PasswordHash::new(text) {
        Ok(hash) if hash.algorithm.as_str() == "argon2id" => Ok(()),
        _ => Err("this is no argon2id hash in PHC form (`$argon2id$v=19$…`)"),
    }
}

/// Whether this is a SHA-256 as it is written here.
///
/// # Errors
/// When it is none.
pub fn check_token_hash(text: &str) -> Result<(), &'static str> {
    let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    hex.then_some(()).ok_or("this is no SHA-256 in 64 lower-case hexadecimal characters")
}

impl From<&Client> for ClientRecord {
    fn from(client: &Client) -> Self {
        let proof = match &client.proof {
            Proof::Password { hash } => ProofRecord::PasswordHash(hash.clone()),
            Proof::Token { sha256 } => ProofRecord::TokenHash(sha256.clone()),
            Proof::Certificate(name) => ProofRecord::Certificate(name.to_string()),
            Proof::Networks(networks) => ProofRecord::Networks(networks.iter().map(ToString::to_string).collect()),
        };
        let grants = client.grants.iter().map(ToString::to_string).collect();
        ClientRecord { name: client.name.clone(), proof, grants }
    }
}

impl TryFrom<ClientRecord> for Client {
    type Error = InvalidClient;

    fn try_from(record: ClientRecord) -> Result<Self, Self::Error> {
        let ClientRecord { name, proof, grants } = record;
        let invalid = |what: String| InvalidClient { name: name.clone(), what };
        check_name(&name).map_err(|what| invalid(what.to_owned()))?;
        let proof = match proof {
            ProofRecord::PasswordHash(hash) => {
                check_password_hash(&hash).map_err(|what| invalid(what.to_owned()))?;
                Proof::Password { hash }
            }
            ProofRecord::TokenHash(sha256) => {
                check_token_hash(&sha256).map_err(|what| invalid(what.to_owned()))?;
                Proof::Token { sha256 }
            }
            ProofRecord::Certificate(text) => {
                Proof::Certificate(text.parse().map_err(|error| invalid(format!("`{text}`: {error}")))?)
            }
            ProofRecord::Networks(networks) if networks.is_empty() => {
                return Err(invalid("nothing says how this client is known".to_owned()));
            }
            ProofRecord::Networks(networks) => {
                let parse = |text: &String| {
                    text.parse().map_err(|_| invalid(format!("`{text}` is no network; write it as `10.0.0.0/8`")))
                };
                Proof::Networks(networks.iter().map(parse).collect::<Result<_, _>>()?)
            }
        };
        let parse = |text: &String| text.parse().map_err(|error| invalid(format!("`{text}`: {error}")));
        let grants = grants.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Client { name, proof, grants })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_survives_being_stored() {
        let token = "0".repeat(64);
        let hash = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for proof in [
            Proof::Password { hash: hash.into() },
            Proof::Token { sha256: token },
            Proof::Certificate("CN=ci,O=Example".parse().unwrap()),
            Proof::Networks(vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]),
        ] {
            let client = Client { name: "ci".into(), proof, grants: vec!["hub/library/*".parse().unwrap()] };
            let text = serde_json::to_string(&ClientRecord::from(&client)).unwrap();
            let read: ClientRecord = serde_json::from_str(&text).unwrap();
            assert_eq!(Client::try_from(read).unwrap(), client);
        }
    }

    #[test]
    fn what_is_no_client_is_refused_without_a_word_of_what_may_be_a_secret() {
        let networks = || ProofRecord::Networks(vec!["::/0".into()]);
        let refused = |name: &str, proof, grants: &[&str]| {
            let grants = grants.iter().map(|&grant| grant.to_owned()).collect();
            Client::try_from(ClientRecord { name: name.into(), proof, grants }).unwrap_err().to_string()
        };
        assert!(refused("a:b", networks(), &[]).contains("a colon"));
        assert!(refused("a", networks(), &["hub"]).contains("registry/pattern"));
        assert!(refused("a", ProofRecord::Networks(vec![]), &[]).contains("how this client is known"));
        for proof in [ProofRecord::PasswordHash("canary".into()), ProofRecord::TokenHash("canary".into())] {
            assert!(!refused("a", proof, &[]).contains("canary"));
        }
    }
}
