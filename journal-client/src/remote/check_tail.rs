//! The linearizable tail, asked once for everybody who waits for it.
//!
//! An answer holds for whoever called before its request was sent, and for nobody else. So one
//! request is under way at a time; who calls meanwhile shares the next one. An attempt that failed is
//! sent again, and serves those who came in between too.

use std::sync::Arc;

use parking_lot::Mutex;
use proto::Position;
use proto::journal as wire;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::leader::Leader;
use super::nodes::Pause;
use crate::error::Error;
use crate::journal::Tail;

pub(super) struct CheckTail {
    leader: Arc<Leader>,
    callers: Mutex<Callers>,
}

#[derive(Default)]
struct Callers {
    waiting: Vec<Caller>,
    /// A task is asking.
    asking: bool,
}

struct Caller {
    since: Instant,
    answer: oneshot::Sender<Result<Tail, Error>>,
}

impl CheckTail {
    pub fn new(leader: Arc<Leader>) -> Arc<Self> {
        Arc::new(CheckTail { leader, callers: Mutex::default() })
    }

    pub async fn ask(self: &Arc<Self>) -> Result<Tail, Error> {
        let (answer, answered) = oneshot::channel();
        let must_ask = {
            let mut callers = self.callers.lock();
            callers.waiting.push(Caller { since: Instant::now(), answer });
            !std::mem::replace(&mut callers.asking, true)
        };
        if must_ask {
            // A task of its own: the caller who began the round may go away, the others stay.
            tokio::spawn(self.clone().rounds());
        }
        let answer = answered.await;
        answer.unwrap_or_else(|_| Err(Error::Unavailable("the runtime is shutting down".into())))
    }

    /// Round after round, until nobody waits.
    async fn rounds(self: Arc<Self>) {
        let mut callers = Vec::new();
        let mut pause = Pause::new();
        loop {
            {
                let mut state = self.callers.lock();
                callers.append(&mut state.waiting);
                callers.retain(|caller: &Caller| !caller.answer.is_closed());
                if callers.is_empty() {
                    state.asking = false;
                    return;
                }
            }
            let seen = self.leader.highest_tail();
            let failure = match self.attempt().await {
                Ok(tail) => {
                    let answer = not_below(tail, seen);
                    for caller in callers.drain(..) {
                        let _ = caller.answer.send(answer.clone());
                    }
                    pause.reset();
                    continue;
                }
                Err(failure) => failure,
            };
            let wait = if failure.try_at_once { Default::default() } else { pause.take() };
            let now = Instant::now();
            let give_up = |caller: &Caller| failure.is_final() || now + wait >= caller.since + self.leader.patience;
            let (lost, rest): (Vec<_>, Vec<_>) = callers.drain(..).partition(give_up);
            callers = rest;
            for caller in lost {
                let _ = caller.answer.send(Err(failure.error.clone()));
            }
            if !callers.is_empty() {
                self.leader.metrics.retries.increment(1);
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn attempt(&self) -> Result<Tail, super::leader::Failure> {
        let request = wire::CheckTailRequest { journal_id: self.leader.id.0 };
        let (address, reply) =
            self.leader.ask_once(&|mut client| async move { client.check_tail(request).await }).await?;
        self.leader.leads(&address, reply.term);
        self.leader.saw_tail(Position(reply.tail));
        Ok(Tail { start: Position(reply.start), tail: Position(reply.tail), term: reply.term })
    }
}

/// A linearizable tail is not below one that was seen before it was asked for. If it is, the journal
/// has lost its end, and nothing that was read from it can be trusted.
fn not_below(tail: Tail, seen: Position) -> Result<Tail, Error> {
    if tail.tail >= seen {
        return Ok(tail);
    }
    Err(Error::Protocol(format!("the tail is {}, and it was {seen} before", tail.tail)))
}
