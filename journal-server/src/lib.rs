//! journal-server: a replicated, fsync-batched, append-only log service.

pub mod caller;
pub mod config;
pub mod detour;
pub mod disk;
pub mod env;
pub mod health;
pub mod http;
pub mod identity;
pub mod latch;
pub mod metrics;
pub mod rules;
pub mod segment;
