//! openraft's type parameters fixed once, and the translations at its two edges: to the segment's
//! types (disk) and to the peers' messages (wire).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::type_config::alias;
use openraft::{EntryPayload, RaftTypeConfig};
use prost::Message;
use proto::peer;

use super::responder::Responder;
use super::runtime::Runtime;
use crate::segment::{self, Kind};
use crate::state::{Member, Outcome};

/// openraft's parameters. A log id is (term, position): at most one leader a term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Data;
    type R = Outcome;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Data, u64, Member>;
    type Entry = openraft::impls::Entry<CommittedLeaderId, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Responder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(super) type CommittedLeaderId = alias::CommittedLeaderIdOf<TypeConfig>;
pub(super) type LogId = alias::LogIdOf<TypeConfig>;
pub(super) type Vote = alias::VoteOf<TypeConfig>;
pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Member>;
pub(super) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(super) type WriteResult =
    Result<openraft::raft::ClientWriteResponse<TypeConfig>, openraft::errors::ClientWriteError<TypeConfig>>;

/// The payload of an entry that is neither blank nor a membership.
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    /// [`Kind::Entry`], [`Kind::Urgent`] or [`Kind::Control`].
    pub kind: Kind,
    pub crc: u32,
    pub body: Bytes,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{} B]", self.kind, self.body.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

// ---- disk ----------------------------------------------------------------------------------

pub(super) fn log_id(id: segment::LogId) -> LogId {
    LogId::new(CommittedLeaderId::from(leader_of(id.term)), id.position)
}

fn leader_of(term: u64) -> CommittedLeaderId {
    CommittedLeaderId::new(term)
}

pub(super) fn segment_id(id: &LogId) -> segment::LogId {
    segment::LogId { term: **id.committed_leader_id(), position: id.index() }
}

pub(super) fn vote(vote: segment::Vote) -> Vote {
    match vote.committed {
        true => Vote::new_committed(vote.term, vote.node),
        false => Vote::new(vote.term, vote.node),
    }
}

pub(super) fn segment_vote(vote: &Vote) -> segment::Vote {
    let leader = vote.leader_id();
    segment::Vote { term: leader.term, node: leader.voted_for, committed: vote.is_committed() }
}

pub(super) fn log_entry(entry: Entry) -> segment::LogEntry {
    let id = segment_id(&entry.log_id);
    let (kind, crc, body) = match entry.payload {
        EntryPayload::Blank => (Kind::Blank, 0, Bytes::new()),
        EntryPayload::Normal(data) => (data.kind, data.crc, data.body),
        EntryPayload::Membership(membership) => {
            let body = Bytes::from(membership_out(&membership).encode_to_vec());
            (Kind::Membership, crc32fast::hash(&body), body)
        }
    };
    segment::LogEntry { id, kind, crc, body }
}

pub(super) fn entry(entry: segment::LogEntry) -> io::Result<Entry> {
    let payload = match entry.kind {
        Kind::Blank => EntryPayload::Blank,
        Kind::Entry | Kind::Urgent | Kind::Control => {
            EntryPayload::Normal(Data { kind: entry.kind, crc: entry.crc, body: entry.body })
        }
        Kind::Membership => {
            let wire = peer::Membership::decode(entry.body).map_err(io::Error::other)?;
            EntryPayload::Membership(membership_in(wire).map_err(io::Error::other)?)
        }
    };
    Ok(Entry { log_id: log_id(entry.id), payload })
}

// ---- wire ----------------------------------------------------------------------------------

/// A message that no correct peer sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message from a peer: {0}")]
pub struct Malformed(pub String);

pub(super) fn malformed(what: impl Into<String>) -> Malformed {
    Malformed(what.into())
}

pub(super) fn id_out(id: &LogId) -> peer::LogId {
    let id = segment_id(id);
    peer::LogId { term: id.term, position: id.position }
}

