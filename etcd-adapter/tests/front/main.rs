//! An adapter within this process, spoken to over its sockets, rule by rule.
//!
//! Names that begin with an id (`w_7`, `kv_r2`) are rules of etcd's surface.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

mod answers;
mod dashboards;
mod divergence;
mod flood;
mod found;
mod hurt;
mod keys;
mod learners;
mod leases;
mod others;
mod process;
mod silence;
mod space;
mod speaking;
mod transport;
mod upkeep;
mod watches;
mod world;
