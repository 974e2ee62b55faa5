//! A replica as the applier drives it: state, store, one batch at a time.

use std::sync::Arc;

use bytes::Bytes;
use etcd_adapter::answers::Claim;
use etcd_adapter::command::{Command, EntryBody, Hello, Range, Txn};
use etcd_adapter::mvcc::*;
use etcd_adapter::store::{Batch, Memory, Origin, Staged, Store};
use etcd_adapter::view::{ReadError, TxnRead, View};
use parking_lot::RwLock;
use proto::{JournalId, Position};

use crate::model::{Event, Kv, Seen};

pub const CLUSTER: u64 = 77;

pub struct Replica {
    pub state: Arc<RwLock<State>>,
    pub store: Store,
    pub batch: Batch,
}

pub fn origin(entry: Position) -> Origin {
    Origin { cluster: CLUSTER, journal: JournalId(1), entry, checksum: 0 }
}

/// The entries of one producer: its hello at position 1, then one entry for each list of commands.
pub fn entries(commands: impl IntoIterator<Item = Vec<Command>>) -> Vec<(Position, EntryBody)> {
    let hello = Hello {
        name: "one".to_owned(),
        peer_urls: vec!["http://one:2380".to_owned()],
        client_urls: vec![],
        nonce: 1,
        replaces: Position::NONE,
        level: 1,
    };
    let mut entries = vec![(Position(1), EntryBody::hello(hello))];
    for (i, commands) in commands.into_iter().enumerate() {
        let seq = i as u64 + 1;
        entries.push((Position(seq + 1), EntryBody { producer: Position(1), seq, level: 1, beat: None, commands }));
    }
    entries
}

impl Replica {
    pub fn memory() -> (Replica, Arc<Memory>) {
        let memory = Arc::new(Memory::new());
        (Replica::open(Store::memory(memory.clone())), memory)
    }

    /// Opens a store, as a process does that begins: with what was flushed, or anew.
    pub fn open(store: Store) -> Replica {
        let state = store.load().unwrap().map_or_else(|| State::new(CLUSTER), |(_, state)| state);
        let state = Arc::new(RwLock::new(state));
        store.attach(state.clone());
        Replica { state, store, batch: Batch::default() }
    }

    pub fn apply(&mut self, position: Position, body: &EntryBody) -> Applied {
        let values = Staged { store: &self.store, batch: &self.batch };
        let applied = apply(&mut self.state.write(), position, body, &values).unwrap();
        self.batch.add(&applied);
        applied
    }

    /// Writes what was applied since the last time.
    pub fn write(&mut self) {
        let sealed = {
            let state = self.state.read();
            std::mem::take(&mut self.batch).seal(&state, origin(Position(state.applied().0 - 1)))
        };
        self.store.write(sealed).unwrap();
    }

    /// Forgets and drops as far as is allowed.
    pub fn forget(&mut self, steps: usize) {
        let Some(flushed) = self.store.flushed().unwrap() else { return };
        let floor = flushed.compact_revision;
        if self.state.write().forget(floor, steps) < steps {
            while self.store.sweep(floor).unwrap() {}
        }
    }

    pub fn kv_hash(&self, revision: Revision) -> KvHash {
        let state = self.state.read();
        let rows = self.store.scan(At::default(), At::end_of(Revision::MAX), usize::MAX, usize::MAX).unwrap();
        HashKv::new(revision, state.compact_revision()).over(state.index(), &rows)
    }

    /// A plain read.
    pub fn range(&self, request: &Range) -> Result<Seen, Refusal> {
        let revision = self.state.read().readable(request.revision)?;
        Ok(self.read(request, At::end_of(revision)))
    }

    /// A Txn that writes nothing, as it is answered without the journal.
    pub fn read_txn(&self, txn: &Txn) -> Result<Seen, Refusal> {
        let view = View::new(self.state.clone(), self.store.clone());
        let TxnRead { revision, succeeded, pages } = match view.txn(txn, &mut Claim::unbounded()) {
            Ok(read) => read,
            Err(ReadError::Refused(refusal)) => return Err(refusal),
            Err(error) => panic!("{error}"),
        };
        let seen = pages.into_iter().map(|page| {
            let kvs = page.kvs.into_iter().map(|kv| Kv {
                key: kv.key.to_vec(),
                value: kv.value,
                create: kv.create_revision,
                modified: kv.mod_revision,
                version: kv.version,
                lease: kv.lease,
            });
            (revision, Seen::Range { kvs: kvs.collect(), more: page.more, count: page.count })
        });
        Ok(Seen::Txn(succeeded, seen.collect()))
    }

    fn read(&self, request: &Range, bound: At) -> Seen {
        let state = self.state.read();
        let mut scan = RangeScan::new(request.clone(), bound);
        while !scan.step(state.index(), 2) {}
        let selection = scan.finish(&self.store).unwrap();
        let whole = RangeScan::new(request.clone(), bound).run(state.index(), &self.store).unwrap();
        assert_eq!(selection, whole, "a read in steps differs from a read at once");
        let kvs = selection.found.iter().map(|found| {
            let kv = self.kv(found.version.at);
            assert_eq!(kv.key, found.key[..]);
            let value = if request.keys_only { Bytes::new() } else { kv.value };
            Kv { lease: found.version.lease, value, ..kv }
        });
        Seen::Range { kvs: kvs.collect(), more: selection.more, count: selection.count }
    }

    fn kv(&self, at: At) -> Kv {
        kv(&self.store.rows(&[at]).unwrap()[0])
    }

    pub fn seen(&self, answer: &Answer) -> Seen {
        match answer {
            Answer::Put { prev } => Seen::Put(prev.map(|at| self.kv(at))),
            Answer::DeleteRange { deleted, prev } => {
                Seen::Delete(*deleted, prev.iter().map(|at| self.kv(*at)).collect())
            }
            Answer::Txn(txn) => self.seen_txn(txn),
            Answer::LeaseGrant { id, ttl } | Answer::KeepAlive { id, ttl } => Seen::Lease(*id, *ttl),
            Answer::Expire { expired } => Seen::Flag(*expired),
            _ => Seen::Nothing,
        }
    }

    fn seen_txn(&self, txn: &TxnAnswer) -> Seen {
        let ops = txn.ops.iter().map(|op| {
            let seen = match &op.result {
                OpResult::Range { request, bound } => self.read(request, *bound),
                OpResult::Put { prev } => Seen::Put(prev.map(|at| self.kv(at))),
                OpResult::DeleteRange { deleted, prev } => {
                    Seen::Delete(*deleted, prev.iter().map(|at| self.kv(*at)).collect())
                }
                OpResult::Txn(txn) => self.seen_txn(txn),
                OpResult::Empty => Seen::Nothing,
            };
            (op.revision, seen)
        });
        Seen::Txn(txn.succeeded, ops.collect())
    }

    pub fn events(&self, changes: &[Change]) -> Vec<(i64, Event)> {
        let event = |change: &Change| {
            let row = &change.row;
            let now = (!row.is_tombstone()).then(|| kv(row));
            (row.at.main, (row.key.to_vec(), now, change.prev.map(|at| self.kv(at))))
        };
        changes.iter().map(event).collect()
    }
}

pub fn kv(row: &Row) -> Kv {
    Kv {
        key: row.key.to_vec(),
        value: row.value.clone(),
        create: row.create,
        modified: row.at.main,
        version: row.version,
        lease: row.lease,
    }
}
