//! The fields of a form: from options, or asked for one after the other.

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::cli::terminal::prompt;
use crate::registry::{Field, FieldKind, Kind};

/// The forms' fields as options; which of them a kind has, its form says.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Fields {
    /// Namespace: the part of the registry that is meant
    #[arg(long, help_heading = "Fields of the form")]
    namespace: Option<String>,
    /// User name
    #[arg(long, help_heading = "Fields of the form")]
    username: Option<String>,
    /// GitHub: e-mail address
    #[arg(long, help_heading = "Fields of the form")]
    email: Option<String>,
    /// GitHub, Quay, NGC: organization
    #[arg(long, help_heading = "Fields of the form")]
    organization: Option<String>,
    /// NGC: team
    #[arg(long, help_heading = "Fields of the form")]
    team: Option<String>,
    /// Google, ECR: region
    #[arg(long, help_heading = "Fields of the form")]
    region: Option<String>,
    /// Google: project
    #[arg(long, help_heading = "Fields of the form")]
    project: Option<String>,
    /// DigitalOcean: registry name
    #[arg(long, help_heading = "Fields of the form")]
    registry_name: Option<String>,
    /// Registry URL
    #[arg(long, help_heading = "Fields of the form")]
    url: Option<String>,
    /// Any key of `[[registry]]`; the value as in TOML, or plain text; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment, help_heading = "Fields of the form")]
    set: Vec<(String, Value)>,
    /// Read the secret from standard input
    #[arg(long, help_heading = "Fields of the form")]
    password_stdin: bool,
    /// Read the secret from a file
    #[arg(long, value_name = "PATH", conflicts_with = "password_stdin", help_heading = "Fields of the form")]
    password_file: Option<PathBuf>,
    /// Read one of several secrets from a file; may be repeated
    #[arg(long, value_name = "FIELD=PATH", value_parser = secret_file, help_heading = "Fields of the form")]
    secret_file: Vec<(String, PathBuf)>,
}

pub(super) type Secrets = BTreeMap<String, Option<Zeroizing<String>>>;

fn assignment(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value")?;
    // A list, a flag or a number as TOML has it; else it is text.
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("v"));
    let value = match parsed {
        Some(toml::Value::Datetime(_)) | None => Value::String(value.to_owned()),
        Some(parsed) => serde_json::to_value(parsed).map_err(|error| error.to_string())?,
    };
    Ok((key.trim().to_owned(), value))
}

fn secret_file(text: &str) -> Result<(String, PathBuf), String> {
    let (field, path) = text.split_once('=').ok_or("write it as field=path")?;
    Ok((field.to_owned(), path.into()))
}

impl Fields {
    /// Whether none is given.
    pub(super) fn is_empty(&self) -> bool {
        self.texts().is_empty()
            && self.set.is_empty()
            && !self.password_stdin
            && self.password_file.is_none()
            && self.secret_file.is_empty()
    }

    fn texts(&self) -> Vec<(&'static str, &String)> {
        let all = [
            ("namespace", &self.namespace),
            ("username", &self.username),
            ("email", &self.email),
            ("organization", &self.organization),
            ("team", &self.team),
            ("region", &self.region),
            ("project", &self.project),
            ("registry_name", &self.registry_name),
            ("url", &self.url),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).collect()
    }

    /// Puts what is given into `settings`, and gives the secrets.
    pub(super) fn fill(&self, kind: Kind, settings: &mut Map<String, Value>) -> miette::Result<Secrets> {
        for (name, value) in self.texts() {
            settings.insert(name.to_owned(), Value::String(value.clone()));
        }
        for (key, value) in &self.set {
            if secret_fields(kind).any(|field| field.name == key) && !value.is_object() {
                return Err(miette!(
                    help = "use --password-stdin, --password-file or --secret-file",
                    "`{key}` is a secret, and an argument is seen by everybody on the machine"
                ));
            }
            settings.insert(key.clone(), value.clone());
        }
        let mut secrets = Secrets::new();
        let only = || {
            secret_fields(kind)
                .next()
                .map(|field| field.name.to_owned())
                .ok_or_else(|| miette!("`{kind}` has no secret"))
        };
        if self.password_stdin {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().lock().read_to_string(&mut text).into_diagnostic()?;
            secrets.insert(only()?, Some(trimmed(&text)));
        }
        if let Some(path) = &self.password_file {
            secrets.insert(only()?, Some(of_file(path)?));
        }
        for (field, path) in &self.secret_file {
            secrets.insert(field.clone(), Some(of_file(path)?));
        }
        Ok(secrets)
    }
}

