//! The cluster as one picture, put together from what its nodes say of themselves.
//!
//! Nodes may disagree for a moment, and one that was removed may do so for ever; about a journal its
//! leader of the newest term is believed, about members the leader of the catalogue, and about itself
//! every node.

use std::collections::BTreeMap;

use journal_client::{Admin, NodeStatus};
use proto::{JournalId, NodeId};
use serde::Serialize;

/// What `status` prints and `top` draws.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct View {
    pub cluster_id: String,
    pub nodes: Vec<Node>,
    pub journals: Vec<Journal>,
    /// The change of members that is under way.
    pub change: Option<String>,
    /// What somebody should look at, most urgent first.
    pub troubles: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Node {
    pub id: Option<String>,
    pub name: String,
    pub address: String,
    pub role: String,
    /// Whether it answered us.
    pub answers: bool,
    pub live: bool,
    pub ready: bool,
    /// It was removed from the cluster and knows it.
    pub removed: bool,
    pub reasons: Vec<String>,
    pub version: String,
    pub uptime_ms: u64,
    pub leads: usize,
    pub disk: Option<Disk>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Disk {
    pub path: String,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub journal_bytes: u64,
    pub room: String,
    pub health: String,
    pub sync_p50_us: u64,
    pub sync_p99_us: u64,
    pub sync_max_us: u64,
    pub segments_damaged: u64,
    pub frames_repaired: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Journal {
    pub id: u64,
    pub name: String,
    pub policy: String,
    pub quota_bytes: u64,
    /// Names of nodes.
    pub leader: Option<String>,
    pub term: u64,
    pub start: u64,
    pub tail: u64,
    /// On the leader's disk.
    pub disk_bytes: u64,
    pub voters: Vec<String>,
    pub learners: Vec<String>,
    pub peers: Vec<Peer>,
}

/// The role of a node that is none of the cluster's: removed, or not yet let in.
pub const NO_MEMBER: &str = "none";

/// A follower, as the leader knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Peer {
    pub name: String,
    pub lag: u64,
    pub connected: bool,
    pub shut_out: bool,
}

impl View {
    /// Asks all nodes that are known or that any of those knows.
    pub async fn take(admin: &Admin) -> anyhow::Result<View> {
        let answers = admin.status_of_all().await;
        // If nobody answers, one reason is as good as another.
        if answers.values().all(Result::is_err) {
            let error = answers.into_values().find_map(Result::err);
            return Err(error.map_or_else(|| anyhow::anyhow!("no endpoints"), Into::into));
        }
        let answers = answers.into_iter().map(|(address, answer)| (address, answer.map_err(|error| error.to_string())));
        Ok(View::of(answers.collect()))
    }

    /// From answers, or why there was none, by address.
    pub fn of(answers: BTreeMap<String, Result<NodeStatus, String>>) -> View {
        let statuses: Vec<&NodeStatus> = answers.values().flatten().collect();
        let names = names(&statuses);
        let believed = about_members(&statuses);
        let mut view = View {
            cluster_id: statuses.iter().map(|status| status.cluster_id.clone()).max().unwrap_or_default(),
            change: believed.iter().map(|status| status.change.clone()).find(|change| !change.is_empty()),
            ..View::default()
        };
        view.journals = journals(&statuses, &names);
        view.nodes = nodes(&answers, &believed, &view.journals);
        view.troubles = troubles(&view, &statuses);
        view
    }

    /// The node that is called so: by name, by address or by id, or by the beginning of its id.
    pub fn node(&self, called: &str) -> Option<&Node> {
        let exact = self
            .nodes
            .iter()
            .find(|node| node.name == called || node.address == called || node.id.as_deref() == Some(called));
        let beginning = || {
            let begins = |node: &&Node| called.len() >= 4 && node.id.as_ref().is_some_and(|id| id.starts_with(called));
            let mut found = self.nodes.iter().filter(begins);
            found.next().filter(|_| found.next().is_none())
        };
        exact.or_else(beginning)
    }
}

impl Node {
    pub fn node_id(&self) -> Option<NodeId> {
        self.id.as_ref()?.parse().ok()
    }
}

/// Who is believed about members: the leader of the catalogue in the newest term, or all if nobody
/// leads it.
fn about_members<'a>(statuses: &[&'a NodeStatus]) -> Vec<&'a NodeStatus> {
    let term_led =
        |status: &NodeStatus| status.group(JournalId::SYSTEM).filter(|system| system.leads()).map(|system| system.term);
    let leader = statuses.iter().filter(|status| term_led(status).is_some()).max_by_key(|status| term_led(status));
    leader.map_or_else(|| statuses.to_vec(), |leader| vec![*leader])
}

