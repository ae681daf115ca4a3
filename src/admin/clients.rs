//! `/api/v1/clients`: who may pull. Secrets go one way: one that is made here
//! is shown in the answer to its making, and never again.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use zeroize::Zeroizing;

use super::document::{ClientAdded, ClientEntry, Clients, NewClient, NewProof};
use super::{Failed, failure};
use crate::access::{
    Client, ClientRecord, Proof, ProofRecord, Roster, RosterError, SecretError, make_secret, password_proof,
    token_proof,
};
use crate::registry::Directory;

/// What these paths need.
#[derive(Clone)]
pub struct ClientsApi {
    /// The clients.
    pub roster: Arc<Roster>,
    /// The registries that grants may name.
    pub directory: Arc<Directory>,
    /// Whether clients are asked for certificates.
    pub certificates: bool,
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>(api: ClientsApi) -> Router<S> {
    Router::new().route("/clients", get(list)).route("/clients/{name}", put(add).delete(remove)).with_state(api)
}

async fn list(State(api): State<ClientsApi>) -> Json<Clients> {
    let all = api.roster.list();
    Json(Clients { clients: all.iter().map(|(client, configured)| entry(client, *configured)).collect() })
}

fn entry(client: &Client, configured: bool) -> ClientEntry {
    let (proof, detail) = match &client.proof {
        Proof::Password { .. } => ("password", String::new()),
        Proof::Token { .. } => ("token", String::new()),
        Proof::Certificate(name) => ("certificate", name.to_string()),
        Proof::Networks(networks) => {
            ("networks", networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
    };
    ClientEntry {
        name: client.name.clone(),
        proof: proof.to_owned(),
        detail,
        grants: client.grants.iter().map(ToString::to_string).collect(),
        configured,
    }
}

async fn add(
    State(api): State<ClientsApi>,
    Path(name): Path<String>,
    body: Result<Json<NewClient>, JsonRejection>,
) -> Result<(StatusCode, Json<ClientAdded>), Failed> {
    // What the parser says may quote what stood there, which may be a secret.
    let Ok(Json(new)) = body else {
        return Err(failure(StatusCode::BAD_REQUEST, "the body is no client: see the reference of the admin API"));
    };
    let replace = new.replace;
    let api = api.clone();
    // Hashing a password takes a while, and so may the store.
    let made = tokio::task::spawn_blocking(move || {
        let (client, secret) = make(&api, name, new)?;
        let shown = entry(&client, false);
        let replaced = api.roster.put(client, replace).map_err(refused)?;
        Ok::<_, Failed>((replaced, ClientAdded { client: shown, secret: secret.map(|secret| (*secret).clone()) }))
    });
    let (replaced, added) = made.await.map_err(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "it failed"))??;
    Ok((if replaced { StatusCode::OK } else { StatusCode::CREATED }, Json(added)))
}

/// The client that is asked for, and its secret where that was made here.
fn make(api: &ClientsApi, name: String, new: NewClient) -> Result<(Client, Option<Zeroizing<String>>), Failed> {
    let bad = |message: String| failure(StatusCode::BAD_REQUEST, message);
    let weak = |error: SecretError| match error {
        SecretError::System => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        SecretError::TooShort { .. } => bad(error.to_string()),
    };
    let (given, mut made) = (new.secret, None);
    let secret = || match given {
        Some(given) => Ok(given),
        None => {
            let secret = make_secret().map_err(weak)?;
            made = Some(secret.clone());
            Ok::<_, Failed>(secret)
        }
    };
    let proof = match new.proof {
        NewProof::Password => password_proof(&secret()?).map_err(weak)?,
        NewProof::Token => token_proof(&secret()?).map_err(weak)?,
        NewProof::Certificate(_) if !api.certificates => {
            return Err(bad("clients are not asked for certificates: name `client_ca` in [server.tls]".to_owned()));
        }
        NewProof::Certificate(name) => Proof::Certificate(name.parse().map_err(|error| bad(format!("{error}")))?),
        NewProof::Networks(networks) => {
            let record =
                ClientRecord { name: name.clone(), proof: ProofRecord::Networks(networks), grants: Vec::new() };
            Client::try_from(record).map_err(|error| bad(error.to_string()))?.proof
        }
    };
    let shell = ClientRecord { name, proof: ProofRecord::Networks(vec!["::/128".to_owned()]), grants: new.grants };
    let shell = Client::try_from(shell).map_err(|error| bad(error.to_string()))?;
    for grant in &shell.grants {
        if api.directory.by_name(grant.registry()).is_none() {
            return Err(bad(format!("`{grant}`: there is no registry `{}`", grant.registry())));
        }
    }
    Ok((Client { proof, ..shell }, made))
}

async fn remove(State(api): State<ClientsApi>, Path(name): Path<String>) -> Result<StatusCode, Failed> {
    let removed = tokio::task::spawn_blocking(move || api.roster.remove(&name));
    let removed = removed.await.map_err(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "it failed"))?;
    removed.map(|()| StatusCode::NO_CONTENT).map_err(refused)
}

fn refused(error: RosterError) -> Failed {
    let status = match error {
        RosterError::Taken(_) | RosterError::Configured(_) => StatusCode::CONFLICT,
        RosterError::Absent(_) => StatusCode::NOT_FOUND,
        RosterError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    failure(status, error.to_string())
}
