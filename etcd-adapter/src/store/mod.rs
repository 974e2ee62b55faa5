//! What apply leaves behind: `log`, the versions by their place, and `meta`, the state's records.
//!
//! A batch is written whole or not at all. What was not flushed is lost when the process dies, always
//! as a suffix of batches and for `log` and `meta` alike: the journal is the write-ahead log, and the
//! rest is replayed from it. Values are read by place; what the index knows must be here.
//!
//! Rows that the index no longer knows are dropped when the engine compacts. A tombstone goes later
//! than everything it hides: until a whole sweep has passed over what was forgotten before it, it is
//! kept, so that a rebuilt index never shows a key that was deleted ([`Store::sweep`]).
//!
//! This is the only place that names RocksDB. An error here is never a command's result: the process
//! ends.

mod engine;
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(any(feature = "rocksdb", test))]
mod row;
mod sweep;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use proto::{JournalId, Position};

pub use engine::{Drops, StoreError};
pub use memory::Memory;
#[cfg(feature = "rocksdb")]
pub use rocks::{Rocks, RocksOptions};

use crate::command::wire::{Malformed, Reader, put_uint};
use crate::mvcc::{Applied, At, MetaKey, Restore, Revision, Row, RowRef, State, ValueLost, Values};
use engine::Engine;
use sweep::Sweeps;

/// Which journal a store was filled from, and up to which entry: whoever reopens it checks both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub cluster: u64,
    pub journal: JournalId,
    /// The last entry applied, and the checksum of its payload.
    pub entry: Position,
    pub checksum: u32,
}

/// What a crash of the process would leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// The next position to apply.
    pub applied: Position,
    pub compact_revision: Revision,
}

/// The record beside those of the state.
const ORIGIN: &[u8] = b"j";

/// The store of one adapter, on either engine. Clones share it.
#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
    sweeps: Arc<Sweeps>,
}

/// What some entries left behind, not yet written.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<Row>,
    dirty: BTreeSet<MetaKey>,
}

/// A batch in the bytes to write, made while the state was at its end.
#[derive(Debug)]
pub struct Sealed {
    rows: Vec<Row>,
    records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Takes what one entry left behind. Entries are added in their order.
    pub fn add(&mut self, applied: &Applied) {
        self.rows.extend(applied.changes.iter().map(|change| change.row.clone()));
        self.dirty.extend(applied.dirty.iter().copied());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.dirty.is_empty()
    }

    /// Makes the bytes, with the state as the last entry added has left it.
    pub fn seal(self, state: &State, origin: Origin) -> Sealed {
        let keys = self.dirty.into_iter().chain([MetaKey::Scalars]);
        let mut records: Vec<_> = keys.map(|key| (key.to_bytes(), state.record(key))).collect();
        records.push((ORIGIN.to_vec(), Some(origin_record(origin))));
        Sealed { rows: self.rows, records }
    }
}

impl Store {
    /// A store in memory: for simulation, tests and pure Rust builds.
    pub fn memory(engine: Arc<Memory>) -> Store {
        Store { sweeps: Arc::new(Sweeps::new()), engine }
    }

    /// A store in a directory, which should be on tmpfs.
    #[cfg(feature = "rocksdb")]
    pub fn rocks(dir: &std::path::Path, options: &RocksOptions) -> Result<Store, StoreError> {
        let sweeps = Arc::new(Sweeps::new());
        Ok(Store { engine: Arc::new(Rocks::open(dir, options, sweeps.clone())?), sweeps })
    }

    /// Rebuilds the state that was last flushed (or written, if the process went on). `None` if the
    /// store is empty.
    pub fn load(&self) -> Result<Option<(Origin, State)>, StoreError> {
        let records = self.engine.records()?;
        if records.is_empty() {
            return Ok(None);
        }
        let mut origin = None;
        let mut restore = Restore::new();
        for (key, value) in records {
            if key == ORIGIN {
                origin = Some(read_origin(value).map_err(StoreError::Record)?);
            } else {
                let key = MetaKey::from_bytes(&key).map_err(StoreError::Record)?;
                restore.record(key, value)?;
            }
        }
        let mut from = At::default();
        loop {
            let rows = self.scan(from, At::end_of(Revision::MAX), 4096, 4 << 20)?;
            let Some(last) = rows.last() else { break };
            from = At { main: last.at.main, sub: last.at.sub + 1 };
            for row in &rows {
                restore.row(row)?;
            }
        }
        let state = restore.finish()?;
        let origin = origin.ok_or(StoreError::Record(Malformed::Short))?;
        Ok(Some((origin, state)))
    }

    /// Lets the engine drop what `index` no longer knows. Until then it drops nothing: the index must
    /// be rebuilt first.
    pub fn attach(&self, index: Arc<dyn Drops>) {
        self.sweeps.attach(index);
        self.engine.attached();
    }

