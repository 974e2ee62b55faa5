//! Linearizable reads: one question to the journal for all the reads that wait, and an answer for each
//! once this adapter has applied as much.
//!
//! An answer serves only reads that arrived before its very question was sent. No clock decides
//! anything: a leader is asked, by a quorum round, every time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use journal_client::Journal;
use parking_lot::Mutex;
use proto::Position;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::meters::Meters;
use crate::proposal::Proposer;

/// A quiet adapter asks so often, to find out whether it is stale.
const IDLE_EVERY: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(50);
/// A read that rides on an entry asks for itself after so long.
const RIDE_MAX: Duration = Duration::from_millis(50);
/// After an answer for many reads the next question rests, so that it is one for many more: a question
/// costs the nodes as much as dozens of reads cost here. A few readers wait for nothing.
const MANY: usize = 8;
const REST: Duration = Duration::from_millis(1);
/// Reads that wait together.
const WAITING_MAX: usize = 100_000;

/// Why a read cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unconfirmed {
    Timeout,
    TooMany,
    Stopped,
}

/// What the journal last said of itself.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    pub tail: Position,
    pub term: u64,
    pub at: Instant,
}

/// Confirms reads. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    shared: Arc<Shared>,
    proposer: Proposer,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    timeout: Duration,
}

struct State {
    /// Not yet asked for.
    waiting: Vec<oneshot::Sender<()>>,
    /// Asked for, and waiting for apply; tails rise.
    due: VecDeque<(Position, Vec<oneshot::Sender<()>>)>,
    applied: Position,
    /// Since when the tail has been above what is applied.
    behind_since: Option<Instant>,
    heard: Option<Heard>,
    stopped: bool,
}

impl Reads {
    /// `said` is what the journal answered a moment ago.
    pub fn new(proposer: Proposer, applied: Position, said: journal_client::Tail, timeout: Duration) -> Reads {
        let state = State {
            waiting: Vec::new(),
            due: VecDeque::new(),
            applied,
            behind_since: None,
            heard: Some(Heard { tail: said.tail, term: said.term, at: Instant::now() }),
            stopped: false,
        };
        Reads { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), timeout }), proposer }
    }

    /// Returns once everything acknowledged before the call is applied here and visible.
    pub async fn confirm(&self) -> Result<(), Unconfirmed> {
        let deadline = Instant::now() + self.shared.timeout;
        if let Some(arrived) = self.proposer.ride()
            && let Ok(Ok(())) = timeout(RIDE_MAX, arrived).await
        {
            return Ok(());
        }
        let (answer, confirmed) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            if state.stopped {
                return Err(Unconfirmed::Stopped);
            }
            if state.waiting.len() >= WAITING_MAX {
                return Err(Unconfirmed::TooMany);
            }
            state.waiting.push(answer);
        }
        self.shared.wake.notify_one();
        match tokio::time::timeout_at(deadline, confirmed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unconfirmed::Stopped),
            Err(_) => Err(Unconfirmed::Timeout),
        }
    }

    /// Everything below `applied` is visible now. Answers the reads that waited for it.
    pub fn on_applied(&self, applied: Position) {
        let mut ready = Vec::new();
        {
            let mut state = self.shared.state.lock();
            state.applied = applied;
            while state.due.front().is_some_and(|(tail, _)| *tail <= applied) {
                ready.extend(state.due.pop_front().into_iter().flat_map(|(_, readers)| readers));
            }
            if state.heard.is_none_or(|heard| heard.tail <= applied) {
                state.behind_since = None;
            }
        }
        for reader in ready {
            let _ = reader.send(());
        }
    }

    /// What the journal said last, if it ever said anything.
    pub fn heard(&self) -> Option<Heard> {
        self.shared.state.lock().heard
    }

    /// How long this adapter has known of entries that it has not applied.
    pub fn behind_for(&self) -> Option<Duration> {
        self.shared.state.lock().behind_since.map(|since| since.elapsed())
    }

    /// Asks the journal whenever somebody waits, and every second when nobody does. Ends when told to,
    /// or when the journal is shorter than what was applied: then nothing here can be believed.
    pub async fn run(
        self,
        journal: Arc<dyn Journal>,
        meters: Arc<Meters>,
        stop: CancellationToken,
    ) -> Result<(), Shorter> {
        let asked = stop.run_until_cancelled(self.ask_for_ever(journal, &meters)).await;
        let mut state = self.shared.state.lock();
        state.stopped = true;
        state.waiting.clear();
        state.due.clear();
        drop(state);
        asked.map_or(Ok(()), Err)
    }

    async fn ask_for_ever(&self, journal: Arc<dyn Journal>, meters: &Meters) -> Shorter {
        let mut readers = Vec::new();
        loop {
            if readers.is_empty() && self.shared.state.lock().waiting.is_empty() {
                let _ = timeout(IDLE_EVERY, self.shared.wake.notified()).await;
            }
            let applied = {
                let mut state = self.shared.state.lock();
                readers.append(&mut state.waiting);
                state.applied
            };
            let asked = Instant::now();
            match journal.check_tail().await {
                Ok(said) => {
                    if said.tail < applied {
                        return Shorter { tail: said.tail, applied };
                    }
                    let served = readers.len();
                    meters.told_tail(asked.elapsed(), served);
                    self.on_tail(said, std::mem::take(&mut readers));
                    if served > MANY {
                        sleep(REST).await;
                    }
                }
                Err(error) => {
                    meters.reads_failed.add(1);
                    tracing::debug!("no answer to CheckTail: {error}");
                    readers.retain(|reader| !reader.is_closed());
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn on_tail(&self, said: journal_client::Tail, readers: Vec<oneshot::Sender<()>>) {
        let mut state = self.shared.state.lock();
        let now = Instant::now();
        let term = state.heard.map_or(0, |heard| heard.term).max(said.term);
        state.heard = Some(Heard { tail: said.tail, term, at: now });
        if said.tail > state.applied {
            state.behind_since.get_or_insert(now);
            if !readers.is_empty() {
                state.due.push_back((said.tail, readers));
            }
            return;
        }
        state.behind_since = None;
        drop(state);
        for reader in readers {
            let _ = reader.send(());
        }
    }
}

/// The journal ends before what was applied from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal ends at {tail}, and this adapter has applied up to {applied}: it is not the same journal, or it lost entries"
)]
pub struct Shorter {
    pub tail: Position,
    pub applied: Position,
}
