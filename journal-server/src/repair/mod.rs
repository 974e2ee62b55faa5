//! Repair: what this node has lost of a group's log is fetched from the nodes that have it.
//!
//! Two moments. A hole found while a log is opened is filled *before* the group runs (`start`): a node
//! that votes and acknowledges with a hole in its log is a node that forgets. A hole found later, by a
//! reader or by the scrubber, is filled beneath whoever reads (`mend`, `scrub`); if nobody can fill it
//! within ten seconds, the group stops here.
//!
//! Nothing is guessed: `segment/` takes only what proves to have been there. What nobody has is given
//! up only where it cannot have been committed (`cut`); else the node waits, for ever if need be, and
//! says for what.
//!
//! Owns [`Repairs`]: all logs of this node, running or waiting, so that peers can be answered also while
//! nothing runs here: two nodes that are damaged in different places help each other up.

mod ask;
mod cut;
mod mend;
mod scrub;
mod start;

pub use mend::Mender;
pub use scrub::{Pace, scrub};
pub use start::before_start;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::offload::Offload;
use crate::segment::{Damaged, Log, LogEntry, LogId, Vote};

/// Told, in words, what keeps a group from running.
pub type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// A log that waits to be repaired: shared by who repairs it and who answers for it.
type Patient = Arc<Mutex<Option<Damaged>>>;

#[derive(Clone)]
enum Holder {
    Running(Log),
    Waiting(Patient),
}

/// Every log of this node, by group.
#[derive(Default)]
pub struct Repairs {
    holders: Mutex<BTreeMap<u64, (u64, Holder)>>,
    registered: AtomicU64,
    /// Holes that were filled in logs which are not here any more.
    past: AtomicU64,
}

/// Takes a log out of the registry when it goes.
struct Entered {
    repairs: Arc<Repairs>,
    group: u64,
    number: u64,
}

/// What this node holds of some positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub entries: Vec<LogEntry>,
    /// Durable when this is said.
    pub vote: Option<Vote>,
    pub last: Option<LogId>,
    /// The first position that this log can hold.
    pub first: u64,
    pub damaged: Vec<u64>,
}

impl Repairs {
    fn enter(self: &Arc<Self>, group: u64, holder: Holder) -> Entered {
        let number = self.registered.fetch_add(1, Ordering::Relaxed);
        self.holders.lock().insert(group, (number, holder));
        Entered { repairs: self.clone(), group, number }
    }

    /// What this node holds of `[from, to)`; about `max_bytes` of it. None: it has no such group.
    ///
    /// Entries and vote are read first and made durable then: whoever hears that something is not here
    /// may count on that for as long as the vote stands.
    pub async fn answer(
        &self,
        offload: Offload,
        group: u64,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> io::Result<Option<Answer>> {
        let holder = self.holders.lock().get(&group).map(|(_, holder)| holder.clone());
        match holder {
            None => Ok(None),
            Some(Holder::Waiting(patient)) => {
                let read =
                    move || Ok(patient.lock().as_ref().map(|damaged| answer_waiting(damaged, from, to, max_bytes)));
                offload.run(read).await
            }
            Some(Holder::Running(log)) => {
                let reader = log.clone();
                let answer = offload.run(move || Ok(answer_running(&reader, from, to, max_bytes))).await?;
                let (done, durable) = oneshot::channel();
                log.barrier(Box::new(move |result| drop(done.send(result))));
                durable.await.unwrap_or_else(|_| Err(io::Error::other("the segment writer is gone")))?;
                Ok(Some(answer))
            }
        }
    }

    /// Holes filled since this process started.
    pub fn repaired(&self) -> u64 {
        let holders = self.holders.lock();
        let now: u64 = holders.values().map(|(_, holder)| holder.repaired()).sum();
        self.past.load(Ordering::Relaxed) + now
    }

    /// Segments that have holes now.
    pub fn damaged_segments(&self) -> u64 {
        self.holders.lock().values().map(|(_, holder)| holder.damaged_segments()).sum()
    }
}

impl Holder {
    fn repaired(&self) -> u64 {
        match self {
            Holder::Running(log) => log.repaired(),
            Holder::Waiting(patient) => patient.lock().as_ref().map_or(0, Damaged::repaired),
        }
    }

    fn damaged_segments(&self) -> u64 {
        match self {
            Holder::Running(log) => log.damaged_segments(),
            Holder::Waiting(patient) => patient.lock().as_ref().map_or(0, Damaged::damaged_segments),
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut holders = self.repairs.holders.lock();
        let own = holders.get(&self.group).is_some_and(|(number, _)| *number == self.number);
        if own && let Some((_, Holder::Running(log))) = holders.remove(&self.group) {
            self.repairs.past.fetch_add(log.repaired(), Ordering::Relaxed);
        }
    }
}

/// More damage than this is told in several answers.
const DAMAGED_MAX: usize = 4096;

fn answer_running(log: &Log, from: u64, to: u64, max_bytes: usize) -> Answer {
    // The vote first: it never falls, so it stands for whatever is read after it.
    let vote = log.vote();
    let (first, last) = (log.first_position(), log.last());
    let (mut at, end) = (from.max(first), to.min(last.map_or(0, |id| id.position + 1)));
    let mut answer = Answer { vote, last, first, ..Answer::default() };
    let mut room = max_bytes;
    while at < end && room > 0 && answer.damaged.len() < DAMAGED_MAX {
        match log.read_blocking(at, end, room) {
            Ok(entries) if entries.is_empty() => break,
            Ok(entries) => {
                at += entries.len() as u64;
                room = room.saturating_sub(entries.iter().map(LogEntry::weight).sum());
                answer.entries.extend(entries);
            }
            Err(_) => {
                answer.damaged.push(at);
                at += 1;
            }
        }
    }
    answer
}

fn answer_waiting(damaged: &Damaged, from: u64, to: u64, max_bytes: usize) -> Answer {
    let (entries, bad) = damaged.read(from, to, max_bytes);
    let first = damaged.purged().map_or(0, |mark| mark.position + 1);
    Answer { entries, vote: damaged.vote(), last: damaged.last(), first, damaged: bad }
}
