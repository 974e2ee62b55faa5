//! Control entries and versions of the state as bytes. Both carry the feature level they need.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use proto::{peer, state as wire};

use super::{
    Catalogue, Command, GroupState, Journal, JournalRecord, Member, MemberChange, MemberRecord, PendingChange,
    TrimPolicy,
};

/// The highest feature level that this build understands.
pub const LEVEL: u32 = 1;

/// Why bytes are no state or command of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadState {
    #[error("it needs feature level {0}, and this build knows {LEVEL}: upgrade this node")]
    Level(u32),
    #[error("it cannot be read: {0}")]
    Malformed(String),
}

impl From<prost::DecodeError> for BadState {
    fn from(error: prost::DecodeError) -> Self {
        BadState::Malformed(error.to_string())
    }
}

fn missing(what: &str) -> BadState {
    BadState::Malformed(format!("{what} is missing"))
}

pub fn encode_command(command: &Command) -> Bytes {
    use wire::control::Command as Wire;
    let command = match command {
        Command::Trim { before } => Wire::Trim(wire::Trim { before: *before }),
        Command::Found { members } => Wire::Found(wire::Found { members: members_out(members) }),
        Command::CreateJournal { name, policy, quota_bytes, voters } => Wire::Create(wire::CreateJournal {
            name: name.clone(),
            policy: policy_out(*policy),
            quota_bytes: *quota_bytes,
            voters: members_out(voters),
        }),
        Command::DeleteJournal { id } => Wire::Delete(wire::DeleteJournal { id: *id }),
        Command::SetQuota { id, quota_bytes } => Wire::Quota(wire::SetQuota { id: *id, quota_bytes: *quota_bytes }),
        Command::ChangeMembers(change) => Wire::Change(change_out(change)),
        Command::ChangeCarried { change_id, group_id } => {
            Wire::Carried(wire::ChangeCarried { change_id: *change_id, group_id: *group_id })
        }
        Command::ShutOut { node } => Wire::ShutOut(wire::ShutOut { node_id: *node }),
    };
    wire::Control { level: 1, command: Some(command) }.encode_to_vec().into()
}

pub fn decode_command(bytes: &[u8]) -> Result<Command, BadState> {
    use wire::control::Command as Wire;
    let control = wire::Control::decode(bytes)?;
    if control.level > LEVEL {
        return Err(BadState::Level(control.level));
    }
    Ok(match control.command.ok_or_else(|| missing("the command"))? {
        Wire::Trim(trim) => Command::Trim { before: trim.before },
        Wire::Found(found) => Command::Found { members: members_in(found.members) },
        Wire::Create(create) => Command::CreateJournal {
            name: create.name,
            policy: policy_in(create.policy)?,
            quota_bytes: create.quota_bytes,
            voters: members_in(create.voters),
        },
        Wire::Delete(delete) => Command::DeleteJournal { id: delete.id },
        Wire::Quota(quota) => Command::SetQuota { id: quota.id, quota_bytes: quota.quota_bytes },
        Wire::Change(change) => Command::ChangeMembers(change_in(change)?),
        Wire::Carried(carried) => Command::ChangeCarried { change_id: carried.change_id, group_id: carried.group_id },
        Wire::ShutOut(shut_out) => Command::ShutOut { node: shut_out.node_id },
    })
}

/// The membership travels beside the state and is opaque here: only `raft/` knows its meaning.
pub fn encode_version(state: &GroupState, membership: (Option<peer::LogId>, peer::Membership)) -> Bytes {
    use wire::version::State as Wire;
    let state = match state {
        GroupState::Journal(journal) => Wire::Journal(wire::JournalState { start: journal.start }),
        GroupState::Catalogue(catalogue) => Wire::Catalogue(catalogue_out(catalogue)),
    };
    let (membership_at, membership) = membership;
    let version = wire::Version { level: 1, state: Some(state), membership_at, membership: Some(membership) };
    version.encode_to_vec().into()
}

