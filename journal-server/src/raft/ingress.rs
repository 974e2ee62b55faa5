//! What peers ask of a replica: their messages translated, handed to openraft, and its answers
//! translated back. A message that no correct peer sends ends its stream and touches nothing.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use openraft::errors::RaftError;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::storage::{Snapshot, SnapshotMeta};
use proto::peer::{self, append_entries_reply::Outcome};

use super::Replica;
use super::state_machine::SnapshotData;
use super::types::{self, Malformed, StoredMembership, TypeConfig, malformed};

/// Requests of one stream that wait for their replies. A correct peer has a few under way; one that does
/// not read its replies is not read either.
const UNDER_WAY_MAX: usize = 64;

/// Says whether a request with these entries may be taken; the text says why not.
pub trait Room: Send + Sync + 'static {
    fn takes(&self, entries: &[peer::LogEntry]) -> Result<(), String>;
}

impl Replica {
    /// Serves one replication stream. The first message shows what is durable here.
    ///
    /// The vote and the entries reach openraft in the order of the stream; replies keep it. A
    /// request without room ends the stream before openraft hears of it.
    pub fn replicate<S>(
        self: &Arc<Self>,
        requests: S,
        room: Arc<dyn Room>,
    ) -> impl Stream<Item = peer::AppendEntriesReply> + Send + 'static
    where
        S: Stream<Item = Result<peer::AppendEntries, tonic::Status>> + Send + Unpin + 'static,
    {
        // Not what is durable of the log that will be: while a snapshot is being written that is
        // nothing, which would look like a loss.
        let last = self.log.written().map(|id| peer::LogId { term: id.term, position: id.position });
        let opened = peer::AppendEntriesReply { term: 0, outcome: Some(Outcome::Opened(peer::Opened { last })) };

        // What ends the input early is said as the last reply.
        let (last_word, said) = tokio::sync::oneshot::channel();
        let (terms, replied_terms) = tokio::sync::mpsc::channel(UNDER_WAY_MAX);
        let group = self.group;
        let input = stream::unfold((requests, Some(last_word)), move |(mut requests, mut last_word)| {
            let (room, terms) = (room.clone(), terms.clone());
            async move {
                let request = requests.next().await?.ok()?;
                let word = match room.takes(&request.entries) {
                    Err(room) => Outcome::Full(peer::Full { room }),
                    Ok(()) => match request_in(group, request) {
                        Ok(request) => {
                            // Those before it are openraft's already, and their replies make room.
                            let _ = terms.send(types::segment_vote(&request.vote).term).await;
                            return Some((request, (requests, last_word)));
                        }
                        Err(error) => Outcome::Refused(error.to_string()),
                    },
                };
                if let Some(last_word) = last_word.take() {
                    let _ = last_word.send(word);
                }
                None
            }
        });
        let results = self.raft.stream_append(Box::pin(input)).boxed();
        let replies = stream::unfold((results, replied_terms), |(mut results, mut terms)| async move {
            let outcome = match results.next().await? {
                Ok(result) => result_out(result),
                Err(fatal) => Outcome::Refused(fatal.to_string()),
            };
            let term = terms.recv().await.unwrap_or_default();
            Some((peer::AppendEntriesReply { term, outcome: Some(outcome) }, (results, terms)))
        });
        let last = stream::once(said).filter_map(|word| async move {
            word.ok().map(|word| peer::AppendEntriesReply { term: 0, outcome: Some(word) })
        });
        stream::once(async { opened }).chain(replies).chain(last)
    }

    /// One request without a stream: a heartbeat.
    pub async fn heartbeat(&self, request: peer::AppendEntries) -> Result<peer::AppendEntriesReply, String> {
        let request = request_in(self.group, request).map_err(|error| error.to_string())?;
        let term = types::segment_vote(&request.vote).term;
        let (prev, last) = (request.prev_log_id, request.entries.last().map(|entry| entry.log_id));
        let outcome = match self.raft.append_entries(request).await.map_err(|error| error.to_string())? {
            AppendEntriesResponse::Success => matched_out(last.or(prev)),
            AppendEntriesResponse::PartialSuccess(upto) => matched_out(upto),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(types::vote_out(&vote)),
            AppendEntriesResponse::Conflict => {
                Outcome::Conflict(peer::Conflict { at: prev.as_ref().map(types::id_out) })
            }
        };
        Ok(peer::AppendEntriesReply { term, outcome: Some(outcome) })
    }

    pub async fn vote(&self, request: peer::VoteRequest) -> Result<peer::VoteReply, String> {
        let request = vote_in(request).map_err(|error| error.to_string())?;
        self.raft.vote(request).await.map(vote_out).map_err(|error: RaftError<_>| error.to_string())
    }

