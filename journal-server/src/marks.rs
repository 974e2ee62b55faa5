//! How far one group has come on this node: the marks that readers follow.
//!
//! Owned by the group; moved by Raft's storage (commit), by its state machine (apply, trim) and by
//! nothing else. Marks never go back.

use tokio::sync::watch;

use crate::segment::LogId;

/// What a reader may see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// One past the last committed position: the tail as this node knows it.
    pub tail: u64,
    /// The term of the last committed entry.
    pub tail_term: u64,
    /// The first readable position.
    pub start: u64,
    /// One past the last applied position.
    pub applied: u64,
}

#[derive(Debug)]
pub struct Marks(watch::Sender<Mark>);

impl Marks {
    pub fn new(start: u64) -> Self {
        Marks(watch::Sender::new(Mark { tail: start, start, ..Mark::default() }))
    }

    pub fn get(&self) -> Mark {
        *self.0.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Mark> {
        self.0.subscribe()
    }

    pub fn committed(&self, last: LogId) {
        self.0.send_if_modified(|mark| {
            let moved = last.position >= mark.tail;
            if moved {
                (mark.tail, mark.tail_term) = (last.position + 1, last.term);
            }
            moved
        });
    }

    /// Applied entries wake nobody by themselves: readers follow the commit.
    pub fn applied(&self, last: LogId, start: u64) {
        self.0.send_if_modified(|mark| {
            mark.applied = mark.applied.max(last.position + 1);
            let trimmed = start > mark.start;
            mark.start = mark.start.max(start);
            trimmed
        });
    }
}
