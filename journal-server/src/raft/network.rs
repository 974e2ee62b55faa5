//! openraft's network, outgoing: replication pipelined on the bulk connection, everything else on
//! the control stream.
//!
//! A follower that shows less than it acknowledged under this leadership has lost data that may have
//! been committed on its word. It is shut out, loudly, and nothing is ever sent to it again by this
//! leader: feeding it would hide the loss.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use proto::peer::{self, append_entries_reply, control_reply, control_request};
use tokio::sync::{Semaphore, mpsc};

use super::peers::{Peer, Peers};
use super::state_machine::SnapshotData;
use super::types::{self, TypeConfig, Vote};
use crate::segment::{self, Log};
use crate::state::Member;

/// Requests of one group under way to one follower.
const PIPELINE: usize = 4;
/// A stream with requests under way and no reply for so long is given up: openraft would wait for
/// ever.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A commit without entries waits so long for entries to travel with: the rest of a timer's step,
/// half a millisecond on average.
const COMMIT_LINGER: Duration = Duration::from_micros(1);
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// What followers acknowledged to this node as a leader, and who was found to have lost some of it.
/// One for each group.
#[derive(Debug, Default)]
pub struct Acknowledged {
    inner: Mutex<BTreeMap<u64, Follower>>,
}

#[derive(Debug, Default, Clone)]
struct Follower {
    /// Of this term only: what an earlier leader was told is not ours to hold against anyone.
    term: u64,
    last: Option<segment::LogId>,
    shut_out: bool,
}

impl Acknowledged {
    fn matched(&self, follower: u64, term: u64, upto: segment::LogId) {
        let mut inner = self.inner.lock();
        let known = inner.entry(follower).or_default();
        if known.term != term {
            (known.term, known.last) = (term, None);
        }
        known.last = known.last.max(Some(upto));
    }

    /// Whether a follower that shows `last` has lost what it acknowledged in `term`.
    fn has_lost(&self, follower: u64, term: u64, last: Option<segment::LogId>) -> bool {
        let mut inner = self.inner.lock();
        let known = inner.entry(follower).or_default();
        if known.term == term && known.last > last {
            known.shut_out = true;
        }
        known.shut_out
    }

    pub fn shut_out(&self, follower: u64) {
        self.inner.lock().entry(follower).or_default().shut_out = true;
    }

    fn last_of(&self, follower: u64) -> Option<segment::LogId> {
        self.inner.lock().get(&follower)?.last
    }

    /// Everybody who is.
    pub fn all_shut_out(&self) -> Vec<u64> {
        self.inner.lock().iter().filter(|(_, follower)| follower.shut_out).map(|(node, _)| *node).collect()
    }

    pub fn is_shut_out(&self, follower: u64) -> bool {
        self.inner.lock().get(&follower).is_some_and(|follower| follower.shut_out)
    }
}

/// Makes the networks of one group.
pub struct Network {
    pub group: u64,
    /// Read for this node's own vote: the term of its leadership.
    pub log: Log,
    pub peers: Arc<Peers>,
    pub acknowledged: Arc<Acknowledged>,
    /// Told of every follower that is shut out, to be recorded in the catalogue. Bounded and lossy:
    /// the next stream to that follower says it again.
    pub lost: mpsc::Sender<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Bulk,
    Heartbeat,
}

/// The way to one follower.
pub struct Link {
    group: u64,
    log: Log,
    peer: Arc<Peer>,
    lane: Lane,
    acknowledged: Arc<Acknowledged>,
    lost: mpsc::Sender<u64>,
}

