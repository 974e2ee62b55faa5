//! The service `Cluster`: status for everyone who may look, changes for those who may administer.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::journal::{self as wire, change_members_request, cluster_server};
use proto::{JournalName, NodeId};
use tonic::{Request, Response, Status};

use super::{Door, Doorway, journal_info, status_of};
use crate::group::{Group, Lead};
use crate::identity;
use crate::node::Node;
use crate::raft::{CommandError, Role};
use crate::refusal::{Reason, Refusal};
use crate::rules::Action;
use crate::state::{Catalogue, Command, Member, MemberChange, Outcome};

#[derive(Clone)]
pub struct ClusterService {
    pub door: Doorway,
    pub node: Arc<Node>,
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let mut status = self.node.status();
        // A node that waits for its cluster answers too.
        let Ok(door) = self.door.open_to_nodes() else { return Ok(Response::new(status)) };
        let groups = &door.groups;
        // Positions first: of what the catalogue is said to have applied, it shows the outcome.
        status.groups = groups.all().iter().map(group_status).collect();
        let catalogue = groups.with_catalogue(Catalogue::clone);
        for journal in status.groups.iter_mut().filter_map(|group| group.journal.as_mut()) {
            *journal = journal_info(journal.id, catalogue.journals.get(&journal.id));
        }
        for (id, trouble) in groups.troubles() {
            let journal = Some(journal_info(id, catalogue.journals.get(&id)));
            let role = "waiting".to_owned();
            status.groups.push(wire::GroupStatus { journal, role, trouble, ..wire::GroupStatus::default() });
        }
        status.members = catalogue
            .members
            .iter()
            .map(|(node, record)| {
                let own = *node == groups.shared().node();
                wire::MemberStatus {
                    node_id: *node,
                    name: record.member.name.clone(),
                    address: record.member.address.clone(),
                    role: if record.voter { "voter" } else { "learner" }.to_owned(),
                    reachable: own || self.node.reachable(NodeId(*node)),
                    shut_out: catalogue.shut_out.contains(node),
                }
            })
            .collect();
        if let Some(change) = catalogue.change.filter(|_| status.hears_of_changes()) {
            status.change = describe(&change);
            status.change_position = change.id;
        }
        Ok(Response::new(status))
    }

    async fn change_members(
        &self,
        request: Request<wire::ChangeMembersRequest>,
    ) -> Result<Response<wire::ChangeMembersReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let door = self.door.open()?;
        door.allow(&extensions, Action::Administer, JournalName::SYSTEM)?;
        let system = door.groups.system();
        // Only the catalogue's leader lets nodes in: ask before anything is done.
        door.groups.caught_up().await?;
        let change = self.change_of(&door, request).await?;
        let node_id = change.node();
        match system.command(&Command::ChangeMembers(change)).await.map_err(status_of)? {
            Outcome::ChangeRecorded { id } => {
                let message = format!("recorded at position {id}; every journal carries it out by itself");
                Ok(Response::new(wire::ChangeMembersReply { node_id, message, position: id }))
            }
            other => Err(status_of(CommandError::Unknown(format!("the change answered {other:?}")))),
        }
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let door = self.door.open()?;
        door.allow(&extensions, Action::Administer, JournalName::SYSTEM)?;
        let to = Some(request.to_node).filter(|node| *node != 0);
        let groups = match (request.journal_id, request.only_system) {
            (0, true) => vec![door.groups.system().clone()],
            (0, false) => door.groups.all().into_iter().filter(leads).collect(),
            (id, _) => vec![journal(&door, id).await?],
        };
        let own = door.groups.shared().node();
        let mut moved = Vec::new();
        for group in groups {
            let name = door.name_of(group.id())?;
            if to == Some(own) && leads(&group) {
                moved.push(format!("{name} is led by {} already", node_name(&group, own)));
                continue;
            }
            let leader = group.transfer(to, |node| self.node.may_lead(node)).await?;
            moved.push(format!("{name} is led by {} now", node_name(&group, leader)));
        }
        Ok(Response::new(wire::TransferLeaderReply { moved }))
    }
}

fn leads(group: &Arc<Group>) -> bool {
    matches!(group.lead(), Lead::Leading { .. })
}

