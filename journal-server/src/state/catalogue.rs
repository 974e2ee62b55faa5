//! The state of the group `system`: which journals exist, who the members are, and which change of
//! members is being carried through the groups.
//!
//! The catalogue says what *should* be; each group's leader makes it so and reports
//! [`Command::ChangeCarried`]. Because the change is recorded before anything is done, whoever
//! becomes leader next goes on with it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Command, Member, MemberChange, Outcome, Refused, TrimPolicy};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// By id. The group `system` is not in it.
    pub journals: BTreeMap<u64, JournalRecord>,
    pub members: BTreeMap<u64, MemberRecord>,
    pub change: Option<PendingChange>,
    /// Nodes that lost what they had acknowledged. They stay here until they are removed.
    pub shut_out: BTreeSet<u64>,
    /// Nodes that were members once and are not to be any more: they ask, since the entries that removed
    /// them may never reach them.
    pub removed: BTreeSet<u64>,
    /// The first readable position of `system` itself.
    pub start: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRecord {
    pub name: String,
    pub policy: TrimPolicy,
    /// Bytes on each node's disk; 0: no limit but the disk.
    pub quota_bytes: u64,
    /// Exactly these nodes initialise the group, with exactly this set.
    pub voters: BTreeMap<u64, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    pub member: Member,
    pub voter: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingChange {
    /// The position at which it was asked for.
    pub id: u64,
    pub what: MemberChange,
    /// The groups that have yet to carry it out; 0 is `system`.
    pub groups: BTreeSet<u64>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Catalogue {
            journals: BTreeMap::new(),
            members: BTreeMap::new(),
            change: None,
            shut_out: BTreeSet::new(),
            removed: BTreeSet::new(),
            start: 1,
        }
    }
}

impl Catalogue {
    pub fn by_name(&self, name: &str) -> Option<(u64, &JournalRecord)> {
        self.journals.iter().find(|(_, record)| record.name == name).map(|(id, record)| (*id, record))
    }

    /// The members that vote, and so form the voter set of a journal created now.
    pub fn voters(&self) -> BTreeMap<u64, Member> {
        let voters = self.members.iter().filter(|(_, record)| record.voter);
        voters.map(|(node, record)| (*node, record.member.clone())).collect()
    }

    /// Whether the node was a member, and every group has let go of it. While that is under way it still
    /// votes, and may lead.
    pub fn has_left(&self, node: u64) -> bool {
        let leaving = match self.change.as_ref().map(|change| &change.what) {
            Some(MemberChange::Remove { node } | MemberChange::Replace { old: node, .. }) => Some(*node),
            _ => None,
        };
        self.removed.contains(&node) && leaving != Some(node)
    }

    pub(super) fn apply(&mut self, position: u64, command: &Command) -> Outcome {
        match command {
            Command::Found { members } => self.found(members),
            Command::CreateJournal { name, policy, quota_bytes, voters } => {
                self.create(position, name, *policy, *quota_bytes, voters)
            }
            Command::DeleteJournal { id } => self.delete(*id),
            Command::SetQuota { id, quota_bytes } => match self.journals.get_mut(id) {
                Some(record) => {
                    record.quota_bytes = *quota_bytes;
                    Outcome::Journal { id: *id, created: false }
                }
                None => Outcome::Refused(Refused::NoSuchJournal),
            },
            Command::ChangeMembers(change) => match self.record(position, change) {
                Ok(()) => Outcome::ChangeRecorded { id: position },
                Err(refused) => Outcome::Refused(refused),
            },
            Command::ChangeCarried { change_id, group_id } => {
                self.carried(*change_id, *group_id);
                Outcome::Done
            }
            Command::ShutOut { node } => {
                if self.members.contains_key(node) {
                    self.shut_out.insert(*node);
                }
                Outcome::Done
            }
            Command::Trim { .. } => unreachable!("every group trims the same way, before this"),
        }
    }

    fn found(&mut self, members: &BTreeMap<u64, Member>) -> Outcome {
        if self.members.is_empty() {
            let record = |member: &Member| MemberRecord { member: member.clone(), voter: true };
            self.members = members.iter().map(|(node, member)| (*node, record(member))).collect();
        }
        Outcome::Done
    }

