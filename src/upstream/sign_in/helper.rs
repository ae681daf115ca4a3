//! Credential helpers: `docker-credential-<name> get`, the registry on its
//! standard input, the login as JSON on its standard output.
//!
//! A helper is a program of the operator's, found in `PATH` by a name that can
//! lead nowhere else. It sees the part of the environment that helpers are
//! configured by, not the secrets of other registries; it has ten seconds, and
//! what it says is bounded and shown to nobody.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::registry::{Credential, HelperName, Secret};

/// How long its answer is used before it is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(600);

const TIME_LIMIT: Duration = Duration::from_secs(10);
const MAX_OUTPUT: u64 = 64 * 1024;
/// What the protocol says where there is nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Variables that a helper may see, by name.
const VARIABLES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_CONFIG",
    "GNUPGHOME",
    "PASSWORD_STORE_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// … and by how the name begins.
const PREFIXES: &[&str] = &["LC_", "XDG_", "AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_"];

/// A login that a helper has.
pub(super) enum Answer {
    /// User name and secret.
    Login {
        /// User name.
        username: String,
        /// Secret.
        secret: Secret,
    },
    /// An identity token.
    IdentityToken(Secret),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    username: String,
    secret: Zeroizing<String>,
}

/// Asks the helper for the login of `server`. The error is for the operator and
/// quotes nothing of what the helper said.
pub(super) async fn get(name: &HelperName, server: &str) -> Result<Answer, String> {
    let program = name.program();
    match tokio::time::timeout(TIME_LIMIT, run(&program, server)).await {
        Err(_) => Err(format!("{program} did not answer within {} s", TIME_LIMIT.as_secs())),
        Ok(Err(error)) => Err(format!("{program} cannot be run: {error}")),
        Ok(Ok((success, output))) => read(&program, server, success, &output),
    }
}

async fn run(program: &str, server: &str) -> std::io::Result<(bool, Zeroizing<Vec<u8>>)> {
    let may_see = |name: &str| VARIABLES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let variables = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(may_see));
    let mut child = Command::new(program)
        .arg("get")
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read it may know what to say all the same.
        let _ = input.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut output = Zeroizing::new(Vec::new());
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_OUTPUT).read_to_end(&mut output).await?;
    }
    // One that says more than that is cut off here: its pipe is closed.
    Ok((child.wait().await?.success(), output))
}

fn read(program: &str, server: &str, success: bool, output: &[u8]) -> Result<Answer, String> {
    if !success {
        let said = String::from_utf8_lossy(output);
        return Err(if said.trim() == NOT_FOUND {
            format!("{program} has no login for {server}")
        } else {
            format!("{program} failed; run `echo {server} | {program} get` to see why")
        });
    }
    let document: Document =
        serde_json::from_slice(output).map_err(|_| format!("{program} gave an answer that is no login"))?;
    let Document { username, secret } = document;
    if secret.is_empty() {
        return Err(format!("{program} has no login for {server}"));
    }
    let secret = Secret::new(secret.to_string());
    if username == Credential::IDENTITY_TOKEN_USER {
        return Ok(Answer::IdentityToken(secret));
    }
    if username.is_empty() || username.contains(':') || username.chars().any(char::is_control) {
        return Err(format!("{program} gave a user name that is none"));
    }
    Ok(Answer::Login { username, secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(success: bool, output: &str) -> String {
        match read("docker-credential-x", "ghcr.io", success, output.as_bytes()) {
            Ok(Answer::Login { username, secret }) => format!("{username} {}", secret.expose()),
            Ok(Answer::IdentityToken(secret)) => format!("identity {}", secret.expose()),
            Err(error) => error,
        }
    }

    #[test]
    fn the_answers_of_the_protocol_are_understood() {
        assert_eq!(answer(true, r#"{"ServerURL":"ghcr.io","Username":"me","Secret":"s"}"#), "me s");
        assert_eq!(answer(true, r#"{"Username":"<token>","Secret":"t"}"#), "identity t");
        assert!(answer(false, "credentials not found in native keychain\n").contains("has no login for ghcr.io"));
        assert!(answer(true, r#"{"ServerURL":"","Username":"","Secret":""}"#).contains("has no login"));
    }

    #[test]
    fn what_else_a_helper_says_is_not_repeated() {
        for (success, output) in
            [(false, "canary"), (true, "canary"), (true, r#"{"Username":"canary:x","Secret":"canary"}"#), (true, "")]
        {
            let said = answer(success, output);
            assert!(said.starts_with("docker-credential-x ") && !said.contains("canary"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let Err(error) = get(&"no-such-helper".parse().unwrap(), "ghcr.io").await else { panic!("no such helper") };
        assert!(error.starts_with("docker-credential-no-such-helper cannot be run: "), "{error}");
    }
}
