//! `config/transship.toml`: it is the defaults, knows every key, and each of
//! its examples works.

use std::path::Path;

use super::super::{load, section};
use super::{DEFAULT_FILE, Environment, Settings, environment, parse, problems};
use crate::registry::{Credential, Kind, Registry};
use crate::store::Contents;

/// The blocks of a commented `[[registry]]`, `[[client]]` or `[server.tls]`,
/// without their comment signs.
fn examples() -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in DEFAULT_FILE.lines() {
        let bare = line.strip_prefix("# ").filter(|_| inside || (line.starts_with("# [") && line.ends_with(']')));
        inside = bare.is_some();
        match bare {
            Some(bare) if bare.starts_with('[') => blocks.push(format!("{bare}\n")),
            Some(bare) => blocks.last_mut().unwrap().push_str(&format!("{bare}\n")),
            None => {}
        }
    }
    blocks
}

/// A directory with all files that the examples name, and a variable for
/// every secret that they take from the environment.
struct Stage {
    dir: tempfile::TempDir,
    variables: Environment,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        write("server.crt", &pair.cert.pem());
        write("server.key", &pair.signing_key.serialize_pem());
        write("clients-ca.crt", &pair.cert.pem());
        write("internal-ca.crt", &pair.cert.pem());
        write("internal-client.crt", &pair.cert.pem());
        write("internal-client.key", &pair.signing_key.serialize_pem());
        super::private(&dir.path().join("internal-client.key"));
        write("gcr-key.json", "{\n  \"type\": \"service_account\"\n}\n");
        let names = DEFAULT_FILE.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next());
        Stage { variables: names.map(|name| (name.to_owned(), format!("secret-of-{name}"))).collect(), dir }
    }

    fn parse(&self, text: &str) -> Settings {
        // Who is known by a certificate needs the table that asks for one.
        let all = examples();
        let tls = all.iter().find(|example| example.starts_with("[server.tls]")).unwrap();
        let text = match text.contains("certificate = \"CN=") && !text.contains(tls) {
            true => format!("{tls}{text}"),
            false => text.to_owned(),
        };
        let here = self.dir.path().to_str().unwrap();
        let text = text.replace("/run/secrets/", &format!("{here}/")).replace("\"certs/", &format!("\"{here}/"));
        Settings::parse("example.toml", &text, &self.variables).unwrap_or_else(|errors| panic!("{}", errors.render()))
    }
}

#[test]
fn the_commented_default_is_the_defaults() {
    // Written down or implied, it is the same registry.
    let shown = |settings: &Settings| format!("{settings:#?}").replace("is_implied: true", "is_implied: false");
    let implied = load::settings(None, &Environment::new(), &Contents::default()).unwrap();
    assert_eq!(shown(&parse(DEFAULT_FILE).unwrap()), shown(&implied));
    assert_eq!(shown(&parse("").unwrap()), shown(&implied));
}

#[test]
fn the_commented_default_shows_every_key() {
    let keys_of = |text: &str| -> Vec<String> {
        let all = problems(text);
        let known = all.iter().filter_map(|problem| problem.fix()?.strip_prefix("known here: "));
        known.flat_map(|keys| keys.split(", ").map(str::to_owned)).collect()
    };
    // Not supported yet: known only to be refused.
    let refused: [&str; 0] = [];
    let shown = |key: &str| {
        let key = format!("{key} =");
        DEFAULT_FILE.lines().any(|line| line.strip_prefix("# ").unwrap_or(line).starts_with(&key))
    };
    for section in ["[server]", "[admin]", "[cache]", "[limits]", "[upstream]", "[log]", "[[client]]"] {
        let keys = keys_of(&format!("{section}\nzzzzzzzzzzzzzzzzzzzz = 1"));
        assert!(!keys.is_empty(), "{section}");
        for key in keys.iter().filter(|key| *key != "tls" && !refused.contains(&key.as_str())) {
            assert!(shown(key), "{section} {key}");
        }
    }
    for kind in Kind::ALL {
        let keys = keys_of(&format!("[[registry]]\nname = \"a\"\nkind = \"{kind}\"\nzzzzzzzzzzzzzzzzzzzz = 1"));
        assert!(keys.len() > 13, "{kind}");
        for key in keys.iter().filter(|key| !refused.contains(&key.as_str())) {
            assert!(shown(key), "{kind} {key}");
        }
    }
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let reference = include_str!("../../../docs/configuration.md");
    let mut section = "";
    for line in DEFAULT_FILE.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, rest)) = bare.split_once(" = ").filter(|(key, _)| !key.contains(' ')) else { continue };
        assert!(reference.contains(&format!("`{key}`")), "{key}");
        if line.starts_with('#') || section.starts_with("[[") {
            continue;
        }
        let value = rest.split(" #").next().unwrap().trim();
        let chapter = reference.split(&format!("## `{section}`")).nth(1).unwrap().split("\n## ").next().unwrap();
        let row = chapter.lines().find(|row| row.starts_with(&format!("| `{key}` |"))).expect(key);
        assert!(row.contains(&format!("| `{value}` |")), "{section} {row}");
    }
}

