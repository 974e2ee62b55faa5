//! From a client's command to an entry of the journal, and from what the tail shows back to the client.
//!
//! [`Proposer`] is the handle: it takes commands and waits for their replies. One task
//! ([`Proposals`]) packs what waits into entries and sends them; the applier says what became of them.
//! An answer comes from apply, never from the append. A command takes effect at most once, whatever
//! becomes of connections, leaders and processes.

mod outbox;
mod task;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

pub use outbox::Seen;
use outbox::{Asked, Asker, Outbox, Turn};
pub use task::{Myself, Proposals};

use crate::command::{Command, quota_cost};
use crate::mvcc::Reply;

/// Bytes of commands that may wait or be under way together.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What an adapter says by itself is sent within this time, or not at all.
const SAYING_MAX: Duration = Duration::from_secs(2);
/// What a command costs beside its bytes.
const COMMAND_OVERHEAD_BYTES: usize = 128;

/// Why a command has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// Not within the time that a request has. It may still take effect within that same time again.
    Timeout,
    /// The journal refuses for lack of room, and the command is not in it.
    NoRoom,
    /// Too much waits already.
    TooMany,
    /// This adapter stops.
    Stopped,
}

pub type Outcome = Result<Reply, Failed>;

/// Takes commands. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    /// Wakes the task.
    wake: Notify,
    budget: Arc<Semaphore>,
    timeout: Duration,
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Asked>,
    /// Reads that ride on the next entry.
    riders: Vec<oneshot::Sender<()>>,
    /// What the applier's news ask of the task.
    turn: Option<Turn>,
    /// Until then ordinary commands are refused for lack of room.
    no_room_until: Option<Instant>,
    last_applied: Option<Instant>,
    stopped: bool,
}

impl Proposer {
    /// Proposes, and waits until this adapter has applied it, for at most a request's time.
    pub async fn propose(&self, command: Command) -> Outcome {
        let deadline = Instant::now() + self.shared.timeout;
        self.propose_until(command, deadline).await
    }

