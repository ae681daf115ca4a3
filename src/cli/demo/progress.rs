//! How far the pulls of a step are: bars on a terminal, lines elsewhere.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::bytes;
use crate::cli::terminal::outln;

/// The progress of one step: a lane for each thing that moves by itself.
pub(super) struct Progress {
    bars: MultiProgress,
    lanes: Vec<ProgressBar>,
    total: u64,
    done: AtomicU64,
    is_terminal: bool,
}

impl Progress {
    /// Begins with lanes of these names and sizes.
    pub(super) fn begin(lanes: impl IntoIterator<Item = (String, u64)>) -> Progress {
        let style = ProgressStyle::with_template("   {prefix:<10} {bar:30.cyan/dim} {binary_bytes:>11}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let (bars, mut total) = (MultiProgress::new(), 0);
        let lanes = lanes.into_iter().map(|(name, size)| {
            total += size;
            bars.add(ProgressBar::new(size).with_style(style.clone()).with_prefix(name))
        });
        let lanes: Vec<ProgressBar> = lanes.collect();
        // All lanes are there from the start: none pushes another down later.
        lanes.iter().for_each(ProgressBar::tick);
        Progress { bars, lanes, total, done: AtomicU64::new(0), is_terminal: std::io::stderr().is_terminal() }
    }

    /// Notes that so many bytes have arrived.
    pub(super) fn add(&self, lane: usize, count: u64) {
        let before = self.done.fetch_add(count, Ordering::Relaxed);
        if self.is_terminal {
            if let Some(bar) = self.lanes.get(lane) {
                bar.inc(count);
            }
            return;
        }
        let quarter = |done: u64| (done * 4).checked_div(self.total).unwrap_or_default();
        let now = quarter(before + count);
        if now > quarter(before) && now < 4 {
            outln!("   {} % ({})", now * 25, bytes(before + count));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // What cannot be cleared stays on the screen; that is all.
        let _ = self.bars.clear();
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
    }
}
