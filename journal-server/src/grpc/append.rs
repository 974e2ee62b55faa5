//! The append stream on the wire. One task-less stream reads requests and writes replies: while the
//! client does not read its replies, its requests are not read either.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use proto::journal::{self as wire, append_reply};
use tonic::{Status, Streaming};

use crate::group::{AppendStream, Group, Offered};
use crate::ledger::Outcomes;
use crate::refusal::Refusal;

struct Session {
    stream: AppendStream,
    requests: Streaming<wire::AppendRequest>,
    /// Replies that are due, in order.
    replies: std::collections::VecDeque<wire::AppendReply>,
    /// The client has said all it will.
    half_closed: bool,
    said_last_word: bool,
}

/// Serves the stream whose first message was `first`.
pub fn serve(
    group: &Arc<Group>,
    first: wire::AppendRequest,
    requests: Streaming<wire::AppendRequest>,
) -> Result<impl Stream<Item = Result<wire::AppendReply, Status>> + Send + 'static, Refusal> {
    let stream = group.append()?;
    let limits = group.limits();
    let opened = append_reply::Outcome::Opened(wire::Opened {
        entry_bytes_max: limits.entry_bytes as u64,
        inflight_bytes_max: limits.stream_bytes as u64,
    });
    let replies = [reply(stream.term(), opened)].into();
    let session = Session { stream, requests, replies, half_closed: false, said_last_word: false };
    let first = stream::once(async { Ok::<_, Status>(first) });
    Ok(stream::unfold((session, Some(first.boxed())), |(mut session, first)| async move {
        if let Some(mut first) = first
            && let Some(Ok(request)) = first.next().await
        {
            session.offer(request).await;
        }
        session.next().await.map(|reply| (Ok(reply), (session, None)))
    }))
}

fn reply(term: u64, outcome: append_reply::Outcome) -> wire::AppendReply {
    wire::AppendReply { term, outcome: Some(outcome) }
}

impl Session {
    /// The next reply, or the end.
    async fn next(&mut self) -> Option<wire::AppendReply> {
        loop {
            let term = self.stream.term();
            self.replies.extend(self.stream.take().into_iter().map(|run| reply(term, outcome_out(run))));
            if let Some(reply) = self.replies.pop_front() {
                return Some(reply);
            }
            if let Some((why, all_answered)) = self.stream.ended()
                && all_answered
            {
                if self.said_last_word {
                    return None;
                }
                let why = Some(why.clone().into());
                self.said_last_word = true;
                return Some(reply(term, append_reply::Outcome::Rejected(wire::Rejected { count: 0, why })));
            }
            if self.half_closed && self.stream.is_idle() {
                return None;
            }
            let reading = !self.half_closed && self.stream.is_open();
            tokio::select! {
                biased;
                () = self.stream.changed() => {}
                request = self.requests.message(), if reading => match request {
                    Ok(Some(request)) => self.offer(request).await,
                    Ok(None) => self.half_closed = true,
                    // The connection is gone, and nobody to answer to.
                    Err(_) => return None,
                },
            }
        }
    }

    async fn offer(&mut self, request: wire::AppendRequest) {
        let offered = |entry: wire::Entry| Offered { payload: entry.payload, crc: entry.crc, urgent: entry.urgent };
        if !request.entries.is_empty() {
            self.stream.offer(request.entries.into_iter().map(offered).collect()).await;
        }
    }
}

fn outcome_out(run: Outcomes) -> append_reply::Outcome {
    match run {
        Outcomes::Committed { first, last } => append_reply::Outcome::Committed(wire::Committed { first, last }),
        Outcomes::Rejected { count, why } => {
            append_reply::Outcome::Rejected(wire::Rejected { count, why: Some(why.into()) })
        }
        Outcomes::Unknown { count, why } => append_reply::Outcome::Unknown(wire::Unknown { count, why }),
    }
}
