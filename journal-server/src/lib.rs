//! journal-server: a replicated, fsync-batched, append-only log service.

pub mod caller;
pub mod config;
pub mod rules;
pub mod segment;
