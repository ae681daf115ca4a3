//! The report for readers: `README.md` in the directory of the results.

use std::fmt::Write as _;

use crate::record::{Answer, Judgement, Record, Verdict};

/// What the figures do not show.
const CAVEATS: &str = "\
## What the figures do not show

- The servers do not do the same work. nginx verifies no digest, and a client of its cache waits for \
the whole fill when another one asked first (`proxy_cache_lock`). `docker-registry` fetches a cold blob twice, once \
for the client and once for its cache. transship and drayage hash what they fetch; transship and drayage fetch it \
once for all who ask. Only transship checks, for each repository, that the upstream lets it be read.
- Client, server and upstream share the cores of one machine, over loopback. Who is charged for the kernel's part of \
loopback depends on the cores; `hits-core` leaves no choice and is the tightest figure.
- A network card is not part of it.
";

/// Cores that others may use before a reader has to know.
const DISTURBED: f64 = 0.1;

/// Writes the report.
pub(crate) fn markdown(record: &Record) -> String {
    let machine = &record.machine;
    let mut text = format!(
        "# Measured\n\n\
         This build and others, on the same data, in interleaved rounds (A B C, C B A, …); \
         [benches/](../../benches/README.md) measures and writes this page. \
         Every figure is the median of the rounds, every ratio the median of the ratios of each round.\n\n\
         {}, {} cores, Linux {}, congestion control of loopback: {}.\n\n![The first figure of each question, one bar per server](overview.svg)\n\n",
        machine.processor, machine.cores, machine.kernel, machine.congestion_control
    );
    text += "| server | version |\n|---|---|\n";
    for (name, version) in &record.versions {
        let _ = writeln!(text, "| {name} | {version} |");
    }
    text += "\n## Targets\n\n| question | figure | measured | target | floor | |\n|---|---|--:|--:|--:|---|\n";
    for answer in &record.answers {
        for judgement in &answer.judgements {
            text += &judgement_row(&answer.name, judgement);
        }
    }
    for answer in &record.answers {
        text += &section(answer);
    }
    text.push('\n');
    text += CAVEATS;
    text
}

fn judgement_row(name: &str, judgement: &Judgement) -> String {
    let sign = if judgement.at_least { "≥" } else { "≤" };
    let verdict = match judgement.verdict {
        Verdict::Target => "reached",
        Verdict::Floor => "floor only",
        Verdict::Missed => "**missed**",
        Verdict::Unknown => "not measured",
    };
    format!(
        "| {name} | {} | {} | {sign} {} | {sign} {} | {verdict} |\n",
        judgement.what,
        number(judgement.measured),
        judgement.target,
        judgement.floor
    )
}

fn section(answer: &Answer) -> String {
    let plural = if answer.rounds == 1 { "" } else { "s" };
    let mut text = format!(
        "\n## {}\n\n{} Blob of {} MiB; {} round{plural}.\n\n| server |",
        answer.name,
        answer.about,
        answer.size >> 20,
        answer.rounds
    );
    for (_, title) in &answer.metrics {
        let _ = write!(text, " {title} |");
    }
    text += "\n|---|";
    text += &"--:|".repeat(answer.metrics.len());
    text.push('\n');
    let ours = answer.rows.first();
    for row in &answer.rows {
        let _ = write!(text, "| {} |", row.server);
        for (key, _) in &answer.metrics {
            let figure = |row: &crate::record::Row| row.figures.get(key).and_then(|column| column.median);
            let _ = write!(text, " {}", number(figure(row)));
            // How many times theirs ours is, from the same two rows.
            if let Some(ours) = ours.filter(|ours| ours.server != row.server)
                && let (Some(ours), Some(theirs)) = (row_of(ours, key), row_of(row, key))
                && let Some(ratio) = crate::harness::stats::median_ratio(ours, theirs)
            {
                let _ = write!(text, " ({}×)", number(Some(ratio)));
            }
            text += " |";
        }
        text.push('\n');
    }
    if answer.others >= DISTURBED {
        let others = number(Some(answer.others));
        let _ = writeln!(text, "\n**Disturbed:** other processes used {others} cores meanwhile.");
    }
    if ours.is_some() && answer.rows.len() > 1 {
        text += "\nIn parentheses: how many times that transship's figure is.\n";
    }
    for note in &answer.notes {
        let _ = write!(text, "\n- {note}");
    }
    if !answer.notes.is_empty() {
        text.push('\n');
    }
    text
}

fn row_of<'a>(row: &'a crate::record::Row, key: &str) -> Option<&'a [Option<f64>]> {
    row.figures.get(key).map(|column| column.rounds.as_slice())
}

/// Three digits that count.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 0.1 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}
