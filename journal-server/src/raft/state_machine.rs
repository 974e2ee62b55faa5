//! The replicated state as openraft's state machine, and its snapshots.
//!
//! What is applied is tiny: control entries and memberships. Ordinary entries only move the applied
//! mark. Every change of the state becomes a version, written into the segment stream at the entry
//! that made it; the snapshot at a cut is the version in force there, so a joining node receives all
//! entries from `start` on, and a purge never takes what a reader may still ask for.
//!
//! A control entry above this build's level freezes the state there: apply goes on draining (openraft
//! stops the group otherwise), but what is persisted as applied stays below that entry, so that an
//! upgraded restart applies the rest.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::types::{self, LogId, Membership, StoredMembership, TypeConfig};
use crate::marks::Marks;
use crate::offload::Offload;
use crate::segment::{self, Kind, Log, Version};
use crate::state::{self, BadState, GroupState, Outcome};

/// What a snapshot carries: one version, and the chain checksum at its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotData {
    pub version: Bytes,
    pub chain: u64,
}

type OurSnapshot = Snapshot<types::CommittedLeaderId, u64, state::Member, SnapshotData>;

/// The state and what it was read from. Cheap to clone; the state machine's task alone changes it.
#[derive(Debug)]
pub struct StateMachine {
    log: Log,
    marks: Arc<Marks>,
    offload: Offload,
    applied: Option<LogId>,
    membership: StoredMembership,
    state: watch::Sender<Arc<GroupState>>,
    /// Why the state stands still, if it does.
    frozen: watch::Sender<Option<String>>,
    /// The snapshot that was built or installed last.
    current: Current,
}

type Current = Arc<Mutex<Option<(segment::LogId, SnapshotData)>>>;

impl StateMachine {
    /// The state as the log's last usable version has it, or `genesis`.
    pub fn recover(log: Log, marks: Arc<Marks>, offload: Offload, genesis: GroupState) -> io::Result<Self> {
        let versions = log.versions();
        let in_force = |at: segment::LogId| versions.iter().rev().find(|v| v.at.position <= at.position);
        let applied = log.recovered_applied().or(log.purged());
        let (state, membership) = match applied.and_then(in_force) {
            Some(version) => decode(&version.bytes)?,
            None if log.purged().is_some() => {
                return Err(io::Error::other("the log was purged, but no state at the cut is left: damaged"));
            }
            None => (genesis, StoredMembership::default()),
        };
        if let Some(applied) = applied {
            marks.applied(applied, state.start());
        }
        Ok(StateMachine {
            log,
            marks,
            offload,
            applied: applied.map(types::log_id),
            membership,
            state: watch::Sender::new(Arc::new(state)),
            frozen: watch::Sender::new(None),
            current: Current::default(),
        })
    }

    /// Follows the state. The catalogue's watchers open and close groups by it.
    pub fn watch(&self) -> watch::Receiver<Arc<GroupState>> {
        self.state.subscribe()
    }

    pub fn watch_frozen(&self) -> watch::Receiver<Option<String>> {
        self.frozen.subscribe()
    }

    /// Applies one entry; true if the state or the membership changed.
    fn apply_one(&mut self, id: LogId, payload: EntryPayload<types::Data, u64, state::Member>) -> (Outcome, bool) {
        match payload {
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                (Outcome::Nothing, true)
            }
            EntryPayload::Normal(data) if data.kind == Kind::Control => match state::decode_command(&data.body) {
                Ok(command) => {
                    let mut next = GroupState::clone(&self.state.borrow());
                    let outcome = next.apply(id.index(), &command);
                    let changed = *self.state.borrow().as_ref() != next;
                    if changed {
                        self.state.send_replace(Arc::new(next));
                    }
                    (outcome, changed)
                }
                Err(error) => {
                    let at = format!("the control entry at {}: {error}", id.index());
                    tracing::error!("the replicated state stands still from here on: {at}");
                    self.frozen.send_replace(Some(at.clone()));
                    (Outcome::Refused(state::Refused::Invalid(at)), false)
                }
            },
            EntryPayload::Normal(_) | EntryPayload::Blank => (Outcome::Nothing, false),
        }
    }

    fn is_frozen(&self) -> bool {
        self.frozen.borrow().is_some()
    }

    fn version(&self) -> Bytes {
        encode(&self.state.borrow(), &self.membership)
    }

    fn builder(&self, at: segment::LogId, version: Bytes) -> Builder {
        Builder { log: self.log.clone(), offload: self.offload, at, version, current: self.current.clone() }
    }

    /// The snapshot at `at`: the version in force there.
    fn snapshot_at(&self, at: segment::LogId) -> Option<Builder> {
        let versions = self.log.versions();
        let version = versions.into_iter().rev().find(|version| version.at.position <= at.position)?;
        Some(self.builder(at, version.bytes))
    }
}

