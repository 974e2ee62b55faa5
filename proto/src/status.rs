//! What is read off a node's status in more than one place.

use crate::JournalId;
use crate::journal::{GroupStatus, StatusReply};

impl GroupStatus {
    pub fn id(&self) -> JournalId {
        JournalId(self.journal.as_ref().map_or(0, |journal| journal.id))
    }

    pub fn leads(&self) -> bool {
        self.role == "leader"
    }
}

impl StatusReply {
    pub fn group(&self, id: JournalId) -> Option<&GroupStatus> {
        self.groups.iter().find(|group| group.id() == id)
    }

    /// Whether the node hears how a change of members goes on: one that was removed does not, unless it still
    /// leads the catalogue.
    pub fn hears_of_changes(&self) -> bool {
        self.members.iter().any(|member| member.node_id == self.node_id)
            || self.group(JournalId::SYSTEM).is_some_and(GroupStatus::leads)
    }
}