fn of_file(path: &std::path::Path) -> miette::Result<Zeroizing<String>> {
    let text = std::fs::read_to_string(path).into_diagnostic();
    let text = Zeroizing::new(text.wrap_err_with(|| format!("{} cannot be read", path.display()))?);
    Ok(trimmed(&text))
}

/// Without the end of the line that is no part of a secret.
fn trimmed(text: &str) -> Zeroizing<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

pub(super) fn secret_fields(kind: Kind) -> impl Iterator<Item = &'static Field> {
    kind.fields().iter().filter(|field| field.kind == FieldKind::Secret)
}

/// Whether there is somebody to ask.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for a text; an empty answer is `default`.
pub(super) fn ask(label: &str, default: Option<&str>) -> miette::Result<Option<String>> {
    match default {
        Some(default) => prompt(&format!("{label} [{default}]: ")),
        None => prompt(&format!("{label}: ")),
    }
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line).into_diagnostic()? == 0 {
        return Err(miette!("the input ended: nothing was stored"));
    }
    let line = line.trim();
    Ok(if line.is_empty() { default.map(str::to_owned) } else { Some(line.to_owned()) })
}

/// Asks for a secret, without echo. A key of several lines is read from a file.
pub(super) fn ask_secret(label: &str) -> miette::Result<Option<Zeroizing<String>>> {
    let prompt = format!("{label} (not shown; @PATH reads a file): ");
    let text = Zeroizing::new(rpassword::prompt_password(prompt).into_diagnostic()?);
    match text.strip_prefix('@') {
        _ if text.is_empty() => Ok(None),
        Some(path) => of_file(std::path::Path::new(path)).map(Some),
        None => Ok(Some(trimmed(&text))),
    }
}

/// Asks for the form of `kind`: what is not there yet, or everything with what
/// is there as the default.
pub(super) fn ask_form(
    kind: Kind,
    settings: &mut Map<String, Value>,
    secrets: &mut Secrets,
    again: bool,
) -> miette::Result<()> {
    for field in kind.fields().iter().filter(|field| !field.advanced) {
        let label = if field.required { field.label.to_owned() } else { format!("{} (optional)", field.label) };
        match field.kind {
            FieldKind::Text => {
                let known = settings.get(field.name).and_then(Value::as_str).map(str::to_owned);
                if known.is_some() && !again {
                    continue;
                }
                if let Some(answer) = ask(&label, known.as_deref())? {
                    settings.insert(field.name.to_owned(), Value::String(answer));
                }
            }
            FieldKind::Secret if secrets.contains_key(field.name) || settings.contains_key(field.name) => {}
            FieldKind::Secret => {
                let label = if again { format!("{} (empty: as it is)", field.label) } else { label };
                if let Some(secret) = ask_secret(&label)? {
                    secrets.insert(field.name.to_owned(), Some(secret));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_toml_has_them_and_else_text() {
        let value = |text: &str| assignment(text).unwrap().1;
        assert_eq!(value("default=true"), Value::Bool(true));
        assert_eq!(value("allow_private=[\"10.0.0.0/8\"]"), serde_json::json!(["10.0.0.0/8"]));
        assert_eq!(value("max_connections=4"), serde_json::json!(4));
        assert_eq!(value("url=https://a=b"), serde_json::json!("https://a=b"));
        assert_eq!(value("quota=\"1GiB\""), serde_json::json!("1GiB"));
        assert!(assignment("default").is_err());
    }
}