    /// Writes a batch, whole. The state must not be locked for writing meanwhile: a write may wait for
    /// a compaction, and that asks the index.
    pub fn write(&self, sealed: Sealed) -> Result<(), StoreError> {
        self.engine.write(sealed.rows, sealed.records)
    }

    /// The rows at these places, in this order. All of them must be there.
    pub fn rows(&self, places: &[At]) -> Result<Vec<Row>, StoreError> {
        let mut rows = vec![None; places.len()];
        self.visit(places, &mut |i, row| rows[i] = Some(row.to_row(places[i])))?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Shows the rows at these places where they lie, each with the number of its place, in any order. All
    /// of them must be there.
    pub fn visit(&self, places: &[At], see: &mut dyn FnMut(usize, RowRef<'_>)) -> Result<(), StoreError> {
        self.engine.visit(places, see)
    }

    /// The rows of `[from, to)` in their order: at most `rows_max`, and of about `bytes_max` bytes, but
    /// one at least. What is at or above the compact revision is complete; below it there may be holes.
    pub fn scan(&self, from: At, to: At, rows_max: usize, bytes_max: usize) -> Result<Vec<Row>, StoreError> {
        self.engine.scan(from, to, rows_max, bytes_max)
    }

    /// Makes everything written survive the process.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.engine.flush()
    }

    /// What would be found if the process died now. `None` if nothing would.
    pub fn flushed(&self) -> Result<Option<Flushed>, StoreError> {
        let Some(record) = self.engine.flushed_record(&MetaKey::Scalars.to_bytes())? else { return Ok(None) };
        let (applied, compact_revision) = crate::mvcc::read_scalars(record)?;
        Ok(Some(Flushed { applied, compact_revision }))
    }

    /// Bytes written and not flushed yet, roughly.
    pub fn unflushed_bytes(&self) -> u64 {
        self.engine.unflushed_bytes()
    }

    /// Compacts `[from, to)` of `log` out of turn, as the engine may do by itself at any time.
    pub fn compact(&self, from: At, to: At) -> Result<(), StoreError> {
        self.engine.compact(from, to, &self.sweeps)
    }

    /// Says that the index has begun to forget up to `floor`: what is below may be dropped whenever the
    /// engine compacts. [`Store::sweep`] implies it.
    pub fn forgot(&self, floor: Revision) {
        self.sweeps.forgot(floor);
    }

    /// Drops forgotten rows from one piece of `log`, and says whether there is more to do. The index
    /// has forgotten everything up to `floor` when a sweep to it begins; a higher floor given in the
    /// middle of a sweep waits for the next.
    pub fn sweep(&self, floor: Revision) -> Result<bool, StoreError> {
        let Some((from, to)) = self.sweeps.next(floor) else { return Ok(false) };
        self.engine.compact(from, to, &self.sweeps)?;
        Ok(self.sweeps.done(to))
    }

    /// Up to this revision, everything that was forgotten has been dropped.
    pub fn swept(&self) -> Revision {
        self.sweeps.swept()
    }
}

/// Everything that is written or staged: what decisions read values from.
pub struct Staged<'a> {
    pub store: &'a Store,
    pub batch: &'a Batch,
}

impl Values for Staged<'_> {
    fn values(&self, places: &[At]) -> Result<Vec<Bytes>, ValueLost> {
        let staged = |at: &At| {
            let i = self.batch.rows.binary_search_by_key(at, |row| row.at).ok()?;
            Some(self.batch.rows[i].value.clone())
        };
        places.iter().map(|at| staged(at).map_or_else(|| one(self.store, *at), Ok)).collect()
    }
}

fn one(store: &Store, at: At) -> Result<Bytes, ValueLost> {
    let mut values = store.values(&[at])?;
    values.pop().ok_or_else(|| ValueLost { at, why: "the store answered with nothing".to_owned() })
}

impl Values for Store {
    fn values(&self, places: &[At]) -> Result<Vec<Bytes>, ValueLost> {
        let mut values = vec![Bytes::new(); places.len()];
        self.visit(places, &mut |i, row| values[i] = Bytes::copy_from_slice(row.value))
            .map_err(|error| ValueLost { at: places.first().copied().unwrap_or_default(), why: error.to_string() })?;
        Ok(values)
    }
}

fn origin_record(origin: Origin) -> Vec<u8> {
    let mut out = vec![1];
    put_uint(&mut out, origin.cluster);
    put_uint(&mut out, origin.journal.0);
    put_uint(&mut out, origin.entry.0);
    put_uint(&mut out, origin.checksum.into());
    out
}

fn read_origin(record: Bytes) -> Result<Origin, Malformed> {
    let mut reader = Reader::new(record);
    if reader.byte()? != 1 {
        return Err(Malformed::Unknown("format"));
    }
    let origin = Origin {
        cluster: reader.uint()?,
        journal: JournalId(reader.uint()?),
        entry: Position(reader.uint()?),
        checksum: reader.u32()?,
    };
    reader.end()?;
    Ok(origin)
}
