//! `transship check` says what a configuration amounts to, or what is wrong
//! with it and where; `serve` refuses exactly what `check` refuses.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use tempfile::TempDir;

use crate::support::process::bounded;

const CANARY: &str = "c4nary-of-the-configuration";

/// Three mistakes, in the order of their lines, and a secret beside them.
const BAD: &str = r#"[server]
lisen = "127.0.0.1:0"

[cache]
max_size = "100 parsecs"

[[registry]]
name = "My-Example-GHCR"
kind = "ghcr"
organization = "example-org"
pasword = "c4nary-of-the-configuration"
"#;

/// A configuration file in a directory of its own.
struct File {
    dir: TempDir,
    path: PathBuf,
}

/// What a command ended with, and what it said.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl File {
    fn new(text: &str) -> File {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("transship.toml");
        fs::write(&path, text).unwrap();
        File { dir, path }
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
        let mut command = bounded(env!("CARGO_BIN_EXE_transship"), self.dir.path());
        command.args(arguments).envs(environment.iter().copied());
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let said = Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
        assert!(!said.stdout.contains(CANARY) && !said.stderr.contains(CANARY), "{}{}", said.stdout, said.stderr);
        said
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn check(&self) -> Said {
        self.run(&["check", "--config", self.path()], &[("SECRET", CANARY)])
    }
}

fn good() -> File {
    File::new(
        "[[registry]]\nname = \"My-Example-GHCR\"\nkind = \"ghcr\"\norganization = \"example-org\"\n\
         password = { env = \"SECRET\" }\n\
         [[registry]]\nname = \"hub\"\nkind = \"docker-hub\"\n\
         [[registry]]\nname = \"ocean\"\nkind = \"digitalocean\"\nregistry_name = \"r\"\napi_token = { env = \"SECRET\" }\n\
         [[client]]\nname = \"ci\"\nnetworks = [\"10.0.0.0/8\"]\ngrants = [\"my-example-ghcr/**\"]\n",
    )
}

#[test]
fn a_sound_configuration_is_shown_as_a_table() {
    let said = good().check();
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let row = |name: &str| said.stdout.lines().find(|line| line.contains(name)).unwrap().to_owned();
    for piece in ["ghcr", "https://ghcr.io", "example-org", "stored", "grants"] {
        assert!(row("My-Example-GHCR").contains(piece), "{}", said.stdout);
    }
    for piece in ["https://registry-1.docker.io", "none", "anyone", "yes"] {
        assert!(row("hub").contains(piece), "{}", said.stdout);
    }
    assert!(said.stdout.contains("pulls on 127.0.0.1:5000, administration on 127.0.0.1:5001"), "{}", said.stdout);
    assert!(said.stdout.contains("note: nobody may pull through `ocean`"), "{}", said.stdout);
    assert!(said.stdout.ends_with("the configuration is valid\n"), "{}", said.stdout);
}

