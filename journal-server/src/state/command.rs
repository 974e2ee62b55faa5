//! What a control entry asks for, and what applying it answers.

use std::collections::BTreeMap;

use super::{Member, TrimPolicy};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Gives up the entries below a position. Any group.
    Trim {
        before: u64,
    },
    /// The members that the cluster was formed with. Said once, by the first leader of `system`.
    Found {
        members: BTreeMap<u64, Member>,
    },
    CreateJournal {
        name: String,
        policy: TrimPolicy,
        quota_bytes: u64,
        voters: BTreeMap<u64, Member>,
    },
    DeleteJournal {
        id: u64,
    },
    SetQuota {
        id: u64,
        quota_bytes: u64,
    },
    ChangeMembers(MemberChange),
    /// One group has carried the pending change out.
    ChangeCarried {
        change_id: u64,
        group_id: u64,
    },
    /// A follower showed less than it had acknowledged.
    ShutOut {
        node: u64,
    },
}

/// One change of members. At most one is under way at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    AddLearner { node: u64, member: Member },
    Promote { node: u64 },
    Remove { node: u64 },
    Replace { old: u64, new: u64, member: Member },
    SetAddress { node: u64, member: Member },
}

impl MemberChange {
    /// The node that the change is about.
    pub fn node(&self) -> u64 {
        match self {
            MemberChange::AddLearner { node, .. }
            | MemberChange::Promote { node }
            | MemberChange::Remove { node }
            | MemberChange::SetAddress { node, .. } => *node,
            MemberChange::Replace { new, .. } => *new,
        }
    }
}

/// What applying an entry answers to whoever proposed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to say: not a control entry.
    Nothing,
    Trimmed {
        start: u64,
    },
    /// A journal of that name and policy exists; it was made by this entry, or before.
    Journal {
        id: u64,
        created: bool,
    },
    Done,
    /// The change is recorded under this id.
    ChangeRecorded {
        id: u64,
    },
    Refused(Refused),
}

/// Why the state forbids a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no journal has this id or name")]
    NoSuchJournal,
    #[error("a journal of this name exists with another trim policy")]
    Exists,
    #[error("another change of members is under way (asked for at position {0}); it goes on by itself")]
    ChangeUnderWay(u64),
    #[error("{0}")]
    Invalid(String),
}
