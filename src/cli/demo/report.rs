//! What the tour showed: figures, and what is claimed from them.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use indicatif::BinaryBytes;

use super::registry::Seen;

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
        println!("{}\n\n{}", self.figures(), self.verdict());
    }

    fn figures(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header([
            "step",
            "time",
            "bytes to\nclients",
            "bytes from\nupstream",
            "upstream saw\ntokens, manifests, blobs",
            "credentials\nclients held",
        ]);
        for step in &self.steps {
            let Seen { tokens, refused, manifests, .. } = step.seen;
            let saw = match refused {
                0 => String::new(),
                refused => format!(", {refused} refused"),
            };
            let held = match step.holders {
                0 => Cell::new("none").fg(Color::Green),
                holders => Cell::new(format!("{holders} of {}", step.clients)).fg(Color::Red),
            };
            table.add_row([
                Cell::new(step.name),
                number(seconds(step.time)),
                number(bytes(step.to_clients)),
                number(bytes(step.seen.bytes)),
                number(format!("{tokens}, {manifests}, {}{saw}", step.seen.blob_requests())),
                held,
            ]);
        }
        table
    }

    fn verdict(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        for Claim { says, holds } in &self.claims {
            let (mark, color) = if *holds { ("yes", Color::Green) } else { ("NO", Color::Red) };
            let says = if *holds { Cell::new(says) } else { Cell::new(says).fg(Color::Red) };
            table.add_row([Cell::new(mark).fg(color), says]);
        }
        table
    }
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
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
        assert!(report.verdict().to_string().contains("NO"));
    }
}
