//! journal-server: a replicated, fsync-batched, append-only log service.

pub mod segment;
pub mod state;
