//! A journal within a process: for tests, for simulation, and for an adapter that keeps nothing.
//!
//! It keeps the whole contract but one line: what is acknowledged is durable only as long as the
//! process. It has no threads, starts no tasks, and answers at once. A test may say what becomes of
//! the next entries ([`MemoryJournal::next`]) and let positions go without an entry, as they do in a
//! real journal.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use proto::{JournalId, Position};
use tokio::sync::watch;

use crate::error::{AppendError, Error, Reason, Refusal, TailError};
use crate::journal::{Appender, Description, Entry, Journal, Run, Tail, TailEntry, TailStream, Ticket};

/// A run carries about this many bytes of payload, or one entry.
const RUN_BYTES_MAX: usize = 1 << 20;

/// What is to become of an entry instead of getting in and being acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Rejected(Reason),
    /// The caller hears `Unknown`, and the entry is in the journal.
    UnknownAndThere,
    /// The caller hears `Unknown`, and the entry is not in the journal.
    UnknownAndGone,
}

/// A journal in memory. Clones are handles to the same journal.
#[derive(Clone)]
pub struct MemoryJournal {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    entry_bytes_max: usize,
    state: Mutex<State>,
    tail: watch::Sender<Position>,
}

struct State {
    /// Ordered by position; all of them within `[start, tail)`.
    entries: VecDeque<TailEntry>,
    start: Position,
    tail: Position,
    term: u64,
    fates: VecDeque<Fate>,
}

impl MemoryJournal {
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_entry_bytes_max(name, 4 << 20)
    }

    pub fn with_entry_bytes_max(name: impl Into<String>, entry_bytes_max: usize) -> Self {
        let first = Position(1);
        MemoryJournal {
            shared: Arc::new(Shared {
                name: name.into(),
                entry_bytes_max,
                state: Mutex::new(State {
                    entries: VecDeque::new(),
                    start: first,
                    tail: first,
                    term: 1,
                    fates: VecDeque::new(),
                }),
                tail: watch::Sender::new(first),
            }),
        }
    }

    /// Decides about the next entry that has not been decided about.
    pub fn next(&self, fate: Fate) {
        self.shared.state.lock().fates.push_back(fate);
    }

    /// Begins a new term, as a new leader does: with a position that holds no entry.
    pub fn change_leader(&self) {
        let mut state = self.shared.state.lock();
        state.term += 1;
        state.tail = state.tail.next();
        self.shared.tail.send_replace(state.tail);
    }
}

impl Shared {
    /// Appends entries in order. After the first rejection nothing more gets in.
    fn append(&self, entries: Vec<Entry>) -> Vec<Result<Position, AppendError>> {
        let mut state = self.state.lock();
        let before = state.tail;
        let mut ended = false;
        let outcomes = entries
            .into_iter()
            .map(|entry| {
                if ended {
                    return Err(AppendError::Rejected(stream_ended()));
                }
                let outcome = self.append_one(&mut state, entry);
                ended = matches!(outcome, Err(AppendError::Rejected(_)));
                outcome
            })
            .collect();
        if state.tail != before {
            self.tail.send_replace(state.tail);
        }
        outcomes
    }

    fn append_one(&self, state: &mut State, entry: Entry) -> Result<Position, AppendError> {
        let rejected = |reason, message: String| Err(AppendError::Rejected(Refusal::new(reason, message)));
        let unknown = || Err(AppendError::Unknown("as the test wished".into()));
        let (bytes, max) = (entry.payload.len(), self.entry_bytes_max);
        if bytes > max {
            return rejected(Reason::TooLarge, format!("{bytes} bytes, and {max} are allowed"));
        }
        if crc32fast::hash(&entry.payload) != entry.crc {
            return rejected(Reason::BadChecksum, "the payload is not what it was".into());
        }
        match state.fates.pop_front() {
            Some(Fate::Rejected(reason)) => rejected(reason, "as the test wished".into()),
            Some(Fate::UnknownAndGone) => unknown(),
            Some(Fate::UnknownAndThere) => {
                state.push(entry);
                unknown()
            }
            None => Ok(state.push(entry)),
        }
    }

    /// What is readable from `from` on, if anything is.
    fn run(&self, from: Position) -> Result<Option<Run>, TailError> {
        let state = self.state.lock();
        if from < state.start {
            return Err(TailError::Gap { start: state.start });
        }
        if from >= state.tail {
            return Ok(None);
        }
        let first = state.entries.partition_point(|entry| entry.position < from);
        let mut entries: Vec<TailEntry> = Vec::new();
        let mut bytes = 0;
        let mut to = state.tail;
        for entry in state.entries.range(first..) {
            if !entries.is_empty() && bytes + entry.payload.len() > RUN_BYTES_MAX {
                to = entry.position;
                break;
            }
            bytes += entry.payload.len();
            entries.push(entry.clone());
        }
        Ok(Some(Run { from, to, entries, watermark: state.tail, term: state.term }))
    }
}

impl State {
    fn push(&mut self, entry: Entry) -> Position {
        let position = self.tail;
        self.entries.push_back(TailEntry { position, payload: entry.payload, crc: entry.crc });
        self.tail = position.next();
        position
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, entry: Entry) -> Result<Position, AppendError> {
        self.shared.append(vec![entry]).pop().expect("one outcome for one entry")
    }

    async fn appender(&self) -> Result<Box<dyn Appender>, Error> {
        Ok(Box::new(MemoryAppender { shared: self.shared.clone(), ended: Mutex::new(false) }))
    }

