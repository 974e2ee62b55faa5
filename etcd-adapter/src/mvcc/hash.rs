//! The state hash: an order-free 128-bit sum over everything that apply decides.
//!
//! Each thing that is there adds the hash of its record; what goes is subtracted. So the sum is kept
//! up to date in a few additions an entry, does not depend on the order in which things came, and can
//! be computed anew from a copy. Two adapters at one position must have equal sums. What differs
//! between replicas on purpose is left out: how much each has forgotten, and what it has flushed.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::types::Version;

/// What a record is, mixed into its hash so that equal bytes of two kinds do not cancel out.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    Version = 1,
    Lease = 2,
    Producer = 3,
    Member = 4,
    Past = 5,
    Scalars = 6,
}

/// The sums that are kept up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Over the live versions.
    pub live: u128,
    /// Over all events ever.
    pub events: u128,
    pub leases: u128,
    /// Over producers and members.
    pub registry: u128,
}

/// The hash of one version of a key: the same for the event and for the live version it leaves.
pub(super) fn of_version(key: &[u8], version: &Version) -> u128 {
    let mut record = [0u8; 192];
    let fields = [
        version.at.main as u64,
        version.at.sub.into(),
        version.create as u64,
        version.version as u64,
        version.lease as u64,
        version.size.into(),
        version.digest,
    ];
    record[0] = Kind::Version as u8;
    for (i, field) in fields.iter().enumerate() {
        record[1 + 8 * i..9 + 8 * i].copy_from_slice(&field.to_le_bytes());
    }
    let head = 1 + 8 * fields.len();
    match record.get_mut(head..head + key.len()) {
        Some(place) => {
            place.copy_from_slice(key);
            xxh3_128(&record[..head + key.len()])
        }
        None => xxh3_128(&[&record[..head], key].concat()),
    }
}

/// The hash of a record of another kind.
pub(super) fn of_record(kind: Kind, key: u64, record: &[u8]) -> u128 {
    let mut bytes = Vec::with_capacity(9 + record.len());
    bytes.push(kind as u8);
    bytes.extend_from_slice(&key.to_le_bytes());
    bytes.extend_from_slice(record);
    xxh3_128(&bytes)
}

/// The digest of a value, as versions carry it.
pub(super) fn of_value(value: &[u8]) -> u64 {
    xxh3_64(value)
}

/// A number derived from others, the same on every adapter.
pub(super) fn number(from: &[u64]) -> u64 {
    let bytes: Vec<u8> = from.iter().flat_map(|n| n.to_le_bytes()).collect();
    xxh3_64(&bytes)
}

/// A number derived from a text.
pub(super) fn text(from: &str) -> u64 {
    xxh3_64(from.as_bytes())
}
