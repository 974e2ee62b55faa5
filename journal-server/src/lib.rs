//! journal-server: a replicated, fsync-batched, append-only log service.

pub mod caller;
pub mod carry;
pub mod catalogue;
pub mod config;
pub mod detour;
pub mod disk;
pub mod env;
pub mod forming;
#[doc(hidden)]
pub mod fuzz;
mod gauges;
pub mod group;
pub mod grpc;
pub mod health;
pub mod http;
pub mod identity;
pub mod latch;
pub mod ledger;
pub mod marks;
pub mod metrics;
pub mod node;
pub mod offload;
pub mod raft;
pub mod reading;
pub mod refusal;
pub mod repair;
pub mod rules;
pub mod segment;
pub mod server;
pub mod state;
