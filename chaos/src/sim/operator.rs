//! The simulated operator: lets nodes in, promotes, removes and replaces them, one change after the
//! other, and puts new disks into machines that lost theirs. He repeats what was not done, as
//! operators do, and never takes a second disk before the first is replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use journal_client::{Admin, Change};
use parking_lot::Mutex;
use proto::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::node::End;
use super::wire::Host;
use super::world::World;

#[derive(Debug, Clone, Copy)]
enum Task {
    /// A machine without a vote gets one.
    Grow(Host),
    Remove(Host),
    /// The node on the first machine gives its place to one on the second; they are the same machine
    /// if its disk was lost.
    Replace(NodeId, Host, Host),
}

/// Cheap to clone; clones are the same operator.
#[derive(Clone)]
pub struct Operator {
    admin: Admin,
    world: Arc<World>,
    tasks: mpsc::Sender<Task>,
    desk: Arc<Mutex<Desk>>,
}

struct Desk {
    /// Machines that are part of the cluster, or on their way in or out.
    used: BTreeSet<Host>,
    busy: bool,
}

impl Operator {
    pub fn new(world: Arc<World>) -> Operator {
        let (tasks, to_do) = mpsc::channel(1);
        let used = world.nodes[..world.profile.nodes].iter().map(|node| node.host).collect();
        let desk = Arc::new(Mutex::new(Desk { used, busy: false }));
        let operator = Operator { admin: world.operator(), world, tasks, desk };
        tokio::spawn(operator.clone().work(to_do));
        operator
    }

    pub fn admin(&self) -> Admin {
        self.admin.clone()
    }

    pub fn used(&self) -> Vec<Host> {
        self.desk.lock().used.iter().copied().collect()
    }

    pub fn is_used(&self, host: Host) -> bool {
        self.desk.lock().used.contains(&host)
    }

    pub fn is_busy(&self) -> bool {
        self.desk.lock().busy
    }

    /// Begins some change of members, unless one is under way.
    pub fn change_something(&self, rng: &mut StdRng) {
        let members = self.world.members();
        let voters = members.voters();
        if self.is_busy() || members.changing || voters.len() < 3 {
            return;
        }
        let spares: Vec<Host> =
            self.world.nodes.iter().map(|node| node.host).filter(|host| !self.is_used(*host)).collect();
        let spare = spares.choose(rng).copied();
        let voter = *voters.choose(rng).expect("three at least");
        let task = match (rng.random_range(0..3), spare) {
            (0, Some(spare)) if voters.len() < 6 => Task::Grow(spare),
            (1, Some(spare)) => match self.id_of(voter) {
                Some(id) => Task::Replace(id, voter, spare),
                None => return,
            },
            _ if voters.len() > 3 => Task::Remove(voter),
            (_, Some(spare)) => Task::Grow(spare),
            _ => return,
        };
        self.begin(task);
    }

    /// The machine loses its disk, and is to get its place back. Not while anything else is under way.
    pub fn wipe(&self, host: Host) -> bool {
        let members = self.world.members();
        // Every other voter must be able to stand in: a disk that was lost is lost for good.
        if self.is_busy() || members.changing || members.voters().len() < 3 || !members.voters().contains(&host) {
            return false;
        }
        let Some(id) = self.id_of(host) else { return false };
        let node = self.world.node(host);
        node.want(false);
        node.end(End::PowerAll, "its disk is lost");
        node.wipe_when_ended();
        node.want(true);
        self.begin(Task::Replace(id, host, host));
        true
    }

    fn begin(&self, task: Task) {
        self.world.trace.event(format_args!("operator: {task:?}"));
        {
            let mut desk = self.desk.lock();
            desk.busy = true;
            if let Task::Grow(new) | Task::Replace(_, _, new) = task {
                desk.used.insert(new);
                self.world.node(new).want(true);
            }
        }
        self.tasks.try_send(task).expect("he is not busy");
    }

    async fn work(self, mut tasks: mpsc::Receiver<Task>) {
        while let Some(task) = tasks.recv().await {
            match task {
                Task::Grow(host) => self.grow(host).await,
                Task::Remove(host) => self.remove(host).await,
                Task::Replace(gone, old, new) => self.replace(gone, old, new).await,
            }
            self.world.trace.event(format_args!("operator: done with {task:?}"));
            self.desk.lock().busy = false;
        }
    }

    async fn grow(&self, host: Host) {
        self.repeat(
            || async { self.world.members().has(host) },
            || async { Some(Change::AddLearner { address: host.address() }) },
        )
        .await;
        self.repeat(
            || async { self.world.members().voters().contains(&host) },
            || async { Some(Change::Promote { node: self.id_of(host)? }) },
        )
        .await;
    }

    async fn remove(&self, host: Host) {
        self.repeat(
            || async { !self.world.members().has(host) },
            || async { Some(Change::Remove { node: self.id_of(host)? }) },
        )
        .await;
        self.retire(host);
    }

    async fn replace(&self, gone: NodeId, old: Host, new: Host) {
        let is_member = |id: NodeId| self.world.members().list.iter().any(|(member, _, _)| *member == id);
        self.repeat(
            || async { !is_member(gone) && self.world.members().voters().contains(&new) },
            || async { Some(Change::Replace { old: gone, new_address: new.address() }) },
        )
        .await;
        if old != new {
            self.retire(old);
        }
    }

    /// The machine is taken away and emptied: a spare.
    fn retire(&self, host: Host) {
        let node = self.world.node(host);
        node.want(false);
        node.end(End::Kill, "it is no member any more");
        self.desk.lock().used.remove(&host);
        node.wipe_when_ended();
    }

    fn id_of(&self, host: Host) -> Option<NodeId> {
        self.world.members().list.iter().find(|(_, member, _)| *member == host).map(|(id, _, _)| *id)
    }

    /// Asks for the change until it is done and carried out.
    async fn repeat<D, C>(&self, done: impl Fn() -> D, change: impl Fn() -> C)
    where
        D: Future<Output = bool>,
        C: Future<Output = Option<Change>>,
    {
        let mut asked_at: Option<Instant> = None;
        loop {
            sleep(Duration::from_millis(100)).await;
            if self.world.members().changing {
                continue;
            }
            if done().await {
                return;
            }
            // A node may not have heard yet of what was asked a moment ago.
            if asked_at.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
                continue;
            }
            let Some(change) = change().await else { continue };
            asked_at = Some(Instant::now());
            let said = timeout(Duration::from_secs(10), self.admin.change_members(change)).await;
            match said {
                Ok(Ok(change)) => self.world.trace.event(format_args!("operator is told: {}", change.message)),
                Ok(Err(error)) => self.world.trace.event(format_args!("operator is told: {error}")),
                Err(_) => self.world.trace.event("operator is told nothing"),
            }
        }
    }
}
