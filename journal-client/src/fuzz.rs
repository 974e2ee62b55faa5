//! What fuzzers say to a client as if they were its server. Not a part of the library; the fuzz targets
//! call it.

use proto::Position;
use proto::journal::{TailReply, tail_reply};

use crate::remote::Reader;

/// A run that a tail brought: it is taken whole, or broken. Twice is never right.
pub fn tail(reply: TailReply) {
    let Some(tail_reply::Kind::Run(run)) = reply.kind else { return };
    let mut reader = Reader::new(Position(run.from));
    if let Ok(taken) = reader.take(run.clone()) {
        assert!(taken.entries.iter().all(|entry| entry.position >= taken.from && entry.position < taken.to));
        assert_eq!(reader.next, Position(run.to));
        assert!(run.from == run.to || reader.take(run).is_err(), "the same run was taken twice");
    }
}
