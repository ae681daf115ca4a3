//! What the tour showed: figures, and what is claimed from them.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use indicatif::BinaryBytes;

use super::registry::Seen;
use crate::cli::terminal::outln;

/// One step's figures.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) clients: usize,
    pub(super) time: Duration,
    /// Bytes of blobs that all clients of the step received.
    pub(super) to_clients: u64,
    /// What upstream saw of it.
    pub(super) seen: Seen,
    /// Clients that held a credential at the end of it.
    pub(super) holders: usize,
}

/// What the tour says of this program, and whether it has just been so.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) says: String,
    pub(super) holds: bool,
}

/// The whole tour.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) steps: Vec<Step>,
    pub(super) claims: Vec<Claim>,
}

impl Report {
    /// Adds a claim.
    pub(super) fn claim(&mut self, says: impl Into<String>, holds: bool) {
        self.claims.push(Claim { says: says.into(), holds });
    }

    /// Whether every claim held.
    pub(super) fn holds(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// Prints it.
    pub(super) fn print(&self) {
        outln!("{}\n", self.figures());
        for line in self.verdict().lines() {
            outln!("{}", line.trim_end());
        }
    }

    fn figures(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(std::iter::once(Cell::new("")).chain(self.steps.iter().map(|step| number(step.name))));
        let mut row = |name: &str, figure: &dyn Fn(&Step) -> Cell| {
            table.add_row(std::iter::once(Cell::new(name)).chain(self.steps.iter().map(figure)));
        };
        row("clients", &|step| number(step.clients));
        row("time", &|step| number(seconds(step.time)));
        row("bytes the clients received", &|step| number(bytes(step.to_clients)));
        row("bytes upstream sent", &|step| number(bytes(step.seen.bytes)));
        row("requests upstream saw", &|_| Cell::new(""));
        row("  refused with 401", &|step| number(step.seen.refused));
        row("  for a token", &|step| number(step.seen.tokens));
        row("  for a manifest", &|step| number(step.seen.manifests));
        row("  for a blob (GET)", &|step| number(step.seen.blob_requests()));
        row("  about a blob (HEAD)", &|step| number(step.seen.checks));
        row("credentials the clients held", &|step| match step.holders {
            0 => number("none").fg(Color::Green),
            holders => number(holders).fg(Color::Red),
        });
        table
    }

    fn verdict(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        for Claim { says, holds } in &self.claims {
            let (mark, color) = if *holds { ("✓", Color::Green) } else { ("✗", Color::Red) };
            let says = if *holds { Cell::new(says) } else { Cell::new(says).fg(Color::Red) };
            table.add_row([Cell::new(mark).fg(color), says]);
        }
        table
    }
}

fn number(figure: impl ToString) -> Cell {
    Cell::new(figure).set_alignment(CellAlignment::Right)
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

/// Time as people read it.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_that_does_not_hold_spoils_the_report() {
        let mut report = Report::default();
        report.claim("the sky is blue", true);
        assert!(report.holds());
        report.claim("the sky is green", false);
        assert!(!report.holds());
        assert!(report.verdict().to_string().contains('✗'));
    }
}