#[test]
fn a_sound_configuration_is_shown_as_json() {
    let file = good();
    let said = file.run(&["check", "--output", "json", "--config", file.path()], &[("SECRET", CANARY)]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let shown: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let registry = serde_json::json!({
        "name": "My-Example-GHCR", "address": "my-example-ghcr", "kind": "ghcr", "upstream": "https://ghcr.io",
        "prefix": "example-org", "credential": "stored", "access": "grants", "default": false,
    });
    assert_eq!(shown["registries"][0], registry);
    assert_eq!(shown["registries"][1]["default"], true);
    assert_eq!(shown["clients"], serde_json::json!(["ci"]));
    assert_eq!(shown["listen"], serde_json::json!(["127.0.0.1:5000"]));
}

#[test]
fn it_says_what_docker_hub_is_answered_with_and_what_names_hide() {
    let quay = "[[registry]]\nname = \"quay\"\nkind = \"quay\"\n";
    let own = "[[registry]]\nname = \"own\"\nkind = \"generic\"\nurl = \"https://own.example\"\ndefault = true\n";
    let hides = "names of registries hide quay/… of the default registry";
    for (text, answered, hidden) in [
        (quay.to_owned(), "docker.io is answered by registry `docker-hub`\n", true),
        (format!("docker_hub = false\n{quay}{own}"), "docker.io is answered by registry `own`\n", true),
        (format!("docker_hub = false\n{quay}"), "docker.io is not answered: ", false),
        (
            format!("[server]\nmirror_listen = \"127.0.0.1:5080\"\n{quay}"),
            "docker.io is answered by registry `docker-hub`\n",
            false,
        ),
    ] {
        let said = File::new(&text).check();
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(said.stdout.contains(answered), "{}", said.stdout);
        assert_eq!(said.stdout.contains(hides), hidden, "{}", said.stdout);
    }
}

#[test]
fn the_commented_default_and_no_file_at_all_are_sound() {
    let default = File::new(include_str!("../config/transship.toml"));
    let (with, without) = (default.check(), default.run(&["check"], &[]));
    assert_eq!((with.code, without.code), (Some(0), Some(0)), "{}{}", with.stderr, without.stderr);
    assert_eq!(with.stdout, without.stdout);
    let named = default.run(&["check"], &[("TRANSSHIP_CONFIG", "/no/such/file")]);
    assert_eq!(named.code, Some(1), "the variable names a file as the option does");
}

#[test]
fn every_mistake_is_told_with_file_line_and_column() {
    let file = File::new(BAD);
    let said = file.check();
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    let path = file.path();
    let places: Vec<_> = said.stderr.match_indices(path).map(|(at, _)| &said.stderr[at + path.len()..]).collect();
    assert_eq!(places.len(), 3, "{}", said.stderr);
    for (place, expected) in places.iter().zip([
        ":2:1: [server] has no key `lisen`\n",
        ":5:12: `max_size`: `100 parsecs` is no size; write it as `512MiB` or `100GiB`\n",
        ":11:1: [[registry]] has no key `pasword`\n",
    ]) {
        assert!(place.starts_with(expected), "{}", said.stderr);
    }
    for help in ["help: did you mean `listen`?", "help: did you mean `password`?"] {
        assert!(said.stderr.contains(help), "{}", said.stderr);
    }
    assert!(said.stderr.ends_with("the configuration has 3 mistakes\n"), "{}", said.stderr);
    assert!(!said.stderr.contains("Error:"), "{}", said.stderr);
}

#[test]
fn a_missing_file_and_a_missing_secret_are_told() {
    let file = good();
    let said = file.run(&["check", "--config", "absent.toml"], &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("the configuration file absent.toml cannot be read: No such file"), "{}", said.stderr);
    let said = file.run(&["check", "--config", file.path()], &[]);
    assert_eq!(said.code, Some(1));
    let message = format!("{}:5:12: registry `My-Example-GHCR`: the environment variable SECRET, which", file.path());
    assert!(said.stderr.contains(&message), "{}", said.stderr);
}

#[test]
fn serve_refuses_what_check_refuses_with_the_same_words() {
    let file = File::new(BAD);
    let (check, serve) = (file.check(), file.run(&["serve", "--config", file.path()], &[]));
    assert_eq!((serve.code, serve.stdout.as_str()), (Some(1), ""));
    assert_eq!(serve.stderr, check.stderr);
    assert!(!file.dir.path().join("cache").exists(), "nothing was begun");
}

#[test]
fn wrong_usage_ends_with_2() {
    let file = good();
    for arguments in [
        &["check", "--output", "xml"][..],
        &["check", "--colour"],
        &["check", "--config"],
        &["chek"],
        &["serve", "now"],
        &[],
    ] {
        let said = file.run(arguments, &[]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(said.stderr.contains("--help") || said.stderr.contains("Usage: transship"), "{}", said.stderr);
    }
}
