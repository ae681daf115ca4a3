use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::Settings;

const REGISTRIES: &str = r#"
[[registry]]
name = "docker-hub"
kind = "docker-hub"
default = true
[[registry]]
name = "My-Example-GHCR"
kind = "ghcr"
organization = "example-org"
[[registry]]
name = "My-Example-GCR"
kind = "google"
region = "us-west1"
project = "project-name"
"#;

fn through(url: &str) -> Through {
    let settings = Settings::parse("t.toml", REGISTRIES, &BTreeMap::new()).unwrap();
    Through::new(&url.parse().unwrap(), settings.registries).unwrap()
}

/// The document, turned; turning it again changes nothing.
#[track_caller]
fn turned(text: &str) -> Rewritten {
    let through = through("http://localhost:5000");
    let done = rewrite(text, &through, Pairs::Resolve).unwrap();
    let again = rewrite(&done.text, &through, Pairs::Resolve).unwrap();
    assert_eq!((again.text.as_str(), again.edits.len()), (done.text.as_str(), 0), "twice is once");
    done
}

#[track_caller]
fn becomes(before: &str, after: &str) {
    assert_eq!(turned(before).text, after);
}

#[track_caller]
fn stays(text: &str) -> Vec<String> {
    let done = turned(text);
    assert_eq!(done.text, text);
    done.notes.into_iter().map(|note| format!("{}:{}: {}", note.line, note.column, note.message)).collect()
}

#[track_caller]
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = rewrite(text, &through("http://localhost:5000"), Pairs::Resolve).unwrap_err();
    let line = |m: Remark| format!("{}:{}: {} ({})", m.line, m.column, m.message, m.fix.unwrap_or_default());
    mistakes.into_iter().map(line).collect()
}

#[test]
fn a_pair_becomes_its_reference_and_the_connection_goes() {
    becomes(
        "job:\n  image: ghcr.io/example-org/a:1  # the app\n  containerRegistry: My-Example-GHCR # whence\n  x: 1\n",
        "job:\n  image: localhost:5000/my-example-ghcr/a:1  # the app\n  x: 1\n",
    );
    becomes(
        "containerRegistry: \"my-example-ghcr\"\nimage: 'ghcr.io/example-org/a'",
        "image: 'localhost:5000/my-example-ghcr/a'",
    );
    becomes("image: alpine\ncontainerRegistry: docker-hub", "image: localhost:5000/docker-hub/library/alpine");
    becomes("image: alpine\r\ncontainerRegistry: docker-hub", "image: localhost:5000/docker-hub/library/alpine");
    let kept =
        rewrite("image: alpine\ncontainerRegistry: docker-hub\n", &through("http://localhost:5000"), Pairs::Keep);
    assert_eq!(kept.unwrap().text, "image: localhost:5000/docker-hub/library/alpine\ncontainerRegistry: docker-hub\n");
}

#[test]
fn a_connection_that_comes_first_in_an_item_goes_without_a_trace() {
    becomes(
        "- containerRegistry: docker-hub # c\n  image: a/b\n- x: 1\n",
        "- image: localhost:5000/docker-hub/a/b\n- x: 1\n",
    );
    becomes(
        "- containerRegistry: docker-hub # c\n  # about the image\n  image: a/b\n",
        "- \n  # about the image\n  image: localhost:5000/docker-hub/a/b\n",
    );
}

#[test]
fn flow_style_and_json_stay_what_they_are() {
    becomes("a: {image: a/b, containerRegistry: docker-hub}\n", "a: {image: localhost:5000/docker-hub/a/b}\n");
    becomes("a: {containerRegistry: docker-hub, image: a/b }\n", "a: {image: localhost:5000/docker-hub/a/b }\n");
    becomes(
        "{\n\t\"image\": \"a/b:1\",\n\t\"containerRegistry\": \"docker-hub\",\n\t\"x\": [1, \"\\u00e9\"]\n}\n",
        "{\n\t\"image\": \"localhost:5000/docker-hub/a/b:1\",\n\t\"x\": [1, \"\\u00e9\"]\n}\n",
    );
    // A solidus may be escaped in JSON.
    becomes("{\"image\":\"a\\/b:1\"}", "{\"image\":\"localhost:5000/docker-hub/a/b:1\"}");
    let long = "x".repeat(5000);
    becomes(
        &format!("{{\"image\":\"a/b\",\"x\":[\"{long}\"],\"y\":\"{long}\"}}"),
        &format!("{{\"image\":\"localhost:5000/docker-hub/a/b\",\"x\":[\"{long}\"],\"y\":\"{long}\"}}"),
    );
}