    pub async fn pre_vote(&self, request: peer::VoteRequest) -> Result<peer::VoteReply, String> {
        let request = vote_in(request).map_err(|error| error.to_string())?;
        self.raft.pre_vote(request).await.map(vote_out).map_err(|error: RaftError<_>| error.to_string())
    }

    pub async fn transfer(&self, request: peer::TransferRequest) -> Result<peer::TransferReply, String> {
        let text = |error: Malformed| error.to_string();
        let from = types::vote_in(request.from).map_err(text)?;
        let last = types::maybe_id_in(request.last).map_err(text)?;
        let request = TransferLeaderRequest::new(from, request.to, last);
        Ok(match self.raft.handle_transfer_leader(request).await.map_err(|fatal| fatal.to_string())? {
            Ok(()) => peer::TransferReply { accepted: true, why: String::new() },
            Err(error) => peer::TransferReply { accepted: false, why: error.to_string() },
        })
    }

    pub async fn snapshot(&self, request: peer::SnapshotRequest) -> Result<peer::SnapshotReply, String> {
        let text = |error: Malformed| error.to_string();
        let vote = types::vote_in(request.vote).map_err(text)?;
        let membership = types::membership_in(request.membership.unwrap_or_default()).map_err(text)?;
        let last = request.last.ok_or_else(|| text(malformed("the snapshot's position is missing")))?;
        let last = types::id_in(last).map_err(text)?;
        let membership_at = types::maybe_id_in(request.membership_at).map_err(text)?;
        let meta =
            SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(membership_at, membership) };
        self.make_way(vote, types::segment_id(&last)).await?;
        let snapshot = SnapshotData { version: request.state, chain: request.chain };
        let snapshot = Snapshot { meta, snapshot };
        let reply = self.raft.install_full_snapshot(vote, snapshot).await.map_err(|fatal| fatal.to_string())?;
        Ok(peer::SnapshotReply { vote: Some(types::vote_out(&reply.vote)) })
    }
}

impl Replica {
    /// Removes what a snapshot at `at` contradicts though it lies below it: entries of a later term
    /// than the snapshot's end, which a deposed leader wrote. openraft removes them only if they reach
    /// up to the snapshot's position; otherwise it takes its own log for the newer one (and, where its
    /// assertions are compiled in, stops).
    async fn make_way(&self, vote: types::Vote, at: crate::segment::LogId) -> Result<(), String> {
        let runs = self.log.term_runs();
        let Some(first) = runs.iter().find(|id| id.term > at.term && id.position <= at.position) else {
            return Ok(());
        };
        // No leader of this snapshot has that entry: a probe there finds the conflict.
        let prev = crate::segment::LogId { term: at.term, position: first.position };
        let probe = AppendEntriesRequest {
            vote,
            prev_log_id: Some(types::log_id(prev)),
            entries: Vec::new(),
            leader_commit: None,
        };
        self.raft.append_entries(probe).await.map(drop).map_err(|error| error.to_string())
    }
}

fn request_in(group: u64, request: peer::AppendEntries) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    if request.group_id != group {
        return Err(malformed(format!("group {} on the stream of group {group}", request.group_id)));
    }
    let entries: Result<Vec<_>, _> = request.entries.into_iter().map(types::entry_in).collect();
    Ok(AppendEntriesRequest {
        vote: types::vote_in(request.vote)?,
        prev_log_id: types::maybe_id_in(request.prev)?,
        entries: entries?,
        leader_commit: types::maybe_id_in(request.committed)?,
    })
}

fn matched_out(upto: Option<types::LogId>) -> Outcome {
    Outcome::Matched(peer::Matched { upto: upto.as_ref().map(types::id_out) })
}

fn result_out(result: StreamAppendResult<TypeConfig>) -> Outcome {
    match result {
        Ok(upto) => matched_out(upto),
        Err(StreamAppendError::Conflict(at)) => Outcome::Conflict(peer::Conflict { at: Some(types::id_out(&at)) }),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(types::vote_out(&vote)),
    }
}

fn vote_in(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut vote = VoteRequest::new(types::vote_in(request.vote)?, types::maybe_id_in(request.last)?);
    vote.leadership_transfer = request.transfer;
    Ok(vote)
}

