//! Where secrets come from, and that none is ever shown.

use super::mistakes::GENERIC;
use super::{Environment, Settings, environment, everything_said, parse};
use crate::registry::{Credential, Source};

/// What must never be printed.
const CANARY: &str = "canary-7f3a";

fn load(text: &str, variables: &Environment) -> Result<Settings, super::ConfigErrors> {
    Settings::parse("t.toml", text, variables)
}

/// `text` is refused, with `piece` in a message, and the canary in none.
fn refused(text: &str, piece: &str) {
    let variables = environment(&[("PW", CANARY), ("EMPTY", ""), ("NEWLINE", "\n"), ("TRANSSHIP_CACHE_PW", CANARY)]);
    let errors = load(text, &variables).expect_err(text);
    let said = everything_said(&errors);
    assert!(said.contains(piece), "{text}\n{said}");
    assert!(!said.contains("canary") && !said.contains("7f3a"), "{text}\n{said}");
}

#[test]
fn a_secret_that_cannot_be_taken_names_registry_key_and_source() {
    for (source, place, message, help) in [
        (
            "{ env = \"NO_SUCH\" }",
            "t.toml:6:12: ",
            "registry `r`: the environment variable NO_SUCH, which `password` is taken from, is not set",
            "set NO_SUCH before starting, or name another source",
        ),
        (
            "{ env = \"EMPTY\" }",
            "t.toml:6:12: ",
            "registry `r`: the environment variable EMPTY, which `password` is taken from, is empty",
            "set EMPTY before starting",
        ),
        (
            "{ file = \"/no/such/file\" }",
            "t.toml:6:12: ",
            "registry `r`: the file /no/such/file, which `password` is taken from, cannot be read: No such file",
            "check the path and its permissions",
        ),
        (
            "{ file = \"/dev/null\" }",
            "t.toml:6:12: ",
            "registry `r`: the file /dev/null, which `password` is taken from, is empty",
            "check the path",
        ),
        ("{ env = 5 }", "t.toml:6:12: ", "registry `r`: the env of `password` has to be text", ""),
        ("{ }", "t.toml:6:12: ", "registry `r`: `password` needs one source", "{ env = \"NAME\" }"),
        ("{ env = \"A\", file = \"b\" }", "t.toml:6:12: ", "registry `r`: `password` needs one source", ""),
        (
            "{ stored = true }",
            "t.toml:6:12: ",
            "registry `r`: nothing is stored for `password`",
            "store it with `transship registry edit r`",
        ),
        (
            "{ helper = \"../sh\" }",
            "t.toml:6:12: ",
            "registry `r`: what `password` is taken from is no name of a credential helper",
            "`password = { helper = \"ecr-login\" }` runs the program docker-credential-ecr-login",
        ),
        ("{ helper = true }", "t.toml:6:12: ", "registry `r`: the helper of `password` has to be text", ""),
        (
            "{ docker_config = \"/no/such/config.json\" }",
            "t.toml:6:12: ",
            "registry `r`: the file /no/such/config.json, which `password` is taken from, cannot be read: No such file",
            "check the path",
        ),
        (
            "{ docker_config = \"Cargo.toml\" }",
            "t.toml:6:12: ",
            "registry `r`: the file of `password` is no configuration file of Docker",
            "",
        ),
        (
            "{ vault = \"x\" }",
            "t.toml:6:12: ",
            "registry `r`: `vault` is no source of secrets",
            "use `env`, `file`, `docker_config` or `helper`",
        ),
        (
            "\"clear\"",
            "t.toml:6:12: ",
            "`password` is a secret and must not stand in the file",
            "allow_plaintext = true",
        ),
        ("5", "t.toml:6:12: ", "`password` is a secret and must not stand in the file", "name its source"),
        ("\"\"\nallow_plaintext = true", "t.toml:6:12: ", "registry `r`: `password` is empty", ""),
    ] {
        let text = format!("{GENERIC}username = \"u\"\npassword = {source}\n");
        let errors = load(&text, &environment(&[("EMPTY", "\n")])).expect_err(source);
        assert_eq!(errors.problems.len(), 1, "{}", errors.render());
        let problem = &errors.problems[0];
        let said = problem.to_string();
        assert!(said.starts_with(place) && said.contains(message), "{source}\n{said}");
        assert!(problem.fix().unwrap_or_default().contains(help), "{source}\n{:?}", problem.fix());
    }
}