#[test]
fn quotes_blocks_ends_of_lines_and_byte_order_marks_stay() {
    for (before, after) in [
        ("image: a/b\r\n# ü\r\nx: 'é'\r\n", "image: localhost:5000/docker-hub/a/b\r\n# ü\r\nx: 'é'\r\n"),
        ("x: ümläut\nimage:   \"a/b\"   # c\n", "x: ümläut\nimage:   \"localhost:5000/docker-hub/a/b\"   # c\n"),
        ("image: >- # a/b\n  a/b:1\nx: 1\n", "image: >- # a/b\n  localhost:5000/docker-hub/a/b:1\nx: 1\n"),
        ("image: |\n  a/b\n", "image: |\n  localhost:5000/docker-hub/a/b\n"),
        ("\u{feff}image: a/b\n", "\u{feff}image: localhost:5000/docker-hub/a/b\n"),
        ("image:\n  a/b\n", "image:\n  localhost:5000/docker-hub/a/b\n"),
        ("image: !!str a/b\n", "image: !!str localhost:5000/docker-hub/a/b\n"),
        ("? image\n: a/b\n", "? image\n: localhost:5000/docker-hub/a/b\n"),
        (
            "--- \nimage: a/b\n...\n---\nimage: c/d",
            "--- \nimage: localhost:5000/docker-hub/a/b\n...\n---\nimage: localhost:5000/docker-hub/c/d",
        ),
    ] {
        becomes(before, after);
    }
    for nothing in ["", "\n", "# only a comment\n", "---\n", "image:\n", "image: ~\n", "a: [b, c]\n"] {
        assert!(stays(nothing).is_empty(), "{nothing}");
    }
}

#[test]
fn an_address_in_brackets_is_quoted_where_it_was_plain() {
    let done = rewrite("image: a/b:1\n", &through("http://[::1]:5000"), Pairs::Resolve).unwrap();
    assert_eq!(done.text, "image: \"[::1]:5000/docker-hub/a/b:1\"\n");
    assert!(rewrite(&done.text, &through("http://[::1]:5000"), Pairs::Resolve).unwrap().edits.is_empty());
}

#[test]
fn an_anchored_image_is_turned_once_and_aliases_follow() {
    becomes(
        "x-img: &img ghcr.io/example-org/a\njobs:\n  a: {image: *img}\n  b:\n    image: *img\n    containerRegistry: My-Example-GHCR\n",
        "x-img: &img localhost:5000/my-example-ghcr/a\njobs:\n  a: {image: *img}\n  b:\n    image: *img\n",
    );
    let done = turned("a:\n  image: &i a/b\nb:\n  env: *i\n");
    assert_eq!(done.text, "a:\n  image: &i localhost:5000/docker-hub/a/b\nb:\n  env: *i\n");
    assert!(done.notes[0].message.contains("also used where no image is expected"));
}

