//! How many connections a transfer should have: as many as bring something.

use std::time::Duration;

/// A connection that brings more than this, in bytes a second, is not what
/// holds a transfer up.
const FAST: f64 = 200e6;
/// Growing has to bring this much more to have been worth it.
const GAIN: f64 = 1.25;
/// The first look, and how long a change is given to show.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const NEXT_LOOK: Duration = Duration::from_millis(200);
/// New connections that bring nothing for so long are not waited for.
const WARM_UP: Duration = Duration::from_secs(3);
/// The first growth.
const FEW: usize = 8;
/// What will be here that soon needs no help.
const SOON: f64 = 0.25;

/// Watches the rate of a transfer. Time is passed in, since its start.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    connections: usize,
    since: Duration,
    bytes: u64,
    /// New connections are being made: what comes meanwhile says nothing.
    warming: bool,
    /// Connections and rate before the last growth.
    before: Option<(usize, f64)>,
    settled: bool,
}

impl Pace {
    pub(super) fn new(most: usize) -> Pace {
        Pace { most, connections: 1, since: Duration::ZERO, bytes: 0, warming: false, before: None, settled: most <= 1 }
    }

    /// How many connections there should be from now on, with `received` bytes
    /// here and `missing` still to come, and `delivering` connections that
    /// bring something.
    pub(super) fn advise(&mut self, now: Duration, received: u64, missing: u64, delivering: usize) -> usize {
        let passed = now.saturating_sub(self.since);
        if self.warming {
            if delivering >= self.connections || passed > WARM_UP {
                (self.warming, self.since, self.bytes) = (false, now, received);
            }
            return self.connections;
        }
        let wait = if self.before.is_none() { FIRST_LOOK } else { NEXT_LOOK };
        if self.settled || passed < wait {
            return self.connections;
        }
        #[allow(clippy::cast_precision_loss)]
        let connections = self.connections as f64;
        #[allow(clippy::cast_precision_loss)]
        let (rate, missing) = ((received - self.bytes) as f64 / passed.as_secs_f64(), missing as f64);
        (self.since, self.bytes) = (now, received);
        match self.before {
            Some((fewer, slower)) if rate < slower * GAIN => {
                // It brought nothing: the limit is elsewhere.
                self.connections = fewer;
                self.settled = true;
            }
            _ if rate > FAST * connections || missing < rate * SOON || self.connections >= self.most => {
                self.settled = true
            }
            _ => {
                self.before = Some((self.connections, rate));
                self.connections = (self.connections * 2).max(FEW).min(self.most);
                self.warming = true;
            }
        }
        self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a transfer where each of `n` connections brings `each(n)` bytes a
    /// second; gives the number it settles at.
    fn settles_at(most: usize, each: impl Fn(usize) -> f64) -> usize {
        let mut pace = Pace::new(most);
        let (mut received, mut connections) = (0, 1);
        for step in 1..200_u32 {
            received += (each(connections) * connections as f64 / 10.0) as u64;
            connections = pace.advise(Duration::from_millis(100) * step, received, 100 << 30, connections);
        }
        connections
    }

    #[test]
    fn it_grows_while_each_connection_brings_as_much_as_the_first() {
        assert_eq!(settles_at(12, |_| 50e6), 12);
        assert_eq!(settles_at(8, |_| 5e6), 8);
    }

    #[test]
    fn it_goes_back_where_growing_brings_nothing() {
        assert_eq!(settles_at(12, |n| 100e6 / n as f64), 1);
        assert_eq!(settles_at(12, |n| if n > 8 { 240e6 / n as f64 } else { 30e6 }), 8);
    }

    #[test]
    fn a_fast_connection_stays_alone_and_so_does_one_that_must() {
        assert_eq!(settles_at(12, |_| 900e6), 1);
        assert_eq!(settles_at(1, |_| 1e6), 1);
    }

    #[test]
    fn connections_that_are_still_being_made_are_waited_for() {
        let mut pace = Pace::new(12);
        let ms = Duration::from_millis;
        assert_eq!(pace.advise(ms(300), 1 << 20, 1 << 30, 1), 8);
        // A long way to upstream: for a while there is no gain to see.
        for step in 4..10 {
            assert_eq!(pace.advise(ms(100) * step, 1 << 20, 1 << 30, 1), 8);
        }
        assert_eq!(pace.advise(ms(1000), 10 << 20, 1 << 30, 8), 8);
        assert_eq!(pace.advise(ms(1200), 40 << 20, 1 << 30, 8), 12);
    }

    #[test]
    fn what_is_nearly_here_gets_no_help() {
        let mut pace = Pace::new(12);
        assert_eq!(pace.advise(Duration::from_secs(1), 100 << 20, 1 << 20, 1), 1);
    }
}
