//! One append stream: opened at one leader, driven until it ends.
//!
//! Requests flow by themselves (the connection takes them from the queue); what is done here is to
//! read the answers, and to leave a leader of whom a newer one is known.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use proto::journal as wire;
use proto::journal::append_reply::Outcome;
use tonic::Streaming;

use super::leader::{Failure, Leader};
use super::queue::{End, Next, Queue, Requests};
use crate::error::{Error, Reason, Refusal};
use crate::refusal::error_of_status;

/// How long a stream that is left may still answer for what it was given. The answer is usually
/// under way: a leader that moves away says so before anybody hears of the next one.
const LEAVING: Duration = Duration::from_millis(300);

/// An append stream that the server has opened.
pub(super) struct AppendStream {
    queue: Arc<Queue>,
    leader: Arc<Leader>,
    address: String,
    replies: Streaming<wire::AppendReply>,
    term: u64,
}

/// Opens a stream for the queue at the present leader, in one attempt.
pub(super) async fn open(queue: &Arc<Queue>, leader: &Arc<Leader>) -> Result<AppendStream, Failure> {
    let address = match leader.find().await {
        Ok(address) => address,
        Err(error) => return Err(Failure { error, try_at_once: false }),
    };
    let stream = queue.begin();
    let requests = Requests::new(queue.clone(), stream);
    let opening = async {
        let mut client = leader.nodes.writing(&address)?;
        let status = |status| error_of_status(&status);
        let mut replies = client.append(requests).await.map_err(status)?.into_inner();
        match replies.message().await.map_err(status)? {
            Some(wire::AppendReply { term, outcome: Some(Outcome::Opened(opened)) }) => Ok((replies, term, opened)),
            Some(_) => Err(Error::Protocol("an append stream that does not say it is open".into())),
            None => Err(Error::Unavailable("the append stream ended at once".into())),
        }
    };
    let opened = match tokio::time::timeout(leader.attempt_timeout, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::Unavailable(format!("{address} opens no append stream"))),
    };
    let (replies, term, opened) = opened.map_err(|error| leader.judge(&address, error))?;
    if term < leader.newest_term() {
        // It does not know yet that it was deposed.
        leader.failed(&address);
        let why = Refusal::new(Reason::NotLeader, format!("{address} leads an old term"));
        return Err(Failure { error: Error::Refused(why), try_at_once: false });
    }
    leader.leads(&address, term);
    queue.open(opened.entry_bytes_max, opened.inflight_bytes_max);
    leader.metrics.streams.increment(1);
    Ok(AppendStream { queue: queue.clone(), leader: leader.clone(), address, replies, term })
}

impl AppendStream {
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Passes answers on until the stream ends, whoever ends it.
    pub async fn run(mut self) -> Next {
        let end = self.read().await;
        let metrics = &self.leader.metrics;
        let unanswered = self.queue.under_way().0 as u64;
        match &end {
            End::Refused(refusal) => {
                metrics.rejected.increment(unanswered);
                self.leader.refused(&self.address, refusal);
            }
            End::Lost(why) => {
                metrics.unknown.increment(unanswered);
                metrics.streams_lost.increment(1);
                tracing::debug!(node = %self.address, term = self.term, why, "append stream lost");
                self.leader.failed(&self.address);
            }
        }
        let next = self.queue.finish(end);
        self.leader.metrics.unanswered_bytes.set(self.queue.under_way().1 as f64);
        next
    }

    async fn read(&mut self) -> End {
        let leader = self.leader.clone();
        let newer = leader.newer_than(self.term).fuse();
        tokio::pin!(newer);
        let left = futures::future::Fuse::terminated();
        tokio::pin!(left);
        // A stream that ends well ends with a rejection: what has no answer then was never taken.
        let mut last_word = None;
        loop {
            tokio::select! {
                biased;
                reply = self.replies.message() => match reply {
                    Ok(Some(reply)) => {
                        last_word = rejection(&reply);
                        if let Err(violation) = self.on_reply(reply) {
                            tracing::error!(node = %self.address, violation, "append protocol violated");
                            return End::Lost(format!("{} violates the protocol: {violation}", self.address));
                        }
                        self.leader.metrics.unanswered_bytes.set(self.queue.under_way().1 as f64);
                    }
                    Ok(None) => return match last_word {
                        Some(refusal) => End::Refused(refusal),
                        None => End::Lost(format!("{} ended the append stream", self.address)),
                    },
                    // Even a refusal says nothing here of what the node has taken before.
                    Err(status) => {
                        let (address, why) = (&self.address, status.message());
                        return End::Lost(format!("the append stream to {address} broke: {why}"));
                    }
                },
                () = &mut newer => {
                    self.queue.leave();
                    left.set(tokio::time::sleep(LEAVING).fuse());
                }
                () = &mut left => {
                    return End::Lost(format!(
                        "{} leads term {} and has not answered; there is a newer leader",
                        self.address, self.term,
                    ));
                }
            }
            if self.leader.newest_term() > self.term && !self.queue.unanswered() {
                return End::Lost(format!("{} leads term {} no more", self.address, self.term));
            }
        }
    }

    fn on_reply(&mut self, reply: wire::AppendReply) -> Result<(), String> {
        match reply.outcome {
            Some(Outcome::Committed(wire::Committed { first, last })) => {
                self.leader.saw_tail(proto::Position(last.saturating_add(1)));
                self.queue.committed(first, last)?;
                // The queue has looked at the numbers.
                self.leader.metrics.committed.increment(last - first + 1);
                Ok(())
            }
            Some(Outcome::Rejected(wire::Rejected { count, why })) => {
                self.queue.rejected(count, why.unwrap_or_default().into())?;
                self.leader.metrics.rejected.increment(count);
                Ok(())
            }
            Some(Outcome::Unknown(wire::Unknown { count, why })) => {
                self.queue.unknown(count, why)?;
                self.leader.metrics.unknown.increment(count);
                Ok(())
            }
            Some(Outcome::Opened(_)) => Err("opened twice".into()),
            None => Err("an answer without an outcome".into()),
        }
    }
}

fn rejection(reply: &wire::AppendReply) -> Option<Refusal> {
    match &reply.outcome {
        Some(Outcome::Rejected(rejected)) => Some(rejected.why.clone().unwrap_or_default().into()),
        _ => None,
    }
}
