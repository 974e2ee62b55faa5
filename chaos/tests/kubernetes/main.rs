//! Real API servers, a real scheduler and real controllers, with their state in adapters.
//!
//! What they are built from is large, so none of this is part of `make test`: `make test-kubernetes`
//! runs it. One file a claim, one program for all of them.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

mod addresses;
mod lists;
mod one_server;
mod scheduled;
mod support;
mod two_servers;
