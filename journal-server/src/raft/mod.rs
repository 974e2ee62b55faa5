//! Raft: the only place that names openraft. Everybody else holds a [`Replica`].
//!
//! openraft decides; this folder gives it a log (`log_store`, over `segment/`), a state machine
//! (`state_machine`, over `state/`), a network (`network`, `peers`, `ingress`) and a runtime. Its
//! defaults are wrong for us in many places; `docs/TESTING.md` lists the traps and their tests.

#[doc(hidden)]
pub mod fuzz;
mod ingress;
mod log_store;
mod network;
mod peers;
mod responder;
mod runtime;
mod state_machine;
mod types;

pub use ingress::Room;
pub use network::Acknowledged;
pub use peers::{Dial, MESSAGE_BYTES_MAX, Peer, Peers, Speaker};
pub use runtime::{TICK, seed_thread};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::errors::{
    ClientWriteError, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::type_config::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, EntryPayload, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::{mpsc, watch};

use self::log_store::LogStore;
use self::network::Network;
use self::responder::Responder;
use self::state_machine::StateMachine;
use self::types::{Data, TypeConfig};
use crate::ledger::Ledger;
use crate::marks::Marks;
use crate::offload::Offload;
use crate::refusal::{self, Reason, Refusal};
use crate::segment::{Damaged, Kind, Log};
use crate::state::{self, Command, GroupState, GroupView, Member, Outcome};

type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Raft's timings. Elections after `election_ms` of silence and a random share of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_ms_min: u64,
    pub election_ms_max: u64,
}

/// What a group is made of.
pub struct Parts {
    pub group: u64,
    pub node: u64,
    pub log: Log,
    pub marks: Arc<Marks>,
    pub offload: Offload,
    pub peers: Arc<Peers>,
    pub genesis: GroupState,
    pub timing: Timing,
    /// Told of followers that lost what they acknowledged.
    pub lost: mpsc::Sender<u64>,
}

/// One group's Raft on this node.
pub struct Replica {
    group: u64,
    node: u64,
    raft: Raft,
    log: Log,
    marks: Arc<Marks>,
    state: watch::Receiver<Arc<GroupState>>,
    frozen: watch::Receiver<Option<String>>,
    acknowledged: Arc<Acknowledged>,
}

/// Where a replica stands, at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    pub term: u64,
    pub leader: Option<(u64, Member)>,
    /// The last time a majority was heard, as milliseconds ago; only of a leader.
    pub quorum_age_ms: Option<u64>,
    pub configs: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, Member>,
    /// Where in the log these members stand; they may be in force and not committed yet.
    pub members_at: Option<u64>,
    /// What a leader knows its followers to hold.
    pub matched: BTreeMap<u64, u64>,
    pub initialized: bool,
    /// Why Raft stopped, if it did.
    pub fatal: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    Leader,
    #[default]
    Follower,
    Candidate,
    Learner,
    Stopped,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        }
    }
}

impl Replica {
    /// Starts the group from what its log holds.
    pub async fn start(parts: Parts) -> anyhow::Result<Replica> {
        let Parts { group, node, log, marks, offload, peers, genesis, timing, lost } = parts;
        let machine = StateMachine::recover(log.clone(), marks.clone(), offload, genesis)?;
        let (state, frozen) = (machine.watch(), machine.watch_frozen());
        let acknowledged = Arc::new(Acknowledged::default());
        let network = Network { group, log: log.clone(), peers, acknowledged: acknowledged.clone(), lost };
        let store = LogStore::new(log.clone(), marks.clone(), offload);
        let raft = Raft::new(node, Arc::new(config(group, timing)?), network, store, machine).await?;
        Ok(Replica { group, node, raft, log, marks, state, frozen, acknowledged })
    }

