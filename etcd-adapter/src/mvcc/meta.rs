//! The state's records, as the store's `meta` keeps them, and how a state comes back from them.
//!
//! Apply names the records an entry changed ([`MetaKey`]); their bytes are made once, when a batch is
//! written ([`super::State::record`]). What follows from the versions (the index, the keys of leases)
//! has no record: it is rebuilt from `log`.

use bytes::Bytes;
use proto::Position;

use super::hash::{self, Kind};
use super::lease::Lease;
use super::members::{Member, Producer, Registry};
use super::state::State;
use super::types::{Alarm, Revision, Row, Version};
use crate::command::wire::{Malformed, Reader, put_bytes, put_int, put_texts, put_uint};
use crate::command::{alarm, alarm_byte, beat, put_beat};

/// The name of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetaKey {
    /// Positions, revisions, sums, alarms: written with every batch.
    Scalars,
    Lease(i64),
    Producer(Position),
    Member(u64),
    /// What must be remembered of past members and producers.
    Past,
}

const SCALARS: u8 = b's';
const LEASE: u8 = b'l';
const PRODUCER: u8 = b'p';
const MEMBER: u8 = b'm';
const PAST: u8 = b'o';

/// The version of the records' format.
const FORMAT: u8 = 1;

impl MetaKey {
    /// The record's key in the store.
    pub fn to_bytes(self) -> Vec<u8> {
        let numbered = |tag: u8, n: u64| [&[tag][..], &n.to_be_bytes()].concat();
        match self {
            MetaKey::Scalars => vec![SCALARS],
            MetaKey::Lease(id) => numbered(LEASE, id as u64),
            MetaKey::Producer(id) => numbered(PRODUCER, id.0),
            MetaKey::Member(id) => numbered(MEMBER, id),
            MetaKey::Past => vec![PAST],
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<MetaKey, Malformed> {
        let (tag, rest) = bytes.split_first().ok_or(Malformed::Short)?;
        let number = || rest.try_into().map(u64::from_be_bytes).map_err(|_| Malformed::Number);
        match *tag {
            SCALARS if rest.is_empty() => Ok(MetaKey::Scalars),
            PAST if rest.is_empty() => Ok(MetaKey::Past),
            LEASE => Ok(MetaKey::Lease(number()? as i64)),
            PRODUCER => Ok(MetaKey::Producer(Position(number()?))),
            MEMBER => Ok(MetaKey::Member(number()?)),
            _ => Err(Malformed::Unknown("record")),
        }
    }
}

impl State {
    /// The present bytes of a record, or `None` if there is no such thing (any more).
    pub fn record(&self, key: MetaKey) -> Option<Vec<u8>> {
        match key {
            MetaKey::Scalars => Some(scalars(self)),
            MetaKey::Lease(id) => self.leases.get(&id).map(lease_record),
            MetaKey::Producer(id) => self.registry.producers.get(&id).map(producer_record),
            MetaKey::Member(id) => self.registry.members.get(&id).map(member_record),
            MetaKey::Past => Some(past_record(&self.registry)),
        }
    }
}

/// The part of the scalars that apply decides, and that the state hash covers. The position is left
/// out: positions without entries are passed at each replica's own pace.
pub(super) fn decided_scalars(state: &State) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_int(&mut out, state.revision);
    put_int(&mut out, state.compact_revision);
    put_uint(&mut out, state.level.into());
    put_uint(&mut out, state.alarms.len() as u64);
    for entry in &state.alarms {
        out.push(alarm_byte(entry.kind));
        put_uint(&mut out, entry.member);
    }
    out.push(state.downgrade.is_some().into());
    if let Some(target) = &state.downgrade {
        put_bytes(&mut out, target.as_bytes());
    }
    out
}

fn scalars(state: &State) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_uint(&mut out, state.cluster);
    put_uint(&mut out, state.applied.0);
    out.extend_from_slice(&state.sums.events.to_be_bytes());
    // So that a copy whose rows and records do not belong together is found out.
    out.extend_from_slice(&state.hash().to_be_bytes());
    out.extend_from_slice(&decided_scalars(state));
    out
}

