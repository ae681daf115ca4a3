//! A question: who takes part, what is read off, what the answer should be,
//! and the rounds in which it is found.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::harness::others::Others;
use crate::harness::servers::Kind;
use crate::harness::stats::{median, median_ratio, turns};
use crate::record::{Answer, Column, Judgement, Row, Verdict};

/// A server whose turn takes longer has had all its turns.
const SLOW: Duration = Duration::from_secs(20);

/// The figures of one turn, by the key of their [`Metric`].
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// One turn of one server.
pub(crate) type Turn<'a> = Box<dyn FnMut(Kind) -> io::Result<Sample> + 'a>;

/// A figure that is read off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// As it is called in [`Sample`] and in the JSON.
    pub(crate) key: &'static str,
    /// As it is called in the table, with its unit.
    pub(crate) title: &'static str,
}

/// What the answer should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Of which figure.
    pub(crate) metric: &'static str,
    /// Our figure divided by whose; `None`: our figure itself.
    pub(crate) against: Option<Kind>,
    /// Whether more is better.
    pub(crate) at_least: bool,
    /// What is wanted.
    pub(crate) target: f64,
    /// What is the least.
    pub(crate) floor: f64,
}

/// One question.
pub(crate) struct Question {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What is asked.
    pub(crate) about: &'static str,
    /// Who takes part.
    pub(crate) servers: &'static [Kind],
    /// What is read off.
    pub(crate) metrics: &'static [Metric],
    /// What the answer should be.
    pub(crate) targets: Vec<Target>,
    /// Makes ready; what it gives is then called once per turn.
    pub(crate) prepare: for<'a> fn(&'a Bench, &[Kind]) -> io::Result<Turn<'a>>,
}

/// Finds the answer.
pub(crate) fn ask(question: &Question, bench: &Bench) -> io::Result<Answer> {
    let mut notes = Vec::new();
    let (present, absent): (Vec<Kind>, Vec<Kind>) =
        question.servers.iter().copied().partition(|kind| kind.program().is_some());
    notes.extend(absent.iter().map(|kind| format!("{} is not installed", kind.name())));
    let mut turn = (question.prepare)(bench, &present)?;
    let rounds = bench.options.rounds;
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); present.len()];
    let mut others = Vec::new();
    let mut done = vec![false; present.len()];
    for round in 0..rounds {
        for index in turns(present.len(), round) {
            let kind = present[index];
            if done[index] {
                samples[index].push(Sample::new());
                continue;
            }
            let (began, elsewhere) = (Instant::now(), Others::now());
            let sample = turn(kind).unwrap_or_else(|error| {
                let note = format!("{}: {error}", kind.name());
                if !notes.contains(&note) {
                    notes.push(note);
                }
                Sample::new()
            });
            say(question, round, kind, &sample);
            samples[index].push(sample);
            others.push(elsewhere.cores());
            if began.elapsed() > SLOW {
                done[index] = true;
                notes.push(format!(
                    "{} had no more rounds than {}: one took {:.0?}",
                    kind.name(),
                    round + 1,
                    began.elapsed()
                ));
            }
        }
    }
    for note in &notes {
        eprintln!("{}: {note}", question.name);
    }
    drop(turn);
    let row = |(kind, samples): (&Kind, &Vec<Sample>)| {
        let figures = question.metrics.iter().map(|metric| {
            let each: Vec<Option<f64>> = samples.iter().map(|sample| sample.get(metric.key).copied()).collect();
            let median = median(&each.iter().copied().flatten().collect::<Vec<f64>>());
            (metric.key.to_owned(), Column { median, rounds: each })
        });
        Row { server: kind.name().to_owned(), figures: figures.collect() }
    };
    let rows: Vec<Row> = present.iter().zip(&samples).map(row).collect();
    let judgements = question.targets.iter().map(|target| judge(question, target, &rows)).collect();
    let metrics = question.metrics.iter().map(|metric| (metric.key.to_owned(), metric.title.to_owned())).collect();
    let (name, about) = (question.name.to_owned(), question.about.to_owned());
    let (seconds, size) = (bench.options.duration.as_secs_f64(), bench.options.size);
    let others = median(&others).unwrap_or(0.0);
    Ok(Answer { name, about, rounds, seconds, size, others, metrics, rows, judgements, notes })
}

fn judge(question: &Question, target: &Target, rows: &[Row]) -> Judgement {
    let of = |kind: Kind| rows.iter().find(|row| row.server == kind.name())?.figures.get(target.metric);
    let ours = of(Kind::Transship);
    let measured = match target.against {
        None => ours.and_then(|column| column.median),
        Some(rival) => ours.zip(of(rival)).and_then(|(ours, theirs)| median_ratio(&ours.rounds, &theirs.rounds)),
    };
    let title = question.metrics.iter().find(|metric| metric.key == target.metric).map_or("", |metric| metric.title);
    let reached = |wanted: f64, measured: f64| if target.at_least { measured >= wanted } else { measured <= wanted };
    let verdict = match measured {
        None => Verdict::Unknown,
        Some(measured) if reached(target.target, measured) => Verdict::Target,
        Some(measured) if reached(target.floor, measured) => Verdict::Floor,
        Some(_) => Verdict::Missed,
    };
    Judgement {
        what: match target.against {
            None => title.to_owned(),
            Some(rival) => format!("{title}, divided by that of {}", rival.name()),
        },
        measured,
        at_least: target.at_least,
        target: target.target,
        floor: target.floor,
        verdict,
    }
}

fn say(question: &Question, round: usize, kind: Kind, sample: &Sample) {
    let figures: Vec<String> = sample.iter().map(|(key, value)| format!("{key} {value:.3}")).collect();
    eprintln!("{} round {}: {:<18} {}", question.name, round + 1, kind.name(), figures.join(", "));
}
