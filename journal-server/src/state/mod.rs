//! The replicated state of a group: what applying its control entries decides. Pure: no clock, no
//! randomness, no I/O, so that every node that has applied the same entries holds the same state.
//!
//! The state is small by design. A journal's is its `start`; the catalogue's is which journals and
//! members there are. Entries themselves are never looked into.

mod catalogue;
mod codec;
mod command;
mod members;

pub use catalogue::{Catalogue, JournalRecord, MemberRecord, PendingChange};
pub use codec::{BadState, LEVEL, decode_command, decode_version, encode_command, encode_version};
pub use command::{Command, MemberChange, Outcome, Refused};
pub use members::{GroupView, MemberStep, next_step};

use std::fmt;

/// A node's place in memberships: its name and the address that peers and clients reach it by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Member {
    pub name: String,
    pub address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.address)
    }
}

/// Who may trim a journal, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrimPolicy {
    /// Whoever may append may trim.
    #[default]
    Free,
    /// Only what a registered checkpoint covers may go.
    Checkpointed,
}

/// The state of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupState {
    Journal(Journal),
    Catalogue(Catalogue),
}

/// A journal's own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Journal {
    /// The first readable position. Never goes back.
    pub start: u64,
}

impl Default for Journal {
    fn default() -> Self {
        // Position 0 holds the membership that the group began with, never an entry.
        Journal { start: 1 }
    }
}

impl GroupState {
    /// The first readable position.
    pub fn start(&self) -> u64 {
        match self {
            GroupState::Journal(journal) => journal.start,
            GroupState::Catalogue(catalogue) => catalogue.start,
        }
    }

    /// Executes one control entry. A command that does not belong to this group, or that the state
    /// forbids, changes nothing and says why: the same on every node.
    pub fn apply(&mut self, position: u64, command: &Command) -> Outcome {
        match (self, command) {
            (state, Command::Trim { before }) => state.trim(position, *before),
            (GroupState::Catalogue(catalogue), command) => catalogue.apply(position, command),
            (GroupState::Journal(_), _) => Outcome::Refused(Refused::Invalid("that command is the catalogue's".into())),
        }
    }

    fn trim(&mut self, position: u64, before: u64) -> Outcome {
        let start = match self {
            GroupState::Journal(journal) => &mut journal.start,
            GroupState::Catalogue(catalogue) => &mut catalogue.start,
        };
        // Everything below this very entry is applied, so the cut is at most the entry itself.
        *start = before.min(position).max(*start);
        Outcome::Trimmed { start: *start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trim_moves_start_forward_and_never_past_itself() {
        let mut state = GroupState::Journal(Journal::default());
        assert_eq!(state.apply(50, &Command::Trim { before: 20 }), Outcome::Trimmed { start: 20 });
        assert_eq!(state.apply(51, &Command::Trim { before: 10 }), Outcome::Trimmed { start: 20 });
        assert_eq!(state.apply(52, &Command::Trim { before: 999 }), Outcome::Trimmed { start: 52 });
        assert_eq!(state.start(), 52);
    }
}
