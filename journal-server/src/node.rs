//! What the node knows of itself and of its peers, apart from any group: identity, health, disk; and
//! the loop that looks after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use parking_lot::Mutex;
use proto::peer::{NodeHealth, control_reply, control_request};
use proto::{NodeId, journal as wire};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalogue::Groups;
use crate::config::Config;
use crate::disk::{Allowance, Disk, DiskHealth, Room};
use crate::forming::Forming;
use crate::gauges::Gauges;
use crate::group::{Admission, Group, Lead};
use crate::health::{Check, Health};
use crate::identity::{Identity, Member};
use crate::raft::Role;
use crate::refusal::{self, Reason, Refusal};
use crate::repair::Repairs;

/// How often nodes tell each other how they are.
const EXCHANGE: Duration = Duration::from_millis(500);
/// A peer not heard for so long is not reachable.
const SILENCE: Duration = Duration::from_secs(2);

pub struct Node {
    name: String,
    address: String,
    identity: Identity,
    pub disk: Disk,
    health: Health,
    pub forming: Forming,
    repairs: Arc<Repairs>,
    started: Instant,
    peers: Mutex<BTreeMap<u64, (Instant, NodeHealth)>>,
    /// The other members, as last looked at.
    others: Mutex<Vec<u64>>,
    removal: Removal,
    urgent: Urgent,
}

/// Whether this node was removed from its cluster. The entries that removed it need not reach it, so it
/// asks the others with every exchange, and believes whoever has applied most of the catalogue.
#[derive(Debug, Default)]
struct Removal {
    /// Up to where the catalogue was applied by whoever said so.
    as_of: Mutex<u64>,
    removed: watch::Sender<bool>,
}

impl Removal {
    fn heard(&self, catalogue_applied: u64, removed: bool) {
        let mut as_of = self.as_of.lock();
        // Who says nothing of the catalogue has applied nothing.
        if catalogue_applied > *as_of {
            *as_of = catalogue_applied;
            self.removed.send_if_modified(|before| std::mem::replace(before, removed) != removed);
        }
    }
}

/// Urgent entries that are taken where ordinary ones are refused.
struct Urgent {
    allowance: Mutex<Allowance>,
    admitted: Counter,
    refused: Counter,
}

impl Urgent {
    fn new() -> Urgent {
        let counter = |outcome: &'static str| metrics::counter!("journal_urgent_entries_total", "outcome" => outcome);
        Urgent {
            allowance: Mutex::new(Allowance::new(Instant::now())),
            admitted: counter("admitted"),
            refused: counter("refused"),
        }
    }
}

impl Node {
    pub fn new(
        config: &Config,
        address: &str,
        identity: Identity,
        disk: Disk,
        health: Health,
        forming: Forming,
        repairs: Arc<Repairs>,
    ) -> Arc<Node> {
        Arc::new(Node {
            name: config.name.clone(),
            address: address.to_owned(),
            identity,
            disk,
            health,
            forming,
            repairs,
            started: Instant::now(),
            peers: Mutex::default(),
            others: Mutex::default(),
            removal: Removal::default(),
            urgent: Urgent::new(),
        })
    }

    /// Clients should go elsewhere, for as long as this is held.
    pub fn stopping(&self) -> Check {
        let check = self.health.check("stop");
        check.not_ready("this node is stopping");
        check
    }

    /// What this node says of itself to its peers.
    pub fn say(&self) -> NodeHealth {
        NodeHealth {
            room: self.disk.room() as u32,
            free_bytes: self.disk.space().free_bytes,
            disk: self.disk.health() as u32,
            sync_p99_us: self.disk.sync_times().p99.as_micros() as u64,
            ..NodeHealth::default()
        }
    }

    /// The same as an answer to `node`, which also asks whether it still belongs to the cluster.
    pub fn answer(&self, node: NodeId, groups: &Groups) -> NodeHealth {
        // In this order: the catalogue read is at least as new as the position said.
        let catalogue_applied = groups.system().mark().applied;
        let you_left = groups.with_catalogue(|catalogue| catalogue.has_left(node.0));
        NodeHealth { catalogue_applied, you_left, ..self.say() }
    }

    /// Whether this node was removed from its cluster, as far as it has heard.
    pub fn watch_removed(&self) -> watch::Receiver<bool> {
        self.removal.removed.subscribe()
    }

    fn is_removed(&self) -> bool {
        *self.removal.removed.borrow()
    }

    pub fn heard(&self, from: NodeId, health: NodeHealth) {
        self.peers.lock().insert(from.0, (Instant::now(), health));
    }

    pub fn reachable(&self, node: NodeId) -> bool {
        self.peers.lock().get(&node.0).is_some_and(|(at, _)| at.elapsed() < SILENCE)
    }

