//! The file of the audit trail, and whether it can be written.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::plain::plain;

/// How the file does. There is one log in a process, and so one of these.
pub(super) struct Health {
    lost: AtomicU64,
    untold: AtomicU64,
    failing: AtomicBool,
}

static HEALTH: Health = Health { lost: AtomicU64::new(0), untold: AtomicU64::new(0), failing: AtomicBool::new(false) };

pub(super) fn health() -> &'static Health {
    &HEALTH
}

/// Lines that are not in the file of the audit trail, since the start.
pub fn lost_audit_lines() -> u64 {
    HEALTH.lost.load(Ordering::Relaxed)
}

/// Whether the last line of the audit trail could not be written to its file.
pub fn is_audit_failing() -> bool {
    HEALTH.failing.load(Ordering::Acquire)
}

impl Health {
    /// Lines that were lost since this was asked last.
    pub(super) fn take_lost(&self) -> u64 {
        self.untold.swap(0, Ordering::AcqRel)
    }

    fn wrote(&self, written: bool) {
        self.failing.store(!written, Ordering::Release);
        if !written {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.untold.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Writes each line as a whole, and counts those that it could not.
pub(super) struct Trail {
    file: File,
    /// The file may end in the middle of a line.
    torn: bool,
}

impl Trail {
    pub(super) fn new(file: File) -> Trail {
        Trail { file, torn: false }
    }
}

impl Write for Trail {
    /// Never fails: whoever logs could do nothing about it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let begun = if self.torn { self.file.write_all(b"\n") } else { Ok(()) };
        let written = begun.and_then(|()| self.file.write_all(&plain(line, false)));
        self.torn = written.is_err();
        health().wrote(written.is_ok());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