/// Builds the snapshot at one cut.
#[derive(Debug)]
pub struct Builder {
    log: Log,
    offload: Offload,
    at: segment::LogId,
    version: Bytes,
    current: Current,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<OurSnapshot> {
        let (_, membership) = decode(&self.version)?;
        let (log, at) = (self.log.clone(), self.at);
        // A forced snapshot may be of a position that the log never held: there is no chain to it.
        let chain = match log.log_id_at(at.position) {
            // Chains are known of what is written: wait until this is.
            Some(_) => {
                let (done, written) = oneshot::channel();
                log.barrier(Box::new(move |result| drop(done.send(result))));
                written.await.unwrap_or_else(|_| Err(io::Error::other("the segment writer is gone")))?;
                self.offload.run(move || log.chain_at_blocking(at.position).map_err(io::Error::other)).await?
            }
            None => 0,
        };
        let meta = SnapshotMeta { last_log_id: Some(types::log_id(at)), last_membership: membership };
        let snapshot = SnapshotData { version: self.version.clone(), chain };
        *self.current.lock() = Some((at, snapshot.clone()));
        Ok(Snapshot { meta, snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<openraft::storage::EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let id = entry.log_id;
            let frozen = self.is_frozen();
            let (outcome, changed) = match frozen {
                true => (Outcome::Refused(state::Refused::Invalid("the state is frozen".into())), false),
                false => self.apply_one(id, entry.payload),
            };
            if !self.is_frozen() {
                self.applied = Some(id);
                if changed {
                    self.log.save_version(Version { at: types::segment_id(&id), bytes: self.version() });
                }
            }
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        if let Some(applied) = &self.applied {
            let applied = types::segment_id(applied);
            self.log.applied_hint(applied);
            self.marks.applied(applied, self.state.borrow().start());
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force {
            return Some(self.get_snapshot_builder().await);
        }
        let applied = types::segment_id(self.applied.as_ref()?);
        // The cut: everything below `start` may go.
        let cut = self.state.borrow().start().checked_sub(1)?;
        if cut == 0 || cut > applied.position {
            return None;
        }
        self.snapshot_at(self.log.log_id_at(cut)?)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let at = self.applied.as_ref().map(types::segment_id).or(self.log.purged());
        let at = at.unwrap_or(segment::LogId::new(0, 0));
        self.builder(at, self.version())
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::type_config::alias::SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let at = meta.last_log_id.ok_or_else(|| io::Error::other("a snapshot without a position"))?;
        let (state, membership) = decode(&snapshot.version)?;
        let version = Version { at: types::segment_id(&at), bytes: snapshot.version.clone() };
        let (done, installed) = oneshot::channel();
        self.log.install_snapshot(version, snapshot.chain, Box::new(move |result| drop(done.send(result))));
        installed.await.unwrap_or_else(|_| Err(io::Error::other("the segment writer is gone")))?;
        self.applied = Some(at);
        self.membership = membership;
        *self.current.lock() = Some((types::segment_id(&at), snapshot));
        self.marks.committed(types::segment_id(&at));
        // In this order: who sees that something is applied finds it in the state.
        let start = state.start();
        self.state.send_replace(Arc::new(state));
        self.marks.applied(types::segment_id(&at), start);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<OurSnapshot>> {
        let current = self.current.lock().clone();
        if let Some((at, snapshot)) = current {
            let (_, membership) = decode(&snapshot.version)?;
            let meta = SnapshotMeta { last_log_id: Some(types::log_id(at)), last_membership: membership };
            return Ok(Some(Snapshot { meta, snapshot }));
        }
        let Some(cut) = self.log.purged() else { return Ok(None) };
        match self.snapshot_at(cut) {
            Some(mut builder) => builder.build_snapshot().await.map(Some),
            // Recovery refuses such a log before Raft starts; only the upstream suite asks this.
            None => Ok(None),
        }
    }
}

/// The sets of voters that a written version names.
pub(super) fn voters_of(version: &[u8]) -> io::Result<Vec<BTreeSet<u64>>> {
    Ok(decode(version)?.1.membership().get_joint_config().clone())
}

fn encode(state: &GroupState, membership: &StoredMembership) -> Bytes {
    let at = membership.log_id().as_ref().map(types::id_out);
    state::encode_version(state, (at, types::membership_out(membership.membership())))
}

fn decode(bytes: &[u8]) -> io::Result<(GroupState, StoredMembership)> {
    let bad = |error: BadState| io::Error::other(format!("the written state is unusable: {error}"));
    let (state, at, membership) = state::decode_version(bytes).map_err(bad)?;
    let membership: Membership = types::membership_in(membership).map_err(io::Error::other)?;
    let at = types::maybe_id_in(at).map_err(io::Error::other)?;
    Ok((state, StoredMembership::new(at, membership)))
}