impl Network {
    fn link(&self, target: u64, member: &Member, lane: Lane) -> Link {
        Link {
            group: self.group,
            log: self.log.clone(),
            peer: self.peers.get(target, &member.address),
            lane,
            acknowledged: self.acknowledged.clone(),
            lost: self.lost.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Lane::Heartbeat)
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;
type AppendResults<'s> = BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>;

fn unreachable(why: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let (prev, last) = (rpc.prev_log_id, rpc.entries.last().map(|e| e.log_id).or(rpc.prev_log_id));
        Ok(match self.heartbeat(rpc, option.hard_ttl()).await? {
            Ok(upto) if upto == last => AppendEntriesResponse::Success,
            Ok(upto) => AppendEntriesResponse::PartialSuccess(upto),
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
            Err(StreamAppendError::Conflict(_)) => {
                debug_assert!(prev.is_some(), "nothing never conflicts");
                AppendEntriesResponse::Conflict
            }
        })
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> BoxFuture<'s, Rpc<AppendResults<'s>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        match self.lane {
            Lane::Bulk => Box::pin(self.replicate(input)),
            Lane::Heartbeat => Box::pin(async move {
                let ttl = option.hard_ttl();
                let results = stream::unfold((self, input), move |(link, mut input)| async move {
                    let request = input.next().await?;
                    let result = link.heartbeat(request, ttl).await;
                    Some((result, (link, input)))
                });
                Ok(results.boxed())
            }),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let request = control_request::Kind::Vote(self.vote_out(&rpc));
        match self.peer.control(request, option.hard_ttl()).await.map_err(unreachable)? {
            control_reply::Kind::Vote(reply) => vote_reply_in(reply),
            _ => Err(unreachable("the reply to a vote is of another kind")),
        }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let request = control_request::Kind::PreVote(self.vote_out(&rpc));
        match self.peer.control(request, option.hard_ttl()).await.map_err(unreachable)? {
            control_reply::Kind::PreVote(reply) => vote_reply_in(reply),
            _ => Err(unreachable("the reply to a pre-vote is of another kind")),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let membership = &snapshot.meta.last_membership;
        let request = peer::SnapshotRequest {
            group_id: self.group,
            vote: Some(types::vote_out(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(types::id_out),
            membership_at: membership.log_id().as_ref().map(types::id_out),
            membership: Some(types::membership_out(membership.membership())),
            state: snapshot.snapshot.version,
            chain: snapshot.snapshot.chain,
        };
        let failed = |why: String| StreamingError::Unreachable(Unreachable::from_string(why));
        let mut client = self.peer.bulk();
        let call = tokio::time::timeout(SNAPSHOT_TIMEOUT, client.snapshot(self.peer.stamped(request)));
        let reply = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            reply = call => reply,
        };
        let reply = reply.map_err(|_| failed("the snapshot was not answered in time".into()))?;
        let reply = reply.map_err(|status| failed(status.to_string()))?.into_inner();
        let vote = types::vote_in(reply.vote).map_err(|error| failed(error.to_string()))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = control_request::Kind::Transfer(peer::TransferRequest {
            group_id: self.group,
            from: Some(types::vote_out(req.from_leader())),
            to: *req.to_node_id(),
            last: req.last_log_id().map(types::id_out),
        });
        match self.peer.control(request, option.hard_ttl()).await.map_err(unreachable)? {
            control_reply::Kind::Transfer(reply) if reply.accepted => Ok(Ok(())),
            control_reply::Kind::Transfer(reply) => Err(unreachable(reply.why)),
            _ => Err(unreachable("the reply to a transfer is of another kind")),
        }
    }
}

impl Link {
    fn vote_out(&self, rpc: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
        peer::VoteRequest {
            group_id: self.group,
            vote: Some(types::vote_out(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(types::id_out),
            transfer: rpc.leadership_transfer,
        }
    }

    /// One request over the control stream.
    async fn heartbeat(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
        ttl: Duration,
    ) -> Rpc<StreamAppendResult<TypeConfig>> {
        self.refuse_shut_out()?;
        let request = control_request::Kind::Heartbeat(request_out(self.group, rpc));
        match self.peer.control(request, ttl).await.map_err(unreachable)? {
            control_reply::Kind::Heartbeat(reply) => self.reply_in(reply),
            _ => Err(unreachable("the reply to a heartbeat is of another kind")),
        }
    }

    /// Opens a replication stream and feeds it, at most [`PIPELINE`] requests ahead of the replies.
    async fn replicate<'s, S>(&'s mut self, mut input: S) -> Rpc<AppendResults<'s>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        // openraft's backoff lives in the request stream: whoever fails before there is a request is
        // asked again and again without a pause.
        let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
        self.refuse_shut_out()?;
        let window = Arc::new(Window { free: Semaphore::new(PIPELINE), under_way: AtomicUsize::new(0) });
        let requests = {
            let feed = Feed { first: Some(first), input: input.fuse(), window: window.clone() };
            let group = self.group;
            stream::unfold(feed, move |mut feed| async move {
                let request = feed.next().await?;
                Some((request_out(group, request), feed))
            })
        };
        let mut request = self.peer.stamped(requests);
        request.metadata_mut().insert("journal-group", self.group.into());
        let mut client = self.peer.bulk();
        let open = tokio::time::timeout(IDLE_TIMEOUT, client.replicate(request));
        let replies = match open.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(unreachable(format!("{}: {}", status.code(), status.message()))),
            Err(_) => return Err(unreachable("the replication stream cannot be opened in time")),
        };
        let results = stream::unfold((self, replies, window, false), |(link, mut replies, window, ended)| async move {
            if ended {
                return None;
            }
            let result = loop {
                match tokio::time::timeout(IDLE_TIMEOUT, replies.message()).await {
                    Ok(Ok(Some(reply))) => match link.reply_or_opening(reply) {
                        Some(result) => break result,
                        None => continue,
                    },
                    Ok(Ok(None)) => return None,
                    Ok(Err(status)) => break Err(unreachable(format!("{}: {}", status.code(), status.message()))),
                    Err(_) if window.under_way.load(Ordering::Relaxed) == 0 => continue,
                    Err(_) => break Err(unreachable("no reply to entries under way")),
                }
            };
            window.under_way.fetch_sub(1, Ordering::Relaxed);
            window.free.add_permits(1);
            let ended = !matches!(result, Ok(Ok(_)));
            Some((result, (link, replies, window, ended)))
        });
        Ok(results.boxed())
    }

    fn refuse_shut_out(&self) -> Rpc<()> {
        match self.acknowledged.is_shut_out(self.peer.node()) {
            true => Err(unreachable("shut out: it lost what it had acknowledged, and must be replaced")),
            false => Ok(()),
        }
    }

    /// The first message of a stream shows the follower's log; the others answer requests.
    fn reply_or_opening(&self, reply: peer::AppendEntriesReply) -> Option<Rpc<StreamAppendResult<TypeConfig>>> {
        match reply.outcome {
            Some(append_entries_reply::Outcome::Opened(opened)) => {
                let last = opened.last.map(|id| segment::LogId { term: id.term, position: id.position });
                match self.has_lost(self.own_term(), last) {
                    true => Some(self.refuse_shut_out().map(|()| Ok(None))),
                    false => None,
                }
            }
            _ => Some(self.reply_in(reply)),
        }
    }

    /// The term of this node's leadership, while it leads.
    fn own_term(&self) -> u64 {
        self.log.vote().map_or(0, |vote| vote.term)
    }

    fn has_lost(&self, term: u64, last: Option<segment::LogId>) -> bool {
        let (node, before) = (self.peer.node(), self.acknowledged.is_shut_out(self.peer.node()));
        let lost = self.acknowledged.has_lost(node, term, last);
        if lost && !before {
            let acknowledged = self.acknowledged.last_of(node);
            tracing::error!(
                group = self.group,
                node = %proto::NodeId(node),
                term,
                ?acknowledged,
                shown = ?last,
                "this node shows less than it acknowledged: it is shut out and must be replaced"
            );
            let _ = self.lost.try_send(node);
        }
        lost
    }

    fn reply_in(&self, reply: peer::AppendEntriesReply) -> Rpc<StreamAppendResult<TypeConfig>> {
        use append_entries_reply::Outcome;
        let term = reply.term;
        let outcome = reply.outcome.ok_or_else(|| unreachable("a reply without an outcome"))?;
        Ok(match outcome {
            Outcome::Matched(matched) => {
                let upto = types::maybe_id_in(matched.upto).map_err(unreachable)?;
                if let Some(upto) = &upto {
                    self.acknowledged.matched(self.peer.node(), term, types::segment_id(upto));
                }
                Ok(upto)
            }
            Outcome::Conflict(conflict) => {
                let at = conflict.at.ok_or_else(|| unreachable("a conflict without a position"))?;
                let at = types::segment_id(&types::id_in(at).map_err(unreachable)?);
                let seen = segment::LogId { position: at.position.saturating_sub(1), ..at };
                // A conflict at what it acknowledged is a loss, whichever stream shows it.
                if self.has_lost(term, Some(seen)) {
                    self.refuse_shut_out()?;
                }
                Err(StreamAppendError::Conflict(types::log_id(at)))
            }
            Outcome::HigherVote(vote) => {
                let vote = types::vote_in(Some(vote)).map_err(unreachable)?;
                Err(StreamAppendError::HigherVote(vote))
            }
            Outcome::Full(full) => return Err(unreachable(format!("its disk has no room: {}", full.room))),
            Outcome::Refused(why) => return Err(unreachable(why)),
            Outcome::Opened(_) => return Err(unreachable("a stream is opened once")),
        })
    }
}

/// How many requests of a stream may still go out, and how many wait for a reply.
struct Window {
    free: Semaphore,
    under_way: AtomicUsize,
}

/// The requests of one stream, as many as its window lets out.
struct Feed<S> {
    first: Option<AppendEntriesRequest<TypeConfig>>,
    input: stream::Fuse<S>,
    window: Arc<Window>,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Feed<S> {
    async fn next(&mut self) -> Option<AppendEntriesRequest<TypeConfig>> {
        self.window.free.acquire().await.ok()?.forget();
        let request = match self.first.take() {
            Some(first) => first,
            None => {
                let request = self.input.next().await?;
                self.superseded(request).await
            }
        };
        self.window.under_way.fetch_add(1, Ordering::Relaxed);
        Some(request)
    }

    /// A request without entries tells of a commit. So does the next one, which may follow at once:
    /// then this one is not sent. openraft takes the reply to a later request as one to all before
    /// it, because it ends at the same entry or behind it.
    async fn superseded(&mut self, mut request: AppendEntriesRequest<TypeConfig>) -> AppendEntriesRequest<TypeConfig> {
        while request.entries.is_empty() {
            match tokio::time::timeout(COMMIT_LINGER, self.input.next()).await {
                Ok(Some(later)) => request = later,
                Ok(None) | Err(_) => break,
            }
        }
        request
    }
}

fn request_out(group: u64, rpc: AppendEntriesRequest<TypeConfig>) -> peer::AppendEntries {
    peer::AppendEntries {
        group_id: group,
        vote: Some(types::vote_out(&rpc.vote)),
        prev: rpc.prev_log_id.as_ref().map(types::id_out),
        committed: rpc.leader_commit.as_ref().map(types::id_out),
        entries: rpc.entries.into_iter().map(types::entry_out).collect(),
    }
}

fn vote_reply_in(reply: peer::VoteReply) -> Rpc<VoteResponse<TypeConfig>> {
    let vote = types::vote_in(reply.vote).map_err(unreachable)?;
    let last_log_id = types::maybe_id_in(reply.last).map_err(unreachable)?;
    Ok(VoteResponse { vote, vote_granted: reply.granted, last_log_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::LogId;

    #[test]
    fn a_follower_that_is_shorter_than_it_acknowledged_in_this_term_is_shut_out_for_good() {
        let acknowledged = Acknowledged::default();
        let at = |position| Some(LogId::new(4, position));
        assert!(!acknowledged.has_lost(2, 4, None), "it has acknowledged nothing");
        acknowledged.matched(2, 4, LogId::new(4, 10));
        assert!(!acknowledged.has_lost(2, 4, at(10)) && !acknowledged.has_lost(2, 4, at(12)));
        assert!(!acknowledged.is_shut_out(2));
        assert!(acknowledged.has_lost(2, 4, at(9)));
        // Also when it has grown again: what it lost it may have voted away.
        assert!(acknowledged.has_lost(2, 4, at(12)) && acknowledged.is_shut_out(2));
        assert!(!acknowledged.is_shut_out(3));
    }

    #[test]
    fn what_an_earlier_leader_was_told_is_held_against_nobody() {
        let acknowledged = Acknowledged::default();
        acknowledged.matched(2, 4, LogId::new(4, 10));
        assert!(!acknowledged.has_lost(2, 5, Some(LogId::new(4, 7))));
        acknowledged.matched(2, 5, LogId::new(5, 8));
        assert!(!acknowledged.has_lost(2, 5, Some(LogId::new(5, 8))));
    }

    fn request(position: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = segment::LogEntry::new(LogId::new(1, position), segment::Kind::Entry, "x");
        AppendEntriesRequest {
            vote: types::vote(segment::Vote { term: 1, node: 1, committed: true }),
            prev_log_id: None,
            entries: vec![types::entry(entry).unwrap()],
            leader_commit: None,
        }
    }

    #[test]
    fn so_many_requests_are_under_way_before_the_first_is_answered_and_never_more() {
        use futures::FutureExt;
        let window = Arc::new(Window { free: Semaphore::new(PIPELINE), under_way: AtomicUsize::new(0) });
        let input = stream::iter((2..).map(request));
        let mut feed = Feed { first: Some(request(1)), input: input.fuse(), window: window.clone() };
        let mut taken = || feed.next().now_or_never().flatten().map(|request| request.entries[0].log_id.index());
        let sent: Vec<u64> = std::iter::from_fn(&mut taken).collect();
        assert_eq!(sent, (1..=PIPELINE as u64).collect::<Vec<_>>());
        const { assert!(PIPELINE > 1, "one at a time is what openraft does by itself") };
        // Each answer lets one more out.
        window.free.add_permits(1);
        assert_eq!((taken(), taken()), (Some(PIPELINE as u64 + 1), None));
    }
}
