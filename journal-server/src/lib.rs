//! journal-server: a replicated, fsync-batched, append-only log service.

pub mod config;
pub mod segment;
