//! Reads a journal: one stream of runs, carried on over lost connections and from node to node.
//! What the caller sees has no seam: every run begins where the last one ended.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream;
use futures::{FutureExt, StreamExt};
use proto::Position;
use proto::journal as wire;
use proto::journal::tail_reply::Kind;
use tokio::time::Instant;
use tonic::Streaming;

use super::describe::first_to_describe;
use super::leader::Leader;
use super::nodes::Pause;
use super::run::Reader;
use crate::error::{Error, TailError};
use crate::journal::{Run, TailStream};
use crate::refusal::error_of_status;

/// Which node a tail is read from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TailFrom {
    /// The leader: an entry is there a hop before it is anywhere else.
    #[default]
    Leader,
    /// Whoever answers first.
    Nearest,
    /// This node, as long as it serves; then whoever does.
    Node(String),
}

/// A node that is silent for this long, while others are known to have more, is left.
const STALLED: Duration = Duration::from_secs(1);

/// Opens a tail: returns once a node serves it, or refuses it for good.
pub(super) async fn tail(leader: Arc<Leader>, prefer: TailFrom, from: Position) -> Result<TailStream, Error> {
    let mut tail = Tail {
        leader,
        prefer,
        reader: Reader::new(from),
        source: None,
        avoid: None,
        next_in_turn: 0,
        pause: Pause::new(),
        ended: false,
    };
    let deadline = Instant::now() + tail.leader.patience;
    loop {
        match tail.connect().await {
            Ok(()) => break,
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                let pause = tail.pause.take();
                if Instant::now() + pause >= deadline {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
    Ok(stream::unfold(tail, |mut tail| async move {
        let item = tail.next().await?;
        Some((item, tail))
    })
    .boxed())
}

struct Tail {
    leader: Arc<Leader>,
    prefer: TailFrom,
    reader: Reader,
    source: Option<Source>,
    /// The node that failed last.
    avoid: Option<String>,
    next_in_turn: usize,
    pause: Pause,
    ended: bool,
}

/// The node that serves the stream now.
struct Source {
    address: String,
    replies: Streaming<wire::TailReply>,
    heard: Instant,
    /// The highest tail known when the node had been silent for a while.
    known_in_silence: Position,
    /// For a reader that prefers the leader: the newest term by which this node was chosen.
    term: Option<u64>,
    /// The search for a leader to read from instead.
    search: Option<BoxFuture<'static, String>>,
}

/// What a source came up with.
enum Event {
    Run(Run),
    /// The stream is over for its reader.
    End(TailError),
    /// The node is of no use any more, as the text says.
    Lost(String),
    /// Another node is the leader now.
    NewLeader,
}

impl Tail {
    async fn next(&mut self) -> Option<Result<Run, TailError>> {
        if self.ended {
            return None;
        }
        loop {
            let Some(source) = &mut self.source else {
                if let Err(error) = self.connect().await {
                    if is_final(&error) {
                        return self.end(TailError::Failed(error));
                    }
                    let pause = self.pause.take();
                    self.leader.metrics.retries.increment(1);
                    tracing::debug!(%error, ?pause, "no node serves the tail");
                    tokio::time::sleep(pause).await;
                }
                continue;
            };
            match source.next(&self.leader, &mut self.reader).await {
                Event::Run(run) => {
                    self.leader.saw_term(run.term);
                    self.leader.saw_tail(run.watermark);
                    self.pause.reset();
                    self.avoid = None;
                    return Some(Ok(run));
                }
                Event::End(error) => return self.end(error),
                Event::NewLeader => self.source = None,
                Event::Lost(why) => {
                    let address = source.address.clone();
                    tracing::debug!(node = %address, next = %self.reader.next, why, "tail lost");
                    self.avoid = Some(address);
                    self.source = None;
                    tokio::time::sleep(self.pause.take()).await;
                }
            }
        }
    }

    fn end(&mut self, error: TailError) -> Option<Result<Run, TailError>> {
        self.ended = true;
        self.source = None;
        Some(Err(error))
    }

    /// Opens a stream from the next position on, at a node of the preferred kind.
    async fn connect(&mut self) -> Result<(), Error> {
        let term = self.leader.newest_term();
        let address = self.choose().await?;
        match self.open(&address).await {
            Ok(replies) => {
                self.leader.metrics.tails.increment(1);
                let follows_leader = self.prefer == TailFrom::Leader;
                let elsewhere = self.leader.known().as_ref() != Some(&address);
                self.source = Some(Source {
                    replies,
                    heard: Instant::now(),
                    known_in_silence: Position::NONE,
                    term: follows_leader.then_some(term),
                    search: (follows_leader && elsewhere).then(|| search(self.leader.clone(), STALLED)),
                    address,
                });
                Ok(())
            }
            Err(error) => {
                if self.prefer == TailFrom::Leader && matches!(error, Error::Unavailable(_)) {
                    self.leader.failed(&address);
                }
                self.avoid = Some(address);
                Err(error)
            }
        }
    }

    async fn open(&mut self, address: &str) -> Result<Streaming<wire::TailReply>, Error> {
        let request = wire::TailRequest { journal_id: self.leader.id.0, from: self.reader.next.0 };
        let mut client = self.leader.nodes.reading(address)?;
        self.leader.attempt(client.tail(request)).await
    }

    /// The node to read from. Whoever failed last is not chosen, unless there is nobody else.
    async fn choose(&mut self) -> Result<String, Error> {
        let usable = |address: &String| self.avoid.as_ref() != Some(address);
        match &self.prefer {
            TailFrom::Leader => {
                if let Ok(address) = self.leader.find().await
                    && usable(&address)
                {
                    return Ok(address);
                }
            }
            TailFrom::Node(address) if usable(address) => return Ok(address.clone()),
            TailFrom::Node(_) => {}
            TailFrom::Nearest => {
                let (nodes, timeout) = (&self.leader.nodes, self.leader.attempt_timeout);
                let which = wire::describe_request::Which::Id(self.leader.id.0);
                let first = first_to_describe(nodes, which, timeout, self.avoid.as_deref());
                if let Ok((address, _)) = first.await {
                    return Ok(address);
                }
            }
        }
        let addresses = self.leader.nodes.addresses();
        let others: Vec<_> = addresses.iter().filter(|address| usable(address)).collect();
        let turn = self.next_in_turn;
        self.next_in_turn += 1;
        let chosen = match others.len() {
            0 => &addresses[0],
            n => others[turn % n],
        };
        Ok(chosen.clone())
    }
}

/// Looks for the leader until one is known, but not before `delay` has passed.
fn search(leader: Arc<Leader>, delay: Duration) -> BoxFuture<'static, String> {
    async move {
        tokio::time::sleep(delay).await;
        let mut pause = Pause::new();
        loop {
            match leader.find().await {
                Ok(address) => return address,
                Err(_) => tokio::time::sleep(pause.take()).await,
            }
        }
    }
    .boxed()
}

impl Source {
    async fn next(&mut self, leader: &Arc<Leader>, reader: &mut Reader) -> Event {
        loop {
            let newer = leader.newer_than(self.term.unwrap_or(u64::MAX));
            let found = OptionFuture::from(self.search.as_mut());
            tokio::select! {
                biased;
                reply = self.replies.message() => {
                    self.heard = Instant::now();
                    self.known_in_silence = Position::NONE;
                    return self.on_reply(reply, reader);
                }
                Some(address) = found => {
                    self.search = None;
                    if address != self.address {
                        return Event::NewLeader;
                    }
                }
                () = newer => {
                    self.term = self.term.map(|_| leader.newest_term());
                    self.search = Some(search(leader.clone(), Duration::ZERO));
                }
                () = tokio::time::sleep_until(self.heard + STALLED) => {
                    if self.known_in_silence > reader.next {
                        let why = format!("silent at {}, below a tail", reader.next);
                        return Event::Lost(why);
                    }
                    self.known_in_silence = leader.highest_tail();
                    self.heard = Instant::now();
                }
            }
        }
    }

    fn on_reply(&mut self, reply: Result<Option<wire::TailReply>, tonic::Status>, reader: &mut Reader) -> Event {
        let reply = match reply {
            Ok(Some(reply)) => reply,
            Ok(None) => return Event::Lost("the node ended the stream".into()),
            Err(status) => {
                return match error_of_status(&status) {
                    error if is_final(&error) => Event::End(TailError::Failed(error)),
                    error => Event::Lost(error.to_string()),
                };
            }
        };
        match reply.kind {
            Some(Kind::Run(run)) => match reader.take(run) {
                Ok(run) => Event::Run(run),
                Err(broken) => Event::End(broken),
            },
            Some(Kind::Gap(gap)) if gap.start > reader.next.0 => {
                Event::End(TailError::Gap { start: Position(gap.start) })
            }
            Some(Kind::Gap(gap)) => {
                Event::End(TailError::Failed(Error::Protocol(format!("a gap at {} below {}", reader.next, gap.start))))
            }
            Some(Kind::Behind(behind)) => Event::Lost(format!("the node holds nothing below {}", behind.holds_from)),
            None => Event::Lost("an empty reply".into()),
        }
    }
}

/// Whether every node would say the same, now and later.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Refused(refusal) => !refusal.reason.passes(),
        Error::Unavailable(_) | Error::Unconfirmed(_) => false,
        Error::Protocol(_) => true,
    }
}
