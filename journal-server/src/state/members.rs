//! The next step that brings one group's membership to what the catalogue says. Asked at every
//! election and every few seconds, it goes on wherever the last leader stopped.
//!
//! Pure. Steps are small and each leaves the group able to work: learners first, then one joint
//! change of voters once the newcomers hold the whole log, then nobody is left that should not be.

use std::collections::{BTreeMap, BTreeSet};

use super::{Catalogue, Member};

/// A group's membership as its leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupView {
    /// One set of voters, or two while a change is half-way.
    pub configs: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, Member>,
    /// Nodes that hold the log from `start` up to (nearly) its end.
    pub caught_up: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberStep {
    /// The group is as it should be.
    Done,
    /// Nothing can be done until these nodes have caught up.
    WaitFor(BTreeSet<u64>),
    AddLearner {
        node: u64,
        member: Member,
    },
    SetAddress {
        node: u64,
        member: Member,
    },
    /// Changes the voters, leaving no learners behind from the old set.
    SetVoters(BTreeSet<u64>),
    RemoveLearner {
        node: u64,
    },
}

/// The next step from `view` to what `catalogue` says, or [`MemberStep::Done`].
pub fn next_step(catalogue: &Catalogue, view: &GroupView) -> MemberStep {
    let wanted = &catalogue.members;
    // A joint configuration is finished before anything else, in the direction it was going.
    if let [_, target] = view.configs.as_slice() {
        return MemberStep::SetVoters(target.clone());
    }
    let voters_now = view.configs.first().cloned().unwrap_or_default();

    for (node, record) in wanted {
        match view.nodes.get(node) {
            None => return MemberStep::AddLearner { node: *node, member: record.member.clone() },
            Some(member) if *member != record.member => {
                return MemberStep::SetAddress { node: *node, member: record.member.clone() };
            }
            Some(_) => {}
        }
    }

    let voters_wanted: BTreeSet<u64> =
        wanted.iter().filter(|(_, record)| record.voter).map(|(node, _)| *node).collect();
    if voters_wanted != voters_now && !voters_wanted.is_empty() {
        let behind: BTreeSet<u64> = voters_wanted.difference(&voters_now).copied().collect();
        let behind: BTreeSet<u64> = behind.difference(&view.caught_up).copied().collect();
        if !behind.is_empty() {
            return MemberStep::WaitFor(behind);
        }
        return MemberStep::SetVoters(voters_wanted);
    }

    match view.nodes.keys().find(|node| !wanted.contains_key(node)) {
        Some(node) => MemberStep::RemoveLearner { node: *node },
        None => MemberStep::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, GroupState, MemberChange};

    fn member(node: u64) -> Member {
        Member { name: format!("n{node}"), address: format!("n{node}:1") }
    }

    /// Carries out steps on a view until it is done, newcomers catching up when waited for.
    fn carry(catalogue: &Catalogue, view: &mut GroupView) -> Vec<MemberStep> {
        let mut steps = Vec::new();
        loop {
            let step = next_step(catalogue, view);
            match &step {
                MemberStep::Done => return steps,
                MemberStep::WaitFor(nodes) => view.caught_up.extend(nodes),
                MemberStep::AddLearner { node, member } | MemberStep::SetAddress { node, member } => {
                    view.nodes.insert(*node, member.clone());
                }
                MemberStep::SetVoters(voters) => {
                    let gone: Vec<u64> = view.configs.concat_sets().difference(voters).copied().collect();
                    view.configs = vec![voters.clone()];
                    view.nodes.retain(|node, _| !gone.contains(node));
                }
                MemberStep::RemoveLearner { node } => {
                    view.nodes.remove(node);
                }
            }
            steps.push(step);
            assert!(steps.len() < 50, "no end: {steps:?}");
        }
    }

    trait ConcatSets {
        fn concat_sets(&self) -> BTreeSet<u64>;
    }

    impl ConcatSets for Vec<BTreeSet<u64>> {
        fn concat_sets(&self) -> BTreeSet<u64> {
            self.iter().flatten().copied().collect()
        }
    }

    fn formed() -> (GroupState, GroupView) {
        let members: BTreeMap<u64, Member> = (1..=3).map(|n| (n, member(n))).collect();
        let mut state = GroupState::Catalogue(Catalogue::default());
        state.apply(1, &Command::Found { members: members.clone() });
        let view = GroupView { configs: vec![(1..=3).collect()], nodes: members, caught_up: (1..=3).collect() };
        (state, view)
    }

    fn change(state: &mut GroupState, position: u64, what: MemberChange) -> Catalogue {
        state.apply(position, &Command::ChangeMembers(what));
        match state {
            GroupState::Catalogue(catalogue) => catalogue.clone(),
            GroupState::Journal(_) => unreachable!("made as a catalogue"),
        }
    }

    #[test]
    fn a_replacement_joins_catches_up_and_only_then_votes() {
        let (mut state, mut view) = formed();
        let what = MemberChange::Replace { old: 2, new: 9, member: member(9) };
        let catalogue = change(&mut state, 5, what);
        let steps = carry(&catalogue, &mut view);
        assert!(matches!(steps[0], MemberStep::AddLearner { node: 9, .. }));
        assert!(matches!(&steps[1], MemberStep::WaitFor(nodes) if nodes.contains(&9)));
        assert_eq!(steps[2], MemberStep::SetVoters([1, 3, 9].into()));
        assert_eq!(view.configs, vec![[1, 3, 9].into()]);
        assert!(!view.nodes.contains_key(&2));
    }

    #[test]
    fn a_joint_configuration_left_half_way_is_finished_first() {
        let (state, mut view) = formed();
        view.configs.push([1, 2].into());
        let GroupState::Catalogue(catalogue) = state else { unreachable!("made as a catalogue") };
        assert_eq!(next_step(&catalogue, &view), MemberStep::SetVoters([1, 2].into()));
    }

    #[test]
    fn growing_to_five_and_shrinking_to_three_ends_where_it_began() {
        let (mut state, mut view) = formed();
        let mut position = 10;
        let mut run = |state: &mut GroupState, view: &mut GroupView, what| {
            let catalogue = change(state, position, what);
            carry(&catalogue, view);
            state.apply(position + 1, &Command::ChangeCarried { change_id: position, group_id: 0 });
            position += 2;
        };
        for node in [4, 5] {
            run(&mut state, &mut view, MemberChange::AddLearner { node, member: member(node) });
            run(&mut state, &mut view, MemberChange::Promote { node });
        }
        assert_eq!(view.configs, vec![(1..=5).collect()]);
        for node in [4, 5] {
            run(&mut state, &mut view, MemberChange::Remove { node });
        }
        assert_eq!(view.configs, vec![(1..=3).collect()]);
        assert_eq!(view.nodes.len(), 3);
    }
}