fn vote_out(reply: VoteResponse<TypeConfig>) -> peer::VoteReply {
    peer::VoteReply {
        vote: Some(types::vote_out(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(types::id_out),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use proto::NodeId;

    use super::*;
    use crate::identity::ClusterId;
    use crate::marks::Marks;
    use crate::offload::Offload;
    use crate::raft::{Dial, Parts, Peers, Speaker, Timing};
    use crate::segment::fault_disk::FaultDisk;
    use crate::segment::{self, Ids, Kind, LogEntry, LogId, Opened, Options};
    use crate::state::{self, GroupState, Journal, Member};

    /// There is nobody else.
    struct Nowhere;

    impl Dial for Nowhere {
        fn channel(&self, _: &str) -> tonic::transport::Channel {
            tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy()
        }

        fn spawn(&self, task: futures::future::BoxFuture<'static, ()>) {
            tokio::spawn(task);
        }
    }

    /// Node 1 of a group of three that nobody has led yet.
    async fn follower(disk: &FaultDisk) -> Arc<Replica> {
        let ids = Ids { cluster: 1, node: 1, group: 1 };
        let opened = segment::open(disk.mount(), Path::new("/1"), ids, Options::default());
        let Ok(Opened::Ready { log, writer, .. }) = opened else { panic!("an empty disk is not damaged") };
        segment::spawn_writer_thread(writer, "writer".into()).expect("there are threads");
        let speaker = Speaker { cluster: ClusterId(1), node: NodeId(1) };
        let parts = Parts {
            group: 1,
            node: 1,
            log,
            marks: Arc::new(Marks::new(1)),
            offload: Offload::Inline,
            peers: Arc::new(Peers::new(Arc::new(Nowhere), speaker)),
            genesis: GroupState::Journal(Journal::default()),
            timing: Timing { heartbeat_ms: 1000, election_ms_min: 60_000, election_ms_max: 61_000 },
            lost: tokio::sync::mpsc::channel(1).0,
        };
        Arc::new(Replica::start(parts).await.unwrap())
    }

    fn members() -> types::Membership {
        let member = |node: u64| (node, Member { name: format!("n{node}"), address: format!("n{node}:1") });
        types::Membership::new(vec![BTreeSet::from([1, 2, 3])], (1..=3).map(member).collect::<BTreeMap<_, _>>())
            .unwrap()
    }

    fn vote(term: u64, node_id: u64) -> Option<peer::Vote> {
        Some(peer::Vote { term, node_id, committed: true })
    }

    fn wire(id: LogId) -> peer::LogId {
        peer::LogId { term: id.term, position: id.position }
    }

    fn blank(term: u64, position: u64) -> peer::LogEntry {
        types::entry_out(types::entry(LogEntry::new(LogId::new(term, position), Kind::Blank, "")).unwrap())
    }

    /// openraft takes its own log for the newer one, and asserts that it never comes to this.
    #[tokio::test]
    async fn a_snapshot_replaces_what_a_deposed_leader_of_a_later_term_wrote_below_it() {
        let replica = follower(&FaultDisk::new(7)).await;
        let body = prost::Message::encode_to_vec(&types::membership_out(&members()));
        let first = types::entry(LogEntry::new(LogId::new(1, 0), Kind::Membership, body)).unwrap();
        let entries = [types::entry_out(first)].into_iter().chain((1..4).map(|at| blank(1, at))).collect();
        let append = |term, node, prev, entries| peer::AppendEntries {
            group_id: 1,
            vote: vote(term, node),
            prev,
            committed: None,
            entries,
        };
        let is_matched = |reply: peer::AppendEntriesReply| matches!(reply.outcome, Some(Outcome::Matched(_)));
        assert!(is_matched(replica.heartbeat(append(1, 2, None, entries)).await.unwrap()));
        // Node 3 leads term 3, writes to this node alone, and is gone. The others go on, with what node 2
        // had written in term 2.
        let prev = Some(wire(LogId::new(1, 3)));
        assert!(is_matched(replica.heartbeat(append(3, 3, prev, vec![blank(3, 4), blank(3, 5)])).await.unwrap()));
        assert_eq!(replica.log().last(), Some(LogId::new(3, 5)));

        let cut = LogId::new(2, 10);
        let membership = types::membership_out(&members());
        let at = Some(wire(LogId::new(1, 0)));
        let state = GroupState::Journal(Journal { start: 11 });
        let request = peer::SnapshotRequest {
            group_id: 1,
            vote: vote(4, 2),
            last: Some(wire(cut)),
            membership_at: at,
            membership: Some(membership.clone()),
            state: state::encode_version(&state, (at, membership)),
            chain: 99,
        };
        replica.snapshot(request).await.unwrap();
        assert_eq!((replica.log().purged(), replica.log().last()), (Some(cut), Some(cut)));
        assert!(is_matched(replica.heartbeat(append(4, 2, Some(wire(cut)), vec![blank(4, 11)])).await.unwrap()));
        assert!(replica.standing().fatal.is_none(), "raft stopped");
        replica.shutdown().await;
        replica.log().close();
    }
}
