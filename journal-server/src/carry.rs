//! Carries changes of members through the groups that this node leads, and finds the catalogue's
//! first state.
//!
//! The change itself is recorded in the catalogue; here it is only executed, one small step after the
//! other, from whatever the group's membership is now. Run at every change of leadership or catalogue
//! and every ten seconds, so that whatever a dead leader left half-way is finished by the next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proto::JournalId;
use proto::journal::{CheckTailRequest, journal_client::JournalClient};
use proto::peer::{ProposeRequest, peer_client::PeerClient};
use tokio::sync::mpsc;

use crate::catalogue::Groups;
use crate::group::{Group, Lead};
use crate::raft::CommandError;
use crate::state::{self, Catalogue, Command, GroupView, MemberStep, Outcome};

/// How often a leader looks again, changes or not.
const LOOK: Duration = Duration::from_secs(10);
/// While a change is under way it looks more often.
const LOOK_BUSY: Duration = Duration::from_millis(200);

pub async fn carry(groups: Arc<Groups>, mut lost: mpsc::Receiver<u64>) {
    let stop = groups.shared().stop.clone();
    let mut catalogue = groups.system().replica().watch_state();
    let mut system_lead = groups.system().watch_lead();
    loop {
        let busy = match once(&groups).await {
            Ok(busy) => busy,
            Err(error) => {
                tracing::debug!("the members could not be looked after: {error:#}");
                true
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            node = lost.recv() => if let Some(node) = node {
                report(&groups, Command::ShutOut { node }).await;
            },
            changed = catalogue.changed() => if changed.is_err() { return },
            changed = system_lead.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(if busy { LOOK_BUSY } else { LOOK }) => {}
        }
    }
}

/// One look at every group that this node leads; true if there is more to do soon.
async fn once(groups: &Arc<Groups>) -> anyhow::Result<bool> {
    let mut led = Vec::new();
    for group in groups.all() {
        if matches!(group.lead(), Lead::Leading { .. }) {
            led.push(group);
        }
    }
    if led.is_empty() {
        return Ok(false);
    }
    if matches!(groups.system().lead(), Lead::Leading { .. }) {
        found(groups).await?;
    }
    let Some(catalogue) = fresh_catalogue(groups).await? else { return Ok(true) };
    let mut busy = false;
    for group in led {
        let acknowledged = group.replica().acknowledged();
        for node in &catalogue.shut_out {
            acknowledged.shut_out(*node);
        }
        // What was found here and could not be told then: the catalogue may have had no leader.
        for node in acknowledged.all_shut_out() {
            if catalogue.members.contains_key(&node) && !catalogue.shut_out.contains(&node) {
                report(groups, Command::ShutOut { node }).await;
            }
        }
        busy |= steps(groups, &group, &catalogue).await?;
    }
    Ok(busy)
}

/// The first leader of `system` writes down whom the cluster was formed with.
async fn found(groups: &Groups) -> anyhow::Result<()> {
    if groups.with_catalogue(|catalogue| catalogue.members.is_empty()) {
        let members = groups.system().standing().nodes;
        groups.system().command(&Command::Found { members }).await?;
    }
    Ok(())
}

/// The catalogue as of now: read after a quorum round of its group. None while it has no leader.
async fn fresh_catalogue(groups: &Groups) -> anyhow::Result<Option<Catalogue>> {
    let system = groups.system();
    let tail = match system.check_tail().await {
        Ok((tail, _)) => tail,
        Err(_) => {
            let Some((leader, member)) = system.standing().leader else { return Ok(None) };
            let peer = groups.shared().peers.get(leader, &member.address);
            let mut client = JournalClient::new(peer.channel());
            let request = peer.stamped(CheckTailRequest { journal_id: JournalId::SYSTEM.0 });
            client.check_tail(request).await?.into_inner().tail
        }
    };
    tokio::time::timeout(Duration::from_secs(2), groups.applied(tail)).await?;
    Ok(Some(groups.with_catalogue(Catalogue::clone)))
}

/// Takes steps until the group is as it should be, must wait, or is no longer ours.
async fn steps(groups: &Arc<Groups>, group: &Arc<Group>, catalogue: &Catalogue) -> anyhow::Result<bool> {
    if catalogue.members.is_empty() {
        return Ok(true);
    }
    let replica = group.replica();
    let own = groups.shared().node();
    for _ in 0..16 {
        let view = replica.view();
        let step = state::next_step(catalogue, &view);
        // Whoever is left out of the catalogue can carry nothing more, so the catalogue goes last.
        if group.id() == JournalId::SYSTEM.0 && leaves_out(&step, &view) && others_to_go(catalogue) {
            return Ok(true);
        }
        match &step {
            MemberStep::Done => {
                let pending = catalogue.change.as_ref().filter(|change| change.groups.contains(&group.id()));
                if let Some(change) = pending {
                    tracing::info!(id = group.id(), change = change.id, "change of members carried out");
                    let carried = Command::ChangeCarried { change_id: change.id, group_id: group.id() };
                    report(groups, carried).await;
                }
                return Ok(false);
            }
            MemberStep::WaitFor(nodes) => {
                tracing::debug!(id = group.id(), ?nodes, "waiting for learners to catch up");
                return Ok(true);
            }
            MemberStep::SetVoters(voters) if !voters.contains(&own) && !heirs(&view, voters).is_empty() => {
                // Whoever leaves hands over first; the next leader takes the step.
                let heirs = heirs(&view, voters);
                let to = heirs.iter().copied().find(|node| view.caught_up.contains(node));
                if let Err(refusal) = group.transfer(to, |node| heirs.contains(&node)).await {
                    tracing::debug!(id = group.id(), "not handed over yet: {refusal}");
                }
                return Ok(true);
            }
            MemberStep::AddLearner { node, member } => replica.add_learner(*node, member.clone()).await?,
            MemberStep::SetAddress { node, member } => replica.set_member(*node, member.clone()).await?,
            MemberStep::SetVoters(voters) => replica.set_voters(voters.clone()).await?,
            MemberStep::RemoveLearner { node } => replica.remove_learner(*node).await?,
        }
        tracing::info!(id = group.id(), ?step, "membership step taken");
    }
    Ok(true)
}

/// Who may lead before and after the voters change. A learner that is to get a vote cannot lead yet,
/// however much it holds.
fn heirs(view: &GroupView, voters: &BTreeSet<u64>) -> BTreeSet<u64> {
    view.configs.last().map(|now| now & voters).unwrap_or_default()
}

fn leaves_out(step: &MemberStep, view: &GroupView) -> bool {
    match step {
        MemberStep::SetVoters(voters) => !view.configs.iter().flatten().all(|node| voters.contains(node)),
        MemberStep::RemoveLearner { .. } => true,
        _ => false,
    }
}

fn others_to_go(catalogue: &Catalogue) -> bool {
    let change = catalogue.change.as_ref();
    change.is_some_and(|change| change.groups.iter().any(|group| *group != JournalId::SYSTEM.0))
}

/// Says something to the catalogue, wherever its leader is. What is lost is said again at the next look.
async fn report(groups: &Groups, command: Command) {
    let said = async {
        match groups.system().command(&command).await {
            Ok(Outcome::Refused(why)) => anyhow::bail!("{why}"),
            Ok(_) => return Ok(()),
            Err(CommandError::Unknown(why)) => anyhow::bail!("{why}"),
            Err(CommandError::Refused(_)) => {}
        }
        let Some((leader, member)) = groups.system().standing().leader else { anyhow::bail!("nobody leads it") };
        let peer = groups.shared().peers.get(leader, &member.address);
        let mut client = PeerClient::new(peer.channel());
        let request = peer.stamped(ProposeRequest { command: state::encode_command(&command) });
        let reply = client.propose(request).await?.into_inner();
        anyhow::ensure!(reply.accepted, "{}", reply.why);
        Ok(())
    };
    if let Err(error) = said.await {
        tracing::debug!(?command, "the catalogue could not be told: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_that_holds_everything_is_not_asked_to_lead_before_it_has_a_vote() {
        let view = GroupView {
            configs: vec![BTreeSet::from([5, 7, 9])],
            caught_up: BTreeSet::from([1, 5, 7, 9]),
            ..GroupView::default()
        };
        assert_eq!(heirs(&view, &BTreeSet::from([1, 5, 7])), BTreeSet::from([5, 7]));
        assert!(heirs(&view, &BTreeSet::from([1])).is_empty());
    }
}
