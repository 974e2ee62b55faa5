//! Compaction: nothing below its revision can be read from then on.
//!
//! The decision is one number. What it makes unreadable is forgotten later, in small steps and at each
//! replica's own pace ([`super::State::forget`]): nothing that is decided, answered or hashed may
//! depend on how far a replica has come.

use super::state::State;
use super::types::{Refusal, Revision};

/// Whether the state can be compacted to a revision.
pub(super) fn check(state: &State, revision: Revision) -> Result<(), Refusal> {
    if revision <= state.compact_revision {
        return Err(Refusal::Compacted);
    }
    if revision > state.revision {
        return Err(Refusal::FutureRevision);
    }
    Ok(())
}