#[test]
fn no_mistake_shows_a_secret() {
    let ghcr = "[[registry]]\nname = \"a\"\nkind = \"ghcr\"\n";
    for (line, piece) in [
        // In clear, where a source belongs.
        (format!("password = \"{CANARY}\""), "must not stand in the file"),
        (format!("password = \"\"\"\n{CANARY}\"\"\""), "must not stand in the file"),
        (format!("password = [\"{CANARY}\"]"), "must not stand in the file"),
        (format!("password = {{ env = \"{CANARY}\" }}"), "is no name of an environment variable"),
        (format!("password = {{ file = \"{{ 'key': '{CANARY}' }}\" }}"), "is no path of a file"),
        (format!("password = {{ file = \"a\\n{CANARY}\" }}"), "is no path of a file"),
        (format!("password = {{ value = \"{CANARY}\" }}"), "`value` is no source of secrets"),
        (format!("password = {{ env = \"PW\", value = \"{CANARY}\" }}"), "needs one source"),
        (format!("password = {{ env = [\"{CANARY}\"] }}"), "has to be text"),
        (format!("password = {{ helper = \"{CANARY}/\" }}"), "is no name of a credential helper"),
        (format!("password = {{ docker_config = \"{{ {CANARY} }}\" }}"), "is no path of a file"),
        // Under a misspelt key, beside and below another mistake.
        (format!("pasword = \"{CANARY}\""), "did you mean `password`?"),
        (format!("\"pass word\" = \"{CANARY}\""), "has no key `pass word`"),
        (format!("password = \"{CANARY}\"\ncolour = 1"), "has no key `colour`"),
        (format!("colour = 1\npassword = \"{CANARY}\" # {CANARY}"), "has no key `colour`"),
        (format!("colour = 1 # was {CANARY}"), "has no key `colour`"),
        (format!("api_token = \"{CANARY}\""), "that is a field of kind digitalocean"),
        (format!("organization = \"a//b\" # {CANARY}"), "registry `a`"),
        // With a user name, and in a URL.
        (format!("email = \"me:{CANARY}\"\npassword = {{ env = \"PW\" }}"), "must not contain a colon"),
        (format!("endpoints = [\"https://me:{CANARY}@a.example\"]"), "must not carry a user name"),
        (format!("token_realms = \"https://me:{CANARY}@a.example\""), "must not carry a user name"),
        // In a broken file.
        (format!("password = {CANARY}"), "this is no TOML"),
        (format!("password = \"{CANARY}"), "this is no TOML"),
        (format!("password = \"{CANARY}\" \"{CANARY}\""), "this is no TOML"),
        (CANARY.to_owned(), "this is no TOML"),
        (format!("password = \"a\"\npassword = \"{CANARY}\""), "this is no TOML"),
    ] {
        refused(&format!("{ghcr}{line}\n"), piece);
    }
    for (text, piece) in [
        (format!("{GENERIC}username = \"u:{CANARY}\"\npassword = {{ env = \"PW\" }}\n"), "must not contain a colon"),
        (format!("{GENERIC}password = \"{CANARY}\"\nallow_plaintext = true\n"), "a password without a user name"),
        (format!("{GENERIC}colour = 1\npassword = \"{CANARY}\"\nallow_plaintext = true\n"), "has no key `colour`"),
        (format!("[server]\npublic_url = \"https://me:{CANARY}@a\"\n"), "must not carry a user name"),
        (format!("[server]\npublic_url = \"me:{CANARY}@a\"\n"), "it is no URL"),
        (format!("registry = [{{ name = \"a\", password = \"{CANARY}\" }}]\n"), "needs a `kind`"),
        (format!("registry = {{ name = \"a\", password = \"{CANARY}\" }}\n"), "as a table of its own"),
        (format!("[[client]]\nname = \"a\"\npassword_hash = \"{CANARY}\"\n"), "no argon2id hash"),
        (format!("[[client]]\nname = \"a\"\ntoken_hash = \"{CANARY}\"\n"), "no SHA-256"),
        (format!("[[client]]\nname = \"a\"\npassword = \"{CANARY}\"\n"), "has no key `password`"),
        ("[cache]\nmax_size = \"x\"\n".to_owned(), "has no key `pw`"),
    ] {
        refused(&text, piece);
    }
}

