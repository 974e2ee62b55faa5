//! Who takes a leadership over. Pure.
//!
//! A leadership moves only to a voter that can carry it at once: one that holds what the leader holds, as
//! far as the leader has heard in its own term, and whose disk is well. Moving it anywhere else is worse
//! than not moving it: appends would stand still until the next election.

use std::collections::{BTreeMap, BTreeSet};

use crate::refusal::{Reason, Refusal};

/// A follower that lacks more than this of the log takes longer to catch up than an election does.
const LAG_MAX: u64 = 4096;

/// What a leader knows when it looks for an heir.
#[derive(Debug, Clone, Default)]
pub struct Estate {
    /// Those who may vote, without the leader, and without those that are shut out.
    pub voters: BTreeSet<u64>,
    /// What followers are known to hold: acknowledged to this leader, in its term.
    pub matched: BTreeMap<u64, u64>,
    /// The last position of the leader's log.
    pub last: u64,
}

impl Estate {
    /// The node that was asked for or, if none was, the one that holds most among those that are well.
    pub fn heir(&self, asked: Option<u64>, well: impl Fn(u64) -> bool) -> Result<u64, Refusal> {
        let refuse = |why: String| Err(Refusal::new(Reason::Invalid, why));
        if let Some(node) = asked {
            return match () {
                () if !self.voters.contains(&node) => refuse("no such voter to which it could move".into()),
                () if !well(node) => refuse("the disk of that node is not well, or it is not reachable".into()),
                () if !self.holds_enough(node) => refuse("that node is too far behind to lead".into()),
                () => Ok(node),
            };
        }
        let able = self.voters.iter().copied().filter(|node| well(*node) && self.holds_enough(*node));
        match able.max_by_key(|node| self.matched.get(node)) {
            Some(node) => Ok(node),
            None => refuse("no other voter is well and holds the log".into()),
        }
    }

    fn holds_enough(&self, node: u64) -> bool {
        self.matched.get(&node).is_some_and(|matched| matched.saturating_add(LAG_MAX) >= self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estate(matched: &[(u64, u64)]) -> Estate {
        Estate { voters: BTreeSet::from([2, 3, 4]), matched: matched.iter().copied().collect(), last: 10_000 }
    }

    #[test]
    fn the_one_that_holds_most_takes_over() {
        assert_eq!(estate(&[(2, 9_000), (3, 10_000), (4, 8_000)]).heir(None, |_| true), Ok(3));
    }

    #[test]
    fn a_slow_disk_never_takes_over_however_much_it_holds() {
        let estate = estate(&[(2, 9_000), (3, 10_000)]);
        assert_eq!(estate.heir(None, |node| node != 3), Ok(2));
        assert!(estate.heir(Some(3), |node| node != 3).is_err(), "not even when it is named");
        assert!(estate.heir(None, |_| false).is_err());
    }

    #[test]
    fn a_log_that_never_agreed_with_the_leaders_is_not_ours() {
        assert!(estate(&[]).heir(None, |_| true).is_err());
        assert!(estate(&[(2, 9_000)]).heir(Some(4), |_| true).is_err());
    }

    #[test]
    fn one_that_is_far_behind_does_not_take_over() {
        assert!(estate(&[(2, 5_000)]).heir(None, |_| true).is_err());
        assert_eq!(estate(&[(2, 10_000 - LAG_MAX)]).heir(None, |_| true), Ok(2));
    }

    #[test]
    fn only_a_voter_takes_over() {
        assert!(estate(&[(9, 10_000)]).heir(None, |_| true).is_err());
        assert!(estate(&[(9, 10_000)]).heir(Some(9), |_| true).is_err());
    }
}