/// How people call the nodes.
fn names(statuses: &[&NodeStatus]) -> BTreeMap<u64, String> {
    let members = statuses.iter().flat_map(|status| &status.members);
    let mut names: BTreeMap<u64, String> = members.map(|member| (member.node_id, member.name.clone())).collect();
    names.extend(statuses.iter().map(|status| (status.node_id, status.name.clone())));
    names.retain(|_, name| !name.is_empty());
    names
}

fn name_of(names: &BTreeMap<u64, String>, id: u64) -> String {
    names.get(&id).cloned().unwrap_or_else(|| NodeId(id).to_string())
}

fn nodes(
    answers: &BTreeMap<String, Result<NodeStatus, String>>,
    believed: &[&NodeStatus],
    journals: &[Journal],
) -> Vec<Node> {
    // Members by id, so that an address of the past does not stand beside the present one.
    let members: BTreeMap<u64, _> =
        believed.iter().flat_map(|status| &status.members).map(|member| (member.node_id, member)).collect();
    let mut nodes = Vec::new();
    for (address, answer) in answers {
        let member = match answer {
            Ok(status) => members.get(&status.node_id).copied(),
            Err(_) => members.values().copied().find(|member| member.address == *address),
        };
        let mut node = Node {
            address: address.clone(),
            role: member.map_or(NO_MEMBER.into(), |member| member.role.clone()),
            name: member.map_or_else(|| address.clone(), |member| member.name.clone()),
            id: member.map(|member| NodeId(member.node_id).to_string()),
            ..Node::default()
        };
        match answer {
            Ok(status) => {
                node.id = Some(NodeId(status.node_id).to_string());
                node.name.clone_from(&status.name);
                node.answers = true;
                node.live = status.live;
                node.ready = status.ready;
                node.removed = status.removed;
                node.reasons.clone_from(&status.reasons);
                node.version.clone_from(&status.version);
                node.uptime_ms = status.uptime_ms;
                node.disk = status.disk.as_ref().map(disk);
            }
            Err(why) => node.reasons = vec![why.clone()],
        }
        node.leads = journals.iter().filter(|journal| journal.leader.as_ref() == Some(&node.name)).count();
        // Two addresses of one node that answers are one node.
        if !nodes.iter().any(|other: &Node| other.id.is_some() && other.id == node.id) {
            nodes.push(node);
        }
    }
    nodes.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    nodes
}

fn disk(disk: &proto::journal::DiskStatus) -> Disk {
    Disk {
        path: disk.path.clone(),
        total_bytes: disk.total_bytes,
        free_bytes: disk.free_bytes,
        journal_bytes: disk.journal_bytes,
        room: disk.room.clone(),
        health: disk.health.clone(),
        sync_p50_us: disk.sync_p50_us,
        sync_p99_us: disk.sync_p99_us,
        sync_max_us: disk.sync_max_us,
        segments_damaged: disk.segments_damaged,
        frames_repaired: disk.frames_repaired,
    }
}