/// The next position to apply, and the compact revision, of a scalars record.
pub fn read_scalars(record: Bytes) -> Result<(Position, Revision), Unusable> {
    let mut restore = Restore::new();
    restore.record(MetaKey::Scalars, record)?;
    Ok((restore.state.applied, restore.state.compact_revision))
}

pub(super) fn lease_record(lease: &Lease) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_int(&mut out, lease.ttl);
    put_uint(&mut out, lease.renewed_at.0);
    out
}

pub(super) fn producer_record(producer: &Producer) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_uint(&mut out, producer.member);
    put_uint(&mut out, producer.nonce);
    put_uint(&mut out, producer.last_seq);
    put_uint(&mut out, producer.last_entry.0);
    put_uint(&mut out, producer.level.into());
    out.push(producer.beat.is_some().into());
    if let Some(beat) = &producer.beat {
        put_beat(&mut out, beat);
    }
    out
}

pub(super) fn member_record(member: &Member) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_bytes(&mut out, member.name.as_bytes());
    put_texts(&mut out, &member.peer_urls);
    put_texts(&mut out, &member.client_urls);
    out.push(member.learner.into());
    out.push(member.added.into());
    put_uint(&mut out, member.producer.unwrap_or(Position::NONE).0);
    out
}

pub(super) fn past_record(registry: &Registry) -> Vec<u8> {
    let mut out = Vec::new();
    put_uint(&mut out, registry.preferred);
    put_uint(&mut out, registry.fenced.len() as u64);
    for name in &registry.fenced {
        put_bytes(&mut out, name.as_bytes());
    }
    put_uint(&mut out, registry.nonces.len() as u64);
    for (position, nonce) in &registry.nonces {
        put_uint(&mut out, position.0);
        put_uint(&mut out, *nonce);
    }
    out
}

/// Why a state could not be rebuilt. The store is of no use then, and is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("a record is malformed: {0}")]
    Record(#[from] Malformed),
    #[error("there is no record of positions and revisions")]
    NoScalars,
    #[error("its rows and records do not belong together: its hash is {found:032x} and should be {expected:032x}")]
    Hash { found: u128, expected: u128 },
    #[error("the row {0} is out of place")]
    Row(super::types::At),
}

/// Rebuilds a state: first every record of `meta`, then every row of `log` in order.
#[derive(Debug)]
pub struct Restore {
    state: State,
    expected: Option<u128>,
}

impl Restore {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Restore {
        Restore { state: State::new(0), expected: None }
    }

    /// Takes one record.
    pub fn record(&mut self, key: MetaKey, bytes: Bytes) -> Result<(), Unusable> {
        let reader = Reader::new(bytes);
        match key {
            MetaKey::Scalars => self.scalars(reader)?,
            MetaKey::Lease(id) => drop(self.state.leases.insert(id, lease(reader)?)),
            MetaKey::Producer(id) => drop(self.state.registry.producers.insert(id, producer(reader)?)),
            MetaKey::Member(id) => drop(self.state.registry.members.insert(id, member(id, reader)?)),
            MetaKey::Past => past(reader, &mut self.state.registry)?,
        }
        Ok(())
    }

    /// Takes the next row. Rows that were superseded before the last compaction may be missing; the
    /// tombstones that hide them may not.
    pub fn row(&mut self, row: &Row) -> Result<(), Unusable> {
        if row.at.main > self.state.revision {
            return Err(Unusable::Row(row.at));
        }
        let version = Version {
            at: row.at,
            create: row.create,
            version: row.version,
            lease: row.lease,
            size: row.value.len() as u32,
            digest: if row.is_tombstone() { 0 } else { hash::of_value(&row.value) },
        };
        if self.state.index.latest(&row.key).is_some_and(|latest| latest.at >= row.at) {
            return Err(Unusable::Row(row.at));
        }
        self.state.index.insert(&row.key, version);
        Ok(())
    }

