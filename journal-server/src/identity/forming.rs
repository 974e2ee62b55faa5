//! Forming a cluster, and being let into one: who decides what. Pure; `crate::forming` speaks it.
//!
//! Every node of the list starts with an empty directory. The first of the list (by name) asks all
//! others who they are. When all have answered, agree on the list and belong to no cluster, it draws a
//! cluster id, syncs it with the members' node ids to its node file, and offers it to the others until
//! each has taken it. Another takes the first offer that it gets from the first of its own list, syncs
//! it before it answers, and belongs to a cluster from then on.
//!
//! A node that belongs to a cluster says so, and then nobody forms anew with it: that is how a wiped
//! node that comes back with its old flags finds out that it is a stranger. It waits to be taken in.
//!
//! Everybody initialises `system` with exactly the members of the offer. A majority of *those node
//! ids* is needed for anything to happen, and a node id takes one offer only, so two clusters can
//! never come of one list, whoever is wiped in between.

use std::collections::{BTreeMap, BTreeSet};

use proto::NodeId;
use xxhash_rust::xxh3::Xxh3;

use super::{Cluster, ClusterId, Member, NodeFile, Origin};
use crate::config::InitialCluster;

/// The same for everybody who was given the same list and token.
pub fn list_hash(list: &InitialCluster) -> u64 {
    let mut hash = Xxh3::new();
    let mut add = |text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    add(&list.token);
    for (name, address) in &list.members {
        add(name);
        add(address);
    }
    hash.digest()
}

/// The one who draws the cluster id and offers it.
pub fn first(list: &InitialCluster) -> &str {
    list.members.keys().next().expect("a list that was parsed has members")
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    pub node_id: NodeId,
    pub name: String,
    pub cluster: Option<ClusterId>,
    pub list_hash: u64,
}

/// An offer of a cluster, as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub from: NodeId,
    pub cluster: ClusterId,
    pub list_hash: u64,
    pub members: Vec<Member>,
    /// Into a cluster that runs, rather than to form one.
    pub join: bool,
}

/// What the first of the list, or anybody else, does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be done now; why, in words. Ask again later.
    Wait(String),
    /// Draw a cluster id, and sync it with these members as [`Origin::Forming`].
    Record(Vec<Member>),
    /// Offer the recorded cluster to these.
    Offer(Vec<Member>),
    /// All others took it: sync that, as [`Origin::Formed`].
    Settle,
}

/// One node's view of the forming. What must survive a crash is in the node file, not here.
#[derive(Debug)]
pub struct Forming {
    name: String,
    list: InitialCluster,
    hash: u64,
    answers: BTreeMap<String, Result<Probed, String>>,
    settled: BTreeSet<NodeId>,
}

impl Forming {
    pub fn new(name: &str, list: &InitialCluster) -> Forming {
        Forming {
            name: name.to_owned(),
            hash: list_hash(list),
            list: list.clone(),
            answers: BTreeMap::new(),
            settled: BTreeSet::new(),
        }
    }

    /// Whom to ask, and where: everybody else.
    pub fn others(&self) -> impl Iterator<Item = (&String, &String)> {
        self.list.members.iter().filter(|(name, _)| **name != self.name)
    }

    /// What somebody answered, or why he did not.
    pub fn heard(&mut self, name: &str, answer: Result<Probed, String>) {
        self.answers.insert(name.to_owned(), answer);
    }

    /// The member took the offer, or never will.
    pub fn settled(&mut self, node: NodeId) {
        self.settled.insert(node);
    }

    pub fn next(&self, file: &NodeFile) -> Step {
        match &file.cluster {
            Some(cluster) if cluster.origin == Origin::Forming => {
                let due = |member: &&Member| member.node_id != file.node_id && !self.settled.contains(&member.node_id);
                let open: Vec<Member> = cluster.members.iter().filter(due).cloned().collect();
                if open.is_empty() { Step::Settle } else { Step::Offer(open) }
            }
            Some(_) => Step::Settle,
            None => self.gather(file.node_id),
        }
    }

