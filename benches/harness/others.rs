//! What else the machine does meanwhile. A figure that was measured beside a
//! running compiler is worth little; the report says so.

use std::fs;
use std::time::Instant;

/// Of `/proc/stat`; the same on every Linux that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Others {
    at: Instant,
    everybody: u64,
    ours: u64,
}

impl Others {
    /// Looks now.
    pub(crate) fn now() -> Others {
        Others { at: Instant::now(), everybody: everybody(), ours: ours(std::process::id()) }
    }

    /// Cores that were used since, on average, by processes that are neither
    /// this one nor its children, or taken away from a virtual machine.
    pub(crate) fn cores(&self) -> f64 {
        let now = Others::now();
        let ticks = (now.everybody - self.everybody).saturating_sub(now.ours.saturating_sub(self.ours));
        ticks as f64 / TICKS_PER_SECOND / (now.at - self.at).as_secs_f64()
    }
}

/// User, nice, system and stolen time. That of interrupts is left out: the
/// traffic on loopback makes it, and no process is charged for it.
fn everybody() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    [0, 1, 2, 7].into_iter().filter_map(|field| fields.get(field)).sum()
}

/// Time of a process, of its children that have ended, and of those that run.
fn ours(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let own: u64 = after_name.split(' ').skip(12).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    let mut children = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        children += &fs::read_to_string(task.path().join("children")).unwrap_or_default();
    }
    own + children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(ours).sum::<u64>()
}