    /// Whether a peer said lately that its disk has room.
    fn has_room(&self, node: u64) -> bool {
        let peers = self.peers.lock();
        let fresh = peers.get(&node).filter(|(at, _)| at.elapsed() < SILENCE);
        // One that says nothing is judged by Raft, not here.
        fresh.is_none_or(|(_, health)| Room::from_wire(health.room) == Room::Ok)
    }

    /// Whether a peer said lately that its disk is well: what a slow disk gives its leaderships to.
    fn is_well(&self, node: u64) -> bool {
        self.peers.lock().get(&node).is_some_and(says_well)
    }

    /// Whether a peer may be given a leadership on purpose: it was heard lately, and its disk is not so slow
    /// that it would give it away itself.
    pub fn may_lead(&self, node: u64) -> bool {
        self.peers
            .lock()
            .get(&node)
            .is_some_and(|(at, health)| at.elapsed() < SILENCE && DiskHealth::from_wire(health.disk) < DiskHealth::Slow)
    }

    /// Whether a majority of the members, this node among them, has room for ordinary entries.
    fn majority_has_room(&self) -> bool {
        let others = self.others.lock().clone();
        let own = usize::from(self.disk.room() == Room::Ok);
        let with = own + others.iter().filter(|node| self.has_room(**node)).count();
        with * 2 > others.len() + 1
    }

    /// Whether a majority of the other members has a healthy disk.
    fn peers_well(&self, others: &[u64]) -> bool {
        let peers = self.peers.lock();
        let well = |node: &&u64| peers.get(node).is_some_and(says_well);
        !others.is_empty() && others.iter().filter(well).count() * 2 > others.len()
    }

    /// A status without groups and members.
    pub fn status(&self) -> wire::StatusReply {
        let (space, syncs) = (self.disk.space(), self.disk.sync_times());
        wire::StatusReply {
            cluster_id: self.identity.cluster_id().map(|id| id.to_string()).unwrap_or_default(),
            node_id: self.identity.node_id().0,
            name: self.name.clone(),
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            live: self.health.live(),
            ready: self.health.ready(),
            reasons: self.health.reasons(),
            removed: self.is_removed(),
            disk: Some(wire::DiskStatus {
                path: self.disk.dir().display().to_string(),
                total_bytes: space.total_bytes,
                free_bytes: space.free_bytes,
                journal_bytes: self.disk.journal_bytes(),
                room: self.disk.room().to_string(),
                sync_p50_us: syncs.p50.as_micros() as u64,
                sync_p99_us: syncs.p99.as_micros() as u64,
                sync_max_us: syncs.max.as_micros() as u64,
                health: self.disk.health().to_string(),
                segments_damaged: self.repairs.damaged_segments(),
                frames_repaired: self.repairs.repaired(),
            }),
            ..wire::StatusReply::default()
        }
    }

    pub async fn admit_joining(
        &self,
        address: &str,
        members: Vec<Member>,
    ) -> Result<(u64, crate::state::Member), Refusal> {
        let (node, name) = self.forming.admit(address, members).await?;
        Ok((node, crate::state::Member { name, address: address.to_owned() }))
    }
}

/// It was heard lately, and its disk was well.
fn says_well((at, health): &(Instant, NodeHealth)) -> bool {
    at.elapsed() < SILENCE && DiskHealth::from_wire(health.disk) == DiskHealth::Ok
}

impl Admission for Node {
    fn admit(&self, urgent: bool, bytes: usize) -> Result<(), Refusal> {
        let why = match (self.disk.admits(false), self.majority_has_room()) {
            (true, true) => return Ok(()),
            (false, _) => format!("the leader's disk is short of room (level: {})", self.disk.room()),
            (true, false) => "the disks of a majority of the nodes are short of room".to_owned(),
        };
        match urgent {
            true => self.admit_urgent(bytes),
            false => Err(Refusal::new(Reason::NoRoom, why)),
        }
    }

    fn admit_urgent(&self, bytes: usize) -> Result<(), Refusal> {
        let refuse = |reason, message: String| {
            self.urgent.refused.increment(1);
            Err(Refusal::new(reason, message))
        };
        if !self.disk.admits(true) {
            let message = format!("the leader's disk is short of room (level: {})", self.disk.room());
            return refuse(Reason::NoRoom, message);
        }
        if let Err(wait) = self.urgent.allowance.lock().pay(bytes, Instant::now()) {
            let message = format!("there is no room, and too much was urgent lately: try again in {wait:.1?}");
            return refuse(Reason::Rate, message);
        }
        self.urgent.admitted.increment(1);
        Ok(())
    }
}

