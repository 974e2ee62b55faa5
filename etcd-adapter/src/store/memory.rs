//! The engine in memory: two ordered maps. It serves simulation, so it knows what a crash takes back,
//! and starts no thread.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;

use super::engine::{Engine, StoreError};
use super::sweep::Sweeps;
use crate::mvcc::{At, Row, RowRef};

/// A store's content in memory.
#[derive(Debug, Default)]
pub struct Memory {
    content: RwLock<Content>,
}

#[derive(Debug, Default)]
struct Content {
    log: BTreeMap<At, Row>,
    meta: BTreeMap<Vec<u8>, Bytes>,
    /// How to take back what was written since the last flush.
    undo: Vec<Undo>,
    unflushed_bytes: u64,
}

#[derive(Debug, Clone)]
enum Undo {
    Row(At),
    Record(Vec<u8>, Option<Bytes>),
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Does what a killed process does to its store: what was not flushed is gone.
    pub fn crash(&self) {
        let mut content = self.content.write();
        while let Some(undo) = content.undo.pop() {
            match undo {
                Undo::Row(at) => drop(content.log.remove(&at)),
                Undo::Record(key, Some(value)) => drop(content.meta.insert(key, value)),
                Undo::Record(key, None) => drop(content.meta.remove(&key)),
            }
        }
        content.unflushed_bytes = 0;
    }

    /// A store of its own with the same content.
    pub fn copy(&self) -> Memory {
        let content = self.content.read();
        let (log, meta) = (content.log.clone(), content.meta.clone());
        let content = Content { log, meta, undo: content.undo.clone(), unflushed_bytes: content.unflushed_bytes };
        Memory { content: RwLock::new(content) }
    }

    /// Loses a row, as no engine should.
    pub fn lose(&self, at: At) {
        self.content.write().log.remove(&at);
    }

    /// Lets nobody read or write until the answer is dropped.
    pub fn stall(&self) -> impl Drop + '_ {
        self.content.write()
    }

    /// How many rows there are, known to the index or not.
    pub fn len(&self) -> usize {
        self.content.read().log.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Engine for Memory {
    fn write(&self, rows: Vec<Row>, records: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut content = self.content.write();
        for row in rows {
            content.unflushed_bytes += (row.key.len() + row.value.len()) as u64;
            content.undo.push(Undo::Row(row.at));
            content.log.insert(row.at, row);
        }
        for (key, value) in records {
            let before = match value {
                Some(value) => content.meta.insert(key.clone(), value.into()),
                None => content.meta.remove(&key),
            };
            content.undo.push(Undo::Record(key, before));
        }
        Ok(())
    }

    fn visit(&self, places: &[At], see: &mut dyn FnMut(usize, RowRef<'_>)) -> Result<(), StoreError> {
        let content = self.content.read();
        for (i, at) in places.iter().enumerate() {
            let Row { key, value, create, version, lease, .. } = content.log.get(at).ok_or(StoreError::Missing(*at))?;
            see(i, RowRef { key, value, create: *create, version: *version, lease: *lease });
        }
        Ok(())
    }

    fn scan(&self, from: At, to: At, rows_max: usize, bytes_max: usize) -> Result<Vec<Row>, StoreError> {
        let content = self.content.read();
        let mut rows = Vec::new();
        let mut bytes = 0;
        if from < to {
            for row in content.log.range(from..to).map(|(_, row)| row) {
                if !rows.is_empty() && (rows.len() >= rows_max || bytes >= bytes_max) {
                    break;
                }
                bytes += row.key.len() + row.value.len();
                rows.push(row.clone());
            }
        }
        Ok(rows)
    }

    fn records(&self) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        Ok(self.content.read().meta.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn flushed_record(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let content = self.content.read();
        // The oldest thing to undo has the flushed value.
        let undone = content.undo.iter().find_map(|undo| match undo {
            Undo::Record(other, before) if other == key => Some(before.clone()),
            _ => None,
        });
        Ok(undone.unwrap_or_else(|| content.meta.get(key).cloned()))
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut content = self.content.write();
        content.undo.clear();
        content.unflushed_bytes = 0;
        Ok(())
    }

    fn unflushed_bytes(&self) -> u64 {
        self.content.read().unflushed_bytes
    }

    fn attached(&self) {}

    fn compact(&self, from: At, to: At, sweeps: &Sweeps) -> Result<(), StoreError> {
        // The index is asked without holding the content: readers hold the index and then come here.
        let heads: Vec<_> = {
            let content = self.content.read();
            content.log.range(from..to).map(|(at, row)| (*at, row.key.clone(), row.is_tombstone())).collect()
        };
        let dropped: Vec<At> = heads
            .into_iter()
            .filter(|(at, key, tombstone)| sweeps.drops(key, *at, *tombstone))
            .map(|(at, ..)| at)
            .collect();
        let mut content = self.content.write();
        for at in dropped {
            content.log.remove(&at);
        }
        Ok(())
    }
}
