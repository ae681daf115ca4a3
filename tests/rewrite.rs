//! `transship rewrite` turns the images of files to go through the proxy, and
//! changes nothing besides: no other byte, no mode, no link.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Output, Stdio};

use tempfile::TempDir;

use crate::support::process::bounded;

/// One registry of each form of the documentation; no secret is there.
const CONFIG: &str = r#"
[[registry]]
name = "docker-hub"
kind = "docker-hub"
default = true
[[registry]]
name = "My-Example-DO-Registry"
kind = "digitalocean"
registry_name = "your-registry-name"
api_token = { env = "ABSENT" }
[[registry]]
name = "My-Example-DockerHub-Repository"
kind = "docker-hub"
namespace = "example-repository"
username = "me"
password = { env = "ABSENT" }
[[registry]]
name = "My-Example-GCR"
kind = "google"
region = "us-west1"
project = "project-name"
json_key = { file = "/absent" }
[[registry]]
name = "My-Example-GHCR"
kind = "ghcr"
organization = "example-org"
email = "dev@example.com"
password = { env = "ABSENT" }
[[registry]]
name = "My-Example-ACR"
kind = "azure"
url = "https://example-registry.azurecr.io"
namespace = "/"
username = "id"
password = { env = "ABSENT" }
"#;

const SPEC: &str = "\
# A workflow of five connections and a public image.
jobs:
  ocean:   # DigitalOcean
    image: registry.digitalocean.com/your-registry-name/image:tag
    containerRegistry: My-Example-DO-Registry
  hub:
    containerRegistry: My-Example-DockerHub-Repository   # first
    image:   example-repository/streamlit-app:latest
  google: {image: 'us-west1-docker.pkg.dev/project-name/repo-name/image:tag', containerRegistry: My-Example-GCR}
  github:
    image: \"ghcr.io/example-org/streamlit-app:latest\"   # quoted
    containerRegistry: \"My-Example-GHCR\"
  azure:
    image: example-registry.azurecr.io/streamlit-app:latest

    containerRegistry: My-Example-ACR
  public:
    image: tensorflow/tensorflow:2.7.0-gpu-jupyter
";

const TURNED: &str = "\
# A workflow of five connections and a public image.
jobs:
  ocean:   # DigitalOcean
    image: localhost:5000/my-example-do-registry/image:tag
  hub:
    image:   localhost:5000/my-example-dockerhub-repository/streamlit-app:latest
  google: {image: 'localhost:5000/my-example-gcr/repo-name/image:tag'}
  github:
    image: \"localhost:5000/my-example-ghcr/streamlit-app:latest\"   # quoted
  azure:
    image: localhost:5000/my-example-acr/streamlit-app:latest

  public:
    image: localhost:5000/docker-hub/tensorflow/tensorflow:2.7.0-gpu-jupyter
";

const WRONG: &str = "jobs:\n  a:\n    image: quay.io/a/b\n  b:\n    image: ghcr.io/example-org/a\n    containerRegistry: My-Exmple-GHCR\n";

/// A directory with files to rewrite.
struct Desk(TempDir);

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn new(files: &[(&str, &str)]) -> Desk {
        let desk = Desk(tempfile::tempdir().unwrap());
        desk.put("transship.toml", CONFIG);
        files.iter().for_each(|(name, text)| desk.put(name, text));
        desk
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    #[track_caller]
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Said {
        self.feed(arguments, "")
    }

    fn feed(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = bounded(env!("CARGO_BIN_EXE_transship"), self.0.path());
        command.args(["rewrite", "--config", "transship.toml"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }
}

#[test]
fn each_pair_of_the_documentation_is_turned_and_twice_is_once() {
    let desk = Desk::new(&[("spec.yaml", SPEC)]);
    let said = desk.run(&["spec.yaml"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), "6 values changed in 1 file\n"));
    assert_eq!(desk.read("spec.yaml"), TURNED);
    let again = desk.run(&["spec.yaml"]);
    assert_eq!(
        (again.code, again.stdout.as_str(), again.stderr.as_str()),
        (Some(0), "", "nothing to change in 1 file\n")
    );
    assert_eq!(desk.read("spec.yaml"), TURNED);
}

#[test]
fn the_diff_that_is_shown_is_what_patch_would_apply() {
    let desk = Desk::new(&[("spec.yaml", SPEC), ("other.yaml", "image: a/b\r\nlast: 1")]);
    let said = desk.run(&["--diff", "spec.yaml", "other.yaml"]);
    assert_eq!(said.code, Some(0));
    assert!(!said.stdout.contains('\x1b'), "no colours but on a terminal");
    assert!(said.stdout.starts_with("--- spec.yaml\n+++ spec.yaml\n@@ -1,"), "{}", said.stdout);
    assert_eq!((desk.read("spec.yaml").as_str(), desk.read("other.yaml").as_str()), (SPEC, "image: a/b\r\nlast: 1"));
    // Applied by hand: context and `+` lines make the new text.
    let new: String = said
        .stdout
        .split("--- other.yaml")
        .next()
        .unwrap()
        .split_inclusive('\n')
        .skip(3)
        .filter(|line| line.starts_with(['+', ' ']))
        .map(|line| &line[1..])
        .collect();
    assert_eq!(new, TURNED);
}

#[test]
fn check_writes_nothing_and_fails_exactly_when_something_would_change() {
    let desk = Desk::new(&[("spec.yaml", SPEC), ("done.yaml", TURNED)]);
    let said = desk.run(&["--check", "spec.yaml", "done.yaml"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("+    image: localhost:5000/my-example-do-registry/image:tag\n"));
    assert_eq!(desk.read("spec.yaml"), SPEC);
    assert_eq!(desk.run(&["--check", "done.yaml"]).code, Some(0));
    assert_eq!(desk.run(&["--check", "--diff", "done.yaml"]).code, Some(2));
}

#[test]
fn standard_input_goes_to_standard_output() {
    let desk = Desk::new(&[]);
    let said = desk.feed(&["-"], SPEC);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), TURNED));
    let said = desk.feed(&["--check", "-"], SPEC);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.starts_with("--- <stdin>\n"));
    assert_eq!(desk.feed(&["-"], WRONG).stdout, "", "half a document is none");
}

