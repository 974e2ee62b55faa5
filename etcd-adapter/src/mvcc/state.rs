//! Everything that decisions are made from, and the questions readers may ask of it.
//!
//! `compact_revision ≤ revision`, and every version of the index is at or below `revision`. Only
//! [`apply`](super::apply()) changes what is decided; [`State::forget`] gives up memory and changes no
//! answer.

use std::collections::BTreeMap;

use proto::Position;

use super::alarms::Alarms;
use super::hash::{self, Kind, Sums};
use super::index::Index;
use super::lease::Lease;
use super::members::{Member, Producer, Registry};
use super::meta;
use super::types::{Alarm, Refusal, Revision};

/// The replicated state, without the values.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) cluster: u64,
    pub(super) applied: Position,
    pub(super) revision: Revision,
    pub(super) compact_revision: Revision,
    pub(super) level: u32,
    pub(super) index: Index,
    pub(super) leases: BTreeMap<i64, Lease>,
    pub(super) registry: Registry,
    pub(super) alarms: Alarms,
    pub(super) downgrade: Option<String>,
    pub(super) sums: Sums,
}

impl State {
    /// The state before the first entry. `cluster` is the cluster id, from the journal's identity:
    /// member ids are derived from it.
    pub fn new(cluster: u64) -> State {
        State {
            cluster,
            applied: Position::NONE.next(),
            revision: 1,
            compact_revision: -1,
            level: 1,
            index: Index::default(),
            leases: BTreeMap::new(),
            registry: Registry::default(),
            alarms: Alarms::default(),
            downgrade: None,
            sums: Sums { registry: meta::of_past(&Registry::default()), ..Sums::default() },
        }
    }

    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// The next position to apply.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// Says that no position below `next` holds an entry that was not applied.
    pub fn advance(&mut self, next: Position) {
        assert!(next >= self.applied, "apply goes forward: {next} after {}", self.applied);
        self.applied = next;
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision below which nothing can be read; -1 before the first compaction.
    pub fn compact_revision(&self) -> Revision {
        self.compact_revision
    }

    /// The level in force: no entry above it is written.
    pub fn level(&self) -> u32 {
        self.level
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The revision a plain read means by `asked`, or why it cannot be read. To be asked again after
    /// reading: a compaction may have passed.
    pub fn readable(&self, asked: Revision) -> Result<Revision, Refusal> {
        let revision = if asked <= 0 { self.revision } else { asked };
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        if revision < self.compact_revision {
            return Err(Refusal::Compacted);
        }
        Ok(revision)
    }

    pub fn leases(&self) -> &BTreeMap<i64, Lease> {
        &self.leases
    }

    pub fn lease(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.registry.members.values()
    }

    pub fn member(&self, id: u64) -> Option<&Member> {
        self.registry.members.get(&id)
    }

    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.registry.by_name(name).filter(|member| !member.name.is_empty())
    }

    /// Whether any member is there that clients are not to use yet.
    pub fn has_learners(&self) -> bool {
        self.members().any(|member| member.learner)
    }

    /// The live producers.
    pub fn producers(&self) -> &BTreeMap<Position, Producer> {
        &self.registry.producers
    }

    pub fn producer(&self, id: Position) -> Option<&Producer> {
        self.registry.producers.get(&id)
    }

    /// The member that `Status.leader` names, or 0.
    pub fn leader(&self) -> u64 {
        self.registry.leader()
    }

    pub fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.alarms.iter().copied()
    }

    /// The target of the downgrade job in progress.
    pub fn downgrade(&self) -> Option<&str> {
        self.downgrade.as_deref()
    }

    /// The bytes of all versions that the index knows, keys included: what the quota is measured
    /// against.
    pub fn logical_bytes(&self) -> u64 {
        self.index.bytes()
    }

    /// The hash of everything decided so far. Equal positions have equal hashes.
    pub fn hash(&self) -> u128 {
        let sums = &self.sums;
        let scalars = hash::of_record(Kind::Scalars, 0, &meta::decided_scalars(self));
        [sums.live, sums.events, sums.leases, sums.registry].into_iter().fold(scalars, u128::wrapping_add)
    }

    /// Lets the index forget, in at most `steps` steps, what no read at or above `floor` can see.
    /// Returns how many steps were taken: fewer than `steps` when nothing is left to do.
    ///
    /// `floor` is the least of the compact revision in the last *flushed* meta and those that someone
    /// still reads at.
    pub fn forget(&mut self, floor: Revision, steps: usize) -> usize {
        let floor = floor.min(self.compact_revision);
        self.index.forget(floor, steps)
    }
}
