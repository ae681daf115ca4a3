//! `transship client`: who may pull, with which grants.
//!
//! Everything goes through the admin API of the running proxy, which knows a
//! client from the moment the command ends.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use clap::Subcommand;
use comfy_table::{Table, presets};
use miette::{IntoDiagnostic as _, miette};
use zeroize::Zeroizing;

use super::admin_client::{AdminClient, Answer, Target};
use super::{Outcome, Output};
use crate::admin::document::{ClientAdded, Clients, NewClient, NewProof};

/// Arguments of `client`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a client; a password or token that is made for it is shown once
    Add(AddArgs),
    /// Remove clients: their next request is a stranger's
    Rm(RmArgs),
    /// List the clients and what they may pull
    List(ListArgs),
}

#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("proof").args(["token", "certificate", "network"]))]
pub(super) struct AddArgs {
    /// Its name, and its user name where it has a password
    name: String,
    /// What it may pull, as `registry/pattern`; may be given several times
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<String>,
    /// It is known by a bearer token, not by a password
    #[arg(long)]
    token: bool,
    /// It is known by its TLS certificate: `CN=ci`, a whole subject, or `DNS:…`, `URI:…`, `email:…`
    #[arg(long, value_name = "NAME")]
    certificate: Option<String>,
    /// It is known by coming from this network; may be given several times
    #[arg(long = "network", value_name = "NETWORK")]
    network: Vec<String>,
    /// Read the password, or with --token the token, from standard input
    #[arg(long, conflicts_with_all = ["certificate", "network"])]
    password_stdin: bool,
    /// Take the place of a client of that name
    #[arg(long)]
    replace: bool,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// The clients to remove
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// How to show them
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Outcome {
    let client = args.target.client()?;
    super::runtime()?.block_on(async {
        match &args.command {
            Command::Add(args) => add(&client, args).await,
            Command::Rm(args) => rm(&client, args).await,
            Command::List(args) => list(&client, args).await,
        }
    })
}

async fn add(client: &AdminClient, args: &AddArgs) -> Outcome {
    let secret = if args.password_stdin { Some(from_stdin()?) } else { None };
    let added = ask(client, args, secret).await?;
    if args.output == Output::Json {
        return json(&added);
    }
    println!("client `{}` may pull {}", added.client.name, granted(&added.client.grants));
    if let Some(secret) = &added.secret {
        println!("{}: {secret}", added.client.proof);
        eprintln!("It is not shown again.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &AdminClient, args: &AddArgs, secret: Option<Zeroizing<String>>) -> miette::Result<ClientAdded> {
    let proof = match &args.certificate {
        Some(name) => NewProof::Certificate(name.clone()),
        None if !args.network.is_empty() => NewProof::Networks(args.network.clone()),
        None if args.token => NewProof::Token,
        None => NewProof::Password,
    };
    let new = NewClient { proof, secret, grants: args.grants.clone(), replace: args.replace };
    match client.put_document::<ClientAdded>(&path(&args.name)?, &new).await? {
        Answer::Done(added) => Ok(added),
        Answer::Refused(status, reason) if status == http::StatusCode::CONFLICT && !args.replace => {
            Err(miette!(help = "with --replace it takes the other's place", "{reason}"))
        }
        Answer::Refused(_, reason) => Err(miette!("{reason}")),
    }
}

/// What a secret is taken from that nobody types: one line, without its end.
fn from_stdin() -> miette::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        return Err(miette!("--password-stdin reads a pipe or a file, not a terminal"));
    }
    std::io::stdin().take(4096).read_to_string(&mut text).into_diagnostic()?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

fn granted(grants: &[String]) -> String {
    if grants.is_empty() { "what is open to anyone".to_owned() } else { grants.join(", ") }
}

async fn rm(client: &AdminClient, args: &RmArgs) -> Outcome {
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match client.delete(&path(name)?).await? {
            Answer::Done(()) => println!("removed {name}"),
            Answer::Refused(_, reason) => {
                eprintln!("{reason}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn list(client: &AdminClient, args: &ListArgs) -> Outcome {
    let all: Clients = client.get("clients", &[]).await?;
    if args.output == Output::Json {
        return json(&all);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["client", "known by", "grants", "by"]);
    for entry in &all.clients {
        let known = if entry.detail.is_empty() { &entry.proof } else { &entry.detail };
        let by = if entry.configured { "configuration" } else { "command" };
        table.add_row([entry.name.as_str(), known, &entry.grants.join("\n"), by]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn json(document: &impl serde::Serialize) -> Outcome {
    println!("{}", serde_json::to_string_pretty(document).into_diagnostic()?);
    Ok(ExitCode::SUCCESS)
}

/// A name is one segment of a path.
fn path(name: &str) -> miette::Result<String> {
    if name.contains('/') {
        return Err(miette!("a client's name has no `/` here: `{name}`"));
    }
    Ok(format!("clients/{name}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::access::{Evidence, Gate, GateSettings, MemoryStore, Roster};
    use crate::admin::{ClientsApi, clients_only};
    use crate::config::Settings;
    use crate::registry::Directory;

    /// An admin listener with clients in memory, and the gate it changes.
    async fn serve() -> (AdminClient, Arc<Gate>) {
        let text = "[[registry]]\nname = \"hub\"\nkind = \"docker-hub\"\n";
        let settings = Settings::parse("t.toml", text, &BTreeMap::new()).unwrap();
        let gate = Arc::new(Gate::new(vec![], GateSettings::default(), Arc::default()));
        let configured = crate::access::Client {
            name: "file".into(),
            proof: crate::access::Proof::Networks(vec!["10.0.0.0/8".parse().unwrap()]),
            grants: vec![],
        };
        let store = Box::new(MemoryStore::default());
        let roster = Roster::open(vec![configured], store, Arc::clone(&gate), Arc::default()).unwrap();
        let directory = Arc::new(Directory::new(settings.registries));
        let api = ClientsApi { roster: Arc::new(roster), directory, certificates: true };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, clients_only(api)).await });
        (AdminClient::of(url), gate)
    }

    fn args(words: &str) -> AddArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: AddArgs,
        }
        <Line as clap::Parser>::try_parse_from(["add"].into_iter().chain(words.split(' '))).unwrap().args
    }

    async fn who(gate: &Gate, header: &str) -> Option<String> {
        let evidence = Evidence { authorization: vec![header.as_bytes()], ..Evidence::default() };
        gate.identify(evidence).await.ok()?.name().map(str::to_owned)
    }

    fn basic(user: &str, password: &str) -> String {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
    }

    #[tokio::test]
    async fn a_client_that_is_added_may_log_in_with_what_was_shown_until_it_is_removed() {
        let (client, gate) = serve().await;
        let added = ask(&client, &args("ci --grant hub/library/*"), None).await.unwrap();
        let secret = added.secret.clone().unwrap();
        assert_eq!(who(&gate, &basic("ci", &secret)).await.as_deref(), Some("ci"));
        let token = ask(&client, &args("robot --token --grant hub/**"), None).await.unwrap();
        let header = format!("Bearer {}", token.secret.unwrap());
        assert_eq!(who(&gate, &header).await.as_deref(), Some("robot"));
        let given = Zeroizing::new("correct horse battery".to_owned());
        let own = ask(&client, &args("dev"), Some(given)).await.unwrap();
        assert_eq!((own.secret, own.client.grants.len()), (None, 0));
        assert_eq!(who(&gate, &basic("dev", "correct horse battery")).await.as_deref(), Some("dev"));
        ask(&client, &args("node --certificate CN=node"), None).await.unwrap();
        ask(&client, &args("rack --network 10.1.0.0/16 --network 10.2.0.0/16"), None).await.unwrap();

        let all: Clients = client.get("clients", &[]).await.unwrap();
        let shown: Vec<String> = all
            .clients
            .iter()
            .map(|client| format!("{} {} {} {}", client.name, client.proof, client.detail, client.configured))
            .collect();
        let expected = [
            "ci password  false",
            "dev password  false",
            "file networks 10.0.0.0/8 true",
            "node certificate CN=node false",
            "rack networks 10.1.0.0/16, 10.2.0.0/16 false",
            "robot token  false",
        ];
        assert_eq!(shown, expected);
        let text = serde_json::to_string(&all).unwrap();
        assert!(!text.contains(&secret) && !text.contains("argon2"), "secrets and hashes are not shown");

        let gone = RmArgs { names: vec!["ci".into()] };
        assert_eq!(rm(&client, &gone).await.unwrap(), ExitCode::SUCCESS);
        assert_eq!(who(&gate, &basic("ci", &secret)).await, None);
        assert_eq!(rm(&client, &gone).await.unwrap(), ExitCode::FAILURE);
    }

    #[tokio::test]
    async fn what_is_no_client_is_refused_with_a_reason() {
        let (client, _) = serve().await;
        let refusal = async |words: &str, secret: Option<&str>| {
            let secret = secret.map(|secret| Zeroizing::new(secret.to_owned()));
            let Err(error) = ask(&client, &args(words), secret).await else { panic!("{words} is accepted") };
            format!("{error:?}")
        };
        ask(&client, &args("ci"), None).await.unwrap();
        for (words, secret, reason) in [
            ("ci", None, "there is a client `ci` already"),
            ("file --replace", None, "stands in the configuration file"),
            ("a:b", None, "no colon"),
            ("a --grant hub", None, "registry/pattern"),
            ("a --grant nowhere/**", None, "there is no registry `nowhere`"),
            ("a --network 10.1", None, "is no network"),
            ("a --certificate node", None, "CN=ci"),
            ("a", Some("short"), "8 characters or more"),
            ("a --token", Some("short-token"), "20 characters or more"),
        ] {
            let said = refusal(words, secret).await;
            assert!(said.contains(reason), "{words}: {said}");
            assert!(secret.is_none_or(|secret| !said.contains(secret)));
        }
        ask(&client, &args("ci --replace --token"), None).await.unwrap();
    }
}
