//! What can go wrong, by what the caller can do about it.

use proto::Position;

/// Why something was refused. Nothing happened, and nothing will.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub reason: Reason,
    pub message: String,
    /// The address of the leader, where the refusing node knows it.
    pub leader: Option<String>,
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Refusal { reason, message: message.into(), leader: None }
    }

    /// The same refusal, naming the leader to ask instead.
    pub fn with_leader(self, leader: Option<String>) -> Self {
        Refusal { leader, ..self }
    }
}

/// The reasons that a program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// None was given, or one that this program is too old to know.
    Unspecified,
    NotLeader,
    Moved,
    NoQuorum,
    NoRoom,
    Quota,
    TooLarge,
    BadChecksum,
    StreamEnded,
    ShuttingDown,
    NoSuchJournal,
    Forbidden,
    Invalid,
    ChangeUnderWay,
    Exists,
    WrongCluster,
    NotReady,
    Rate,
}

impl Reason {
    /// Whether the same request may succeed a little later, perhaps at another node.
    pub fn passes(self) -> bool {
        matches!(
            self,
            Reason::NotLeader
                | Reason::Moved
                | Reason::NoQuorum
                | Reason::NoRoom
                | Reason::StreamEnded
                | Reason::ShuttingDown
                | Reason::ChangeUnderWay
                | Reason::NotReady
                | Reason::Rate
        )
    }

    /// Whether it says something of the node that was asked, or of this moment, and nothing of the
    /// request: the next leader will take it. What passes but is not of this kind (no room, too many
    /// urgent entries, a change under way) is the caller's to know at once.
    pub fn is_of_the_node(self) -> bool {
        matches!(
            self,
            Reason::NotLeader
                | Reason::Moved
                | Reason::NoQuorum
                | Reason::StreamEnded
                | Reason::ShuttingDown
                | Reason::NotReady
        )
    }
}

/// An append that was not acknowledged. The two cases are different in kind: after `Rejected` the
/// entry may be sent again at will; after `Unknown` sending it again may put it there twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The entry is not in the journal and never will be.
    #[error("rejected: {0}")]
    Rejected(Refusal),
    /// The entry may be in the journal, or come to be, or never. Only the tail can tell.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// A call that failed. None of these calls leaves anything half-done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No node answered in time. Calls that change something, and say this, may be made again.
    #[error("no node answers: {0}")]
    Unavailable(String),
    /// It was asked for, and nobody answered: it may have happened, or may yet. Look before it is asked
    /// for again.
    #[error("not confirmed: {0}")]
    Unconfirmed(String),
    /// A node said something that the protocol forbids.
    #[error("protocol violated: {0}")]
    Protocol(String),
}

/// The end of a tail stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// The entries asked for were trimmed; reading can go on at `start`.
    #[error("the journal begins at {start} now")]
    Gap { start: Position },
    /// A run did not begin where the last one ended, or a checksum was wrong. Never ignored.
    #[error("the tail is broken at {at}: {why}")]
    Broken { at: Position, why: String },
    #[error(transparent)]
    Failed(#[from] Error),
}
