//! The contract of a journal, in words and types. Whoever implements [`Journal`] passes the
//! conformance suite; whoever uses it relies on nothing else.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use proto::{JournalId, Position};
use tokio::sync::oneshot;

use crate::error::{AppendError, Error, TailError};

/// One opaque payload with the checksum that accompanies it through wire, disk and wire again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub payload: Bytes,
    /// CRC-32 (IEEE) of the payload.
    pub crc: u32,
    /// Admitted when ordinary entries are refused for lack of room. Bounded in rate.
    pub urgent: bool,
}

impl Entry {
    pub fn new(payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        let crc = crc32fast::hash(&payload);
        Entry { payload, crc, urgent: false }
    }

    pub fn urgent(payload: impl Into<Bytes>) -> Self {
        Entry { urgent: true, ..Entry::new(payload) }
    }
}

/// One journal.
///
/// - **Acknowledged means durable.** A position is answered only when a majority of the journal's
///   nodes holds the entry on disk. Afterwards every reader sees it at that position, once, for as
///   long as it is not trimmed.
/// - **Order.** Entries of one [`Appender`] that get in keep the order of its calls; their positions
///   rise. Between appenders there is no order but time: if an append was answered before another
///   was called, its position is lower.
/// - **Readable entries are `[start, tail)`.** An append moves `tail`, a trim moves `start`; neither
///   ever goes back. Not every position holds an entry.
/// - Nothing is sent twice by the implementation, save entries that a leader which moves away
///   rejected unseen.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Appends one entry, among many callers. Concurrent calls have no order among themselves.
    ///
    /// A refusal that is the node's and not the entry's (no leader yet, one that moved) is waited out,
    /// for as long as the implementation's patience allows; an unknown outcome never is. An entry that
    /// nobody waits for any more is forgotten, unless it was sent already.
    async fn append(&self, entry: Entry) -> Result<Position, AppendError>;

    /// Opens an append stream of the caller's own, to the present leader.
    async fn appender(&self) -> Result<Box<dyn Appender>, Error>;

    /// Reads from `from` on, then live, without end. Runs are gap-free, and checked to be.
    ///
    /// `from` may lie above the tail: the stream waits. Below `start` it ends with [`TailError::Gap`].
    async fn tail(&self, from: Position) -> Result<TailStream, Error>;

    /// The linearizable tail: above every entry that was acknowledged before the call.
    async fn check_tail(&self) -> Result<Tail, Error>;

    /// Gives up the entries below `before`. Answers the new `start`, which may be higher than asked.
    /// A `before` above the tail is refused.
    async fn trim(&self, before: Position) -> Result<Position, Error>;

    /// What the journal is, as the nearest node knows it: not linearizable.
    async fn describe(&self) -> Result<Description, Error>;
}

/// An append stream: ordered, pipelined, ended by the first entry that is not certainly in the journal.
///
/// As long as every entry is acknowledged, an appender goes on, from leader to leader: it leaves one
/// as soon as it hears of a newer term, and what a leader that moves away rejected unseen it sends to
/// the next, in order. The first entry that is rejected for another reason, or is `Unknown`, ends it:
/// later ones are rejected too ([`Reason::StreamEnded`](crate::Reason)), and entries already under way
/// behind it may still get in, or come to be `Unknown`. The caller opens another appender.
#[async_trait]
pub trait Appender: Send + Sync {
    /// Sends entries, in the order of the calls; waits while too many bytes are without an answer.
    /// One ticket for each entry, in order.
    async fn append(&self, entries: Vec<Entry>) -> Vec<Ticket>;

    /// The term of the leader that the last entries went to.
    fn term(&self) -> u64;
}

/// The answer to one append, to be waited for. Dropping it changes nothing about the append.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Position, AppendError>>);

impl Ticket {
    /// A ticket and what answers it. If that is dropped without an answer, the outcome is unknown.
    pub fn new() -> (oneshot::Sender<Result<Position, AppendError>>, Ticket) {
        let (answer, ticket) = oneshot::channel();
        (answer, Ticket(ticket))
    }
}

impl Future for Ticket {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|answer| answer.unwrap_or_else(|_| Err(AppendError::Unknown("the append stream is gone".into()))))
    }
}

pub type TailStream = BoxStream<'static, Result<Run, TailError>>;

/// A piece of the journal without a hole: every position of `[from, to)` is among `entries` or holds
/// no entry. The next run of the stream begins at `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub from: Position,
    pub to: Position,
    pub entries: Vec<TailEntry>,
    /// The highest tail seen on this stream so far.
    pub watermark: Position,
    /// The newest term seen on this stream so far.
    pub term: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailEntry {
    pub position: Position,
    pub payload: Bytes,
    pub crc: u32,
}

/// An answer of [`Journal::check_tail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    pub start: Position,
    pub tail: Position,
    pub term: u64,
}

/// An answer of [`Journal::describe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub id: JournalId,
    pub name: String,
    pub start: Position,
    pub tail: Position,
    pub term: u64,
    pub leader: Option<String>,
    pub cluster_id: String,
    pub nodes: Vec<String>,
    pub entry_bytes_max: u64,
}