pub fn decode_version(bytes: &[u8]) -> Result<(GroupState, Option<peer::LogId>, peer::Membership), BadState> {
    use wire::version::State as Wire;
    let version = wire::Version::decode(bytes)?;
    if version.level > LEVEL {
        return Err(BadState::Level(version.level));
    }
    let state = match version.state.ok_or_else(|| missing("the state"))? {
        Wire::Journal(journal) => GroupState::Journal(Journal { start: journal.start }),
        Wire::Catalogue(catalogue) => GroupState::Catalogue(catalogue_in(catalogue)?),
    };
    Ok((state, version.membership_at, version.membership.unwrap_or_default()))
}

fn policy_out(policy: TrimPolicy) -> u32 {
    match policy {
        TrimPolicy::Free => 1,
        TrimPolicy::Checkpointed => 2,
    }
}

fn policy_in(policy: u32) -> Result<TrimPolicy, BadState> {
    match policy {
        1 => Ok(TrimPolicy::Free),
        2 => Ok(TrimPolicy::Checkpointed),
        other => Err(BadState::Malformed(format!("no trim policy has number {other}"))),
    }
}

fn member_out(node: u64, member: &Member) -> peer::Member {
    peer::Member { node_id: node, name: member.name.clone(), address: member.address.clone() }
}

fn member_in(member: peer::Member) -> (u64, Member) {
    (member.node_id, Member { name: member.name, address: member.address })
}

fn members_out(members: &BTreeMap<u64, Member>) -> Vec<peer::Member> {
    members.iter().map(|(node, member)| member_out(*node, member)).collect()
}

fn members_in(members: Vec<peer::Member>) -> BTreeMap<u64, Member> {
    members.into_iter().map(member_in).collect()
}

fn change_out(change: &MemberChange) -> wire::ChangeMembers {
    use wire::change_members::Change as Wire;
    let change = match change {
        MemberChange::AddLearner { node, member } => Wire::AddLearner(member_out(*node, member)),
        MemberChange::Promote { node } => Wire::Promote(*node),
        MemberChange::Remove { node } => Wire::Remove(*node),
        MemberChange::Replace { old, new, member } => {
            Wire::Replace(wire::Replace { old_node: *old, new_member: Some(member_out(*new, member)) })
        }
        MemberChange::SetAddress { node, member } => Wire::SetAddress(member_out(*node, member)),
    };
    wire::ChangeMembers { change: Some(change) }
}

fn change_in(change: wire::ChangeMembers) -> Result<MemberChange, BadState> {
    use wire::change_members::Change as Wire;
    Ok(match change.change.ok_or_else(|| missing("the change of members"))? {
        Wire::AddLearner(member) => {
            let (node, member) = member_in(member);
            MemberChange::AddLearner { node, member }
        }
        Wire::Promote(node) => MemberChange::Promote { node },
        Wire::Remove(node) => MemberChange::Remove { node },
        Wire::Replace(replace) => {
            let (new, member) = member_in(replace.new_member.ok_or_else(|| missing("the new member"))?);
            MemberChange::Replace { old: replace.old_node, new, member }
        }
        Wire::SetAddress(member) => {
            let (node, member) = member_in(member);
            MemberChange::SetAddress { node, member }
        }
    })
}

fn catalogue_out(catalogue: &Catalogue) -> wire::CatalogueState {
    let journal = |(id, record): (&u64, &JournalRecord)| wire::JournalRecord {
        id: *id,
        name: record.name.clone(),
        policy: policy_out(record.policy),
        quota_bytes: record.quota_bytes,
        voters: members_out(&record.voters),
    };
    let member = |(node, record): (&u64, &MemberRecord)| wire::MemberRecord {
        member: Some(member_out(*node, &record.member)),
        voter: record.voter,
    };
    let change = |change: &PendingChange| wire::PendingChange {
        id: change.id,
        what: Some(change_out(&change.what)),
        groups: change.groups.iter().copied().collect(),
    };
    wire::CatalogueState {
        journals: catalogue.journals.iter().map(journal).collect(),
        members: catalogue.members.iter().map(member).collect(),
        change: catalogue.change.as_ref().map(change),
        shut_out: catalogue.shut_out.iter().copied().collect(),
        removed: catalogue.removed.iter().copied().collect(),
        start: catalogue.start,
    }
}