/// What people call a member of the group.
fn node_name(group: &Arc<Group>, node: u64) -> String {
    let name = group.standing().nodes.get(&node).map(|member| member.name.clone());
    name.unwrap_or_else(|| NodeId(node).to_string())
}

/// The journal of that id. That there is none is said by the catalogue's leader only.
async fn journal(door: &Door, id: u64) -> Result<Arc<Group>, Refusal> {
    match door.groups.get(id) {
        Err(refusal) if refusal.reason == Reason::NoSuchJournal => {
            door.groups.caught_up().await?;
            door.groups.get(id)
        }
        found => found,
    }
}

impl ClusterService {
    async fn change_of(&self, door: &Door, request: wire::ChangeMembersRequest) -> Result<MemberChange, Refusal> {
        use change_members_request::Change;
        let invalid = |text: &str| Refusal::new(Reason::Invalid, text);
        let members = || {
            door.groups.with_catalogue(|catalogue| {
                catalogue
                    .members
                    .iter()
                    .map(|(node, record)| identity::Member {
                        node_id: NodeId(*node),
                        name: record.member.name.clone(),
                        address: record.member.address.clone(),
                        voter: record.voter,
                    })
                    .collect()
            })
        };
        Ok(match request.change.ok_or_else(|| invalid("say what is to change"))? {
            Change::AddLearner(address) => {
                let (node, member) = self.node.admit_joining(&address, members()).await?;
                MemberChange::AddLearner { node, member }
            }
            Change::Promote(node) => MemberChange::Promote { node },
            Change::Remove(node) => MemberChange::Remove { node },
            Change::Replace(replace) => {
                let (new, member) = self.node.admit_joining(&replace.new_address, members()).await?;
                MemberChange::Replace { old: replace.old_node, new, member }
            }
            Change::SetAddress(set) => {
                let known = door.groups.with_catalogue(|c| c.members.get(&set.node_id).cloned());
                let name = known.ok_or_else(|| invalid("that node is no member"))?.member.name;
                MemberChange::SetAddress { node: set.node_id, member: Member { name, address: set.address } }
            }
        })
    }
}

fn describe(change: &crate::state::PendingChange) -> String {
    let what = match &change.what {
        MemberChange::AddLearner { member, .. } => format!("adding {member}"),
        MemberChange::Promote { node } => format!("promoting {}", NodeId(*node)),
        MemberChange::Remove { node } => format!("removing {}", NodeId(*node)),
        MemberChange::Replace { old, member, .. } => format!("replacing {} by {member}", NodeId(*old)),
        MemberChange::SetAddress { member, .. } => format!("moving a member to {member}"),
    };
    format!("{what} (asked for at {}; {} groups to go)", change.id, change.groups.len())
}

fn group_status(group: &Arc<Group>) -> wire::GroupStatus {
    let (mark, standing) = (group.mark(), group.standing());
    let log = group.replica().log();
    let voters: BTreeSet<u64> = standing.configs.iter().flatten().copied().collect();
    let acknowledged = group.replica().acknowledged();
    let own = group.replica().node();
    let peers = match standing.role {
        Role::Leader => standing
            .nodes
            .keys()
            .filter(|node| **node != own)
            .map(|node| {
                let matched = standing.matched.get(node).copied();
                wire::PeerProgress {
                    node_id: *node,
                    matched: matched.unwrap_or(0),
                    lag: mark.tail.saturating_sub(matched.unwrap_or(0) + 1),
                    connected: matched.is_some(),
                    shut_out: acknowledged.is_shut_out(*node),
                }
            })
            .collect(),
        _ => Vec::new(),
    };
    wire::GroupStatus {
        journal: Some(journal_info(group.id(), None)),
        role: standing.role.as_str().to_owned(),
        term: standing.term,
        leader: standing.leader.as_ref().map_or(0, |(node, _)| *node),
        start: mark.start,
        tail: mark.tail,
        durable: log.durable().map_or(0, |id| id.position + 1),
        applied: mark.applied,
        disk_bytes: log.disk_bytes(),
        peers,
        learners: standing.nodes.keys().filter(|node| !voters.contains(node)).copied().collect(),
        voters: voters.into_iter().collect(),
        trouble: standing.fatal.or_else(|| group.replica().frozen()).unwrap_or_default(),
    }
}