/// Talks to the peers, counts the disk, judges readiness, and gives leadership away when the disk asks
/// for it. Ends with the node.
pub async fn look_after(node: Arc<Node>, groups: Arc<Groups>, disk: Disk, check: Check, stop: CancellationToken) {
    let mut transfers = disk.transfers();
    let mut gauges = Gauges::default();
    loop {
        let others: Vec<(u64, crate::state::Member)> = {
            let own = groups.shared().node();
            let nodes = groups.system().standing().nodes;
            nodes.into_iter().filter(|(id, _)| *id != own).collect()
        };
        for (id, member) in &others {
            let peer = groups.shared().peers.get(*id, &member.address);
            let (node, id) = (node.clone(), *id);
            groups.shared().tasks.spawn(async move {
                let health = control_request::Kind::Health(node.say());
                if let Ok(control_reply::Kind::Health(health)) = peer.control(health, EXCHANGE * 2).await {
                    node.removal.heard(health.catalogue_applied, health.you_left);
                    node.heard(NodeId(id), health);
                }
            });
        }
        let ids: Vec<u64> = others.iter().map(|(id, _)| *id).collect();
        *node.others.lock() = ids.clone();
        // A leader that alone is short of room hands over to one that is not.
        if disk.room() != Room::Ok && node.majority_has_room() {
            groups.hand_over(|id| node.has_room(id) && node.may_lead(id)).await;
        }
        disk.set_peers_well(node.peers_well(&ids));
        disk.set_journal_bytes(groups.all().iter().map(|group| group.replica().log().disk_bytes()).sum());
        let own = node.answer(NodeId(groups.shared().node()), &groups);
        node.removal.heard(own.catalogue_applied, own.you_left);
        gauges.show(&groups);
        match not_ready(&node, &groups) {
            Some(why) => check.not_ready(why),
            None => check.ok(),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            asked = transfers.changed() => if asked.is_ok() {
                tracing::warn!("the disk is slow: giving leadership away");
                groups.hand_over(|id| node.is_well(id)).await;
            },
            () = tokio::time::sleep(if check_soon(&node, &groups) { Duration::from_millis(20) } else { EXCHANGE }) => {}
        }
    }
}

/// While the node is coming up it looks often, so that readiness is not told late.
fn check_soon(node: &Node, groups: &Groups) -> bool {
    !node.is_removed() && not_ready(node, groups).is_some()
}

/// Why clients should not be sent here, if they should not.
fn not_ready(node: &Node, groups: &Groups) -> Option<String> {
    if node.is_removed() {
        return Some(refusal::removed().message);
    }
    let name = |id: u64| groups.name_of(id).unwrap_or_else(|| format!("journal {id}"));
    let waiting = groups.troubles().into_iter().map(|(id, trouble)| format!("{}: {trouble}", name(id)));
    let running = groups.all().into_iter();
    let running = running.filter_map(|group| Some(format!("{}: {}", name(group.id()), trouble_of(&group)?)));
    let mut reasons: Vec<String> = waiting.chain(running).collect();
    if reasons.len() > REASONS_MAX {
        let more = reasons.len() - REASONS_MAX;
        reasons.truncate(REASONS_MAX);
        reasons.push(format!("and {more} more"));
    }
    match reasons.is_empty() {
        true => unheard(node, groups),
        false => Some(reasons.join("; ")),
    }
}

/// The vote that was found on the disk names a leader, who may be long gone, and this node with him.
fn unheard(node: &Node, groups: &Groups) -> Option<String> {
    let members = groups.system().standing().nodes;
    if !members.is_empty() && !members.contains_key(&groups.shared().node()) {
        return Some("this node is not a member of the cluster, as far as it has heard".to_owned());
    }
    let alone = members.len() > 1 && node.peers.lock().is_empty();
    alone.then(|| "no other node has answered yet".to_owned())
}

/// Journals that are named when a node is not ready. What ails hundreds is rarely theirs.
const REASONS_MAX: usize = 3;

/// Why a group that runs here is of no use here, if it is not.
fn trouble_of(group: &Group) -> Option<String> {
    let standing = group.standing();
    let leads = standing.role == Role::Leader;
    if standing.role == Role::Stopped {
        return Some(format!("it has stopped on this node: {}", standing.fatal.unwrap_or_default()));
    }
    if let Some(frozen) = group.replica().frozen() {
        return Some(frozen);
    }
    if standing.leader.is_none() {
        return Some("this node knows of no leader".to_owned());
    }
    match group.lead() {
        Lead::Not(why) if leads && why.reason == Reason::NoQuorum => {
            Some("its leader, this node, cannot reach a majority of its nodes".to_owned())
        }
        Lead::Not(_) if leads => Some("its new leader, this node, is not ready yet".to_owned()),
        _ => None,
    }
}
