//! etcd's `HashKV`, to the bit: a CRC-32C over the versions in the order of their revisions, as etcd
//! would have stored them.
//!
//! It says what is *logically* there, whatever this replica has already dropped. If the state is
//! compacted while rows are fed in, begin again.
//!
//! One thing is not copied: until it restarts, an etcd member answers for a revision that it was once
//! compacted at with the hash from before that compaction (and says so: its `compact_revision` is the
//! one before). Here, as on a member that restarted, the answer is of the present compact revision.

use super::index::Index;
use super::types::{At, Revision, Row};

/// The answer of `HashKV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    pub hash: u32,
    pub revision: Revision,
    pub compact_revision: Revision,
}

/// A hash under way. Rows are fed in the order of their places.
#[derive(Debug)]
pub struct HashKv {
    revision: Revision,
    compact_revision: Revision,
    crc: u32,
    /// What old rows are looked at with, once one has come.
    bound: Option<At>,
    buffer: Vec<u8>,
}

impl HashKv {
    /// Begins. `revision` is readable, and `compact_revision` is the state's.
    pub fn new(revision: Revision, compact_revision: Revision) -> HashKv {
        // The name of the bucket that etcd keeps its versions in.
        HashKv { revision, compact_revision, crc: crc32c::crc32c(b"key"), bound: None, buffer: Vec::new() }
    }

    /// Takes the next row.
    pub fn row(&mut self, index: &Index, row: &Row) {
        if row.at.main > self.revision || !self.is_kept(index, row) {
            return;
        }
        self.buffer.clear();
        put_place(&mut self.buffer, row);
        put_key_value(&mut self.buffer, row);
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
    }

    /// The hash over rows that are all at hand.
    pub fn over<'a>(mut self, index: &Index, rows: impl IntoIterator<Item = &'a Row>) -> KvHash {
        for row in rows {
            self.row(index, row);
        }
        self.finish()
    }

    pub fn finish(self) -> KvHash {
        KvHash { hash: self.crc, revision: self.revision, compact_revision: self.compact_revision }
    }

    /// At or below the compact revision only what a read at `revision` sees counts: not what it could
    /// see of the past. If it sees no key at all, etcd takes everything that the compaction has left.
    fn is_kept(&mut self, index: &Index, row: &Row) -> bool {
        if row.at.main > self.compact_revision {
            return true;
        }
        let bound = *self.bound.get_or_insert_with(|| {
            let anything = index.any_live_at(At::end_of(self.revision));
            At::end_of(if anything { self.revision } else { self.compact_revision })
        });
        !row.is_tombstone() && index.at(&row.key, bound).is_some_and(|version| version.at == row.at)
    }
}

fn put_place(out: &mut Vec<u8>, row: &Row) {
    out.extend_from_slice(&row.at.main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&i64::from(row.at.sub).to_be_bytes());
    if row.is_tombstone() {
        out.push(b't');
    }
}

/// The protobuf encoding of etcd's `KeyValue`.
fn put_key_value(out: &mut Vec<u8>, row: &Row) {
    put_field_bytes(out, 1, &row.key);
    if row.is_tombstone() {
        return;
    }
    put_field_int(out, 2, row.create);
    put_field_int(out, 3, row.at.main);
    put_field_int(out, 4, row.version);
    put_field_bytes(out, 5, &row.value);
    put_field_int(out, 6, row.lease);
}

fn put_field_int(out: &mut Vec<u8>, field: u8, n: i64) {
    if n != 0 {
        out.push(field << 3);
        crate::command::wire::put_uint(out, n as u64);
    }
}

fn put_field_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(field << 3 | 2);
        crate::command::wire::put_bytes(out, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_version_is_encoded_as_etcd_stores_it() {
        let row = Row {
            at: At { main: 258, sub: 1 },
            key: b"k"[..].into(),
            value: Bytes::from_static(b"v"),
            create: 2,
            version: 3,
            lease: -1,
        };
        let mut out = Vec::new();
        put_place(&mut out, &row);
        put_key_value(&mut out, &row);
        let place = [0, 0, 0, 0, 0, 0, 1, 2, b'_', 0, 0, 0, 0, 0, 0, 0, 1];
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let value = [0x0a, 1, b'k', 0x10, 2, 0x18, 0x82, 0x02, 0x20, 3, 0x2a, 1, b'v', 0x30];
        assert_eq!(out, [&place[..], &value, &minus_one].concat());
    }
}