#[test]
fn pairs_that_are_merged_are_pairs() {
    becomes(
        "base: &base\n  containerRegistry: My-Example-GHCR\n  cpu: 1\njob:\n  <<: *base\n  image: ghcr.io/example-org/a\n",
        "base: &base\n  cpu: 1\njob:\n  <<: *base\n  image: localhost:5000/my-example-ghcr/a\n",
    );
    becomes(
        "base: &base\n  image: ghcr.io/example-org/a\njob:\n  <<: [*base]\n  containerRegistry: My-Example-GHCR\n",
        "base: &base\n  image: localhost:5000/my-example-ghcr/a\njob:\n  <<: [*base]\n",
    );
    let said = mistakes(
        "i: &i ghcr.io/example-org/a\na: {image: *i, containerRegistry: My-Example-GHCR}\nb: {image: *i, containerRegistry: docker-hub}\n",
    );
    assert!(
        said[0].starts_with("3:35: `ghcr.io/example-org/a` is used with `My-Example-GHCR` and with `docker-hub`"),
        "{said:?}"
    );
}

#[test]
fn a_connection_that_others_need_stays_with_a_note() {
    let done = turned("a: {image: a/b, containerRegistry: &r docker-hub}\nb: {image: c/d, containerRegistry: *r}\n");
    assert_eq!(
        done.text,
        "a: {image: localhost:5000/docker-hub/a/b, containerRegistry: &r docker-hub}\nb: {image: localhost:5000/docker-hub/c/d}\n"
    );
    assert_eq!(done.notes[0].line, 1);
    // A template may be an image of the connection.
    becomes(
        "b: &b {containerRegistry: docker-hub, x: 1}\nc: {<<: *b, image: a/b}\nd: {<<: *b, image: $I}\n",
        "b: &b {containerRegistry: docker-hub, x: 1}\nc: {<<: *b, image: localhost:5000/docker-hub/a/b}\nd: {<<: *b, image: $I}\n",
    );
}

#[test]
fn templates_are_left_alone_but_for_those_of_tags() {
    becomes("image: a/b:${TAG:-1}\n", "image: localhost:5000/docker-hub/a/b:${TAG:-1}\n");
    becomes("image: \"a/b:${{ github.sha }}\"\n", "image: \"localhost:5000/docker-hub/a/b:${{ github.sha }}\"\n");
    let said = stays("image: ${IMG}\nb:\n  - image: {{ .Values.image }}\n  - image: \"{{ .x }}:1\"\n");
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[0], "1:8: `${IMG}` is left as it is: a template fills in its name");
    assert_eq!(stays("image: a/b\ncontainerRegistry: ${REG}\n").len(), 1);
}

#[test]
fn kubernetes_objects_are_turned_in_their_pod_specifications_only() {
    let pod = "containers:\n  - {name: a, image: a/b}\ninitContainers:\n  - {image: c/d}\nephemeralContainers:\n  - {image: e/f}\n\
               volumes:\n  - {name: v, image: {reference: g/h}}\n";
    let indented = |depth: usize| pod.lines().map(|l| format!("{}{l}\n", " ".repeat(depth))).collect::<String>();
    for (kind, head, depth) in [
        ("Pod", "spec:\n", 2),
        ("PodTemplate", "template:\n  spec:\n", 4),
        ("Deployment", "spec:\n  template:\n    spec:\n", 6),
        ("StatefulSet", "spec:\n  template:\n    spec:\n", 6),
        ("DaemonSet", "spec:\n  template:\n    spec:\n", 6),
        ("ReplicaSet", "spec:\n  template:\n    spec:\n", 6),
        ("Job", "spec:\n  template:\n    spec:\n", 6),
        ("CronJob", "spec:\n  jobTemplate:\n    spec:\n      template:\n        spec:\n", 10),
    ] {
        let object = format!("apiVersion: v1\nkind: {kind}\nimage: not/this\n{head}{}", indented(depth));
        let done = turned(&object);
        let expected = ["a/b", "c/d", "e/f", "g/h"]
            .iter()
            .fold(object.clone(), |text, image| text.replace(image, &format!("localhost:5000/docker-hub/{image}")));
        assert_eq!(done.text, expected);
    }
    becomes(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  spec: {containers: [{image: a/b}]}\n",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  spec: {containers: [{image: localhost:5000/docker-hub/a/b}]}\n",
    );
    for other in [
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  image: a/b\n  values.yaml: |\n    image: a/b\n",
        "apiVersion: v1\nkind: Secret\nstringData: {image: a/b}\n",
        "apiVersion: example.com/v1\nkind: Gallery\nspec: {image: a/b, containers: [{image: a/b}]}\n",
    ] {
        assert!(stays(other).is_empty(), "{other}");
    }
}