#[test]
fn the_examples_for_runtimes_name_the_default_listener() {
    let daemon: serde_json::Value = serde_json::from_str(include_str!("../../../config/examples/daemon.json")).unwrap();
    assert_eq!(daemon, serde_json::json!({"registry-mirrors": ["http://127.0.0.1:5000"]}));
    let hosts: toml::Table = include_str!("../../../config/examples/hosts.toml").parse().unwrap();
    assert!(hosts["host"].get("http://127.0.0.1:5000").is_some());
    let registries: toml::Table = include_str!("../../../config/examples/registries.conf").parse().unwrap();
    for registry in registries["registry"].as_array().unwrap() {
        let location = registry["location"].as_str().unwrap();
        let mirror = registry["mirror"][0]["location"].as_str().unwrap();
        assert_eq!(mirror, format!("127.0.0.1:5000/{location}"));
    }
}

#[test]
fn every_example_works_without_its_comment_signs() {
    let (stage, examples) = (Stage::new(), examples());
    // Azure has two.
    // TLS, metrics, the registries, the clients.
    assert_eq!(examples.len(), 1 + 1 + Kind::ALL.len() + 1 + 4, "{examples:#?}");
    for example in &examples {
        stage.parse(example);
        stage.parse(&format!("{DEFAULT_FILE}\n{example}"));
    }
    let all = stage.parse(&format!("{DEFAULT_FILE}\n{}", examples.concat()));
    assert_eq!((all.registries.len(), all.clients.len()), (1 + Kind::ALL.len() + 1, 4));
    assert!(all.server.tls.is_some());
    for client in &all.clients {
        assert!(!client.grants.is_empty(), "{}", client.name);
    }
}

#[test]
fn every_registry_of_the_guide_to_credentials_works() {
    let guide = include_str!("../../../docs/credentials.md");
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    let quoted =
        |before: &str| -> Vec<&str> { guide.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect() };
    for name in quoted("file = \"/run/secrets/") {
        std::fs::write(dir.path().join(name), "secret\n").unwrap();
    }
    let login = r#"{"auths": {"ghcr.io": {"username": "me", "password": "pat"}}}"#;
    std::fs::write(dir.path().join("config.json"), login).unwrap();
    let variables = quoted("env = \"").into_iter().map(|name| (name.to_owned(), "secret".to_owned())).collect();
    let blocks = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let registries: Vec<&str> = blocks.filter(|block| block.starts_with("[[registry]]")).collect();
    assert!(registries.len() > 8);
    for block in registries {
        let text =
            block.replace("/run/secrets/", &format!("{here}/")).replace("/home/deploy/.docker/", &format!("{here}/"));
        let settings = Settings::parse("guide.toml", &text, &variables);
        let settings = settings.unwrap_or_else(|errors| panic!("{}", errors.render()));
        let named = settings.registries.iter().filter(|registry| !registry.is_implied);
        assert!(named.clone().count() > 0 && named.clone().all(|it| !it.credential.is_anonymous()), "{block}");
    }
}

fn shape(registry: &Registry) -> (String, String, String, &str, &str) {
    let secret = registry.credential.sources().next().map_or("-", |source| source.secret().expose());
    let user = match &registry.credential {
        Credential::Password { username, .. } => username.as_str(),
        Credential::TokenAsBoth(_) => "(the token)",
        Credential::Aws(key) => key.id.as_str(),
        Credential::Entra(app) => app.tenant.as_str(),
        _ => "-",
    };
    let prefix = registry.prefix.as_ref().map_or("-".to_owned(), ToString::to_string);
    (registry.name.display().to_owned(), registry.origin.to_string(), prefix, user, secret)
}

