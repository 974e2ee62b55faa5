//! What fuzzers say to a node as if they were its peers. Not a part of the node; `fuzz/` and
//! `tests/fuzz/` call it.
//!
//! A message from a peer becomes openraft's or is refused, and what becomes openraft's reads back as what
//! was said. Nothing that a wire can carry may panic here.

use proto::peer;

use super::{state_machine, types};

/// The entries of a request, as they would reach openraft and go on to other nodes.
pub fn entries(entries: Vec<peer::LogEntry>) {
    for said in entries {
        let Ok(entry) = types::entry_in(said.clone()) else { continue };
        let again = types::entry_out(entry);
        assert_eq!((again.position, again.term, again.kind), (said.position, said.term, said.kind));
        // A membership may be written down in another way; everything else is opaque.
        if again.kind != crate::segment::Kind::Membership as u32 && again.kind != crate::segment::Kind::Blank as u32 {
            assert_eq!((again.crc, again.body), (said.crc, said.body));
        }
    }
}

pub fn vote(said: peer::Vote) {
    if let Ok(vote) = types::vote_in(Some(said)) {
        assert_eq!(types::vote_out(&vote), said);
    }
}

pub fn membership(said: peer::Membership) {
    if let Ok(membership) = types::membership_in(said) {
        let again = types::membership_in(types::membership_out(&membership));
        assert_eq!(again.as_ref(), Ok(&membership), "it reads back as another membership");
    }
}

/// A version of the state, as it comes in a snapshot or from disk.
pub fn version(bytes: &[u8]) {
    let _ = state_machine::voters_of(bytes);
}
