//! journal-server: a replicated, fsync-batched, append-only log service.

pub mod carry;
pub mod catalogue;
pub mod group;
pub mod ledger;
pub mod marks;
pub mod offload;
pub mod raft;
pub mod refusal;
pub mod segment;
pub mod state;