    /// Idempotent by name: whoever asks twice gets the same journal.
    fn create(
        &mut self,
        position: u64,
        name: &str,
        policy: TrimPolicy,
        quota_bytes: u64,
        voters: &BTreeMap<u64, Member>,
    ) -> Outcome {
        if let Some((id, record)) = self.by_name(name) {
            return match record.policy == policy {
                true => Outcome::Journal { id, created: false },
                false => Outcome::Refused(Refused::Exists),
            };
        }
        // The voter set was read from this very state some entries ago. A change in between would
        // make a group of members that no longer are.
        if *voters != self.voters() {
            return Outcome::Refused(Refused::Invalid("the members changed meanwhile; ask again".into()));
        }
        let name = name.to_owned();
        self.journals.insert(position, JournalRecord { name, policy, quota_bytes, voters: voters.clone() });
        if let Some(change) = &mut self.change {
            change.groups.insert(position);
        }
        Outcome::Journal { id: position, created: true }
    }

    fn delete(&mut self, id: u64) -> Outcome {
        if self.journals.remove(&id).is_none() {
            return Outcome::Refused(Refused::NoSuchJournal);
        }
        if let Some(change) = &self.change {
            self.carried(change.id, id);
        }
        Outcome::Done
    }

    fn record(&mut self, position: u64, change: &MemberChange) -> Result<(), Refused> {
        if let Some(pending) = &self.change {
            return match pending.what == *change {
                true => Ok(()),
                false => Err(Refused::ChangeUnderWay(pending.id)),
            };
        }
        let invalid = |text: &str| Err(Refused::Invalid(text.to_owned()));
        match change {
            MemberChange::AddLearner { node, member } => {
                if self.members.contains_key(node) {
                    return invalid("that node is a member already");
                }
                if self.members.values().any(|record| record.member.name == member.name) {
                    return invalid("a member of that name exists; replace or remove it");
                }
                let record = MemberRecord { member: member.clone(), voter: false };
                self.members.insert(*node, record);
                self.removed.remove(node);
            }
            MemberChange::Promote { node } => match self.members.get_mut(node) {
                Some(_) if self.shut_out.contains(node) => {
                    return invalid("that node lost what it had acknowledged; replace it");
                }
                Some(record) if record.voter => return invalid("that node votes already"),
                Some(record) => record.voter = true,
                None => return invalid("that node is no member"),
            },
            MemberChange::Remove { node } => {
                let Some(record) = self.members.get(node) else {
                    return invalid("that node is no member");
                };
                if record.voter && self.voters().len() == 1 {
                    return invalid("that node is the last voter");
                }
                self.members.remove(node);
                self.removed.insert(*node);
            }
            MemberChange::Replace { old, new, member } => {
                let Some(record) = self.members.get(old) else {
                    return invalid("the node to be replaced is no member");
                };
                if self.members.contains_key(new) {
                    return invalid("the new node is a member already");
                }
                let voter = record.voter;
                self.members.remove(old);
                self.removed.insert(*old);
                self.removed.remove(new);
                self.members.insert(*new, MemberRecord { member: member.clone(), voter });
            }
            MemberChange::SetAddress { node, member } => match self.members.get_mut(node) {
                Some(record) => record.member = member.clone(),
                None => return invalid("that node is no member"),
            },
        }
        let groups = self.journals.keys().copied().chain([0]).collect();
        self.change = Some(PendingChange { id: position, what: change.clone(), groups });
        Ok(())
    }

