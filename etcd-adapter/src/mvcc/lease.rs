//! Leases: what keys live on them, and when they were last renewed.
//!
//! A lease knows positions, not times: apply has no clock. Its expiry is an adapter's proposal
//! ([`crate::command::Command::Expire`]) that names the renewal it was measured from, and that is
//! dropped if the lease was renewed since.

use std::collections::BTreeSet;

use proto::Position;

use super::state::State;
use super::types::{Answer, Key, Refusal};

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The granted TTL in seconds.
    pub ttl: i64,
    /// Where it was granted, or last renewed.
    pub renewed_at: Position,
    /// The live keys attached to it. Not in its record: it follows from the versions.
    pub keys: BTreeSet<Key>,
}

/// The id a grant gets: the one asked for if it is free, else, for 0, a positive one derived from where
/// the command stands.
pub(super) fn choose_id(state: &State, id: i64, position: Position, index: usize) -> Result<i64, Refusal> {
    if id != 0 {
        return if state.leases.contains_key(&id) { Err(Refusal::LeaseExists) } else { Ok(id) };
    }
    let mut attempt = 0u64;
    loop {
        let id = (super::hash::number(&[position.0, index as u64, attempt]) & i64::MAX as u64) as i64;
        if id != 0 && !state.leases.contains_key(&id) {
            return Ok(id);
        }
        attempt += 1;
    }
}

/// What a renewal answers.
pub(super) fn keep_alive(state: &State, id: i64) -> Answer {
    Answer::KeepAlive { id, ttl: state.leases.get(&id).map_or(0, |lease| lease.ttl) }
}