#[test]
fn with_any_mistake_nothing_is_written_and_all_of_them_are_told() {
    let desk = Desk::new(&[("spec.yaml", SPEC), ("wrong.yaml", WRONG), ("bad.json", "{\"image\": [}")]);
    let said = desk.run(&["spec.yaml", "wrong.yaml", "bad.json", "absent.yaml"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    for piece in [
        "wrong.yaml:3:12: no registry is configured for quay.io, so `quay.io/a/b` cannot come through this proxy\n  help: add a registry for quay.io\n",
        "wrong.yaml:6:24: there is no registry `My-Exmple-GHCR`\n  help: did you mean `My-Example-GHCR`?\n",
        "bad.json:1:11: neither YAML nor JSON: ",
        "absent.yaml: cannot be read: No such file",
        "\n4 mistakes; nothing was written\n",
    ] {
        assert!(said.stderr.contains(piece), "{piece}\n{}", said.stderr);
    }
    assert_eq!(desk.read("spec.yaml"), SPEC);
}

#[test]
fn mode_and_links_stay_and_nothing_lies_about_afterwards() {
    let desk = Desk::new(&[("spec.yaml", SPEC)]);
    let (file, link) = (desk.0.path().join("spec.yaml"), desk.0.path().join("link.yaml"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("spec.yaml", &link).unwrap();
    // By both names, and still turned once.
    let said = desk.run(&["link.yaml", "spec.yaml"]);
    assert_eq!(said.stderr, "6 values changed in 1 file\n");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!((desk.read("spec.yaml").as_str(), fs::metadata(&file).unwrap().mode() & 0o7777), (TURNED, 0o640));
    assert_eq!(fs::read_dir(desk.0.path()).unwrap().count(), 3);
}

#[test]
fn what_is_not_text_is_refused_with_its_place() {
    let desk = Desk::new(&[]);
    fs::write(desk.0.path().join("b.yaml"), b"a: 1\nb: \xff\n").unwrap();
    let said = desk.run(&["b.yaml", "."]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("b.yaml:2:4: this is not UTF-8\n"), "{}", said.stderr);
    assert!(said.stderr.contains(".: cannot be read: it is no regular file\n"), "{}", said.stderr);
}

#[test]
fn notes_say_what_was_left_and_why() {
    let desk = Desk::new(&[(
        "compose.yaml",
        "services:\n  a: {build: ., image: \"x/a:dev\"}\n  b:\n    image: ${B}\n  c:\n    image: redis:${TAG:-7}\n",
    )]);
    let said = desk.run(&["compose.yaml"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.stderr.contains("compose.yaml:2:24: note: `\"x/a:dev\"` is left as it is: the service is built"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("compose.yaml:4:12: note: `${B}` is left as it is: a template"), "{}", said.stderr);
    assert!(desk.read("compose.yaml").ends_with("image: localhost:5000/docker-hub/library/redis:${TAG:-7}\n"));
}

#[test]
fn the_connection_stays_beside_its_image_if_told_so() {
    let desk = Desk::new(&[("spec.yaml", SPEC)]);
    assert_eq!(desk.run(&["--keep-registry", "spec.yaml"]).code, Some(0));
    let kept = desk.read("spec.yaml");
    assert_eq!(kept.matches("containerRegistry").count(), 5);
    assert_eq!(desk.run(&["--keep-registry", "--check", "spec.yaml"]).code, Some(0));
    desk.run(&["spec.yaml"]);
    assert_eq!(desk.read("spec.yaml"), TURNED);
}
