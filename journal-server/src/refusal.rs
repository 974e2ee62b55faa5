//! The refusals that this server says in several places, worded once.

pub use journal_client::{Reason, Refusal};

/// `leader` is an address.
pub fn not_leader(leader: Option<String>) -> Refusal {
    let message = match &leader {
        Some(address) => format!("this node does not lead the journal; {address} does"),
        None => "this node does not lead the journal, and knows of no leader".to_owned(),
    };
    Refusal::new(Reason::NotLeader, message).with_leader(leader)
}

pub fn moved(leader: Option<String>) -> Refusal {
    Refusal::new(Reason::Moved, "the leadership of the journal is being moved").with_leader(leader)
}

pub fn no_quorum() -> Refusal {
    Refusal::new(Reason::NoQuorum, "the leader cannot reach a majority of the journal's nodes")
}

pub fn shutting_down() -> Refusal {
    Refusal::new(Reason::ShuttingDown, "this node is shutting down")
}

/// Whoever hears this goes to another node.
pub fn removed() -> Refusal {
    let message = "this node was removed from the cluster: it serves nobody any more, and may be shut down";
    Refusal::new(Reason::ShuttingDown, message)
}

pub fn no_such_journal(which: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::NoSuchJournal, format!("there is no journal {which}"))
}
