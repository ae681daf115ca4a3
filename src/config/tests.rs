//! What a file amounts to, and what is said about one that is wrong.

mod defaults;
mod mistakes;
mod outbound;
mod secrets;
mod whole;

use std::collections::BTreeMap;

use super::{ConfigErrors, Problem, Settings};

/// The commented default.
const DEFAULT_FILE: &str = include_str!("../../config/transship.toml");

type Environment = BTreeMap<String, String>;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str) -> Result<Settings, ConfigErrors> {
    Settings::parse("t.toml", text, &Environment::new())
}

fn problems(text: &str) -> Vec<Problem> {
    parse(text).expect_err(text).problems
}

/// All that could ever be printed of the mistakes.
fn everything_said(errors: &ConfigErrors) -> String {
    let mut said = format!("{}\n{errors}\n{errors:?}\n", errors.render());
    for problem in &errors.problems {
        said.push_str(&format!("{problem}\n{problem:?}\n{:?}\n", problem.fix()));
    }
    said
}

/// Lets nobody but its owner read `file`.
fn private(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}
