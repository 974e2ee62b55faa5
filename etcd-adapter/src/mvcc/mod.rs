//! What entries mean: etcd's semantics as a pure function of the journal.
//!
//! [`apply()`] takes one entry at its position and changes the [`State`]; the same entries give the same
//! state, the same revisions and the same state hash on every adapter, whatever the batching and however
//! often the process began again. Nothing here is async, reads a clock, draws randomness, or depends on
//! a hash map's order; the only I/O is the reading of values that a command's decision needs
//! ([`Values`]), and that must give the same bytes everywhere.
//!
//! A command is decided whole before anything changes: a panic in the deciding part becomes the
//! command's result, on every adapter alike.
//!
//! Reads are not answered here. A reply refers to versions by their place ([`At`]); the adapter that
//! answers fetches them from its store, and must do so before it lets the index forget
//! ([`State::forget`]).

mod alarms;
mod apply;
mod compaction;
mod compare;
mod hash;
mod hashkv;
mod heads;
mod index;
mod lease;
mod members;
mod meta;
mod range;
mod state;
mod tree;
mod txn;
mod types;

pub use apply::{Applied, Change, Outcome, Skipped, apply};
pub use compare::Comparison;
pub use hashkv::{HashKv, KvHash};
pub use index::{Index, KeyRange};
pub use lease::Lease;
pub use members::{Member, Producer};
pub use meta::{MetaKey, Restore, Unusable, read_scalars};
pub use range::{Found, RangeScan, Selection};
pub use state::State;
pub use types::{
    Alarm, Answer, At, Key, OpAnswer, OpResult, Refusal, Reply, Revision, Row, RowRef, TxnAnswer, ValueLost, Values,
    Version,
};
