//! Room for a growing file: in the accounts and on the disk.
//!
//! It is taken as bytes come, a stroke ahead of them, never for what somebody
//! only claims to send. Content for which there can be no room evicts nothing.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::cache::content::SMALL;
use crate::cache::inventory::Reservation;
use crate::cache::keeper::Keeper;
use crate::cache::source::Owner;
use crate::kernel;

/// As much as has come is taken ahead, within these bounds.
const STROKE: (u64, u64) = (1 << 20, 64 << 20);

/// What one fill has taken.
pub(super) struct Room {
    keeper: Arc<Keeper>,
    reservation: Reservation,
    owner: Owner,
    quota: Option<u64>,
    total: Option<u64>,
    /// Bytes that have come.
    bytes: u64,
    /// The disk has been asked for room up to here.
    allocated: u64,
}

impl Room {
    /// For content of length `total`, of which `bytes` are there already, up to
    /// `position` without a gap. The owner's fills may take so much together.
    pub(super) fn new(
        keeper: &Arc<Keeper>,
        (owner, quota): (Owner, Option<u64>),
        total: Option<u64>,
        position: u64,
        bytes: u64,
    ) -> Room {
        let mut reservation = keeper.inventory.reserve(owner);
        reservation.grow_to(bytes, None);
        Room { keeper: Arc::clone(keeper), reservation, owner, quota, total, bytes, allocated: position }
    }

    /// Makes room for a piece that is about to be written.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] when the whole will never fit; else as
    /// the disk says.
    pub(super) fn before(&mut self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        self.bytes += len;
        if self.bytes > self.reservation.bytes() {
            let ahead = self.bytes + self.bytes.clamp(STROKE.0, STROKE.1);
            let ahead = ahead.min(self.total.unwrap_or(u64::MAX));
            loop {
                let allowed = self.allowed();
                let taken = ahead.min(allowed).max(self.bytes);
                let too_much = taken > allowed && taken > SMALL;
                if too_much || !self.keeper.can_hold(taken, self.reservation.bytes()) {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                // Another fill may have taken what was left.
                if self.reservation.grow_to(taken, self.quota) {
                    break;
                }
            }
            if self.keeper.inventory.is_over() {
                self.keeper.wake();
            }
        }
        let end = offset + len;
        if offset <= self.allocated && end > self.allocated {
            let ahead =
                (self.reservation.bytes() - self.bytes).min(self.total.map_or(0, |total| total - end.min(total)));
            self.unless_full(ahead + len, || kernel::allocate(file, self.allocated, end + ahead - self.allocated))?;
            self.allocated = end + ahead;
        }
        Ok(())
    }

    /// What its owner's other fills leave of the quota; what they have left goes
    /// for it.
    fn allowed(&self) -> u64 {
        let Some(quota) = self.quota else { return u64::MAX };
        let others = || self.keeper.inventory.unfinished(self.owner).saturating_sub(self.reservation.bytes());
        if others() + self.bytes > quota {
            self.keeper.trim_unfinished(self.owner, (quota + self.reservation.bytes()).saturating_sub(self.bytes));
        }
        quota.saturating_sub(others())
    }

    /// What `work` comes to; on a full disk others go for it, once.
    pub(super) fn unless_full(&self, bytes: u64, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match work() {
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                if self.keeper.make_room(bytes) < bytes {
                    return Err(error);
                }
                work()
            }
            done => done,
        }
    }
}