    /// Makes a group of exactly these voters. Every one of them may do this, and more than once.
    pub async fn initialize(&self, voters: BTreeMap<u64, Member>) -> anyhow::Result<()> {
        match self.raft.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives entries to Raft, in order, under the leadership of `term`: if that is over, they are
    /// refused at the door. Their outcomes go to the ledger.
    pub async fn propose(&self, term: u64, entries: Vec<(u64, Kind, u32, Bytes)>, ledger: &Arc<Ledger>) {
        let leader = types::CommittedLeaderId::new(term);
        for (slot, kind, crc, body) in entries {
            let write = self.raft.write(Data { kind, crc, body });
            let write = write.with_leader(leader).responder(Responder::new(ledger.clone(), slot));
            // A failure drops the responder, which answers `Unknown`.
            if let Err(fatal) = write.await {
                tracing::debug!(group = self.group, "raft stopped: {fatal}");
            }
        }
    }

    /// Executes a command through the log and answers what applying it said.
    pub async fn command(&self, command: &Command) -> Result<Outcome, CommandError> {
        let body = state::encode_command(command);
        let data = Data { kind: Kind::Control, crc: crc32fast::hash(&body), body };
        match self.raft.client_write(data).await {
            Ok(response) => Ok(response.data),
            Err(error) => Err(command_error(error)),
        }
    }

    /// The linearizable tail: a quorum round, answered once commit has reached the read id.
    pub async fn check_tail(&self) -> Result<u64, Refusal> {
        let read = match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => read.index(),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(forwarded(&forward));
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(refusal::no_quorum());
            }
            Err(RaftError::Fatal(fatal)) => return Err(stopped(fatal)),
        };
        let mut marks = self.marks.watch();
        let reached = marks.wait_for(|mark| mark.tail > read).await;
        reached.map(|mark| mark.tail).map_err(stopped)
    }

    pub fn node(&self) -> u64 {
        self.node
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn state(&self) -> Arc<GroupState> {
        self.state.borrow().clone()
    }

    pub fn watch_state(&self) -> watch::Receiver<Arc<GroupState>> {
        self.state.clone()
    }

    /// Why the replicated state stands still, if it does.
    pub fn frozen(&self) -> Option<String> {
        self.frozen.borrow().clone()
    }

    pub fn acknowledged(&self) -> &Acknowledged {
        &self.acknowledged
    }

    pub fn standing(&self) -> Standing {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let nodes: BTreeMap<u64, Member> = membership.nodes().map(|(id, m)| (*id, m.clone())).collect();
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let leader = metrics.current_leader.and_then(|id| nodes.get(&id).map(|member| (id, member.clone())));
        let matched = metrics.replication.iter().flatten();
        let matched = matched.filter_map(|(id, log_id)| Some((*id, log_id.as_ref()?.index()))).collect();
        Standing {
            role,
            term: metrics.current_term,
            leader,
            quorum_age_ms: metrics.last_quorum_acked.map(|at| at.elapsed().as_millis() as u64),
            configs: membership.get_joint_config().clone(),
            initialized: !nodes.is_empty(),
            nodes,
            members_at: metrics.membership_config.log_id().as_ref().map(|id| id.index()),
            matched,
            fatal: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Waits until the standing may have changed in role, term, leader or membership.
    pub fn watch_standing(&self) -> StandingWatch {
        StandingWatch(self.raft.server_metrics())
    }

    /// This group as the membership reconciler sees it. Only a leader's view means anything.
    pub fn view(&self) -> GroupView {
        let standing = self.standing();
        let last = self.marks.get().tail.saturating_sub(1);
        let near = |matched: u64| matched + CAUGHT_UP_LAG >= last;
        let caught_up = standing.matched.iter().filter(|(_, matched)| near(**matched)).map(|(id, _)| *id);
        let caught_up = caught_up.chain([self.node]).collect();
        GroupView { configs: standing.configs, nodes: standing.nodes, caught_up }
    }

    pub async fn add_learner(&self, node: u64, member: Member) -> Result<(), CommandError> {
        self.raft.add_learner(node, member, false).await.map(drop).map_err(command_error)
    }

    pub async fn set_member(&self, node: u64, member: Member) -> Result<(), CommandError> {
        let change = ChangeMembers::SetNodes([(node, member)].into());
        self.raft.change_membership(change, true).await.map(drop).map_err(command_error)
    }

    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), CommandError> {
        let change = ChangeMembers::ReplaceAllVoters(voters.clone());
        match self.raft.change_membership(change, false).await {
            Ok(_) => Ok(()),
            Err(error) => Err(command_error(error)),
        }
    }

    pub async fn remove_learner(&self, node: u64) -> Result<(), CommandError> {
        let change = ChangeMembers::RemoveNodes([node].into());
        self.raft.change_membership(change, false).await.map(drop).map_err(command_error)
    }

    /// Asks a follower to become the leader at once. Whether it did shows in the standing.
    pub async fn transfer_to(&self, node: u64) -> anyhow::Result<()> {
        Ok(self.raft.trigger().transfer_leader(node).await?)
    }

    /// Makes Raft's snapshot at the trim cut and lets go of the log below it.
    pub async fn purge_below(&self, start: u64) -> anyhow::Result<()> {
        let Some(cut) = start.checked_sub(1).filter(|cut| *cut > 0) else { return Ok(()) };
        if self.log.purged().is_some_and(|purged| purged.position >= cut) {
            return Ok(());
        }
        self.raft.trigger().snapshot().await?;
        let mut built = self.raft.watch_snapshot_progress();
        let cut_id = self.log.log_id_at(cut).map(types::log_id);
        let wait = built.wait_until_ge(&cut_id);
        tokio::time::timeout(Duration::from_secs(5), wait).await??;
        Ok(self.raft.trigger().purge_log(cut).await?)
    }

    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = self.group, "raft did not stop cleanly: {error}");
        }
    }
}

