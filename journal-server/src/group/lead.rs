//! Whether this node leads the group, as clients may rely on it.
//!
//! Being Raft's leader is not enough: until an entry of its own term is committed a leader does not
//! know the tail, and one that has heard of no majority for an election timeout may be deposed
//! already. Append streams end as soon as this says anything but `Leading` with their term.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::marks::Marks;
use crate::raft::{Replica, Role, Standing, Timing};
use crate::refusal::{self, Refusal};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    Leading {
        term: u64,
    },
    /// Leading, and about to hand over: nothing more is given to Raft.
    Moving(Refusal),
    Not(Refusal),
}

pub(super) struct Handle {
    lead: watch::Receiver<Lead>,
    moving: Arc<watch::Sender<Option<Refusal>>>,
}

/// While it lives, the group takes no entries.
pub(super) struct Moving(Arc<watch::Sender<Option<Refusal>>>);

impl Drop for Moving {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

impl Handle {
    pub fn get(&self) -> Lead {
        self.lead.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Lead> {
        self.lead.clone()
    }

    pub fn begin_moving(&self, why: Refusal) -> Moving {
        self.moving.send_replace(Some(why));
        Moving(self.moving.clone())
    }
}

pub(super) fn new(
    id: u64,
    replica: Arc<Replica>,
    marks: Arc<Marks>,
    timing: Timing,
    stop: CancellationToken,
) -> (Handle, impl Future<Output = ()> + Send) {
    let (publish, lead) = watch::channel(Lead::Not(refusal::not_leader(None)));
    let moving = Arc::new(watch::Sender::new(None));
    let changes = metrics::counter!("journal_leader_changes_total", "journal" => id.to_string());
    let task = follow(replica, marks, timing, stop, publish, moving.subscribe(), changes);
    (Handle { lead, moving }, task)
}

async fn follow(
    replica: Arc<Replica>,
    marks: Arc<Marks>,
    timing: Timing,
    stop: CancellationToken,
    publish: watch::Sender<Lead>,
    mut moving: watch::Receiver<Option<Refusal>>,
    changes: metrics::Counter,
) {
    let mut last_led = 0;
    let mut standing = replica.watch_standing();
    let mut mark = marks.watch();
    loop {
        let standing_now = replica.standing();
        let now = decide(&standing_now, replica.frozen(), &marks, timing, moving.borrow_and_update().clone());
        let leads = standing_now.role == Role::Leader;
        if standing_now.leader.is_some() && standing_now.term > last_led {
            last_led = standing_now.term;
            changes.increment(1);
        }
        let settled = matches!(now, Lead::Leading { .. });
        publish.send_if_modified(|lead| {
            let changed = *lead != now;
            *lead = now;
            changed
        });
        // A follower waits for events only; a leader also for the moment at which it might have lost its
        // quorum.
        let lost = async {
            match leads {
                true => tokio::time::sleep(until_lost(standing_now.quorum_age_ms, timing)).await,
                false => std::future::pending().await,
            }
        };
        // Until its first entry is committed, a new leader waits for that.
        let committed = async {
            match leads && !settled {
                true => drop(mark.changed().await),
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            alive = standing.changed() => if !alive { break },
            _ = moving.changed() => {}
            () = committed => {}
            () = lost => {}
        }
    }
    publish.send_replace(Lead::Not(refusal::shutting_down()));
}

/// When the quorum of a leader may be lost; if it is, when to look for it again. Never no time at all:
/// a loop that rests for nothing holds up everybody else.
fn until_lost(quorum_age_ms: Option<u64>, timing: Timing) -> Duration {
    let left = quorum_age_ms.and_then(|age| (timing.election_ms_max + 1).checked_sub(age));
    Duration::from_millis(left.filter(|left| *left > 0).unwrap_or(timing.heartbeat_ms))
}

fn decide(standing: &Standing, frozen: Option<String>, marks: &Marks, timing: Timing, moving: Option<Refusal>) -> Lead {
    if standing.role != Role::Leader {
        return Lead::Not(refusal::not_leader(standing.leader.as_ref().map(|(_, member)| member.address.clone())));
    }
    if let Some(frozen) = frozen {
        return Lead::Not(Refusal::new(refusal::Reason::NotReady, frozen));
    }
    let quorum_age_ms = standing.quorum_age_ms.unwrap_or(u64::MAX);
    if marks.get().tail_term != standing.term {
        let message = "the new leader has not committed its first entry yet";
        return Lead::Not(Refusal::new(refusal::Reason::NotReady, message));
    }
    if quorum_age_ms > timing.election_ms_max {
        return Lead::Not(refusal::no_quorum());
    }
    match moving {
        Some(why) => Lead::Moving(why),
        None => Lead::Leading { term: standing.term },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_rests_until_its_quorum_may_be_lost_and_never_for_no_time() {
        let timing = Timing { heartbeat_ms: 100, election_ms_min: 400, election_ms_max: 800 };
        let rest = |age| until_lost(age, timing).as_millis();
        assert_eq!((rest(Some(0)), rest(Some(300)), rest(Some(800))), (801, 501, 1));
        assert_eq!((rest(Some(801)), rest(Some(5000)), rest(None)), (100, 100, 100), "lost: looked for again");
    }
}
