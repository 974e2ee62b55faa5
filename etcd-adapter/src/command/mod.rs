//! What an entry says: the commands, their envelope and its bytes.
//!
//! An entry is written by one adapter and read by all of them, possibly of other versions, for as
//! long as the journal holds it. So everything that decides its effect is in it: no flag of a process
//! reaches apply. Its bytes are checked by whoever reads them: nothing in them may panic, and nothing
//! may allocate more than they are long.

mod codec;
mod validate;
pub(crate) mod wire;

pub use codec::{DecodeError, TXN_DEPTH_MAX, decode, encode};
pub(crate) use codec::{alarm, alarm_byte, beat, put_beat};
pub use validate::{Invalid, quota_cost, validate, validate_range};

use bytes::Bytes;
use proto::Position;

/// The newest level of commands that this program understands. An entry of a higher level stops
/// apply; the level in force rises by [`Command::RaiseLevel`].
pub const LEVEL: u32 = 1;

/// What one entry of the journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryBody {
    /// Who says it: the position of the producer's `Hello`. [`Position::NONE`] stands in the entry
    /// that holds that `Hello`, and in no other.
    pub producer: Position,
    /// The producer's running number for its entries: 1 for the first after its `Hello`.
    pub seq: u64,
    /// The level a reader needs in order to understand this entry.
    pub level: u32,
    /// What the producer says of itself, at least once a second.
    pub beat: Option<Beat>,
    pub commands: Vec<Command>,
}

impl EntryBody {
    /// The entry that begins a producer.
    pub fn hello(hello: Hello) -> EntryBody {
        EntryBody { producer: Position::NONE, seq: 0, level: 1, beat: None, commands: vec![Command::Hello(hello)] }
    }
}

/// What an adapter says of itself. Nothing is decided from `hash`: adapters compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The next position this adapter will apply, and the state hash before it.
    pub applied: Position,
    pub hash: u128,
    /// Where this adapter would begin again after a crash of its process.
    pub flushed: Position,
    /// The newest level it understands.
    pub level: u32,
    /// Whether clients may be sent to it.
    pub ready: bool,
}

/// One thing a client, or an adapter, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact {
        revision: i64,
    },
    /// Id 0 leaves the choice to apply. The proposer has clamped the TTL, in seconds.
    LeaseGrant {
        id: i64,
        ttl: i64,
    },
    LeaseRevoke {
        id: i64,
    },
    KeepAlive {
        id: i64,
    },
    /// A full TTL has passed on some adapter's lease clock since the renewal at `renewed_at`.
    /// Dropped if the lease was renewed since.
    Expire {
        lease: i64,
        renewed_at: Position,
    },
    Alarm {
        action: AlarmAction,
        member: u64,
        kind: AlarmKind,
    },
    MemberAdd {
        peer_urls: Vec<String>,
        learner: bool,
        /// How many learners the proposer's flags allow, this one included.
        learners_max: u32,
    },
    MemberPromote {
        id: u64,
    },
    MemberRemove {
        id: u64,
    },
    MemberUpdate {
        id: u64,
        peer_urls: Vec<String>,
    },
    MoveLeader {
        target: u64,
    },
    /// Only as the single command of an entry without a producer.
    Hello(Hello),
    /// Dropped if the producer spoke after `last_entry`.
    Gone {
        producer: Position,
        last_entry: Position,
    },
    /// Raises the level in force, if every live producer has announced it.
    RaiseLevel {
        level: u32,
    },
    /// etcd's downgrade job, which here is only remembered: `Some(version)` enables, `None` cancels.
    Downgrade {
        target: Option<String>,
    },
}

/// Begins a producer, by compare-and-set: accepted only if `replaces` is the name's current producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    /// Drawn at random for each `Hello`; one that was seen before is skipped.
    pub nonce: u64,
    /// The name's current producer, as far as the adapter knows; [`Position::NONE`] for none.
    pub replaces: Position,
    /// The newest level this adapter understands.
    pub level: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: i64,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

/// Keys from `key` to `range_end`, as etcd writes ranges: an empty end means the one key, a single
/// zero byte means everything from `key` on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRange {
    pub key: Bytes,
    pub range_end: Bytes,
    pub prev_kv: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    /// A request without content: [`validate()`] refuses it, and apply passes it over.
    Empty,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub range_end: Bytes,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
    /// A number etcd does not know either: it holds.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Bytes),
    Lease(i64),
    /// A number etcd does not know either: equal to anything.
    Unknown,
}

/// A read. Travels in entries only as part of a Txn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub key: Bytes,
    pub range_end: Bytes,
    /// Zero or less: no limit.
    pub limit: i64,
    /// Zero or less: the current one.
    pub revision: i64,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    pub mod_revision_min: i64,
    pub mod_revision_max: i64,
    pub create_revision_min: i64,
    pub create_revision_max: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
    /// A number etcd does not know either: [`validate()`] refuses it.
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
    /// A number etcd does not know either: [`validate()`] refuses it.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmAction {
    Activate,
    Deactivate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}
