//! What puts, deletes and Txns do, decided from the index without changing it.
//!
//! A [`Draft`] collects the changes of one command; later operations of a Txn see them, nobody else
//! does. As in etcd, everything that can refuse a Txn is asked of the state *before* it: comparisons of
//! nested Txns, leases, the keys that `ignore_value` needs, the revisions of ranges.
//!
//! A key may change twice in one revision: the rule against it lets some nested Txns through.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::apply::Change;
use super::compare::{compare_numbers, holds_of_nothing, verdict};
use super::hash;
use super::index::KeyRange;
use super::state::State;
use super::types::{At, Key, OpAnswer, OpResult, Refusal, Revision, Row, TxnAnswer, ValueLost, Values, Version};
use crate::command::{Compare, CompareTarget, DeleteRange, Op, Put, Range, Txn};

/// Why a decision ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(Refusal),
    Lost(ValueLost),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<ValueLost> for Stop {
    fn from(lost: ValueLost) -> Stop {
        Stop::Lost(lost)
    }
}

/// The changes of one command, as far as they are decided.
pub(super) struct Draft<'a> {
    state: &'a State,
    values: &'a dyn Values,
    /// What the same entry changed before.
    earlier: &'a [Change],
    changes: Vec<Change>,
    /// The last change of each key among the first `tracked` of `changes`: brought up to date when an
    /// operation begins, so that a command of one operation never needs it.
    drafted: BTreeMap<Key, usize>,
    tracked: usize,
}

