//! Everything that clients asked and were told, in the order in which it happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::Position;
use proto::mvccpb::KeyValue;

use crate::sim::witness::Witness;

/// A write's name: whose, and the how-manieth of his. It stands in the value that is written, so the
/// journal tells what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    pub client: u32,
    pub number: u64,
}

impl Tag {
    pub fn value(self) -> Bytes {
        format!("#{}.{}#", self.client, self.number).into()
    }

    pub fn of(value: &[u8]) -> Option<Tag> {
        let text = std::str::from_utf8(value).ok()?.strip_prefix('#')?.strip_suffix('#')?;
        let (client, number) = text.split_once('.')?;
        Some(Tag { client: client.parse().ok()?, number: number.parse().ok()? })
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.client, self.number)
    }
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A put, or a Txn, by this name.
    Write(Tag),
    Read {
        key: Bytes,
        range_end: Bytes,
        /// 0: the current one.
        revision: i64,
        /// 0: none.
        limit: i64,
        serializable: bool,
    },
    Compact {
        revision: i64,
    },
    Grant {
        lease: i64,
    },
    KeepAlive {
        lease: i64,
    },
    Revoke {
        lease: i64,
    },
}

/// What it was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Done {
        revision: i64,
    },
    /// A Txn's outcome, and what its reads found.
    Decided {
        revision: i64,
        succeeded: bool,
        found: Vec<KeyValue>,
    },
    Found {
        revision: i64,
        kvs: Vec<KeyValue>,
        count: i64,
    },
    KeptAlive {
        revision: i64,
        ttl: i64,
    },
    /// It has no effect, and never will have.
    Refused {
        text: String,
    },
    Unknown {
        text: String,
    },
}

impl Told {
    /// The revision that the answer shows.
    pub fn revision(&self) -> Option<i64> {
        match self {
            Told::Done { revision }
            | Told::Decided { revision, .. }
            | Told::Found { revision, .. }
            | Told::KeptAlive { revision, .. } => Some(*revision),
            Told::Refused { .. } | Told::Unknown { .. } => None,
        }
    }
}

/// One call, from beginning to end.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it began and ended, in the order of all that happened.
    pub called: u64,
    pub answered: u64,
    /// Which life of which adapter was asked, if it was one and the same all the time.
    pub life: Option<(usize, u32)>,
    pub ask: Ask,
    pub told: Told,
}

/// One thing that a watcher was told, or did.
#[derive(Debug, Clone)]
pub enum Note {
    /// It asked for everything from here on; 0: from now on.
    Began(i64),
    Created(i64),
    /// Events of one response: the key with its version, or with nothing but the revision if it went.
    Events(Vec<(bool, KeyValue)>),
    Progress(i64),
    /// What it asked for is compacted, up to here.
    Compacted(i64),
}

#[derive(Debug, Clone, Default)]
pub struct Watched {
    pub name: String,
    pub key: Bytes,
    pub range_end: Bytes,
    pub notes: Vec<Note>,
}

/// Cheap to clone; clones are the same ledger.
#[derive(Clone)]
pub struct Ledger {
    pub witness: Witness,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    moment: u64,
    calls: Vec<Call>,
    watched: Vec<Watched>,
    hashes: BTreeMap<Position, (String, u128)>,
    /// Leases that somebody keeps alive all the time.
    kept: Vec<i64>,
    /// The newest revision that anybody was shown.
    newest: i64,
    /// Why processes may leave by themselves.
    expected: Vec<&'static str>,
}

impl Ledger {
    pub fn new(witness: Witness) -> Ledger {
        Ledger { witness, inner: Arc::default() }
    }

    pub fn broken(&self, why: String) {
        self.witness.broken(why);
    }

    /// The next moment. Every one is later than those before it.
    pub fn moment(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.moment += 1;
        inner.moment
    }

    pub fn call(&self, call: Call) {
        let mut inner = self.inner.lock();
        inner.newest = inner.newest.max(call.told.revision().unwrap_or(0));
        inner.calls.push(call);
    }

    pub fn newest(&self) -> i64 {
        self.inner.lock().newest
    }

    pub fn watched(&self, watched: Watched) {
        self.inner.lock().watched.push(watched);
    }

    /// A process may leave by itself for this reason.
    pub fn expects(&self, why: &'static str) {
        self.inner.lock().expected.push(why);
    }

    /// A process left by itself.
    pub fn left(&self, name: &str, why: &str) {
        let expected = self.inner.lock().expected.iter().any(|expected| why.contains(expected));
        if !expected {
            self.broken(format!("{name} left by itself: {why}"));
        }
    }

    pub fn is_kept(&self, lease: i64) {
        self.inner.lock().kept.push(lease);
    }

    /// An adapter has applied everything below `applied`, and this is its state then.
    pub fn state_is(&self, name: &str, applied: Position, hash: u128) {
        let (who, before) = self.inner.lock().hashes.entry(applied).or_insert_with(|| (name.to_owned(), hash)).clone();
        if before != hash {
            self.broken(format!("at {applied} {name} has the state {hash:032x}, and {who} had {before:032x}"));
        }
    }

    pub fn calls(&self) -> Vec<Call> {
        self.inner.lock().calls.clone()
    }

    pub fn all_watched(&self) -> Vec<Watched> {
        self.inner.lock().watched.clone()
    }

    pub fn hashes(&self) -> BTreeMap<Position, (String, u128)> {
        self.inner.lock().hashes.clone()
    }

    pub fn kept(&self) -> Vec<i64> {
        self.inner.lock().kept.clone()
    }
}
