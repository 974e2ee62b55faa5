//! The outcomes of one append stream, in the order in which its entries came.
//!
//! Raft settles entries from its own task, nearly always in order; the stream's task takes whole runs
//! of settled outcomes and answers each with one message. Owned by the stream, shared with the
//! responders of its entries.
//!
//! Invariants: every issued slot is answered exactly once, in order; `settled` never changes an
//! outcome that stands.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::refusal::Refusal;

/// What became of an entry that is not (known to be) in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    Rejected(Refusal),
    Unknown(String),
}

/// A run of equal outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcomes {
    Committed { first: u64, last: u64 },
    Rejected { count: u64, why: Refusal },
    Unknown { count: u64, why: String },
}

#[derive(Debug, Default)]
pub struct Ledger {
    slots: Mutex<Slots>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    /// The number of the first slot in `pending`: all before it are answered.
    base: u64,
    pending: VecDeque<Slot>,
    /// Bytes of the entries in `pending`.
    bytes: usize,
    ended: bool,
    /// When the front of the queue was last settled.
    settled: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    bytes: usize,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Open,
    At(u64),
    Settled(Settled),
}

impl Ledger {
    /// Takes the next slot, for an entry of that many bytes.
    pub fn issue(&self, bytes: usize) -> u64 {
        let mut slots = self.slots.lock();
        slots.bytes += bytes;
        slots.pending.push_back(Slot { bytes, outcome: Outcome::Open });
        slots.base + slots.pending.len() as u64 - 1
    }

    /// Bytes of entries that have no answer yet.
    pub fn open_bytes(&self) -> usize {
        self.slots.lock().bytes
    }

    pub fn committed(&self, slot: u64, position: u64) {
        self.set(slot, Outcome::At(position));
    }

    pub fn settle(&self, slot: u64, outcome: Settled) {
        self.set(slot, Outcome::Settled(outcome));
    }

    fn set(&self, slot: u64, outcome: Outcome) {
        let mut slots = self.slots.lock();
        let Some(index) = slot.checked_sub(slots.base) else { return };
        let Some(slot) = slots.pending.get_mut(index as usize) else { return };
        if matches!(slot.outcome, Outcome::Open) {
            slot.outcome = outcome;
            // Only the front of the queue can be answered.
            if index == 0 {
                slots.settled = Some(Instant::now());
                drop(slots);
                self.changed.notify_one();
            }
        }
    }

    /// Settles whatever is still open: the stream ends now, decided or not.
    pub fn settle_open(&self, outcome: &Settled) {
        let mut slots = self.slots.lock();
        slots.ended = true;
        for slot in &mut slots.pending {
            if matches!(slot.outcome, Outcome::Open) {
                slot.outcome = Outcome::Settled(outcome.clone());
            }
        }
        drop(slots);
        self.changed.notify_one();
    }

    /// Whether nothing waits for an answer.
    pub fn is_empty(&self) -> bool {
        self.slots.lock().pending.is_empty()
    }

    /// When what can be taken now, or was taken last, began to be settled.
    pub fn settled(&self) -> Option<Instant> {
        self.slots.lock().settled
    }

    /// Waits until something may have been settled.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the settled outcomes at the front, merged into runs.
    pub fn take(&self) -> Vec<Outcomes> {
        let mut slots = self.slots.lock();
        let mut runs: Vec<Outcomes> = Vec::new();
        while let Some(slot) = slots.pending.front() {
            if matches!(slot.outcome, Outcome::Open) {
                break;
            }
            let slot = slots.pending.pop_front().expect("the front was just seen");
            slots.base += 1;
            slots.bytes -= slot.bytes;
            match (slot.outcome, runs.last_mut()) {
                (Outcome::At(position), Some(Outcomes::Committed { last, .. })) if *last + 1 == position => {
                    *last = position;
                }
                (Outcome::At(position), _) => {
                    runs.push(Outcomes::Committed { first: position, last: position });
                }
                (Outcome::Settled(Settled::Rejected(why)), Some(Outcomes::Rejected { count, why: seen }))
                    if why == *seen =>
                {
                    *count += 1;
                }
                (Outcome::Settled(Settled::Rejected(why)), _) => runs.push(Outcomes::Rejected { count: 1, why }),
                (Outcome::Settled(Settled::Unknown(why)), Some(Outcomes::Unknown { count, why: seen }))
                    if why == *seen =>
                {
                    *count += 1;
                }
                (Outcome::Settled(Settled::Unknown(why)), _) => runs.push(Outcomes::Unknown { count: 1, why }),
                (Outcome::Open, _) => unreachable!("open slots end the loop"),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal;

    #[test]
    fn answers_come_in_the_order_of_the_entries_whatever_settles_first() {
        let ledger = Ledger::default();
        for _ in 0..4 {
            ledger.issue(10);
        }
        ledger.committed(1, 8);
        ledger.committed(2, 9);
        assert_eq!(ledger.take(), []);
        ledger.committed(0, 7);
        assert_eq!(ledger.take(), [Outcomes::Committed { first: 7, last: 9 }]);
        assert_eq!(ledger.open_bytes(), 10);
        ledger.settle(3, Settled::Rejected(refusal::no_quorum()));
        assert_eq!(ledger.take(), [Outcomes::Rejected { count: 1, why: refusal::no_quorum() }]);
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_gap_between_positions_begins_a_new_run() {
        let ledger = Ledger::default();
        for (slot, position) in [5, 6, 9].into_iter().enumerate() {
            ledger.issue(1);
            ledger.committed(slot as u64, position);
        }
        let runs = [Outcomes::Committed { first: 5, last: 6 }, Outcomes::Committed { first: 9, last: 9 }];
        assert_eq!(ledger.take(), runs);
    }

    #[test]
    fn an_outcome_that_stands_is_never_changed() {
        let ledger = Ledger::default();
        ledger.issue(1);
        ledger.issue(1);
        ledger.committed(0, 3);
        ledger.settle_open(&Settled::Unknown("gone".into()));
        ledger.committed(1, 4);
        let unknown = Outcomes::Unknown { count: 1, why: "gone".into() };
        assert_eq!(ledger.take(), [Outcomes::Committed { first: 3, last: 3 }, unknown]);
    }
}