impl<'a> Draft<'a> {
    pub fn new(state: &'a State, values: &'a dyn Values, earlier: &'a [Change]) -> Draft<'a> {
        Draft { state, values, earlier, changes: Vec::new(), drafted: BTreeMap::new(), tracked: 0 }
    }

    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// The revision after what is drafted so far.
    pub fn revision(&self) -> Revision {
        if self.changes.is_empty() { self.state.revision } else { self.main() }
    }

    /// A Put that stands alone.
    pub fn put(&mut self, put: &Put) -> Result<Option<At>, Stop> {
        self.check_lease(put.lease)?;
        self.do_put(put)
    }

    pub fn delete_range(&mut self, delete: &DeleteRange) -> (i64, Vec<At>) {
        self.track();
        let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
        let keys = self.live_keys(&range);
        let deleted = keys.len() as i64;
        let prev = keys.into_iter().map(|(key, version)| self.delete(key, version)).collect::<Vec<At>>();
        (deleted, if delete.prev_kv { prev } else { Vec::new() })
    }

    /// Deletes one key that is there. Returns the version that it had.
    fn delete(&mut self, key: Key, version: Version) -> At {
        let at = self.next_at();
        let tombstone = Version { at, create: 0, version: 0, lease: 0, size: 0, digest: 0 };
        self.change(key, tombstone, Bytes::new(), Some(version));
        version.at
    }

    /// Deletes those of the keys that are there, in the order given: each key once.
    pub fn delete_keys(&mut self, keys: Vec<Key>) {
        for key in keys {
            if let Some((key, version)) = self.current(&key) {
                self.delete(key, version);
            }
        }
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<TxnAnswer, Stop> {
        let path = self.compare(txn)?;
        self.check(txn, &path)?;
        self.execute(txn, &path)
    }

    fn track(&mut self) {
        for (i, change) in self.changes.iter().enumerate().skip(self.tracked) {
            self.drafted.insert(change.row.key.clone(), i);
        }
        self.tracked = self.changes.len();
    }

    fn main(&self) -> Revision {
        self.state.revision + 1
    }

    fn next_at(&self) -> At {
        At { main: self.main(), sub: self.changes.len() as u32 }
    }

    /// A key as it is after what is drafted.
    fn current(&self, key: &[u8]) -> Option<(Key, Version)> {
        if let Some((key, i)) = self.drafted.get_key_value(key) {
            let version = self.changes[*i].version;
            return (!version.is_tombstone()).then(|| (key.clone(), version));
        }
        self.state.index.live_version(key).map(|(key, version)| (key.clone(), *version))
    }

    /// The keys of a range as they are after what is drafted, in order.
    fn live_keys(&self, range: &KeyRange) -> Vec<(Key, Version)> {
        let mut keys = Vec::new();
        if range.is_single() {
            keys.extend(self.current(range.from()));
            return keys;
        }
        self.state.index.walk(range, At::end_of(self.main()), None, usize::MAX, &mut |key, version| {
            if !self.drafted.contains_key(key) {
                keys.push((key.clone(), *version));
            }
            true
        });
        if !self.drafted.is_empty() {
            let drafted = self.drafted.iter().filter(|(key, _)| range.contains(key));
            let live = drafted.map(|(key, i)| (key.clone(), self.changes[*i].version));
            keys.extend(live.filter(|(_, version)| !version.is_tombstone()));
            keys.sort_by(|a, b| a.0.cmp(&b.0));
        }
        keys
    }

    fn do_put(&mut self, put: &Put) -> Result<Option<At>, Stop> {
        self.track();
        let current = self.current(&put.key);
        if (put.ignore_value || put.ignore_lease) && current.is_none() {
            return Err(Refusal::KeyNotFound.into());
        }
        let (key, old) = match current {
            Some((key, version)) => (key, Some(version)),
            None => (self.own_key(&put.key), None),
        };
        let value = match old {
            Some(old) if put.ignore_value => self.value_at(old.at)?,
            _ => put.value.clone(),
        };
        let at = self.next_at();
        let version = Version {
            at,
            create: old.map_or(at.main, |old| old.create),
            version: old.map_or(1, |old| old.version + 1),
            lease: if put.ignore_lease { old.map_or(0, |old| old.lease) } else { put.lease },
            size: value.len() as u32,
            digest: hash::of_value(&value),
        };
        self.change(key, version, value, old);
        Ok(old.map(|old| old.at).filter(|_| put.prev_kv))
    }

    /// A key in memory of its own, shared with the index if it holds it (as a tombstone).
    fn own_key(&self, key: &Bytes) -> Key {
        match self.drafted.get_key_value(&key[..]) {
            Some((key, _)) => key.clone(),
            None => Key::from(&key[..]),
        }
    }

    fn change(&mut self, key: Key, version: Version, value: Bytes, old: Option<Version>) {
        // Watchers are shown what was there before the revision, not before the change.
        let prev = match old {
            Some(old) if old.at.main < version.at.main => Some(old.at),
            _ if !self.drafted.contains_key(&key) => None,
            _ => {
                let before = self.state.index.at(&key, At::end_of(self.state.revision));
                before.filter(|before| !before.is_tombstone()).map(|before| before.at)
            }
        };
        let Version { at, create, version: number, lease, .. } = version;
        let row = Row { at, key, value, create, version: number, lease };
        self.changes.push(Change { row, prev, version, old });
    }

    fn value_at(&self, at: At) -> Result<Bytes, ValueLost> {
        for changes in [&self.changes[..], self.earlier] {
            if let Ok(i) = changes.binary_search_by_key(&at, |change| change.row.at) {
                return Ok(changes[i].row.value.clone());
            }
        }
        let mut values = self.values.values(&[at])?;
        values.pop().ok_or_else(|| ValueLost { at, why: "the store answered with nothing".to_owned() })
    }

    fn check_lease(&self, lease: i64) -> Result<(), Refusal> {
        if lease != 0 && !self.state.leases.contains_key(&lease) { Err(Refusal::LeaseNotFound) } else { Ok(()) }
    }

    /// Which branches will run, all asked before anything does.
    fn compare(&self, txn: &Txn) -> Result<Path, Stop> {
        let mut holds = true;
        for compare in &txn.compare {
            if !self.holds(compare)? {
                holds = false;
                break;
            }
        }
        let mut nested = Vec::new();
        for op in branch(txn, holds) {
            if let Op::Txn(txn) = op {
                nested.push(self.compare(txn)?);
            }
        }
        Ok(Path { holds, nested })
    }

    /// Whether every key of a comparison's range satisfies it.
    fn holds(&self, compare: &Compare) -> Result<bool, ValueLost> {
        let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
        let mut keys = 0u64;
        let mut all = true;
        let mut lost = None;
        let mut see = |version: &Version| {
            keys += 1;
            let order = match &compare.target {
                CompareTarget::Value(value) => match self.value_at(version.at) {
                    Ok(current) => current[..].cmp(&value[..]),
                    Err(error) => {
                        lost = Some(error);
                        return false;
                    }
                },
                target => compare_numbers(version, target),
            };
            all = verdict(compare.result, order);
            all
        };
        if range.is_single() {
            if let Some((_, version)) = self.state.index.live_version(range.from()) {
                see(version);
            }
        } else {
            let bound = At::end_of(self.state.revision);
            self.state.index.walk(&range, bound, None, usize::MAX, &mut |_, version| see(version));
        }
        if let Some(lost) = lost {
            return Err(lost);
        }
        Ok(if keys > 0 { all } else { holds_of_nothing(compare) })
    }

    /// Asks whatever can refuse the Txn, in the order of its operations: the first one tells why.
    fn check(&self, txn: &Txn, path: &Path) -> Result<(), Refusal> {
        let mut nested = path.nested.iter();
        for op in branch(txn, path.holds) {
            match op {
                Op::Put(put) => {
                    self.check_lease(put.lease)?;
                    let exists = || self.state.index.live_version(&put.key).is_some();
                    if (put.ignore_value || put.ignore_lease) && !exists() {
                        return Err(Refusal::KeyNotFound);
                    }
                }
                Op::Range(Range { revision: 0, .. }) => {}
                Op::Range(range) if range.revision > self.state.revision => return Err(Refusal::FutureRevision),
                Op::Range(range) if range.revision < self.state.compact_revision => return Err(Refusal::Compacted),
                Op::Txn(txn) => self.check(txn, next(&mut nested))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn execute(&mut self, txn: &Txn, path: &Path) -> Result<TxnAnswer, Stop> {
        let mut nested = path.nested.iter();
        let mut ops = Vec::with_capacity(branch(txn, path.holds).len());
        for op in branch(txn, path.holds) {
            let result = match op {
                Op::Range(range) => OpResult::Range { request: range.clone(), bound: self.bound(range.revision) },
                Op::Put(put) => OpResult::Put { prev: self.do_put(put)? },
                Op::DeleteRange(delete) => {
                    let (deleted, prev) = self.delete_range(delete);
                    OpResult::DeleteRange { deleted, prev }
                }
                Op::Txn(txn) => OpResult::Txn(self.execute(txn, next(&mut nested))?),
                Op::Empty => OpResult::Empty,
            };
            ops.push(OpAnswer { revision: self.revision(), result });
        }
        Ok(TxnAnswer { succeeded: path.holds, ops })
    }

    /// What a range inside the Txn sees: what is drafted so far, unless it asks for the past.
    fn bound(&self, revision: Revision) -> At {
        match (revision, self.changes.last()) {
            (1.., _) => At::end_of(revision),
            (_, Some(change)) => change.row.at,
            (_, None) => At::end_of(self.state.revision),
        }
    }
}

/// Which branch of a Txn runs, and of those nested in it.
struct Path {
    holds: bool,
    nested: Vec<Path>,
}

fn branch(txn: &Txn, holds: bool) -> &[Op] {
    if holds { &txn.success } else { &txn.failure }
}

fn next<'a>(nested: &mut std::slice::Iter<'a, Path>) -> &'a Path {
    nested.next().expect("one path for each nested Txn of the branch")
}