    fn carried(&mut self, change_id: u64, group_id: u64) {
        let Some(change) = &mut self.change else { return };
        if change.id != change_id {
            return;
        }
        change.groups.remove(&group_id);
        if change.groups.is_empty() {
            self.change = None;
            let members = &self.members;
            self.shut_out.retain(|node| members.contains_key(node));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member { name: name.into(), address: format!("{name}:1") }
    }

    fn three() -> Catalogue {
        let mut catalogue = Catalogue::default();
        let members = [(1, member("a")), (2, member("b")), (3, member("c"))].into();
        catalogue.apply(1, &Command::Found { members });
        catalogue
    }

    fn create(catalogue: &mut Catalogue, position: u64, name: &str) -> Outcome {
        let voters = catalogue.voters();
        let create = Command::CreateJournal { name: name.into(), policy: TrimPolicy::Free, quota_bytes: 0, voters };
        catalogue.apply(position, &create)
    }

    #[test]
    fn creating_twice_by_name_gives_one_journal_and_a_deleted_name_gets_a_new_id() {
        let mut catalogue = three();
        assert_eq!(create(&mut catalogue, 5, "a"), Outcome::Journal { id: 5, created: true });
        assert_eq!(create(&mut catalogue, 6, "a"), Outcome::Journal { id: 5, created: false });
        assert_eq!(catalogue.apply(7, &Command::DeleteJournal { id: 5 }), Outcome::Done);
        assert_eq!(create(&mut catalogue, 8, "a"), Outcome::Journal { id: 8, created: true });
    }

    #[test]
    fn a_change_ends_when_the_last_group_has_carried_it() {
        let mut catalogue = three();
        create(&mut catalogue, 5, "a");
        let add = Command::ChangeMembers(MemberChange::AddLearner { node: 4, member: member("d") });
        assert_eq!(catalogue.apply(6, &add), Outcome::ChangeRecorded { id: 6 });
        let other = Command::ChangeMembers(MemberChange::Remove { node: 1 });
        assert_eq!(catalogue.apply(7, &other), Outcome::Refused(Refused::ChangeUnderWay(6)));
        create(&mut catalogue, 8, "b");
        for group_id in [0, 5, 8] {
            assert!(catalogue.change.is_some());
            catalogue.apply(9, &Command::ChangeCarried { change_id: 6, group_id });
        }
        assert_eq!(catalogue.change, None);
    }

    #[test]
    fn a_replaced_node_that_was_shut_out_is_forgotten_when_it_is_gone() {
        let mut catalogue = three();
        catalogue.apply(5, &Command::ShutOut { node: 2 });
        let replace = MemberChange::Replace { old: 2, new: 9, member: member("b2") };
        catalogue.apply(6, &Command::ChangeMembers(replace));
        assert!(catalogue.shut_out.contains(&2));
        catalogue.apply(7, &Command::ChangeCarried { change_id: 6, group_id: 0 });
        assert!(catalogue.shut_out.is_empty());
        assert_eq!(catalogue.voters().into_keys().collect::<Vec<_>>(), [1, 3, 9]);
    }

    #[test]
    fn a_node_has_left_when_every_group_has_let_go_of_it_and_until_it_is_let_in_again() {
        let mut catalogue = three();
        create(&mut catalogue, 5, "a");
        let replace = MemberChange::Replace { old: 2, new: 9, member: member("b2") };
        catalogue.apply(6, &Command::ChangeMembers(replace));
        catalogue.apply(7, &Command::ChangeCarried { change_id: 6, group_id: 5 });
        assert!(!catalogue.has_left(2), "it still votes in `system`");
        catalogue.apply(8, &Command::ChangeCarried { change_id: 6, group_id: 0 });
        assert!(catalogue.has_left(2));
        assert!(!catalogue.has_left(9) && !catalogue.has_left(1));
        assert!(!catalogue.has_left(77), "nobody ever heard of that one");

        let back = MemberChange::AddLearner { node: 2, member: member("b") };
        catalogue.apply(9, &Command::ChangeMembers(back));
        assert!(!catalogue.has_left(2));
    }

    #[test]
    fn the_last_voter_cannot_be_removed() {
        let mut catalogue = Catalogue::default();
        catalogue.apply(1, &Command::Found { members: [(1, member("a"))].into() });
        let remove = Command::ChangeMembers(MemberChange::Remove { node: 1 });
        assert!(matches!(catalogue.apply(2, &remove), Outcome::Refused(Refused::Invalid(_))));
    }
}
