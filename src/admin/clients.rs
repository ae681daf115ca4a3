//! `/api/v1/clients`: who may pull. Secrets go one way: one that is made here
//! is shown in the answer to its making, and never again.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Extension, Json, Router};
use zeroize::Zeroizing;

use super::caller::Caller;
use super::document::{ClientAdded, ClientEntry, Clients, NewClient, NewProof};
use super::registries::asked;
use super::{Admin, Failed, failure};
use crate::access::{Client, ClientRecord, Proof, ProofRecord, SecretError, make_secret, password_proof, token_proof};

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/clients", get(list)).route("/clients/{name}", put(add).delete(remove))
}

async fn list(State(admin): State<Admin>) -> Result<Json<Clients>, Failed> {
    let all = asked(&admin, |operator| Ok(operator.clients())).await?;
    Ok(Json(Clients { clients: all.iter().map(|(client, configured)| entry(client, *configured)).collect() }))
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
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Result<Json<NewClient>, JsonRejection>,
) -> Result<(StatusCode, Json<ClientAdded>), Failed> {
    // What the parser says may quote what stood there, which may be a secret.
    let Ok(Json(new)) = body else {
        return Err(failure(StatusCode::BAD_REQUEST, "the body is no client: see the reference of the admin API"));
    };
    let replace = new.replace;
    // Hashing a password takes a while.
    let made = tokio::task::spawn_blocking(move || make(name, new)).await;
    let (client, secret) = made.map_err(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "it failed"))??;
    let shown = entry(&client, false);
    let replaced = asked(&admin, move |operator| operator.put_client(&client, replace, &caller)).await?;
    let added = ClientAdded { client: shown, secret: secret.map(|secret| (*secret).clone()) };
    Ok((if replaced { StatusCode::OK } else { StatusCode::CREATED }, Json(added)))
}

/// The client that is asked for, and its secret where that was made here.
fn make(name: String, new: NewClient) -> Result<(Client, Option<Zeroizing<String>>), Failed> {
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
        NewProof::Certificate(name) => Proof::Certificate(name.parse().map_err(|error| bad(format!("{error}")))?),
        NewProof::Networks(networks) => {
            let record =
                ClientRecord { name: name.clone(), proof: ProofRecord::Networks(networks), grants: Vec::new() };
            Client::try_from(record).map_err(|error| bad(error.to_string()))?.proof
        }
    };
    let shell = ClientRecord { name, proof: ProofRecord::Networks(vec!["::/128".to_owned()]), grants: new.grants };
    let shell = Client::try_from(shell).map_err(|error| bad(error.to_string()))?;
    Ok((Client { proof, ..shell }, made))
}

async fn remove(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    asked(&admin, move |operator| operator.remove_client(&name, &caller)).await?;
    Ok(StatusCode::NO_CONTENT)
}
