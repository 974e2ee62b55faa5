//! The words that the rest of `mvcc` is written in.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{AlarmKind, Range};

use super::members::Member;

/// etcd's counter: 1 on an empty store, one more for each command that changes a key.
pub type Revision = i64;

/// A key as the index owns it: shared with leases and changes, never a slice of an entry.
pub type Key = Arc<[u8]>;

/// The place of one version: its revision, and its number among the changes of that revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    pub main: Revision,
    pub sub: u32,
}

impl At {
    /// After everything that happened at a revision: the bound of a read at it.
    pub fn end_of(revision: Revision) -> At {
        At { main: revision, sub: u32::MAX }
    }

    /// The first place of a revision: where a watch from it begins.
    pub fn start_of(revision: Revision) -> At {
        At { main: revision, sub: 0 }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

/// One version of a key, without its value. `version` is 0 in a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub at: At,
    pub create: Revision,
    pub version: i64,
    pub lease: i64,
    /// The value's length and its xxh3-64.
    pub size: u32,
    pub digest: u64,
}

impl Version {
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// One version of a key, whole: what `log` keeps, and what watchers are told.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    pub at: At,
    pub key: Key,
    /// Empty in a tombstone, and so are the fields below.
    pub value: Bytes,
    pub create: Revision,
    /// 0 in a tombstone.
    pub version: i64,
    pub lease: i64,
}

impl Row {
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// A row where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub create: Revision,
    pub version: i64,
    pub lease: i64,
}

impl RowRef<'_> {
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub fn to_row(self, at: At) -> Row {
        let RowRef { key, value, create, version, lease } = self;
        Row { at, key: Key::from(key), value: Bytes::copy_from_slice(value), create, version, lease }
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        if self.is_tombstone() {
            return write!(f, "{} {key} deleted", self.at);
        }
        let (create, version, lease, size) = (self.create, self.version, self.lease, self.value.len());
        write!(f, "{} {key} v{version} of {create}, lease {lease:x}, {size} bytes", self.at)
    }
}

/// Reads values by their place: the part of the store that a decision may need (a comparison of values,
/// a put that keeps the value). It must hold everything that the index knows, staged or written.
pub trait Values {
    /// The values at these places, in this order.
    fn values(&self, places: &[At]) -> Result<Vec<Bytes>, ValueLost>;
}

/// The store could not give a value that the index knows. It must never become a command's result:
/// whoever sees it ends the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value at {at} cannot be read: {why}")]
pub struct ValueLost {
    pub at: At,
    pub why: String,
}

/// What a command's caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// For the header: the revision after the command.
    pub revision: Revision,
    pub result: Result<Answer, Refusal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Put {
        /// The version before, if `prev_kv` was asked and there was one.
        prev: Option<At>,
    },
    DeleteRange {
        deleted: i64,
        /// In the order of keys; empty unless `prev_kv` was asked.
        prev: Vec<At>,
    },
    Txn(TxnAnswer),
    Compact,
    LeaseGrant {
        id: i64,
        ttl: i64,
    },
    LeaseRevoke,
    /// A TTL of 0 says that there is no such lease.
    KeepAlive {
        id: i64,
        ttl: i64,
    },
    /// `expired` is false if the lease was renewed, or gone, since.
    Expire {
        expired: bool,
    },
    Alarms(Vec<Alarm>),
    /// The members after a change of them.
    Members {
        /// The one that was added.
        added: Option<Member>,
        members: Vec<Member>,
    },
    MoveLeader,
    /// The entry began a producer, whose id is the entry's position.
    Hello {
        member: u64,
    },
    /// `gone` is false if the producer spoke, or ended, since.
    Gone {
        gone: bool,
    },
    /// The level now in force, whether or not it rose.
    Level {
        level: u32,
    },
    Downgrade,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    pub succeeded: bool,
    /// One for each operation of the branch that ran.
    pub ops: Vec<OpAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpAnswer {
    /// For the header of this part of the response. A nested Txn's is empty in etcd.
    pub revision: Revision,
    pub result: OpResult,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// To be read by whoever answers, with `RangeScan::new(request, bound)`, before the index forgets.
    Range {
        request: Range,
        bound: At,
    },
    Put {
        prev: Option<At>,
    },
    DeleteRange {
        deleted: i64,
        prev: Vec<At>,
    },
    Txn(TxnAnswer),
    Empty,
}

/// Why a command had no effect. The texts, after etcd's prefix, are part of its API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("key not found")]
    KeyNotFound,
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    #[error("mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("mvcc: database space exceeded")]
    NoSpace,
    #[error("corrupt cluster")]
    Corrupt,
    #[error("member not found")]
    MemberNotFound,
    #[error("Peer URLs already exists")]
    PeerUrlsExist,
    #[error("can only promote a learner member")]
    NotLearner,
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    #[error("too many learner members in cluster")]
    TooManyLearners,
    #[error("bad leader transferee")]
    BadTransferee,
    #[error("cluster has a downgrade job in progress")]
    DowngradeInProgress,
    /// A `Hello` whose comparison failed, or whose nonce was seen before.
    #[error("another process has this name")]
    HelloOutdated,
    /// A `Hello` of a member that was removed.
    #[error("the member was removed")]
    HelloRemoved,
    /// The command stands where it may not: a `Hello` beside other commands.
    #[error("the command is misplaced")]
    Misplaced,
    /// A bug in the deciding part, the same on every adapter.
    #[error("internal error: {0}")]
    Panicked(String),
}

/// One raised alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub kind: AlarmKind,
    pub member: u64,
}