    /// Checks that everything belongs together.
    pub fn finish(mut self) -> Result<State, Unusable> {
        let expected = self.expected.ok_or(Unusable::NoScalars)?;
        let state = &mut self.state;
        state.index.forget(state.compact_revision, usize::MAX);
        let mut live = 0u128;
        let leases = &mut state.leases;
        state.index.each_live(|key, version| {
            live = live.wrapping_add(hash::of_version(key, version));
            if let Some(lease) = leases.get_mut(&version.lease) {
                lease.keys.insert(key.clone());
            }
        });
        state.sums.live = live;
        let sum = |sum: u128, hash: u128| sum.wrapping_add(hash);
        state.sums.leases = state.leases.iter().map(|(id, lease)| of_lease(*id, lease)).fold(0, sum);
        state.sums.registry = of_registry(&state.registry);
        state.index.settle(state.revision);
        let found = state.hash();
        if found != expected {
            return Err(Unusable::Hash { found, expected });
        }
        Ok(self.state)
    }

    fn scalars(&mut self, mut reader: Reader) -> Result<(), Unusable> {
        if reader.byte()? != FORMAT {
            return Err(Malformed::Unknown("format").into());
        }
        let state = &mut self.state;
        state.cluster = reader.uint()?;
        state.applied = Position(reader.uint()?);
        state.sums.events = reader.u128()?;
        self.expected = Some(reader.u128()?);
        state.revision = reader.int()?;
        state.compact_revision = reader.int()?;
        state.level = reader.u32()?;
        for _ in 0..reader.count()? {
            state.alarms.insert(Alarm { kind: alarm(reader.byte()?)?, member: reader.uint()? });
        }
        state.downgrade = if reader.bool()? { Some(reader.text()?) } else { None };
        Ok(reader.end()?)
    }
}

pub(super) fn of_lease(id: i64, lease: &Lease) -> u128 {
    hash::of_record(Kind::Lease, id as u64, &lease_record(lease))
}

pub(super) fn of_producer(id: Position, producer: &Producer) -> u128 {
    hash::of_record(Kind::Producer, id.0, &producer_record(producer))
}

pub(super) fn of_member(id: u64, member: &Member) -> u128 {
    hash::of_record(Kind::Member, id, &member_record(member))
}

pub(super) fn of_past(registry: &Registry) -> u128 {
    hash::of_record(Kind::Past, 0, &past_record(registry))
}

fn of_registry(registry: &Registry) -> u128 {
    let producers = registry.producers.iter().map(|(id, producer)| of_producer(*id, producer));
    let members = registry.members.iter().map(|(id, member)| of_member(*id, member));
    producers.chain(members).fold(of_past(registry), u128::wrapping_add)
}

fn lease(mut reader: Reader) -> Result<Lease, Malformed> {
    let lease = Lease { ttl: reader.int()?, renewed_at: Position(reader.uint()?), keys: Default::default() };
    reader.end()?;
    Ok(lease)
}

fn producer(mut reader: Reader) -> Result<Producer, Malformed> {
    let producer = Producer {
        member: reader.uint()?,
        nonce: reader.uint()?,
        last_seq: reader.uint()?,
        last_entry: Position(reader.uint()?),
        level: reader.u32()?,
        beat: if reader.bool()? { Some(beat(&mut reader)?) } else { None },
    };
    reader.end()?;
    Ok(producer)
}

fn member(id: u64, mut reader: Reader) -> Result<Member, Malformed> {
    let member = Member {
        id,
        name: reader.text()?,
        peer_urls: reader.texts()?,
        client_urls: reader.texts()?,
        learner: reader.bool()?,
        added: reader.bool()?,
        producer: Some(Position(reader.uint()?)).filter(|producer| *producer != Position::NONE),
    };
    reader.end()?;
    Ok(member)
}

fn past(mut reader: Reader, registry: &mut Registry) -> Result<(), Malformed> {
    registry.preferred = reader.uint()?;
    registry.fenced = reader.texts()?.into_iter().collect();
    for _ in 0..reader.count()? {
        registry.nonces.insert(Position(reader.uint()?), reader.uint()?);
    }
    reader.end()
}
