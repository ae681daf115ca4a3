//! `CASES.md` names tests that are there.

use std::path::Path;

#[test]
fn each_case_names_a_test_that_is_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let text = std::fs::read_to_string(tests.join("CASES.md")).unwrap();
    let names: Vec<(&str, &str)> = text.split('`').filter_map(|part| part.split_once("::")).collect();
    assert!(names.len() > 30, "{}", names.len());
    for (file, name) in names {
        let source = std::fs::read_to_string(tests.join(file).with_extension("rs")).unwrap_or_default();
        assert!(source.contains(&format!("#[test]\nfn {name}()")), "{file}::{name}");
    }
}
