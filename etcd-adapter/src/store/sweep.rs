//! Which rows may be dropped, and the passes over `log` that drop them.
//!
//! A row of a value may go as soon as the index has forgotten it. A tombstone may not: if it went while
//! a value that it hides is still in some file, an index rebuilt from `log` would show that key again.
//! So a forgotten tombstone waits until a sweep that began after the index had forgotten what the
//! tombstone hides has passed over all of `log` below it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::engine::Drops;
use crate::mvcc::{At, Revision};

/// How many revisions one piece of a sweep covers.
const PIECE: Revision = 1 << 16;

pub(super) struct Sweeps {
    index: RwLock<Option<Arc<dyn Drops>>>,
    /// The index knows everything above this revision, and need not be asked about it.
    forgotten: AtomicI64,
    /// Forgotten tombstones at or below this revision hide nothing any more.
    bare: AtomicI64,
    running: Mutex<Option<Sweep>>,
}

#[derive(Clone, Copy)]
struct Sweep {
    floor: Revision,
    next: Revision,
}

impl Sweeps {
    pub fn new() -> Sweeps {
        Sweeps {
            index: RwLock::new(None),
            forgotten: AtomicI64::new(0),
            bare: AtomicI64::new(0),
            running: Mutex::new(None),
        }
    }

    pub fn attach(&self, index: Arc<dyn Drops>) {
        *self.index.write() = Some(index);
    }

    /// Notes that the index has begun to forget up to `floor`.
    pub fn forgot(&self, floor: Revision) {
        self.forgotten.fetch_max(floor, Ordering::AcqRel);
    }

    /// Whether a row may be dropped.
    pub fn drops(&self, key: &[u8], at: At, tombstone: bool) -> bool {
        if at.main > self.forgotten.load(Ordering::Acquire) {
            return false;
        }
        let index = self.index.read();
        let Some(index) = &*index else { return false };
        (!tombstone || at.main <= self.bare.load(Ordering::Acquire)) && !index.knows(key, at)
    }

    /// The next piece of the sweep under way, or of a new one up to `floor`.
    pub fn next(&self, floor: Revision) -> Option<(At, At)> {
        self.forgot(floor);
        let mut running = self.running.lock();
        if running.is_none() && floor > self.bare.load(Ordering::Acquire) {
            *running = Some(Sweep { floor, next: 0 });
        }
        let sweep = (*running)?;
        let to = (sweep.next + PIECE).min(sweep.floor + 1);
        Some((At::start_of(sweep.next), At::start_of(to)))
    }

    /// Up to this revision, everything that was forgotten has been dropped.
    pub fn swept(&self) -> Revision {
        self.bare.load(Ordering::Acquire)
    }

    /// Notes that the sweep has come to `to`, and says whether it goes on.
    pub fn done(&self, to: At) -> bool {
        let mut running = self.running.lock();
        let Some(sweep) = &mut *running else { return false };
        sweep.next = to.main;
        if sweep.next <= sweep.floor {
            return true;
        }
        self.bare.store(sweep.floor, Ordering::Release);
        *running = None;
        false
    }
}