    fn gather(&self, own: NodeId) -> Step {
        let mut members = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, address) in &self.list.members {
            let node_id = match (*name == self.name, self.answers.get(name)) {
                (true, _) => own,
                (false, None) => return Step::Wait(format!("{name} ({address}) has not answered yet")),
                (false, Some(Err(why))) => {
                    return Step::Wait(format!("{name} ({address}) does not answer: {why}"));
                }
                (false, Some(Ok(probed))) => match self.object(name, address, probed) {
                    Some(objection) => return Step::Wait(objection),
                    None => probed.node_id,
                },
            };
            if !seen.insert(node_id) {
                return Step::Wait(format!("{name} ({address}) is node {node_id}, like another of the list"));
            }
            members.push(Member { node_id, name: name.clone(), address: address.clone(), voter: true });
        }
        match first(&self.list) == self.name {
            true => Step::Record(members),
            false => Step::Wait(format!("all are there; {} is to form the cluster", first(&self.list))),
        }
    }

    fn object(&self, name: &str, address: &str, probed: &Probed) -> Option<String> {
        if let Some(cluster) = probed.cluster {
            return Some(format!(
                "{name} ({address}) belongs to cluster {cluster} already, and this data directory is new. If this \
                 node's disk was wiped or lost, let it take its old place: journal members replace. To form a new \
                 cluster, empty the data directories of all nodes"
            ));
        }
        if probed.name != name {
            return Some(format!("{address} should be {name}, but calls itself {}", probed.name));
        }
        if probed.list_hash != self.hash {
            return Some(format!(
                "{name} ({address}) was started with another initial-cluster or cluster-token: make them the same"
            ));
        }
        None
    }
}

/// Takes an offer into the node file, if it should be taken; else says why not. The answer may be
/// given only once the file is synced.
pub fn take(file: &mut NodeFile, name: &str, list: Option<&InitialCluster>, offer: &Offer) -> Result<(), String> {
    if let Some(cluster) = &file.cluster {
        return match cluster.id == offer.cluster {
            true => Ok(()),
            false => Err(format!("node {} belongs to cluster {}", file.node_id, cluster.id)),
        };
    }
    if offer.cluster.0 == 0 {
        return Err("the offer names no cluster".into());
    }
    if !offer.join {
        object_to_forming(file.node_id, name, list, offer)?;
    }
    file.cluster = Some(Cluster {
        id: offer.cluster,
        origin: if offer.join { Origin::Joined } else { Origin::Formed },
        list_hash: offer.list_hash,
        members: offer.members.clone(),
    });
    Ok(())
}

