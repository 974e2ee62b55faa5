//! A model of etcd that keeps everything: the whole store after every revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_adapter::command::*;
use etcd_adapter::mvcc::{KeyRange, Refusal};
use proto::Position;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    pub key: Vec<u8>,
    pub value: Bytes,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// An answer as a client would see it, with everything read that it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Put(Option<Kv>),
    Delete(i64, Vec<Kv>),
    Range { kvs: Vec<Kv>, more: bool, count: i64 },
    Txn(bool, Vec<(i64, Seen)>),
    Lease(i64, i64),
    Flag(bool),
    Nothing,
}

/// An event: the key, what it became, and what it was before the revision.
pub type Event = (Vec<u8>, Option<Kv>, Option<Kv>);

type Content = BTreeMap<Vec<u8>, Kv>;

pub struct Model {
    pub revision: i64,
    pub compact_revision: i64,
    /// The content after each revision.
    pub history: BTreeMap<i64, Content>,
    pub leases: BTreeMap<i64, (i64, Position)>,
    pub events: Vec<(i64, Event)>,
}

/// The content as one command changes it.
struct Work {
    now: Content,
    events: Vec<Event>,
}

impl Model {
    pub fn new() -> Model {
        Model {
            revision: 1,
            compact_revision: -1,
            history: BTreeMap::from([(1, Content::new())]),
            leases: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    pub fn now(&self) -> &Content {
        &self.history[&self.revision]
    }

    pub fn apply(&mut self, position: Position, command: &Command) -> Result<Seen, Refusal> {
        let mut work = Work { now: self.now().clone(), events: Vec::new() };
        let seen = self.run(position, command, &mut work)?;
        if !work.events.is_empty() {
            self.revision += 1;
            self.events.extend(work.events.into_iter().map(|event| (self.revision, event)));
            self.history.insert(self.revision, work.now);
        }
        Ok(seen)
    }

    fn run(&mut self, position: Position, command: &Command, work: &mut Work) -> Result<Seen, Refusal> {
        match command {
            Command::Put(put) => {
                self.check_lease(put.lease)?;
                if (put.ignore_lease || put.ignore_value) && !work.now.contains_key(&put.key[..]) {
                    return Err(Refusal::KeyNotFound);
                }
                self.put(put, work)
            }
            Command::DeleteRange(delete) => Ok(self.delete(delete, work)),
            Command::Txn(txn) => {
                let before = work.now.clone();
                self.check(txn, &before)?;
                self.txn(txn, &before, work)
            }
            Command::Compact { revision } => {
                if *revision <= self.compact_revision {
                    return Err(Refusal::Compacted);
                }
                if *revision > self.revision {
                    return Err(Refusal::FutureRevision);
                }
                self.compact_revision = *revision;
                Ok(Seen::Nothing)
            }
            Command::LeaseGrant { id, ttl } => {
                if self.leases.contains_key(id) {
                    return Err(Refusal::LeaseExists);
                }
                if *id != 0 {
                    self.leases.insert(*id, (*ttl, position));
                }
                Ok(Seen::Lease(*id, *ttl))
            }
            Command::LeaseRevoke { id } => {
                self.leases.remove(id).ok_or(Refusal::LeaseNotFound)?;
                self.end_lease(*id, work);
                Ok(Seen::Nothing)
            }
            Command::KeepAlive { id } => {
                let lease = self.leases.get_mut(id);
                let ttl = lease.map_or(0, |lease| {
                    lease.1 = position;
                    lease.0
                });
                Ok(Seen::Lease(*id, ttl))
            }
            Command::Expire { lease, renewed_at } => {
                let due = self.leases.get(lease).is_some_and(|(_, renewed)| renewed == renewed_at);
                if due {
                    self.leases.remove(lease);
                    self.end_lease(*lease, work);
                }
                Ok(Seen::Flag(due))
            }
            other => panic!("the model does not know {other:?}"),
        }
    }

    fn end_lease(&self, id: i64, work: &mut Work) {
        let keys: Vec<_> = work.now.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
        for key in keys {
            self.remove(&key, work);
        }
    }

    fn check_lease(&self, lease: i64) -> Result<(), Refusal> {
        if lease == 0 || self.leases.contains_key(&lease) { Ok(()) } else { Err(Refusal::LeaseNotFound) }
    }

    fn event(&self, key: &[u8], work: &mut Work) {
        let prev = self.now().get(key).cloned();
        work.events.push((key.to_vec(), work.now.get(key).cloned(), prev));
    }

    fn remove(&self, key: &[u8], work: &mut Work) -> Kv {
        let kv = work.now.remove(key).unwrap();
        self.event(key, work);
        kv
    }

    fn put(&self, put: &Put, work: &mut Work) -> Result<Seen, Refusal> {
        let old = work.now.get(&put.key[..]).cloned();
        if old.is_none() && (put.ignore_lease || put.ignore_value) {
            return Err(Refusal::KeyNotFound);
        }
        let modified = self.revision + 1;
        let kv = Kv {
            key: put.key.to_vec(),
            value: if put.ignore_value { old.clone().unwrap().value } else { put.value.clone() },
            create: old.as_ref().map_or(modified, |old| old.create),
            modified,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            lease: if put.ignore_lease { old.clone().unwrap().lease } else { put.lease },
        };
        work.now.insert(kv.key.clone(), kv);
        self.event(&put.key, work);
        Ok(Seen::Put(old.filter(|_| put.prev_kv)))
    }

    fn delete(&self, delete: &DeleteRange, work: &mut Work) -> Seen {
        let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
        let keys: Vec<_> = work.now.keys().filter(|key| range.contains(key)).cloned().collect();
        let gone: Vec<Kv> = keys.iter().map(|key| self.remove(key, work)).collect();
        Seen::Delete(gone.len() as i64, if delete.prev_kv { gone } else { vec![] })
    }

    /// What a read of `content` shows.
    pub fn range(range: &Range, content: &Content) -> Seen {
        let keys = KeyRange::new(range.key.clone(), range.range_end.clone());
        let mut kvs: Vec<Kv> = content.values().filter(|kv| keys.contains(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        if range.count_only {
            return Seen::Range { kvs: vec![], more: false, count };
        }
        let limit = if range.limit > 0 { range.limit as usize } else { usize::MAX };
        let ordered = range.sort_order != SortOrder::None
            && (range.sort_order, range.sort_target) != (SortOrder::Ascend, SortTarget::Key);
        let within = |n: i64, min: i64, max: i64| (min == 0 || n >= min) && (max == 0 || n <= max);
        let filters =
            [range.mod_revision_min, range.mod_revision_max, range.create_revision_min, range.create_revision_max];
        if !ordered && filters == [0; 4] && limit < usize::MAX {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| within(kv.modified, filters[0], filters[1]) && within(kv.create, filters[2], filters[3]));
        let order = |a: &Kv, b: &Kv| match range.sort_target {
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create.cmp(&b.create),
            SortTarget::Mod => a.modified.cmp(&b.modified),
            SortTarget::Value => a.value.cmp(&b.value),
            _ => a.key.cmp(&b.key),
        };
        match range.sort_order {
            SortOrder::Descend => kvs.sort_by(|a, b| order(b, a)),
            _ => kvs.sort_by(order),
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if range.sort_target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Seen::Range { kvs, more, count }
    }

    fn holds(compare: &Compare, before: &Content) -> bool {
        let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
        let verdict = |kv: Option<&Kv>| {
            let number = |of: fn(&Kv) -> i64, n: &i64| kv.map_or(0, of).cmp(n);
            let order = match &compare.target {
                CompareTarget::Version(n) => number(|kv| kv.version, n),
                CompareTarget::Create(n) => number(|kv| kv.create, n),
                CompareTarget::Mod(n) => number(|kv| kv.modified, n),
                CompareTarget::Lease(n) => number(|kv| kv.lease, n),
                CompareTarget::Value(value) => match kv {
                    Some(kv) => kv.value.cmp(value),
                    None => return false,
                },
                CompareTarget::Unknown => std::cmp::Ordering::Equal,
            };
            match compare.result {
                CompareResult::Equal => order.is_eq(),
                CompareResult::NotEqual => order.is_ne(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
                CompareResult::Unknown => true,
            }
        };
        let kvs: Vec<&Kv> = before.values().filter(|kv| range.contains(&kv.key)).collect();
        if kvs.is_empty() { verdict(None) } else { kvs.into_iter().all(|kv| verdict(Some(kv))) }
    }

    fn branch<'t>(txn: &'t Txn, before: &Content) -> (bool, &'t [Op]) {
        let holds = txn.compare.iter().all(|compare| Model::holds(compare, before));
        (holds, if holds { &txn.success } else { &txn.failure })
    }

    fn check(&self, txn: &Txn, before: &Content) -> Result<(), Refusal> {
        for op in Model::branch(txn, before).1 {
            match op {
                Op::Put(put) => {
                    self.check_lease(put.lease)?;
                    if (put.ignore_lease || put.ignore_value) && !before.contains_key(&put.key[..]) {
                        return Err(Refusal::KeyNotFound);
                    }
                }
                Op::Range(range) if range.revision > self.revision => return Err(Refusal::FutureRevision),
                Op::Range(range) if range.revision != 0 && range.revision < self.compact_revision => {
                    return Err(Refusal::Compacted);
                }
                Op::Txn(txn) => self.check(txn, before)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn txn(&self, txn: &Txn, before: &Content, work: &mut Work) -> Result<Seen, Refusal> {
        let (holds, ops) = Model::branch(txn, before);
        let mut seen = Vec::new();
        for op in ops {
            let answer = match op {
                Op::Range(range) if range.revision > 0 => Model::range(range, &self.history[&range.revision]),
                Op::Range(range) => Model::range(range, &work.now),
                Op::Put(put) => self.put(put, work)?,
                Op::DeleteRange(delete) => self.delete(delete, work),
                Op::Txn(txn) => self.txn(txn, before, work)?,
                Op::Empty => Seen::Nothing,
            };
            seen.push((self.revision + i64::from(!work.events.is_empty()), answer));
        }
        Ok(Seen::Txn(holds, seen))
    }
}