#[test]
fn what_is_loaded_does_not_print_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, format!("{CANARY}\n")).unwrap();
    let path = path.display();
    let text = format!(
        "[[registry]]\nname = \"a\"\nkind = \"digitalocean\"\nregistry_name = \"a\"\napi_token = {{ env = \"PW\" }}\n\
         [[registry]]\nname = \"b\"\nkind = \"ghcr\"\npassword.file = \"{path}\"\n\
         [[registry]]\nname = \"c\"\nkind = \"quay\"\nusername = \"<token>\"\npassword = {{ env = \"PW\" }}\n\
         [[registry]]\nname = \"d\"\nkind = \"generic\"\nurl = \"https://d.example\"\nusername = \"u\"\n\
         password = \"{CANARY}\"\nallow_plaintext = true\n"
    );
    let settings = load(&text, &environment(&[("PW", CANARY)])).unwrap();
    for registry in settings.registries.iter().filter(|registry| !registry.is_implied) {
        let secret = registry.credential.sources().next().unwrap().secret();
        assert_eq!(secret.expose(), CANARY, "{}", registry.name);
    }
    for shown in [format!("{settings:?}"), format!("{settings:#?}")] {
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn a_secret_in_clear_is_for_development_with_a_generic_registry() {
    let clear = "username = \"u\"\npassword = \"clear\"\nallow_plaintext = true\n";
    assert!(parse(&format!("{GENERIC}{clear}")).is_ok());
    assert!(parse(&format!("{GENERIC}{}", clear.replace("true", "false"))).is_err());
    let azure = GENERIC.replace("kind = \"generic\"", "kind = \"azure\"");
    let errors = parse(&format!("{azure}{clear}")).unwrap_err();
    let said: Vec<String> = errors.problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("t.toml:6:12: registry `r`: `password` is a secret"), "{said:?}");
    assert!(said[1].starts_with("t.toml:7:1: [[registry]] has no key `allow_plaintext`"), "{said:?}");
}

#[test]
fn each_source_becomes_a_recipe_that_says_where_the_secret_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, config) = (dir.path().join("secret"), dir.path().join("config.json"));
    std::fs::write(&secret, "one\n").unwrap();
    std::fs::write(&config, r#"{"auths": {"r.example.com": {"username": "me", "password": "pw"}}}"#).unwrap();
    let with = |lines: &str| load(&format!("{GENERIC}{lines}\n"), &environment(&[("PW", "p")]));
    let credential = |lines: &str| with(lines).unwrap().registries[0].credential.clone();
    let file = credential(&format!("username = \"u\"\npassword = {{ file = \"{}\" }}", secret.display()));
    assert!(matches!(file.sources().next(), Some(Source::File { last, .. }) if last.expose() == "one"));
    let helper = credential("password = { helper = \"ecr-login\" }");
    assert!(matches!(helper, Credential::Helper { helper, .. } if helper.program() == "docker-credential-ecr-login"));
    let docker = format!("password = {{ docker_config = \"{}\" }}", config.display());
    assert!(matches!(credential(&docker), Credential::DockerConfig { username: None, .. }));
    assert!(with(&format!("username = \"me\"\n{docker}")).is_ok());
    let errors = with(&format!("username = \"you\"\n{docker}")).unwrap_err();
    let said = errors.problems[0].to_string();
    assert!(
        said.starts_with("t.toml:5:12: registry `r`: the file of `password` has the login of another user"),
        "{said}"
    );
}

#[test]
fn where_a_cloud_is_signed_in_to_is_checked_as_a_url_is() {
    let ecr = "[[registry]]\nname = \"e\"\nkind = \"ecr\"\nurl = \"https://public.ecr.aws\"\naccess_key_id = \"AKIA\"\n\
               secret_access_key = { env = \"PW\" }\n";
    let variables = environment(&[("PW", CANARY)]);
    assert!(load(ecr, &variables).is_ok());
    for (line, piece) in [
        ("sign_in_endpoint = \"http://sts.example\"", "http://sts.example is plain HTTP"),
        ("sign_in_endpoint = \"https://169.254.169.254\"", "https://169.254.169.254 is not a public address"),
        ("sign_in_endpoint = \"sts.example\"", "not a URL"),
        ("region = \"us.evil/\"", "cannot be part of a host name"),
        ("password = { env = \"PW\" }", "give the one or the other"),
        ("session_token = { helper = \"x\" }", "is no login"),
    ] {
        let errors = load(&format!("{ecr}{line}\n"), &variables).expect_err(line);
        let said = everything_said(&errors);
        assert!(said.contains(piece) && errors.problems.len() == 1 && !said.contains("canary"), "{line}\n{said}");
    }
    let key = ecr.replace("\"AKIA\"", &format!("\"{CANARY}\""));
    let said = everything_said(&load(&key, &variables).unwrap_err());
    assert!(said.contains("letters and digits") && !said.contains("canary"), "{said}");
}