#[test]
fn every_kind_of_the_examples_is_the_connection_it_means() {
    let stage = Stage::new();
    let registries: Vec<_> =
        examples().iter().flat_map(|example| stage.parse(example).registries).filter(|it| !it.is_implied).collect();
    let shapes: Vec<_> = registries.iter().map(|registry| shape(registry)).collect();
    let hub = "https://registry-1.docker.io";
    let expected = [
        ("My-Example-DockerHub-Repository", hub, "example-repository", "example-user", "secret-of-DOCKERHUB_PASSWORD"),
        ("My-Example-GHCR", "https://ghcr.io", "example-org", "dev@example.com", "secret-of-GHCR_TOKEN"),
        (
            "My-Example-GCR",
            "https://us-west1-docker.pkg.dev",
            "project-name",
            "_json_key",
            "{\n  \"type\": \"service_account\"\n}",
        ),
        (
            "My-Example-DO-Registry",
            "https://registry.digitalocean.com",
            "your-registry-name",
            "(the token)",
            "secret-of-DIGITALOCEAN_TOKEN",
        ),
        (
            "My-Example-ACR",
            "https://example-registry.azurecr.io",
            "-",
            "example-application-id",
            "secret-of-AZURE_PASSWORD",
        ),
        (
            "My-Example-ACR-Entra",
            "https://example-registry.azurecr.io",
            "-",
            "example-directory-id",
            "secret-of-AZURE_PASSWORD",
        ),
        (
            "My-Example-ECR",
            "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "team",
            "AKIAIOSFODNN7EXAMPLE",
            "secret-of-AWS_KEY_SECRET",
        ),
        ("My-Example-Quay", "https://quay.io", "example-org", "example-org+robot", "secret-of-QUAY_PASSWORD"),
        ("My-Example-NGC", "https://nvcr.io", "nvidia/tao", "$oauthtoken", "secret-of-NGC_API_KEY"),
        (
            "My-Example-GitLab",
            "https://registry.gitlab.com",
            "example-group/example-project",
            "gitlab+deploy-token-1",
            "secret-of-GITLAB_DEPLOY_TOKEN",
        ),
        ("internal", "https://registry.internal:5000", "team", "robot", "secret-of-INTERNAL_PASSWORD"),
    ];
    let expected =
        expected.iter().map(|(name, at, of, user, s)| (name.to_string(), at.to_string(), of.to_string(), *user, *s));
    assert_eq!(shapes, expected.collect::<Vec<_>>());
    // A part of Docker Hub is not what a mirror stands for.
    assert!(registries.iter().all(|registry| !registry.is_default));
}

#[test]
fn a_variable_overrides_its_key() {
    let variables = environment(&[
        ("TRANSSHIP_SERVER_LISTEN", "127.0.0.1:1, [::1]:2"),
        ("TRANSSHIP_SERVER_EXPOSE_PRIVATE", "1"),
        ("TRANSSHIP_ADMIN_LISTEN", "127.0.0.1:3"),
        ("TRANSSHIP_CACHE_DIR", "/var/cache/elsewhere"),
        ("TRANSSHIP_CACHE_TAG_TTL", "5s"),
        ("TRANSSHIP_CACHE_PIN", "docker-hub/alpine:3.20, Docker-Hub/team/app"),
        ("TRANSSHIP_ADMIN_URL", "is for the commands that talk to a proxy"),
        ("TRANSSHIP_LIMITS_MAX_FILLS", "7"),
        ("TRANSSHIP_LOG_FORMAT", "json"),
        ("TRANSSHIP_CONFIG", "is not a key of a section"),
    ]);
    let settings = Settings::parse("t.toml", DEFAULT_FILE, &variables).unwrap();
    assert_eq!(settings.server.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!(settings.admin.listen, "127.0.0.1:3".parse().unwrap());
    assert_eq!(settings.public_url.as_str(), "http://localhost:1/");
    assert_eq!(settings.cache.dir, Path::new("/var/cache/elsewhere"));
    assert_eq!(settings.registries[0].tag_ttl.as_secs(), 5);
    assert_eq!(settings.cache.max_fills, 7);
    let pins: Vec<_> = settings.pins.iter().map(ToString::to_string).collect();
    assert_eq!(pins, ["docker-hub/alpine:3.20", "Docker-Hub/team/app:latest"]);
    assert!(matches!(settings.log.format, crate::telemetry::LogFormat::Json));
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    for (name, value, piece) in [
        ("TRANSSHIP_SERVER_LISTEN", "here", "`here` is no address"),
        ("TRANSSHIP_CACHE_MAX_SIZE", "much", "`much` is no size"),
        ("TRANSSHIP_SERVER_LISSEN", "127.0.0.1:1", "[server] has no key `lissen`"),
        ("TRANSSHIP_SERVER_EXPOSE_PRIVATE", "yes", "`expose_private` has to be true or false"),
    ] {
        let variables: section::Environment = environment(&[(name, value)]);
        let errors = Settings::parse("t.toml", "", &variables).unwrap_err();
        assert_eq!(errors.problems.len(), 1, "{}", errors.render());
        let said = errors.problems[0].to_string();
        assert!(said.starts_with(&format!("environment variable {name}: ")) && said.contains(piece), "{said}");
    }
}

#[test]
fn numbers_may_be_written_in_every_way_of_toml() {
    for text in ["0x10", "0o20", "0b10000", "1_6", "\"16\""] {
        let settings = parse(&format!("[limits]\nmax_fills = {text}")).unwrap();
        assert_eq!(settings.cache.max_fills, 16, "{text}");
    }
}
