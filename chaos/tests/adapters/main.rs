//! Adapters as real processes, in front of a real journal and of none, spoken to by etcd's own client
//! and by ours.
//!
//! One file a claim, one program for all of them.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

mod clients;
mod etcdctl;
mod journal_hurt;
mod killed;
mod nearest;
mod papers;
mod same_output;
mod support;
mod two_writers;
