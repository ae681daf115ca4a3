//! The figures as they are kept in `results.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where it was measured.
    pub(crate) machine: Machine,
    /// Who was measured: name and version.
    pub(crate) versions: BTreeMap<String, String>,
    /// The answers, in the order of the questions.
    pub(crate) answers: Vec<Answer>,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// What the processor calls itself.
    pub(crate) processor: String,
    /// Cores that clients, servers and upstream share.
    pub(crate) cores: usize,
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// That of loopback connections.
    pub(crate) congestion_control: String,
}

/// The answer to one question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Its name on the command line.
    pub(crate) name: String,
    /// What was asked.
    pub(crate) about: String,
    /// How many rounds were held.
    pub(crate) rounds: usize,
    /// How long a turn took, where that was to be chosen.
    pub(crate) seconds: f64,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// Cores that other processes of the machine used meanwhile: the median
    /// of the turns.
    pub(crate) others: f64,
    /// Key and title of each figure.
    pub(crate) metrics: Vec<(String, String)>,
    /// A row for each server.
    pub(crate) rows: Vec<Row>,
    /// How we did.
    pub(crate) judgements: Vec<Judgement>,
    /// Who could not take part, and why.
    pub(crate) notes: Vec<String>,
}

/// The figures of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Who.
    pub(crate) server: String,
    /// By key of the figure.
    pub(crate) figures: BTreeMap<String, Column>,
}

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Column {
    /// Of all rounds.
    pub(crate) median: Option<f64>,
    /// Each round.
    pub(crate) rounds: Vec<Option<f64>>,
}

/// A target and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Judgement {
    /// What is judged.
    pub(crate) what: String,
    /// What it is; a ratio is the median of the ratios of each round.
    pub(crate) measured: Option<f64>,
    /// Whether more is better.
    pub(crate) at_least: bool,
    /// What is wanted.
    pub(crate) target: f64,
    /// What is the least.
    pub(crate) floor: f64,
    /// How it came out.
    pub(crate) verdict: Verdict,
}

/// How a target came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Reached.
    Target,
    /// Not reached, but its floor was.
    Floor,
    /// Not even the floor.
    Missed,
    /// One of the figures is missing.
    Unknown,
}