fn journals(statuses: &[&NodeStatus], names: &BTreeMap<u64, String>) -> Vec<Journal> {
    let mut best: BTreeMap<u64, (&NodeStatus, &proto::journal::GroupStatus)> = BTreeMap::new();
    for status in statuses {
        for group in &status.groups {
            let id = group.journal.as_ref().map_or(0, |journal| journal.id);
            let rank = |group: &proto::journal::GroupStatus| (group.role == "leader", group.term, group.tail);
            let better = best.get(&id).is_none_or(|(_, known)| rank(group) > rank(known));
            if better {
                best.insert(id, (status, group));
            }
        }
    }
    let mut journals: Vec<Journal> = best
        .into_iter()
        .map(|(id, (status, group))| {
            let info = group.journal.clone().unwrap_or_default();
            let leader = if group.role == "leader" { status.node_id } else { group.leader };
            let named = |ids: &[u64]| {
                let mut named: Vec<_> = ids.iter().map(|id| name_of(names, *id)).collect();
                named.sort();
                named
            };
            let mut peers: Vec<Peer> = group
                .peers
                .iter()
                .map(|peer| Peer {
                    name: name_of(names, peer.node_id),
                    lag: peer.lag,
                    connected: peer.connected,
                    shut_out: peer.shut_out,
                })
                .collect();
            peers.sort_by(|a, b| a.name.cmp(&b.name));
            Journal {
                id,
                name: if info.name.is_empty() { "system".into() } else { info.name.clone() },
                policy: policy(&info, id),
                quota_bytes: info.quota_bytes,
                leader: (leader != 0).then(|| name_of(names, leader)),
                term: group.term,
                start: group.start,
                tail: group.tail,
                disk_bytes: group.disk_bytes,
                voters: named(&group.voters),
                learners: named(&group.learners),
                peers,
            }
        })
        .collect();
    journals.sort_by(|a, b| (a.id != 0, &a.name).cmp(&(b.id != 0, &b.name)));
    journals
}

fn policy(info: &proto::journal::JournalInfo, id: u64) -> String {
    match info.policy() {
        _ if id == 0 => "-".into(),
        proto::journal::TrimPolicy::Free => "free".into(),
        proto::journal::TrimPolicy::Checkpointed => "checkpointed".into(),
        proto::journal::TrimPolicy::Unspecified => "unknown".into(),
    }
}

