//! What the journal says, applied once more, by one who has never crashed, waited or forgotten: the
//! state after every entry, every version of every key, and what became of every write.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_adapter::command::{self, Command, EntryBody, Op};
use etcd_adapter::mvcc::{self, Answer, At, Outcome, Reply, Row, State, ValueLost, Values};
use proto::Position;
use proto::mvccpb::KeyValue;

use super::ledger::Tag;

/// What became of one write.
#[derive(Debug, Clone)]
pub struct Effect {
    pub position: Position,
    pub reply: Reply,
    /// It made a revision.
    pub changed: bool,
}

pub struct Reference {
    pub state: State,
    rows: BTreeMap<At, Row>,
    by_key: BTreeMap<Bytes, Vec<At>>,
    /// The state's hash, by the first position that it holds at.
    hashes: BTreeMap<Position, u128>,
    pub effects: BTreeMap<Tag, Vec<Effect>>,
    /// Revisions that were compacted to.
    pub compactions: Vec<i64>,
    pub granted: BTreeMap<i64, i64>,
    /// Leases that ended, where, and whether that was an expiry.
    pub ended: BTreeMap<i64, (Position, bool)>,
    /// Entries of adapters that took effect, and that did not.
    pub taken: usize,
    pub skipped: usize,
    /// What adapters said of their own state.
    pub beats: Vec<(Position, u128)>,
}

struct Past<'a>(&'a BTreeMap<At, Row>);

impl Values for Past<'_> {
    fn values(&self, places: &[At]) -> Result<Vec<Bytes>, ValueLost> {
        let value = |at: &At| match self.0.get(at) {
            Some(row) => Ok(row.value.clone()),
            None => Err(ValueLost { at: *at, why: "the reference has no such row".into() }),
        };
        places.iter().map(value).collect()
    }
}

impl Reference {
    pub fn of(cluster: u64, entries: &[(Position, Bytes)]) -> anyhow::Result<Reference> {
        let mut reference = Reference {
            state: State::new(cluster),
            rows: BTreeMap::new(),
            by_key: BTreeMap::new(),
            hashes: BTreeMap::new(),
            effects: BTreeMap::new(),
            compactions: Vec::new(),
            granted: BTreeMap::new(),
            ended: BTreeMap::new(),
            taken: 0,
            skipped: 0,
            beats: Vec::new(),
        };
        reference.hashes.insert(Position(0), reference.state.hash());
        for (position, payload) in entries {
            // Others may append too; adapters pass it over.
            let Ok(body) = command::decode(payload.clone()) else { continue };
            reference.take(*position, &body)?;
        }
        Ok(reference)
    }

    fn take(&mut self, position: Position, body: &EntryBody) -> anyhow::Result<()> {
        let mut revision = self.state.revision();
        let applied = mvcc::apply(&mut self.state, position, body, &Past(&self.rows))?;
        self.hashes.insert(position.next(), applied.hash);
        if applied.outcome != Outcome::Taken {
            self.skipped += 1;
            return Ok(());
        }
        self.taken += 1;
        self.beats.extend(body.beat.iter().map(|beat| (beat.applied, beat.hash)));
        for change in applied.changes {
            let row = change.row;
            self.by_key.entry(Bytes::copy_from_slice(&row.key)).or_default().push(row.at);
            self.rows.insert(row.at, row);
        }
        for (command, reply) in body.commands.iter().zip(applied.replies) {
            let changed = reply.revision > revision;
            revision = reply.revision;
            match (command, &reply.result) {
                (Command::Compact { revision }, Ok(_)) => self.compactions.push(*revision),
                (Command::LeaseGrant { id, ttl }, Ok(_)) => drop(self.granted.insert(*id, *ttl)),
                (Command::LeaseRevoke { id }, Ok(_)) => drop(self.ended.insert(*id, (position, false))),
                (Command::Expire { lease, .. }, Ok(Answer::Expire { expired: true })) => {
                    self.ended.insert(*lease, (position, true));
                }
                _ => {}
            }
            if let Some(tag) = tag_of(command) {
                self.effects.entry(tag).or_default().push(Effect { position, reply, changed });
            }
        }
        Ok(())
    }

    /// The state's hash when everything below `applied` was applied.
    pub fn hash_at(&self, applied: Position) -> u128 {
        let (_, hash) = self.hashes.range(..=applied).next_back().expect("there is one from the start");
        *hash
    }

    /// What a read of these keys finds at a revision.
    pub fn read(&self, key: &[u8], range_end: &[u8], revision: i64) -> Vec<KeyValue> {
        let mut found = Vec::new();
        for (candidate, places) in self.by_key.range(Bytes::copy_from_slice(key)..) {
            if !within(candidate, key, range_end) {
                break;
            }
            let newest = places.partition_point(|at| at.main <= revision);
            let Some(at) = newest.checked_sub(1).and_then(|last| places.get(last)) else { continue };
            let row = &self.rows[at];
            if !row.is_tombstone() {
                found.push(key_value(row));
            }
        }
        found
    }

    /// Everything that ever happened to these keys.
    pub fn history(&self, key: &[u8], range_end: &[u8]) -> Vec<&Row> {
        self.rows.values().filter(|row| within(&row.key, key, range_end)).collect()
    }
}

fn within(candidate: &[u8], key: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => candidate == key,
        end => candidate >= key && candidate < end,
    }
}

pub fn key_value(row: &Row) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(&row.key),
        create_revision: row.create,
        mod_revision: row.at.main,
        version: row.version,
        value: row.value.clone(),
        lease: row.lease,
    }
}

/// Whose write a command is.
fn tag_of(command: &Command) -> Option<Tag> {
    match command {
        Command::Put(put) => Tag::of(&put.value),
        Command::Txn(txn) => txn.success.iter().chain(&txn.failure).find_map(|op| match op {
            Op::Put(put) => Tag::of(&put.value),
            _ => None,
        }),
        _ => None,
    }
}
