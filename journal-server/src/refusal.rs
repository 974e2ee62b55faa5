//! The refusals that this server says, worded once.

pub use proto::journal::Reason;

/// Why something was not done, and will not be. Turned into wire messages only in `grpc/`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub reason: Reason,
    pub message: String,
    /// Node id and address of the leader, where known.
    pub leader: Option<(u64, String)>,
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Refusal { reason, message: message.into(), leader: None }
    }
}

pub fn not_leader(leader: Option<(u64, String)>) -> Refusal {
    let message = match &leader {
        Some((_, address)) => format!("this node does not lead the journal; {address} does"),
        None => "this node does not lead the journal, and knows of no leader".to_owned(),
    };
    Refusal { reason: Reason::NotLeader, message, leader }
}

pub fn moved(leader: Option<(u64, String)>) -> Refusal {
    let message = "the leadership of the journal is being moved".to_owned();
    Refusal { reason: Reason::Moved, message, leader }
}

pub fn no_quorum() -> Refusal {
    Refusal::new(Reason::NoQuorum, "the leader cannot reach a majority of the journal's nodes")
}

pub fn stream_ended() -> Refusal {
    Refusal::new(Reason::StreamEnded, "an earlier entry of this stream was rejected")
}

pub fn shutting_down() -> Refusal {
    Refusal::new(Reason::ShuttingDown, "this node is shutting down")
}

pub fn no_such_journal(which: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::NoSuchJournal, format!("there is no journal {which}"))
}