fn catalogue_in(wire: wire::CatalogueState) -> Result<Catalogue, BadState> {
    let mut catalogue = Catalogue { start: wire.start, ..Catalogue::default() };
    for record in wire.journals {
        let journal = JournalRecord {
            name: record.name,
            policy: policy_in(record.policy)?,
            quota_bytes: record.quota_bytes,
            voters: members_in(record.voters),
        };
        catalogue.journals.insert(record.id, journal);
    }
    for record in wire.members {
        let (node, member) = member_in(record.member.ok_or_else(|| missing("a member"))?);
        catalogue.members.insert(node, MemberRecord { member, voter: record.voter });
    }
    if let Some(change) = wire.change {
        let what = change_in(change.what.ok_or_else(|| missing("what changes"))?)?;
        catalogue.change = Some(PendingChange { id: change.id, what, groups: change.groups.into_iter().collect() });
    }
    catalogue.shut_out = wire.shut_out.into_iter().collect();
    catalogue.removed = wire.removed.into_iter().collect();
    Ok(catalogue)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member() -> impl Strategy<Value = Member> {
        ("[a-z]{1,8}", "[a-z]{1,8}:[0-9]{1,4}").prop_map(|(name, address)| Member { name, address })
    }

    fn change() -> impl Strategy<Value = MemberChange> {
        prop_oneof![
            (any::<u64>(), member()).prop_map(|(node, member)| MemberChange::AddLearner { node, member }),
            any::<u64>().prop_map(|node| MemberChange::Promote { node }),
            any::<u64>().prop_map(|node| MemberChange::Remove { node }),
            (any::<u64>(), any::<u64>(), member()).prop_map(|(old, new, member)| MemberChange::Replace {
                old,
                new,
                member
            }),
            (any::<u64>(), member()).prop_map(|(node, member)| MemberChange::SetAddress { node, member }),
        ]
    }

    fn members() -> impl Strategy<Value = BTreeMap<u64, Member>> {
        prop::collection::btree_map(any::<u64>(), member(), 0..5)
    }

    fn policy() -> impl Strategy<Value = TrimPolicy> {
        prop_oneof![Just(TrimPolicy::Free), Just(TrimPolicy::Checkpointed)]
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            any::<u64>().prop_map(|before| Command::Trim { before }),
            members().prop_map(|members| Command::Found { members }),
            ("[a-z]{1,9}", policy(), any::<u64>(), members()).prop_map(|(name, policy, quota_bytes, voters)| {
                Command::CreateJournal { name, policy, quota_bytes, voters }
            }),
            any::<u64>().prop_map(|id| Command::DeleteJournal { id }),
            (any::<u64>(), any::<u64>()).prop_map(|(id, quota_bytes)| Command::SetQuota { id, quota_bytes }),
            change().prop_map(Command::ChangeMembers),
            (any::<u64>(), any::<u64>())
                .prop_map(|(change_id, group_id)| Command::ChangeCarried { change_id, group_id }),
            any::<u64>().prop_map(|node| Command::ShutOut { node }),
        ]
    }

    proptest! {
        #[test]
        fn a_command_reads_back_as_it_was_written(command in command()) {
            prop_assert_eq!(decode_command(&encode_command(&command)), Ok(command));
        }

        #[test]
        fn a_state_reached_by_any_commands_reads_back(commands in prop::collection::vec(command(), 0..30)) {
            let mut state = GroupState::Catalogue(Catalogue::default());
            for (position, command) in commands.iter().enumerate() {
                state.apply(position as u64 + 1, command);
            }
            let bytes = encode_version(&state, (None, peer::Membership::default()));
            prop_assert_eq!(decode_version(&bytes).map(|(state, ..)| state), Ok(state));
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_command(&bytes);
            let _ = decode_version(&bytes);
        }
    }

    #[test]
    fn a_command_above_our_level_is_told_apart_from_a_broken_one() {
        let control = wire::Control { level: LEVEL + 1, command: None };
        assert_eq!(decode_command(&control.encode_to_vec()), Err(BadState::Level(LEVEL + 1)));
        assert!(matches!(decode_command(&[0xff; 9]), Err(BadState::Malformed(_))));
    }
}
