//! What a server uses while it is under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::process::{CpuTime, Process, memory};

/// What was used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor time, user and system, in seconds.
    pub(crate) cpu: f64,
    /// The most anonymous memory that was seen, in bytes.
    pub(crate) anonymous: u64,
    /// The most resident memory that was seen, in bytes; pages of mapped files
    /// count in it.
    pub(crate) resident: u64,
}

/// Runs from `start` to `stop`.
pub(crate) struct Meter {
    pids: Vec<u32>,
    before: CpuTime,
    stopping: Arc<AtomicBool>,
    sampler: JoinHandle<(u64, u64)>,
}

impl Meter {
    /// Begins to look at `process` and its children.
    pub(crate) fn start(process: &Process) -> Meter {
        let (pids, stopping) = (process.pids(), Arc::new(AtomicBool::new(false)));
        let (watched, stop) = (pids.clone(), Arc::clone(&stopping));
        // Seldom enough to cost nothing beside what is measured.
        let sampler = thread::spawn(move || {
            let mut most = memory(&watched);
            while !stop.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(100));
                let now = memory(&watched);
                most = (most.0.max(now.0), most.1.max(now.1));
            }
            most
        });
        Meter { before: CpuTime::of(&pids), pids, stopping, sampler }
    }

    /// What has been used since the start.
    pub(crate) fn stop(self) -> Usage {
        let cpu = CpuTime::of(&self.pids).since(&self.before);
        self.stopping.store(true, Ordering::Relaxed);
        self.sampler.thread().unpark();
        let (anonymous, resident) = self.sampler.join().unwrap_or_default();
        Usage { cpu, anonymous, resident }
    }
}
