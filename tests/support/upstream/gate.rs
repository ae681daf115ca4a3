//! A point in a script where the upstream waits until the test lets it go on.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longer than any test should wait, short enough that a stuck one is noticed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Closed at first; once opened it stays open.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and later.
    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().open = true;
        changed.notify_all();
    }

    /// Waits until the upstream stands before the gate.
    #[track_caller]
    pub(crate) fn wait_until_reached(&self) {
        assert!(self.wait(|state| state.waiting > 0), "the upstream did not come to the gate");
    }

    /// The upstream's side: waits until it is opened, or the test is over.
    pub(crate) fn pass(&self) {
        {
            let (state, changed) = &*self.0;
            state.lock().unwrap().waiting += 1;
            changed.notify_all();
        }
        self.wait(|state| state.open);
    }

    fn wait(&self, done: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let (state, changed) = &*self.0;
        let mut held = state.lock().unwrap();
        while !done(&held) {
            let Some(rest) = deadline.checked_duration_since(Instant::now()) else { return false };
            held = changed.wait_timeout(held, rest).unwrap().0;
        }
        true
    }
}