#[test]
fn compose_services_are_turned_unless_they_are_built() {
    becomes(
        "x-b: &b {image: a/b}\nservices:\n  one: {<<: *b, labels: {image: not/this}}\n  two:\n    image: redis:7\n",
        "x-b: &b {image: localhost:5000/docker-hub/a/b}\nservices:\n  one: {<<: *b, labels: {image: not/this}}\n  two:\n    \
         image: localhost:5000/docker-hub/library/redis:7\n",
    );
    let said = stays("services:\n  app:\n    build: .\n    image: example/app:dev\n");
    assert_eq!(
        said,
        ["4:12: `example/app:dev` is left as it is: the service is built, and this is what the result is called"]
    );
}

#[test]
fn values_of_helm_and_overrides_of_kustomize_are_turned() {
    becomes(
        "image:\n  registry: ghcr.io\n  repository: example-org/a\n  tag: 1\n",
        "image:\n  registry: localhost:5000\n  repository: my-example-ghcr/a\n  tag: 1\n",
    );
    becomes(
        "image:\n  registry: ''\n  repository: redis\n  tag: 1\n",
        "image:\n  registry: ''\n  repository: localhost:5000/docker-hub/library/redis\n  tag: 1\n",
    );
    becomes(
        "kind: Kustomization\nimages:\n- name: a/b\n  newName: ghcr.io/example-org/a\n  newTag: v1\n",
        "kind: Kustomization\nimages:\n- name: a/b\n  newName: localhost:5000/my-example-ghcr/a\n  newTag: v1\n",
    );
    assert_eq!(stays("resources: [x]\nimages:\n- name: a/b\n  newTag: v1\n").len(), 1);
}

#[test]
fn every_mistake_is_told_with_its_place_and_its_fix() {
    let said = mistakes(
        "a:\n  image: ghcr.io/example-org/a\n  containerRegistry: My-Exmple-GHCR\nb:\n  image: quay.io/a/b\nc: {image: \
         ghcr.io/other/a, containerRegistry: my-example-ghcr}\nd: {image: 'ghcr.io/example-org/a', containerRegistry: docker-hub}\n",
    );
    for (said, start, fix) in [
        (&said[0], "3:22: there is no registry `My-Exmple-GHCR`", "(did you mean `My-Example-GHCR`?)"),
        (&said[1], "5:10: no registry is configured for quay.io", "(add a registry for quay.io)"),
        (&said[2], "6:12: `ghcr.io/other/a` is no image of registry `My-Example-GHCR`, which is", "no other registry"),
        (&said[3], "7:12: `ghcr.io/example-org/a` is no image of registry `docker-hub`", "registry `My-Example-GHCR`"),
    ] {
        assert!(said.starts_with(start) && said.contains(fix), "{said}");
    }
    assert_eq!(said.len(), 4);
    let said = mistakes("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'a b'}]}\n");
    assert!(said[0].starts_with("3:29: `a b`: not an image reference"), "{said:?}");
    let said = mistakes("ü: 1\nimage: [a\n");
    assert!(said[0].contains("neither YAML nor JSON"), "{said:?}");
    assert!(mistakes("a: {{ .x }}-y\n")[0].contains("a Helm template is no YAML"));
    assert!(mistakes("a: *nothing\n")[0].starts_with("1:4: neither YAML nor JSON"));
}

#[test]
fn what_reads_as_no_image_outside_of_pods_and_services_is_left() {
    let said = stays("image: https://example.com/a.png\nb:\n  image: /img/B.png\n");
    assert_eq!(said.len(), 2, "{said:?}");
    stays("description: |\n  image: a/b\nimages: [a/b]\nxs: [image, a/b]\n");
}

