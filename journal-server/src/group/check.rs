//! CheckTail, coalesced: callers that wait while one quorum round is under way share the next.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::raft::Replica;
use crate::refusal::{self, Refusal};

type Answer = oneshot::Sender<Result<u64, Refusal>>;

/// Callers that may wait for a round.
const QUEUE: usize = 4096;

pub(super) struct Handle(mpsc::Sender<Answer>);

impl Handle {
    pub async fn check_tail(&self) -> Result<u64, Refusal> {
        let (answer, tail) = oneshot::channel();
        if self.0.send(answer).await.is_err() {
            return Err(refusal::shutting_down());
        }
        tail.await.unwrap_or_else(|_| Err(refusal::shutting_down()))
    }
}

pub(super) fn new(replica: Arc<Replica>, stop: CancellationToken) -> (Handle, impl Future<Output = ()> + Send) {
    let (calls, mut waiting) = mpsc::channel::<Answer>(QUEUE);
    let task = async move {
        let mut round = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Everybody taken here called before the round below begins.
                taken = waiting.recv_many(&mut round, QUEUE) => if taken == 0 { return },
            }
            let tail = tokio::select! {
                biased;
                () = stop.cancelled() => Err(refusal::shutting_down()),
                tail = replica.check_tail() => tail,
            };
            for answer in round.drain(..) {
                // A caller that stopped waiting is no error.
                let _ = answer.send(tail.clone());
            }
        }
    };
    (Handle(calls), task)
}