/// A learner whose log ends so close to the leader's is caught up: the rest arrives while it is voted
/// in.
const CAUGHT_UP_LAG: u64 = 4096;

pub struct StandingWatch(
    openraft::type_config::alias::WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>,
);

impl StandingWatch {
    /// False when Raft is gone.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// Why a command or a change of membership was not carried out here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have been carried out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The voters in force below a position of a log that cannot run yet: those of the last membership there,
/// committed or not. Empty: none is known.
pub fn voters_below(log: &Damaged, position: u64) -> io::Result<Vec<BTreeSet<u64>>> {
    let version = log.versions().iter().rev().find(|version| version.at.position < position);
    let mut voters = match version {
        Some(version) => state_machine::voters_of(&version.bytes)?,
        None => Vec::new(),
    };
    let mut at = version.map_or(0, |version| version.at.position + 1);
    while at < position {
        let (entries, unread) = log.read(at, position, VOTERS_STEP_BYTES);
        if let Some(unread) = unread.first() {
            return Err(io::Error::other(format!("the entry at {unread} cannot be read either")));
        }
        let Some(last) = entries.last() else { break };
        at = last.id.position + 1;
        for entry in entries.into_iter().filter(|entry| entry.kind == Kind::Membership) {
            if let EntryPayload::Membership(membership) = types::entry(entry)?.payload {
                voters = membership.get_joint_config().clone();
            }
        }
    }
    Ok(voters)
}

const VOTERS_STEP_BYTES: usize = 4 << 20;

fn command_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> CommandError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forwarded(&forward).into(),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            Refusal::new(Reason::ChangeUnderWay, error.to_string()).into()
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
            Refusal::new(Reason::ChangeUnderWay, error.to_string()).into()
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(why)) => CommandError::Unknown(why.to_string()),
        RaftError::Fatal(fatal) => CommandError::Unknown(fatal.to_string()),
    }
}

fn forwarded(forward: &ForwardToLeader<TypeConfig>) -> Refusal {
    let leader = forward.leader_node.as_ref().map(|member| member.address.clone());
    match forward.reason {
        ForwardReason::NotLeader => refusal::not_leader(leader),
        ForwardReason::LeadershipTransfer => refusal::moved(leader),
        ForwardReason::LeaseExpired => refusal::no_quorum(),
    }
}

fn stopped(why: impl ToString) -> Refusal {
    Refusal::new(Reason::ShuttingDown, format!("this node's replica has stopped: {}", why.to_string()))
}

/// Every setting whose default is wrong for us, and why it is what it is.
fn config(group: u64, timing: Timing) -> anyhow::Result<openraft::Config> {
    // Due a little before the tick that is meant, which may come a little early or late.
    let heartbeat = timing.heartbeat_ms - runtime::TICK.as_millis() as u64 / 5;
    let config = openraft::Config {
        cluster_name: format!("journal-{group}"),
        heartbeat_interval: heartbeat,
        election_timeout_min: timing.election_ms_min,
        election_timeout_max: timing.election_ms_max,
        // Replication proves a leader alive as well as a heartbeat does.
        heartbeat_min_interval: Some(heartbeat),
        // An old leader's heartbeats block elections in a partial partition otherwise.
        quorum_loss_probe_interval: Some(timing.election_ms_max * 2),
        // A node that was cut off must not depose the leader when it returns.
        enable_pre_vote: Some(true),
        // A restarted leader could serve reads below what it had acknowledged.
        enable_leader_restore: Some(false),
        // Followers hear of entries at once, not at the end of the core's loop.
        broadcast_submitted_on_append: Some(true),
        // Nothing is purged by policy: purge follows trim.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        // By bytes, in the log store.
        max_payload_entries: 4096,
        backoff: "10ms 20ms ...500ms".to_owned(),
        ..openraft::Config::default()
    };
    Ok(config.validate()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_whose_defaults_are_wrong_for_us_are_set() {
        let timing = Timing { heartbeat_ms: 200, election_ms_min: 500, election_ms_max: 1000 };
        let config = config(1, timing).unwrap();
        assert_eq!(config.enable_leader_restore, Some(false), "a restarted leader serves what it no longer knows");
        assert_eq!(config.quorum_loss_probe_interval, Some(2000), "an old leader's beats hold up elections");
        assert_eq!(config.enable_pre_vote, Some(true), "whoever was cut off deposes the leader");
        assert_eq!(config.broadcast_submitted_on_append, Some(true), "followers hear of entries late");
        assert!(matches!(config.snapshot_policy, SnapshotPolicy::Never), "it purges what was not trimmed");
        assert!(config.heartbeat_interval < timing.heartbeat_ms, "a beat that is due at a tick misses it");
    }
}