fn troubles(view: &View, statuses: &[&NodeStatus]) -> Vec<String> {
    let mut troubles = Vec::new();
    for journal in view.journals.iter().filter(|journal| journal.leader.is_none()) {
        troubles.push(format!("{}: nobody leads", journal.name));
    }
    for node in &view.nodes {
        let why = node.reasons.join("; ");
        match node {
            node if node.removed => {
                troubles
                    .push(format!("{} was removed from the cluster and still runs: it may be shut down", node.name));
            }
            // How it is concerns nobody.
            node if node.role == NO_MEMBER && node.answers => {}
            node if !node.answers => troubles.push(format!("{} does not answer: {why}", node.name)),
            node if !node.live => troubles.push(format!("{} must be restarted: {why}", node.name)),
            node if !node.ready => troubles.push(format!("{} is not ready: {why}", node.name)),
            node if !why.is_empty() => troubles.push(format!("{}: {why}", node.name)),
            _ => {}
        }
        if let Some(disk) = node.disk.as_ref().filter(|disk| disk.segments_damaged > 0) {
            troubles.push(format!("{}: {} damaged segments", node.name, disk.segments_damaged));
        }
    }
    for status in statuses.iter().filter(|status| !status.removed) {
        for group in status.groups.iter().filter(|group| !group.trouble.is_empty()) {
            let journal = group.journal.as_ref().map_or("system", |journal| journal.name.as_str());
            let journal = if journal.is_empty() { "system" } else { journal };
            troubles.push(format!("{} on {}: {}", journal, status.name, group.trouble));
        }
    }
    for journal in &view.journals {
        for peer in journal.peers.iter().filter(|peer| peer.shut_out) {
            troubles.push(format!("{}: {} is shut out and must be replaced", journal.name, peer.name));
        }
    }
    let clusters: std::collections::BTreeSet<_> =
        statuses.iter().map(|status| &status.cluster_id).filter(|id| !id.is_empty()).collect();
    if clusters.len() > 1 {
        troubles.push(format!("the endpoints belong to {} different clusters", clusters.len()));
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::journal::{GroupStatus, JournalInfo, MemberStatus, PeerProgress};

    fn member(id: u64) -> MemberStatus {
        MemberStatus {
            node_id: id,
            name: format!("n{id}"),
            address: format!("h{id}:1"),
            role: "voter".into(),
            reachable: true,
            shut_out: false,
        }
    }

    fn status(id: u64, groups: Vec<GroupStatus>) -> NodeStatus {
        NodeStatus {
            cluster_id: "c".into(),
            node_id: id,
            name: format!("n{id}"),
            address: format!("h{id}:1"),
            live: true,
            ready: true,
            members: (1..=3).map(member).collect(),
            groups,
            ..NodeStatus::default()
        }
    }

    fn group(role: &str, term: u64, leader: u64, tail: u64) -> GroupStatus {
        GroupStatus {
            journal: Some(JournalInfo { id: 4, name: "audit".into(), policy: 1, quota_bytes: 0 }),
            role: role.into(),
            term,
            leader,
            tail,
            voters: vec![3, 1, 2],
            ..GroupStatus::default()
        }
    }

    fn answers(statuses: Vec<NodeStatus>) -> BTreeMap<String, Result<NodeStatus, String>> {
        let mut answers: BTreeMap<_, _> =
            (1..=3).map(|id| (format!("h{id}:1"), Err("no connection".to_owned()))).collect();
        answers.extend(statuses.into_iter().map(|status| (status.address.clone(), Ok(status))));
        answers
    }

    #[test]
    fn about_a_journal_the_leader_is_believed() {
        let mut leading = group("leader", 5, 2, 100);
        leading.peers = vec![PeerProgress { node_id: 3, lag: 7, connected: true, ..PeerProgress::default() }];
        let view = View::of(answers(vec![
            status(1, vec![group("follower", 5, 2, 90)]),
            status(2, vec![leading]),
            status(3, vec![group("follower", 5, 2, 93)]),
        ]));
        let journal = &view.journals[0];
        assert_eq!((journal.leader.as_deref(), journal.tail), (Some("n2"), 100));
        assert_eq!(journal.voters, ["n1", "n2", "n3"]);
        assert_eq!((journal.peers[0].name.as_str(), journal.peers[0].lag), ("n3", 7));
        assert_eq!(view.node("n2").unwrap().leads, 1);
        assert!(view.troubles.is_empty(), "{:?}", view.troubles);
    }

    #[test]
    fn a_node_that_does_not_answer_is_named_as_its_peers_name_it() {
        let view = View::of(answers(vec![status(1, vec![]), status(2, vec![])]));
        assert_eq!(view.nodes.len(), 3);
        let silent = view.node("n3").unwrap();
        assert!(!silent.answers);
        assert_eq!(view.troubles, ["n3 does not answer: no connection"]);
    }

    #[test]
    fn a_removed_node_that_has_not_heard_of_it_is_not_believed() {
        let system = |role: &str| GroupStatus { role: role.into(), term: 7, ..GroupStatus::default() };
        let mut leader = status(1, vec![system("leader")]);
        leader.members.truncate(2);
        let mut removed = status(3, vec![system("candidate")]);
        removed.change = "removing n3".into();
        removed.ready = false;
        let view = View::of(answers(vec![leader, status(2, vec![]), removed]));
        assert_eq!(view.change, None);
        assert_eq!(view.node("n3").unwrap().role, NO_MEMBER);
        assert!(view.troubles.is_empty(), "{:?}", view.troubles);
    }

    #[test]
    fn a_removed_node_that_still_runs_is_a_trouble_and_nothing_else_of_it_is() {
        let system = |role: &str| GroupStatus { role: role.into(), term: 7, ..GroupStatus::default() };
        let mut leader = status(1, vec![system("leader")]);
        leader.members.truncate(2);
        let mut removed = status(3, vec![GroupStatus { trouble: "stopped".into(), ..system("stopped") }]);
        (removed.removed, removed.ready) = (true, false);
        let view = View::of(answers(vec![leader, status(2, vec![]), removed]));
        assert_eq!(view.troubles, ["n3 was removed from the cluster and still runs: it may be shut down"]);
    }

    #[test]
    fn a_journal_without_a_leader_is_the_first_trouble() {
        let mut waiting = status(1, vec![group("candidate", 5, 0, 90)]);
        waiting.ready = false;
        waiting.reasons = vec!["audit: no leader".into()];
        let view = View::of(answers(vec![waiting, status(2, vec![]), status(3, vec![])]));
        assert_eq!(view.troubles, ["audit: nobody leads", "n1 is not ready: audit: no leader"]);
    }

    #[test]
    fn a_node_is_found_by_any_of_its_names_but_never_by_half_a_guess() {
        let view = View::of(answers(vec![status(1, vec![]), status(2, vec![])]));
        assert_eq!(view.node("h2:1").unwrap().name, "n2");
        assert_eq!(view.node("0000000000000002").unwrap().name, "n2");
        assert_eq!(view.node("0000"), None, "it begins three ids");
        assert_eq!(view.node("n9"), None);
    }
}