#[test]
fn a_document_that_refers_to_itself_a_thousandfold_takes_no_longer_than_to_read_it() {
    let mut bomb = "a0: &a0 {image: a/b}\n".to_owned();
    for level in 1..2000 {
        let before = level - 1;
        bomb +=
            &format!("a{level}: &a{level} {{<<: [*a{before}, *a{before}], x: [*a{before}, *a{before}, *a{before}]}}\n");
    }
    let done = turned(&bomb);
    assert_eq!(done.edits.len(), 1);
    assert!(mistakes(&"[".repeat(100_000))[0].contains("neither YAML nor JSON"));
    assert!(mistakes(&"- ".repeat(100_000))[0].contains("neither YAML nor JSON"));
    let own = "apiVersion: v1\nkind: List\nitems: &i [{apiVersion: v1, kind: List, items: *i}]\n";
    let _ = rewrite(own, &through("http://localhost:5000"), Pairs::Resolve);
}

/// A piece of a workflow spec: its text, and its text once turned.
fn piece() -> impl Strategy<Value = (String, String)> {
    let quote = prop::sample::select(vec!["", "'", "\""]);
    let rest = prop::sample::select(vec!["", ":1", ":${TAG}", ":1@${D}"]);
    let comment = prop::sample::select(vec!["", " # image: x", "   #ü", "  "]);
    let other = "[ -~]{0,20}".prop_map(|text| format!("  # {text}\n"));
    let image = prop::sample::select(vec![
        ("ghcr.io/example-org/a", "my-example-ghcr/a", "My-Example-GHCR"),
        ("a/b", "docker-hub/a/b", "docker-hub"),
        ("us-west1-docker.pkg.dev/project-name/r/i", "my-example-gcr/r/i", "My-Example-GCR"),
    ]);
    (quote, rest, comment, other, image, 0..3_usize).prop_map(
        |(q, rest, comment, other, (image, name, registry), pair)| {
            let before =
                if pair == 1 { format!("  containerRegistry: {q}{registry}{q}{comment}\n") } else { String::new() };
            let after =
                if pair == 2 { format!("  containerRegistry: {q}{registry}{q}{comment}\n") } else { String::new() };
            let old = format!("{before}{other}  image: {q}{image}{rest}{q}{comment}\n{other}{after}");
            let new = format!("{other}  image: {q}localhost:5000/{name}{rest}{q}{comment}\n{other}");
            (old, new)
        },
    )
}

proptest! {
    #[test]
    fn every_byte_outside_the_changed_values_stays(
        pieces in prop::collection::vec(piece(), 0..5), crlf in any::<bool>(), cut in any::<bool>(),
    ) {
        let (mut old, mut new) = ("# head\n".to_owned(), "# head\n".to_owned());
        for (index, (before, after)) in pieces.iter().enumerate() {
            old += &format!("job-{index}:\n{before}  last: 1\n");
            new += &format!("job-{index}:\n{after}  last: 1\n");
        }
        let finish = |text: String| {
            let text = if crlf { text.replace('\n', "\r\n") } else { text };
            if cut { text.trim_end_matches(['\r', '\n']).to_owned() } else { text }
        };
        let (old, new) = (finish(old), finish(new));
        let through = through("http://localhost:5000");
        let done = rewrite(&old, &through, Pairs::Resolve).unwrap();
        prop_assert_eq!(&done.text, &new);
        prop_assert!(rewrite(&new, &through, Pairs::Resolve).unwrap().edits.is_empty());
    }

    #[test]
    fn no_text_whatever_brings_it_down(text in "([a-z:{}\\[\\],&*!|>'\"#%@\\\\ \r\n\t-]|image: |- |\u{feff}|ü){0,60}") {
        let through = through("http://localhost:5000");
        if let Ok(done) = rewrite(&text, &through, Pairs::Resolve) {
            let again = rewrite(&done.text, &through, Pairs::Resolve);
            prop_assert!(again.is_ok_and(|again| again.edits.is_empty()), "{:?} -> {:?}", text, done.text);
        }
    }
}