fn object_to_forming(own: NodeId, name: &str, list: Option<&InitialCluster>, offer: &Offer) -> Result<(), String> {
    let Some(list) = list else {
        return Err("this node was not started with initial-cluster: it waits to be added to a cluster".into());
    };
    if offer.list_hash != list_hash(list) {
        return Err("this node was started with another initial-cluster or cluster-token".into());
    }
    let offered: BTreeMap<_, _> = offer.members.iter().map(|member| (&member.name, &member.address)).collect();
    if offer.members.len() != list.members.len() || !offered.into_iter().eq(&list.members) {
        return Err("the offered members are not those of initial-cluster".into());
    }
    let id_of = |name: &str| offer.members.iter().find(|member| member.name == name).map(|member| member.node_id);
    if id_of(first(list)) != Some(offer.from) {
        return Err(format!("only {} may offer a cluster to this node", first(list)));
    }
    match id_of(name) {
        Some(id) if id == own => Ok(()),
        Some(id) => Err(format!("`{name}` is node {own} now; the offer is for {id}, whose data directory is gone")),
        None => Err(format!("`{name}` is not among the offered members")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(names: &[&str]) -> InitialCluster {
        let members = names.iter().map(|name| (name.to_string(), format!("{name}:1"))).collect();
        InitialCluster { members, token: "t".into() }
    }

    #[test]
    fn the_hash_depends_on_names_addresses_and_token() {
        let base = list(&["a", "b"]);
        let mut others = vec![list(&["a", "c"]), list(&["a", "b", "c"]), list(&["a"])];
        others.push(InitialCluster { token: "u".into(), ..base.clone() });
        let mut moved = base.clone();
        moved.members.insert("b".into(), "b:2".into());
        others.push(moved);
        for other in others {
            assert_ne!(list_hash(&base), list_hash(&other), "{other:?}");
        }
        assert_eq!(list_hash(&base), list_hash(&list(&["b", "a"])));
    }

    /// A network of node files, where every durable step is one act and anything may happen between.
    struct World {
        list: InitialCluster,
        nodes: BTreeMap<String, Node>,
        drawn: u64,
        /// Offers that were sent and may arrive at any time, or never.
        under_way: Vec<(String, Offer)>,
    }

    struct Node {
        file: NodeFile,
        forming: Forming,
    }

    #[derive(Debug, Clone)]
    enum Act {
        /// Asks one other, or hears nothing from him.
        Probe(usize, usize, bool),
        /// Does what comes next; crashes before or after it is durable, or not at all.
        Step(usize, Crash),
        /// An offer arrives; the answer is lost or not.
        Arrive(usize, bool, bool),
        Restart(usize),
        Wipe(usize),
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Crash {
        No,
        Before,
        After,
    }

    impl World {
        fn new(names: &[&str]) -> World {
            let mut world = World { list: list(names), nodes: BTreeMap::new(), drawn: 0, under_way: Vec::new() };
            for name in names {
                world.wipe(name);
            }
            world
        }

        fn draw(&mut self) -> u64 {
            self.drawn += 1;
            self.drawn
        }

        fn name(&self, index: usize) -> String {
            self.nodes.keys().nth(index % self.nodes.len()).unwrap().clone()
        }

        fn wipe(&mut self, name: &str) {
            let file = NodeFile::new(NodeId(self.draw()));
            self.nodes.insert(name.into(), Node { file, forming: Forming::new(name, &self.list) });
        }

        fn restart(&mut self, name: &str) {
            self.nodes.get_mut(name).unwrap().forming = Forming::new(name, &self.list);
        }

        fn probe(&mut self, from: &str, to: &str, lost: bool) {
            let there = &self.nodes[to].file;
            let probed = Probed {
                node_id: there.node_id,
                name: to.into(),
                cluster: there.cluster.as_ref().map(|cluster| cluster.id),
                list_hash: list_hash(&self.list),
            };
            let answer = if lost { Err("no route".into()) } else { Ok(probed) };
            self.nodes.get_mut(from).unwrap().forming.heard(to, answer);
        }

        fn step(&mut self, name: &str, crash: Crash) {
            let drawn = self.draw();
            let hash = list_hash(&self.list);
            let node = self.nodes.get_mut(name).unwrap();
            let step = node.forming.next(&node.file);
            let change: Option<Cluster> = match step {
                Step::Wait(_) => None,
                Step::Record(members) => {
                    let id = ClusterId(drawn.into());
                    Some(Cluster { id, origin: Origin::Forming, list_hash: hash, members })
                }
                Step::Offer(members) => {
                    let cluster = node.file.cluster.clone().unwrap();
                    let from = node.file.node_id;
                    for member in members {
                        let offer = Offer {
                            from,
                            cluster: cluster.id,
                            list_hash: hash,
                            members: cluster.members.clone(),
                            join: false,
                        };
                        self.under_way.push((member.name, offer));
                    }
                    None
                }
                Step::Settle => node.file.cluster.clone().map(|mut cluster| {
                    if cluster.origin == Origin::Forming {
                        cluster.origin = Origin::Formed;
                    }
                    cluster
                }),
            };
            if let (Some(cluster), true) = (change, crash != Crash::Before) {
                self.nodes.get_mut(name).unwrap().file.cluster = Some(cluster);
            }
            if crash != Crash::No {
                self.restart(name);
            }
        }

        fn arrive(&mut self, index: usize, crash: bool, answer_lost: bool) {
            if self.under_way.is_empty() {
                return;
            }
            // Not removed: a message may be delayed, and seem to arrive again by being sent again.
            let (to, offer) = self.under_way[index % self.under_way.len()].clone();
            let list = self.list.clone();
            let node = self.nodes.get_mut(&to).unwrap();
            let mut file = node.file.clone();
            let taken = take(&mut file, &to, Some(&list), &offer);
            let id = file.node_id;
            if !crash {
                node.file = file;
            }
            let first = self.nodes.get_mut(first(&list)).unwrap();
            // An answer reaches the process that asked, or nobody.
            if taken.is_ok() && !crash && !answer_lost && first.file.node_id == offer.from {
                first.forming.settled(id);
            }
        }

        fn act(&mut self, act: &Act) {
            match *act {
                Act::Probe(from, to, lost) => {
                    let (from, to) = (self.name(from), self.name(to));
                    if from != to {
                        self.probe(&from, &to, lost);
                    }
                }
                Act::Step(who, crash) => self.step(&self.name(who), crash),
                Act::Arrive(which, crash, lost) => self.arrive(which, crash, lost),
                Act::Restart(who) => self.restart(&self.name(who)),
                Act::Wipe(who) => self.wipe(&self.name(who)),
            }
        }

        /// Clusters of which a majority of the initial members exists and has taken it.
        fn with_majority(&self) -> BTreeSet<u128> {
            let mut takers: BTreeMap<u128, (usize, usize)> = BTreeMap::new();
            for node in self.nodes.values() {
                if let Some(cluster) = &node.file.cluster {
                    assert!(cluster.members.iter().any(|member| member.node_id == node.file.node_id));
                    takers.entry(cluster.id.0).or_insert((0, cluster.members.len())).0 += 1;
                }
            }
            takers.into_iter().filter(|(_, (held, of))| held * 2 > *of).map(|(id, _)| id).collect()
        }

        fn settle(&mut self) {
            let names: Vec<_> = self.nodes.keys().cloned().collect();
            for _ in 0..4 {
                for from in &names {
                    for to in names.iter().filter(|to| *to != from) {
                        self.probe(from, to, false);
                    }
                    self.step(from, Crash::No);
                }
                for index in 0..self.under_way.len() {
                    self.arrive(index, false, false);
                }
                self.under_way.clear();
            }
        }
    }

    fn any_act(wipes: bool) -> impl Strategy<Value = Act> {
        let crash = prop_oneof![4 => Just(Crash::No), 1 => Just(Crash::Before), 1 => Just(Crash::After)];
        prop_oneof![
            8 => (0usize..5, 0usize..5, prop::bool::weighted(0.1)).prop_map(|(a, b, lost)| Act::Probe(a, b, lost)),
            6 => (0usize..5, crash).prop_map(|(who, crash)| Act::Step(who, crash)),
            6 => (0usize..50, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
                .prop_map(|(which, crash, lost)| Act::Arrive(which, crash, lost)),
            1 => (0usize..5).prop_map(Act::Restart),
            u32::from(wipes) => (0usize..5).prop_map(Act::Wipe),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn crashes_and_losses_never_keep_an_unwiped_list_from_forming(
            acts in proptest::collection::vec(any_act(false), 0..60),
            five in any::<bool>(),
        ) {
            let names = ["a", "b", "c", "d", "e"];
            let mut world = World::new(if five { &names } else { &names[..3] });
            for act in &acts {
                world.act(act);
                let clusters: BTreeSet<_> =
                    world.nodes.values().filter_map(|node| node.file.cluster.as_ref()).map(|c| c.id.0).collect();
                prop_assert!(clusters.len() <= 1, "{clusters:?}");
            }
            world.settle();
            let origins: Vec<_> = world.nodes.values().map(|n| n.file.cluster.as_ref().map(|c| c.origin)).collect();
            prop_assert!(origins.iter().all(|origin| *origin == Some(Origin::Formed)), "{origins:?}");
            prop_assert_eq!(world.with_majority().len(), 1);
        }

        #[test]
        fn two_clusters_never_come_of_one_list_whoever_is_wiped(
            acts in proptest::collection::vec(any_act(true), 0..120),
            five in any::<bool>(),
        ) {
            let names = ["a", "b", "c", "d", "e"];
            let mut world = World::new(if five { &names } else { &names[..3] });
            for act in &acts {
                world.act(act);
                prop_assert!(world.with_majority().len() <= 1);
            }
            world.settle();
            prop_assert!(world.with_majority().len() <= 1);
        }
    }

    #[test]
    fn a_wiped_node_with_its_old_flags_is_a_stranger_even_if_it_is_the_first() {
        let mut world = World::new(&["a", "b", "c"]);
        world.settle();
        let before = world.with_majority();
        assert_eq!(before.len(), 1);
        for wiped in ["a", "c"] {
            world.wipe(wiped);
            world.settle();
            let node = &world.nodes[wiped];
            assert_eq!(node.file.cluster, None);
            let Step::Wait(why) = node.forming.next(&node.file) else { panic!("{wiped} does something") };
            assert!(why.contains("belongs to cluster") && why.contains("journal members replace"), "{why}");
        }
    }

    #[test]
    fn nobody_forms_with_a_silent_a_formed_a_misnamed_or_a_differing_node() {
        let list = list(&["a", "b", "c"]);
        let hash = list_hash(&list);
        let file = NodeFile::new(NodeId(1));
        let well =
            |id: u64, name: &str| Probed { node_id: NodeId(id), name: name.into(), cluster: None, list_hash: hash };
        let table: Vec<(Result<Probed, String>, &str)> = vec![
            (Err("refused".into()), "c (c:1) does not answer: refused"),
            (Ok(Probed { cluster: Some(ClusterId(7)), ..well(3, "c") }), "belongs to cluster"),
            (Ok(well(3, "x")), "c:1 should be c, but calls itself x"),
            (Ok(Probed { list_hash: hash ^ 1, ..well(3, "c") }), "another initial-cluster or cluster-token"),
            (Ok(well(1, "c")), "is node 0000000000000001, like another"),
            (Ok(well(2, "c")), "is node 0000000000000002, like another"),
        ];
        for (answer, expected) in table {
            let mut forming = Forming::new("a", &list);
            let Step::Wait(why) = forming.next(&file) else { panic!("it forms alone") };
            assert!(why.contains("b (b:1) has not answered yet"), "{why}");
            forming.heard("b", Ok(well(2, "b")));
            forming.heard("c", answer);
            let Step::Wait(why) = forming.next(&file) else { panic!("it forms in spite of: {expected}") };
            assert!(why.contains(expected), "{why}");
            forming.heard("c", Ok(well(3, "c")));
            assert!(matches!(forming.next(&file), Step::Record(members) if members.len() == 3));
        }
    }

    #[test]
    fn an_offer_is_refused_unless_it_is_from_the_first_and_for_this_very_directory() {
        let list = list(&["a", "b"]);
        let member = |id: u64, name: &str| Member {
            node_id: NodeId(id),
            name: name.into(),
            address: format!("{name}:1"),
            voter: true,
        };
        let good = Offer {
            from: NodeId(1),
            cluster: ClusterId(5),
            list_hash: list_hash(&list),
            members: vec![member(1, "a"), member(2, "b")],
            join: false,
        };
        let table = [
            (Offer { from: NodeId(2), ..good.clone() }, "only a may offer"),
            (Offer { list_hash: 0, ..good.clone() }, "another initial-cluster"),
            (Offer { members: vec![member(1, "a"), member(9, "b")], ..good.clone() }, "whose data directory is gone"),
            (Offer { members: vec![member(1, "a")], ..good.clone() }, "not those of initial-cluster"),
            (Offer { members: vec![member(1, "a"), member(2, "b"), member(2, "b")], ..good.clone() }, "not those of"),
            (Offer { cluster: ClusterId(0), ..good.clone() }, "names no cluster"),
        ];
        for (offer, expected) in table {
            let mut file = NodeFile::new(NodeId(2));
            let why = take(&mut file, "b", Some(&list), &offer).unwrap_err();
            assert!(why.contains(expected), "{why}");
            assert_eq!(file, NodeFile::new(NodeId(2)), "a refused offer leaves nothing behind");
        }
        let mut file = NodeFile::new(NodeId(2));
        assert!(take(&mut file, "b", None, &good).unwrap_err().contains("not started with initial-cluster"));
        take(&mut file, "b", Some(&list), &good).unwrap();
        take(&mut file, "b", Some(&list), &good).expect("the same offer again is taken again");
        let other = Offer { cluster: ClusterId(6), ..good };
        assert!(take(&mut file, "b", Some(&list), &other).unwrap_err().contains("belongs to cluster"));
        let join = Offer { join: true, ..other };
        assert!(take(&mut file, "b", Some(&list), &join).is_err(), "a node belongs to one cluster for ever");
    }

    #[test]
    fn a_node_without_a_cluster_joins_the_one_that_asks() {
        let offer = Offer { from: NodeId(1), cluster: ClusterId(5), list_hash: 0, members: vec![], join: true };
        for list in [None, Some(list(&["a", "b"]))] {
            let mut file = NodeFile::new(NodeId(2));
            take(&mut file, "b", list.as_ref(), &offer).unwrap();
            assert_eq!(file.cluster.unwrap().origin, Origin::Joined);
        }
    }
}
