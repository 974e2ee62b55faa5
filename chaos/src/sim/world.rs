//! The cluster under simulation: its nodes, its network, its clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use journal_client::{Admin, Cluster, RemoteJournal, Settings, TrimPolicy};
use journal_server::raft::Role;
use proto::{JournalName, NodeId};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::time::{Duration, Instant, sleep};

use super::node::{Machine, SimNode};
use super::plant::Plant;
use super::profile::Profile;
use super::trace::Trace;
use super::wire::{Host, HostNet, Wire};
use super::witness::Witness;

pub struct World {
    pub profile: Profile,
    /// The one machine whose disk forgets, if there is one.
    pub bad_disk: parking_lot::Mutex<Option<Host>>,
    /// A bug that should be found.
    pub plant: Option<Plant>,
    pub wire: Wire,
    pub trace: Trace,
    pub witness: Witness,
    pub nodes: Vec<Arc<SimNode>>,
    /// The name under which the journal was created, on every node.
    pub name: JournalName,
}

/// Where clients are. Each host has its own links to the nodes.
pub const CLIENTS: [Host; 2] = [Host(101), Host(102)];
const OPERATOR: Host = Host(100);

impl World {
    /// Builds the machines and starts those that form the cluster.
    pub fn new(rng: &mut StdRng, profile: Profile, plant: Option<Plant>, trace: Trace) -> Arc<World> {
        let wire = Wire::new(rng.next_u64(), profile.latency, trace.clone());
        let hosts: Vec<Host> = (1..=profile.nodes + profile.spares).map(|number| Host(number as u8)).collect();
        let members: Vec<(String, Host)> =
            hosts[..profile.nodes].iter().map(|host| (format!("n{}", host.0), *host)).collect();
        let mut nodes = Vec::new();
        for host in hosts {
            let seed = rng.next_u64();
            let machine = Machine { host, sizes: profile.sizes, speed: profile.disk, plant };
            nodes.push(SimNode::new(seed, machine, &members, &wire, &trace));
        }
        for node in &nodes {
            tokio::spawn(node.clone().supervise());
        }
        let witness = Witness::new(trace.clone());
        let name = "simulated".parse().expect("a good name");
        let world = Arc::new(World { profile, bad_disk: Default::default(), plant, wire, trace, witness, nodes, name });
        tokio::spawn(world.clone().watch());
        world
    }

    /// A client on a host, which knows the nodes that formed the cluster.
    pub fn client(&self, host: Host) -> Cluster {
        let net: HostNet = self.wire.boot(host);
        let endpoints: Vec<String> = self.nodes.iter().map(|node| node.host.address()).collect();
        let cluster = Cluster::new(endpoints, Arc::new(net), Settings::default());
        cluster.expect("the simulation's addresses are addresses")
    }

    pub fn operator(&self) -> Admin {
        self.client(OPERATOR).admin()
    }

    /// The journal, created if need be. Waits for the cluster to come up.
    pub async fn journal(&self, cluster: &Cluster, patience: Duration) -> anyhow::Result<Arc<RemoteJournal>> {
        let deadline = Instant::now() + patience;
        loop {
            match cluster.journal_or_create(&self.name, TrimPolicy::Free, 0).await {
                Ok(journal) => return Ok(Arc::new(journal)),
                Err(error) if Instant::now() > deadline => anyhow::bail!("no journal within {patience:?}: {error}"),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub fn node(&self, host: Host) -> &Arc<SimNode> {
        &self.nodes[usize::from(host.0) - 1]
    }

    /// Who leads a group, as far as any node says so of itself; the newest term wins.
    pub fn leader(&self, group: u64) -> Option<Host> {
        let mut best = None;
        for node in &self.nodes {
            let Some(groups) = node.server().and_then(|server| server.groups()) else { continue };
            let Ok(group) = groups.get(group) else { continue };
            let standing = group.standing();
            if standing.role == Role::Leader {
                best = best.max(Some((standing.term, node.host)));
            }
        }
        best.map(|(_, host)| host)
    }

    /// The members as the node that is furthest in the catalogue has them: who they are, whether they
    /// vote, and whether a change of them is under way.
    pub fn members(&self) -> Members {
        let mut best: Option<(u64, Members)> = None;
        for node in &self.nodes {
            let Some(groups) = node.server().and_then(|server| server.groups()) else { continue };
            let applied = groups.system().mark().applied;
            if best.as_ref().is_some_and(|(furthest, _)| *furthest >= applied) {
                continue;
            }
            let members = groups.with_catalogue(|catalogue| Members {
                list: catalogue
                    .members
                    .iter()
                    .filter_map(|(id, record)| {
                        let host = self.nodes.iter().find(|node| node.host.address() == record.member.address)?.host;
                        Some((NodeId(*id), host, record.voter))
                    })
                    .collect(),
                changing: catalogue.change.is_some(),
                shut_out: catalogue.shut_out.iter().map(|id| NodeId(*id)).collect(),
            });
            best = Some((applied, members));
        }
        best.map(|(_, members)| members).unwrap_or_default()
    }

    /// Looks at every group of every node, again and again.
    async fn watch(self: Arc<Self>) {
        let mut seen = BTreeMap::new();
        let mut turn = 0u64;
        loop {
            sleep(Duration::from_millis(40)).await;
            turn += 1;
            for node in &self.nodes {
                let life = node.life();
                let Some(groups) = node.server().and_then(|server| server.groups()) else { continue };
                for group in groups.all() {
                    self.witness.look(&node.name, &group);
                    let (id, log) = (groups.shared().node(), group.replica().log());
                    // The first look of a life is at what recovery found, or at what came after it.
                    if seen.insert((node.host, group.id()), life) != Some(life) {
                        self.witness.holds_vote(&node.name, id, group.id(), log.vote());
                    }
                    if turn % 20 == u64::from(node.host.0)
                        && let Some(vote) = log.vote()
                    {
                        let (witness, group) = (self.witness.clone(), group.id());
                        log.barrier(Box::new(move |synced| {
                            if synced.is_ok() {
                                witness.vote_is_durable(id, group, vote);
                            }
                        }));
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Members {
    pub list: Vec<(NodeId, Host, bool)>,
    pub changing: bool,
    pub shut_out: Vec<NodeId>,
}

impl Members {
    pub fn voters(&self) -> Vec<Host> {
        self.list.iter().filter(|(_, _, voter)| *voter).map(|(_, host, _)| *host).collect()
    }

    pub fn has(&self, host: Host) -> bool {
        self.list.iter().any(|(_, member, _)| *member == host)
    }
}

/// A generator of its own for each purpose, so that one more draw here moves nothing there.
pub fn fork(rng: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(rng.next_u64())
}