    async fn tail(&self, from: Position) -> Result<TailStream, Error> {
        let shared = self.shared.clone();
        let reader = Some((shared.tail.subscribe(), shared, from));
        let runs = stream::unfold(reader, |reader| async move {
            let (mut tail, shared, from) = reader?;
            loop {
                match shared.run(from) {
                    Err(error) => return Some((Err(error), None)),
                    Ok(Some(run)) => {
                        let next = run.to;
                        return Some((Ok(run), Some((tail, shared, next))));
                    }
                    Ok(None) => {
                        let moved = tail.wait_for(|tail| *tail > from).await;
                        moved.expect("the sender is beside us in `shared`");
                    }
                }
            }
        });
        Ok(runs.boxed())
    }

    async fn check_tail(&self) -> Result<Tail, Error> {
        let state = self.shared.state.lock();
        Ok(Tail { start: state.start, tail: state.tail, term: state.term })
    }

    async fn trim(&self, before: Position) -> Result<Position, Error> {
        let mut state = self.shared.state.lock();
        if before > state.tail {
            let message = format!("{before} is above the tail, {}", state.tail);
            return Err(Error::Refused(Refusal::new(Reason::Invalid, message)));
        }
        state.start = state.start.max(before);
        let given_up = state.entries.partition_point(|entry| entry.position < state.start);
        state.entries.drain(..given_up);
        Ok(state.start)
    }

    async fn describe(&self) -> Result<Description, Error> {
        let state = self.shared.state.lock();
        Ok(Description {
            id: JournalId(1),
            name: self.shared.name.clone(),
            start: state.start,
            tail: state.tail,
            term: state.term,
            leader: None,
            cluster_id: "memory".into(),
            nodes: Vec::new(),
            entry_bytes_max: self.shared.entry_bytes_max as u64,
        })
    }
}

struct MemoryAppender {
    shared: Arc<Shared>,
    /// An entry did not get in for certain.
    ended: Mutex<bool>,
}

#[async_trait]
impl Appender for MemoryAppender {
    async fn append(&self, entries: Vec<Entry>) -> Vec<Ticket> {
        let mut ended = self.ended.lock();
        let outcomes = match *ended {
            true => entries.iter().map(|_| Err(AppendError::Rejected(stream_ended()))).collect(),
            false => self.shared.append(entries),
        };
        *ended |= outcomes.iter().any(Result::is_err);
        outcomes
            .into_iter()
            .map(|outcome| {
                let (answer, ticket) = Ticket::new();
                let _ = answer.send(outcome);
                ticket
            })
            .collect()
    }

    fn term(&self) -> u64 {
        self.shared.state.lock().term
    }
}

fn stream_ended() -> Refusal {
    Refusal::new(Reason::StreamEnded, "an entry before this one did not get in")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let count = conformance::run_all(|| async { Arc::new(MemoryJournal::new("memory")) as Arc<dyn Journal> }).await;
        println!("{count} clauses");
    }

    async fn everything(journal: &MemoryJournal) -> Vec<Vec<u8>> {
        let start = journal.check_tail().await.unwrap().start;
        let run = journal.shared.run(start);
        run.unwrap().map_or(vec![], |run| run.entries.iter().map(|e| e.payload.to_vec()).collect())
    }

    #[tokio::test]
    async fn an_entry_meets_the_fate_that_a_test_wished() {
        let journal = MemoryJournal::new("fates");
        journal.next(Fate::Rejected(Reason::NoRoom));
        journal.next(Fate::UnknownAndGone);
        journal.next(Fate::UnknownAndThere);
        let refused = journal.append(Entry::new("a")).await.unwrap_err();
        assert!(matches!(refused, AppendError::Rejected(r) if r.reason == Reason::NoRoom));
        for payload in ["b", "c"] {
            let unknown = journal.append(Entry::new(payload)).await.unwrap_err();
            assert!(matches!(unknown, AppendError::Unknown(_)));
        }
        journal.append(Entry::new("d")).await.unwrap();
        assert_eq!(everything(&journal).await, [b"c", b"d"]);
    }

    #[tokio::test]
    async fn an_appender_ends_with_the_first_entry_that_is_not_acknowledged() {
        let journal = MemoryJournal::new("ends");
        let appender = journal.appender().await.unwrap();
        journal.next(Fate::UnknownAndThere);
        let mut outcomes = Vec::new();
        for ticket in appender.append(vec![Entry::new("a")]).await {
            outcomes.push(ticket.await);
        }
        assert!(matches!(outcomes[0], Err(AppendError::Unknown(_))));
        let late = appender.append(vec![Entry::new("b")]).await.pop().unwrap().await;
        assert!(matches!(late, Err(AppendError::Rejected(r)) if r.reason == Reason::StreamEnded));
        assert_eq!(everything(&journal).await, [b"a"]);
    }

    #[tokio::test]
    async fn a_new_leader_leaves_a_position_without_an_entry() {
        let journal = MemoryJournal::new("terms");
        let appender = journal.appender().await.unwrap();
        let first = journal.append(Entry::new("a")).await.unwrap();
        journal.change_leader();
        let second = journal.append(Entry::new("b")).await.unwrap();
        assert_eq!(second.0, first.0 + 2);
        assert_eq!(appender.term(), 2);
        let run = journal.tail(first).await.unwrap().next().await.unwrap().unwrap();
        assert_eq!((run.from, run.to, run.entries.len()), (first, second.next(), 2));
    }
}