/// What is written of a peer's numbers must be readable again, and what is counted on from them too.
const NUMBERS_END: u64 = segment::NUMBERS_END / 2;

fn number_in(what: &str, number: u64) -> Result<u64, Malformed> {
    match number < NUMBERS_END {
        true => Ok(number),
        false => Err(malformed(format!("{what} {number}, which no log reaches"))),
    }
}

pub(super) fn id_in(id: peer::LogId) -> Result<LogId, Malformed> {
    let (term, position) = (number_in("term", id.term)?, number_in("position", id.position)?);
    Ok(log_id(segment::LogId { term, position }))
}

pub(super) fn maybe_id_in(id: Option<peer::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(id_in).transpose()
}

pub(super) fn vote_out(from: &Vote) -> peer::Vote {
    let vote = segment_vote(from);
    peer::Vote { term: vote.term, node_id: vote.node, committed: vote.committed }
}

pub(super) fn vote_in(from: Option<peer::Vote>) -> Result<Vote, Malformed> {
    let from = from.ok_or_else(|| malformed("the vote is missing"))?;
    let term = number_in("term", from.term)?;
    Ok(vote(segment::Vote { term, node: from.node_id, committed: from.committed }))
}

pub(super) fn entry_out(from: Entry) -> peer::LogEntry {
    let entry = log_entry(from);
    peer::LogEntry {
        position: entry.id.position,
        term: entry.id.term,
        kind: entry.kind as u32,
        crc: entry.crc,
        body: entry.body,
    }
}

/// The checksum is checked here: what a wire damaged must not reach the disk.
pub(super) fn entry_in(from: peer::LogEntry) -> Result<Entry, Malformed> {
    let id = segment_id(&id_in(peer::LogId { term: from.term, position: from.position })?);
    let kind = u8::try_from(from.kind).ok().and_then(Kind::from_u8);
    let kind = kind.ok_or_else(|| malformed(format!("entry kind {}", from.kind)))?;
    if crc32fast::hash(&from.body) != from.crc {
        return Err(malformed(format!("the entry at {} does not match its checksum", from.position)));
    }
    let from = segment::LogEntry { id, kind, crc: from.crc, body: from.body };
    entry(from).map_err(|error| malformed(error.to_string()))
}

pub(super) fn membership_out(membership: &Membership) -> peer::Membership {
    let config = |set: &BTreeSet<u64>| peer::VoterSet { node_ids: set.iter().copied().collect() };
    let member = |(node, member): (&u64, &Member)| peer::Member {
        node_id: *node,
        name: member.name.clone(),
        address: member.address.clone(),
    };
    peer::Membership {
        configs: membership.get_joint_config().iter().map(config).collect(),
        members: membership.nodes().map(member).collect(),
    }
}

pub(super) fn membership_in(from: peer::Membership) -> Result<Membership, Malformed> {
    let configs = from.configs.into_iter().map(|set| set.node_ids.into_iter().collect()).collect();
    let member = |m: peer::Member| (m.node_id, Member { name: m.name, address: m.address });
    let nodes: BTreeMap<u64, Member> = from.members.into_iter().map(member).collect();
    Membership::new(configs, nodes).map_err(|error| malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_number_that_could_be_written_but_not_be_read_again_is_refused() {
        let far = [1 << 61, 1 << 62, u64::MAX];
        for number in far {
            assert!(vote_in(Some(peer::Vote { term: number, node_id: 1, committed: false })).is_err());
            for (term, position) in [(number, 7), (7, number)] {
                assert!(id_in(peer::LogId { term, position }).is_err());
                let entry = peer::LogEntry { position, term, kind: Kind::Blank as u32, ..Default::default() };
                assert!(entry_in(entry).is_err());
            }
        }
        let near = peer::LogId { term: (1 << 61) - 1, position: (1 << 61) - 1 };
        assert_eq!(id_out(&id_in(near).unwrap()), near);
    }
}
