//! `transship demo`: what a newcomer runs first keeps what it promises, within
//! seconds, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::process::{Outcome, bounded};

const PROGRAM: &str = env!("CARGO_BIN_EXE_transship");

/// A tour takes a few seconds; this is for machines that are slow and busy.
const GENEROUS: Duration = Duration::from_secs(60);

/// The figures of one row of the table: direct, cold, warm, storm.
#[track_caller]
fn row(output: &str, name: &str) -> [String; 4] {
    let line = output.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("no `{name}` in:\n{output}"));
    let cells = line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty());
    let figures: Vec<String> = cells.skip(1).map(str::to_owned).collect();
    figures.try_into().unwrap_or_else(|_| panic!("`{line}` has not four figures"))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_tour_shows_that_clients_need_no_credential_and_upstream_sends_each_blob_once() {
    let (home, temporary) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let start = Instant::now();
    let tour = Outcome::of(bounded(PROGRAM, home.path()).arg("demo").env("TMPDIR", temporary.path())).expect_ok();
    let (took, output) = (start.elapsed(), tour.text());
    println!("{output}");

    assert!(took < GENEROUS, "{took:?}");
    assert!(output.contains("refused with 401: the image is private"), "{output}");
    assert_eq!(row(&output, "for a blob (GET)"), ["0", "6", "0", "5"]);
    assert_eq!(row(&output, "for a token"), ["0", "1", "0", "0"]);
    assert_eq!(row(&output, "bytes the clients received"), ["0 B", "64.00 MiB", "64.00 MiB", "512.01 MiB"]);
    let [direct, cold, warm, storm] = row(&output, "bytes upstream sent");
    assert_eq!([direct, cold, storm], ["0 B", "64.00 MiB", "32.00 MiB"]);
    assert!(warm.ends_with(" B") || warm.ends_with("KiB"), "a manifest at the most: {warm}");
    assert_eq!(row(&output, "credentials the clients held"), ["none"; 4]);
    assert!(output.contains('✓') && !output.contains('✗'), "{output}");

    assert_eq!(tour.stderr, "", "a log is for who asks for it");
    assert!(!output.contains('\u{1b}'), "there is no terminal to colour");
    assert_eq!(entries(temporary.path()), Vec::<PathBuf>::new());
    assert_eq!(entries(home.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_tour_that_is_interrupted_leaves_nothing_behind_either() {
    let (home, temporary) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut tour = bounded("timeout", home.path());
    tour.args(["--signal=INT", "1.5", PROGRAM, "demo"]).env("TMPDIR", temporary.path());
    let said = Outcome::of(&mut tour).expect_error();
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(entries(temporary.path()), Vec::<PathBuf>::new());
}