    pub async fn propose_until(&self, command: Command, deadline: Instant) -> Outcome {
        let bytes = size_of(&command);
        let permits = u32::try_from(bytes.min(WAITING_BYTES_MAX)).expect("capped");
        let _permit = match self.shared.budget.try_acquire_many(permits) {
            Ok(permit) => permit,
            Err(_) => match timeout_at(deadline, self.shared.budget.acquire_many(permits)).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(Failed::TooMany),
            },
        };
        let (answer, outcome) = oneshot::channel();
        {
            let mut inbox = self.shared.inbox.lock();
            if inbox.stopped {
                return Err(Failed::Stopped);
            }
            if inbox.no_room_until.is_some_and(|until| until > Instant::now()) && !is_urgent(&command) {
                return Err(Failed::NoRoom);
            }
            inbox.waiting.push_back(Asked { command, bytes, asker: Asker::Waits(answer) });
        }
        self.shared.wake.notify_one();
        match timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Failed::Stopped),
            Err(_) => Err(Failed::Timeout),
        }
    }

    /// Proposes something of this adapter's own, and waits for nothing. What cannot be sent soon is
    /// forgotten: whoever said it looks again, and knows more by then. A lease that ended before an outage
    /// must not end at the first moment after it, before its owner could say a word.
    pub fn say(&self, command: Command) {
        let bytes = size_of(&command);
        let asker = Asker::NobodyAfter(Instant::now() + SAYING_MAX);
        self.shared.inbox.lock().waiting.push_back(Asked { command, bytes, asker });
        self.shared.wake.notify_one();
    }

    /// A read's place on the entry that is about to be sent, if one is: what it waits for resolves once
    /// that entry, whose first send begins after this call, was applied and published. It fails if it
    /// cannot be told from that entry.
    pub fn ride(&self) -> Option<oneshot::Receiver<()>> {
        let mut inbox = self.shared.inbox.lock();
        if inbox.waiting.is_empty() {
            return None;
        }
        let (rider, arrived) = oneshot::channel();
        inbox.riders.push(rider);
        Some(arrived)
    }

    /// What the applier saw of this adapter's entries, in the order of the journal, after it was
    /// published. Answers those who wait.
    pub fn see(&self, news: Vec<Seen>) {
        let mut answered = Vec::new();
        let mut turn = Turn::None;
        {
            let mut outbox = self.shared.outbox.lock();
            for seen in news {
                match outbox.see(seen, &mut answered) {
                    Turn::None => {}
                    // What came later counts, and nothing undoes having been replaced.
                    next if !is_final(turn) => turn = next,
                    _ => {}
                }
            }
        }
        if !answered.is_empty() || turn != Turn::None {
            let mut inbox = self.shared.inbox.lock();
            if !answered.is_empty() {
                inbox.last_applied = Some(Instant::now());
            }
            if turn != Turn::None && !inbox.turn.is_some_and(is_final) {
                inbox.turn = Some(turn);
            }
        }
        for (sent, replies) in answered {
            for (asked, reply) in sent.commands.into_iter().zip(replies) {
                if let Asker::Waits(answer) = asked.asker {
                    let _ = answer.send(Ok(reply));
                }
            }
            for rider in sent.riders {
                let _ = rider.send(());
            }
        }
        self.shared.wake.notify_one();
    }

    /// When an own entry was last applied.
    pub fn last_applied(&self) -> Option<Instant> {
        self.shared.inbox.lock().last_applied
    }

    /// Whether a `Hello` with this nonce was this process's.
    pub fn said(&self, nonce: u64) -> bool {
        self.shared.outbox.lock().said(nonce)
    }

    /// The own producer, while it lives.
    pub fn producer(&self) -> Option<proto::Position> {
        self.shared.outbox.lock().producer()
    }

    /// Entries sent and not seen applied, and commands that wait.
    pub fn depth(&self) -> (usize, usize) {
        (self.shared.outbox.lock().unresolved.len(), self.shared.inbox.lock().waiting.len())
    }

    /// Answers everybody that this adapter stops, and takes nothing more.
    pub fn stop(&self) {
        let mut inbox = self.shared.inbox.lock();
        inbox.stopped = true;
        inbox.waiting.clear();
        inbox.riders.clear();
        drop(inbox);
        self.shared.outbox.lock().take_unresolved();
    }
}

/// Whether nothing that is seen later undoes it.
fn is_final(turn: Turn) -> bool {
    matches!(turn, Turn::Replaced | Turn::Contradiction { .. })
}

/// What frees space, and what a cluster cannot do without, is admitted when space is short: all that costs nothing
/// of the quota. A Txn that only deletes is of these; so an API server deletes.
fn is_urgent(command: &Command) -> bool {
    quota_cost(command) == 0
}

/// About as many bytes as it takes in an entry.
fn size_of(command: &Command) -> usize {
    use crate::command::{Op, Txn};
    fn of_txn(txn: &Txn) -> usize {
        let compares: usize = txn.compare.iter().map(|compare| compare.key.len() + compare.range_end.len() + 64).sum();
        let ops: usize = txn.success.iter().chain(&txn.failure).map(of_op).sum();
        compares + ops
    }
    fn of_op(op: &Op) -> usize {
        64 + match op {
            Op::Range(range) => range.key.len() + range.range_end.len(),
            Op::Put(put) => put.key.len() + put.value.len(),
            Op::DeleteRange(delete) => delete.key.len() + delete.range_end.len(),
            Op::Txn(txn) => of_txn(txn),
            Op::Empty => 0,
        }
    }
    COMMAND_OVERHEAD_BYTES
        + match command {
            Command::Put(put) => put.key.len() + put.value.len(),
            Command::DeleteRange(delete) => delete.key.len() + delete.range_end.len(),
            Command::Txn(txn) => of_txn(txn),
            _ => 0,
        }
}
