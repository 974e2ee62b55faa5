//! What has been seen of the cluster, and must never be contradicted.
//!
//! Clients' answers are judged at the end, by [`crate::check`]. This is what can be judged at once:
//! what a reader was shown at a position is what every reader is shown there, for ever; what one node
//! calls committed no node calls otherwise; a term has one leader; a vote that was durable is found
//! again; a tail that was called linearizable does not fall.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use journal_client::Run;
use journal_server::group::Group;
use journal_server::raft::Role;
use journal_server::segment::{LogId, Vote};
use parking_lot::Mutex;
use proto::Position;

use super::trace::Trace;

/// Cheap to clone; clones are the same witness.
#[derive(Clone)]
pub struct Witness(Arc<Inner>);

struct Inner {
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What readers were shown, by position; `None`: that there is no entry.
    shown: BTreeMap<u64, Option<Bytes>>,
    /// The term of what some node called committed, by group and position.
    committed: BTreeMap<(u64, u64), u64>,
    /// Who led, by group and term.
    leaders: BTreeMap<(u64, u64), u64>,
    /// The highest vote that was durable, by node id and group.
    votes: BTreeMap<(u64, u64), Vote>,
    broken: Vec<String>,
}

/// Whether a node that holds `old` may hold `new` later: within a term a vote is given once, and can
/// only be followed by the word that somebody won that term.
fn may_follow(old: &Vote, new: &Vote) -> bool {
    new.term > old.term || new == old || (new.term == old.term && new.committed && !old.committed)
}

impl Witness {
    pub fn new(trace: Trace) -> Witness {
        Witness(Arc::new(Inner { trace, state: Mutex::default() }))
    }

    /// A promise is broken.
    pub fn broken(&self, why: String) {
        self.0.trace.event(format_args!("BROKEN: {why}"));
        self.0.state.lock().broken.push(why);
    }

    /// The promises that were broken so far.
    pub fn all_broken(&self) -> Vec<String> {
        self.0.state.lock().broken.clone()
    }

    /// A reader was shown a run.
    pub fn shown(&self, who: &str, run: &Run) {
        let mut wrong = None;
        {
            let mut state = self.0.state.lock();
            let entries: BTreeMap<u64, &Bytes> =
                run.entries.iter().map(|entry| (entry.position.0, &entry.payload)).collect();
            if let Some(outside) = entries.keys().find(|at| **at < run.from.0 || **at >= run.to.0) {
                wrong = Some(format!("{who} was shown {outside} in a run of [{}, {})", run.from, run.to));
            }
            for position in run.from.0..run.to.0 {
                let now = entries.get(&position).map(|payload| (*payload).clone());
                match state.shown.get(&position) {
                    None => drop(state.shown.insert(position, now)),
                    Some(before) if *before == now => {}
                    Some(before) => {
                        let name = |shown: &Option<Bytes>| match shown {
                            None => "nothing".to_owned(),
                            Some(payload) => format!("{:?}", crate::history::Mark::of(payload)),
                        };
                        wrong = Some(format!(
                            "{who} was shown {} at {position}, where {} had been shown",
                            name(&now),
                            name(before)
                        ));
                    }
                }
            }
        }
        if let Some(wrong) = wrong {
            self.broken(wrong);
        }
    }

    /// Everything below was shown to some reader.
    pub fn reached(&self) -> Position {
        Position(self.0.state.lock().shown.keys().next_back().map_or(0, |last| last + 1))
    }

    /// Everything that readers were shown, by position.
    pub fn entries(&self) -> Vec<(Position, Bytes)> {
        let state = self.0.state.lock();
        let entries = state.shown.iter().filter_map(|(at, shown)| Some((Position(*at), shown.clone()?)));
        entries.collect()
    }

    /// Looks at a group as it is on a node now.
    pub fn look(&self, name: &str, group: &Group) {
        let (mark, standing) = (group.mark(), group.standing());
        let id = group.id();
        if mark.tail_term > 0 {
            let at = mark.tail - 1;
            let held = group.replica().log().log_id_at(at);
            // What was committed and trimmed since is no longer in the log.
            if held.is_some_and(|held| held != LogId::new(mark.tail_term, at)) {
                self.broken(format!(
                    "{name}: group {id} calls {at} of term {} committed, but holds {held:?}",
                    mark.tail_term
                ));
            }
            self.committed(name, id, at, mark.tail_term);
        }
        if standing.role == Role::Leader {
            let node = group.replica().node();
            let leader = *self.0.state.lock().leaders.entry((id, standing.term)).or_insert(node);
            if leader != node {
                let term = standing.term;
                self.broken(format!("group {id} has two leaders of term {term}: {leader:x} and {node:x} ({name})"));
            }
        }
    }

    /// A node calls this committed.
    pub fn committed(&self, name: &str, group: u64, at: u64, term: u64) {
        let before = *self.0.state.lock().committed.entry((group, at)).or_insert(term);
        if before != term {
            self.broken(format!("{name}: at {at} of group {group} is term {term}, where term {before} was committed"));
        }
    }

    /// The vote is durable on the node.
    pub fn vote_is_durable(&self, node: u64, group: u64, vote: Vote) {
        let mut state = self.0.state.lock();
        let known = state.votes.entry((node, group)).or_insert(vote);
        if may_follow(known, &vote) {
            *known = vote;
        }
    }

    /// The node holds this vote.
    pub fn holds_vote(&self, name: &str, node: u64, group: u64, vote: Option<Vote>) {
        let known = self.0.state.lock().votes.get(&(node, group)).copied();
        if let Some(known) = known
            && !vote.is_some_and(|vote| may_follow(&known, &vote))
        {
            self.broken(format!("{name}: group {group} holds the vote {vote:?}, after {known:?} was durable there"));
        }
    }
}
