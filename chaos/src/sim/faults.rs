//! What is done to the cluster: one fault after the other, drawn from the seed, some of them at the
//! same time. Everything can be undone; at the end everything is.

use std::sync::Arc;
use std::time::Duration;

use journal_client::{Journal, RemoteJournal};
use journal_server::segment::fault_disk::{Fault, Op};
use proto::{JournalId, Position};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::node::{DiskSpeed, End};
use super::operator::Operator;
use super::profile::Kind;
use super::wire::Host;
use super::world::World;

pub struct Faults {
    world: Arc<World>,
    rng: StdRng,
    journal: Arc<RemoteJournal>,
    operator: Operator,
    /// What ends by itself, later.
    outages: JoinSet<()>,
    /// Cancelled when everything is to be whole again.
    healing: CancellationToken,
}

impl Faults {
    pub fn new(world: Arc<World>, rng: StdRng, journal: Arc<RemoteJournal>, operator: Operator) -> Faults {
        Faults { world, rng, journal, operator, outages: JoinSet::new(), healing: CancellationToken::new() }
    }

    /// Does what the profile says, until it has done enough.
    pub async fn run(&mut self) {
        let profile = self.world.profile.clone();
        for _ in 0..profile.faults {
            let pause = profile.pause.mul_f64(self.rng.random_range(0.2..2.0));
            sleep(pause).await;
            let kind = *profile.kinds.choose(&mut self.rng).expect("there is at least one kind");
            self.act(kind).await;
        }
        sleep(profile.outage.mul_f64(self.rng.random::<f64>())).await;
    }

    /// Makes everything whole: links, disks, machines. What is being changed goes on being changed.
    pub async fn heal(&mut self) {
        self.world.trace.event("everything is mended");
        self.healing.cancel();
        while self.outages.join_next().await.is_some() {}
        self.world.wire.mend_all();
        for node in &self.world.nodes {
            node.disk().heal();
            node.set_speed(self.world.profile.disk);
            node.power();
            if self.operator.is_used(node.host) {
                node.want(true);
            }
        }
    }

    fn outage(&mut self) -> Duration {
        self.world.profile.outage.mul_f64(self.rng.random_range(0.05..1.0))
    }

    /// After an outage, or when everything is mended.
    fn after(&mut self, outage: Duration, undo: impl FnOnce(&World) + Send + 'static) {
        let (world, healing) = (self.world.clone(), self.healing.clone());
        self.outages.spawn(async move {
            healing.run_until_cancelled(sleep(outage)).await;
            undo(&world);
        });
    }

    /// One of the machines that are in use.
    fn any(&mut self) -> Host {
        // The leader is the most interesting one.
        if self.rng.random_bool(0.4)
            && let Some(leader) = self.leader()
        {
            return leader;
        }
        let used = self.operator.used();
        *used.choose(&mut self.rng).expect("a cluster is in use")
    }

    fn two(&mut self) -> (Host, Host) {
        let a = self.any();
        let used = self.operator.used();
        let others: Vec<Host> = used.into_iter().filter(|host| *host != a).collect();
        let b = *others.choose(&mut self.rng).expect("a cluster has more than one");
        if self.rng.random_bool(0.5) { (a, b) } else { (b, a) }
    }

    fn leader(&self) -> Option<Host> {
        self.world.leader(self.journal.id().0)
    }

    fn say(&self, what: impl std::fmt::Display) {
        self.world.trace.event(format_args!("FAULT {what}"));
    }

    async fn act(&mut self, kind: Kind) {
        let outage = self.outage();
        match kind {
            Kind::Kill | Kind::Power => {
                let host = self.any();
                let end = if kind == Kind::Kill { End::Kill } else { self.power_end() };
                self.end(host, end, outage);
            }
            Kind::StopWithin => {
                let host = self.any();
                let (steps, end) = (self.rng.random_range(0..12), [End::Kill, End::Power][self.rng.random_range(0..2)]);
                self.say(format_args!("{host} stops within {steps} steps"));
                self.world.node(host).stop_within(steps, end);
            }
            Kind::PowerOfAll | Kind::KillOfAll => self.end_all(kind, outage),
            Kind::CleanRestart => {
                let host = self.any();
                let (world, healing) = (self.world.clone(), self.healing.clone());
                let outage = outage / 4;
                self.say(format_args!("{host} is restarted"));
                self.outages.spawn(async move {
                    let node = world.node(host);
                    node.want(false);
                    node.stop().await;
                    healing.run_until_cancelled(sleep(outage)).await;
                    node.want(true);
                });
            }
            Kind::PowerInStop => {
                let host = self.any();
                let (world, healing) = (self.world.clone(), self.healing.clone());
                let (steps, end) = (self.rng.random_range(0..20), self.power_end());
                self.say(format_args!("{host} is told to stop, and its power goes after {steps} steps"));
                self.outages.spawn(async move {
                    let node = world.node(host);
                    node.want(false);
                    node.stop_and_power_off(steps, end).await;
                    healing.run_until_cancelled(sleep(outage / 4)).await;
                    node.want(true);
                });
            }
            Kind::Freeze => self.freeze(outage),
            Kind::Flip => self.flip(outage),
            Kind::Cut => {
                let (a, b) = self.two();
                self.cut(vec![(a, b), (b, a)], outage);
            }
            Kind::CutOneWay => {
                let (a, b) = self.two();
                self.cut(vec![(a, b)], outage);
            }
            Kind::Isolate => {
                let host = self.any();
                let both = self.rng.random_bool(0.5);
                let others = self.operator.used().into_iter().filter(|other| *other != host);
                let links = others.flat_map(|other| [(host, other)].into_iter().chain(both.then_some((other, host))));
                let links = links.collect();
                self.cut(links, outage);
            }
            Kind::Reset => {
                let (a, b) = self.two();
                self.say(format_args!("{a}-{b} reset"));
                self.world.wire.reset(a, b);
            }
            Kind::SlowLink => {
                let host = self.any();
                let by = Duration::from_millis(self.rng.random_range(10..400));
                self.say(format_args!("{host}'s links are slower by {by:?}"));
                self.world.wire.slow(host, by);
                self.after(outage, move |world| world.wire.slow(host, Duration::ZERO));
            }
            Kind::SlowDisk => self.slow_disk(outage),
            Kind::SyncFails | Kind::WriteFails => {
                let host = self.any();
                let op = if kind == Kind::SyncFails { Op::Sync } else { Op::Write };
                let skip = self.rng.random_range(0..6);
                self.say(format_args!("{host}: a {op:?} fails, after {skip}"));
                self.world.node(host).disk().fail(Fault::eio(op, skip));
            }
            Kind::FullDisk => {
                let host = self.any();
                let left = self.rng.random_range(0..4) << 18;
                self.say(format_args!("{host}'s disk has {left} bytes left"));
                let disk = self.world.node(host).disk();
                disk.set_capacity(disk.used_bytes() + left);
                self.after(outage, move |world| world.node(host).empty_disk());
            }
            Kind::Transfer => self.transfer(),
            Kind::Trim => self.trim(),
            Kind::Members => self.operator.change_something(&mut self.rng),
            Kind::Wipe => {
                let host = self.any();
                if self.operator.wipe(host) {
                    self.say(format_args!("{host} loses its disk"));
                }
            }
        }
    }

    fn power_end(&mut self) -> End {
        if self.rng.random_bool(0.3) { End::PowerAll } else { End::Power }
    }

    fn end(&mut self, host: Host, end: End, outage: Duration) {
        self.say(format_args!("{host} ends: {end:?}, for {outage:?}"));
        let node = self.world.node(host);
        node.want(false);
        node.end(end, "a fault");
        self.after(outage, move |world| world.node(host).want(true));
    }

    /// All at once; the machines come back each in its own time. Before it, some may be stopped in the
    /// middle of a step.
    fn end_all(&mut self, kind: Kind, outage: Duration) {
        self.say(format_args!("{kind:?}"));
        for host in self.operator.used() {
            let end = if kind == Kind::KillOfAll { End::Kill } else { self.power_end() };
            match self.rng.random_bool(0.5) {
                true => self.world.node(host).stop_within(self.rng.random_range(0..6), end),
                false => {
                    let outage = outage.mul_f64(self.rng.random::<f64>());
                    self.end(host, end, outage);
                }
            }
        }
    }

    fn cut(&mut self, links: Vec<(Host, Host)>, outage: Duration) {
        let names: Vec<String> = links.iter().map(|(a, b)| format!("{a}>{b}")).collect();
        self.say(format_args!("{} cut for {outage:?}", names.join(" ")));
        links.iter().for_each(|(a, b)| self.world.wire.cut(*a, *b));
        self.after(outage, move |world| links.iter().for_each(|(a, b)| world.wire.mend(*a, *b)));
    }

    /// What is said to it and what it says waits, and so does its disk. (Its timers go on: they would be
    /// due all at once.)
    fn freeze(&mut self, outage: Duration) {
        let host = self.any();
        self.say(format_args!("{host} is stopped for {outage:?}"));
        self.world.wire.freeze(host);
        let least = outage / 2;
        self.world.node(host).set_speed(DiskSpeed { least, spread: least, spike_in: 0, spike: Duration::ZERO });
        self.after(outage, move |world| {
            world.node(host).set_speed(world.profile.disk);
            world.wire.thaw(host);
        });
    }

    /// One machine of a world has a bad disk, and no other.
    fn flip(&mut self, outage: Duration) {
        let drawn = Host(1 + self.rng.random_range(0..self.world.profile.nodes) as u8);
        let host = *self.world.bad_disk.lock().get_or_insert(drawn);
        self.say(format_args!("{host} ends, and its disk forgets a bit, for {outage:?}"));
        let node = self.world.node(host);
        node.want(false);
        node.end(End::Kill, "a fault");
        self.after(outage, move |world| {
            let node = world.node(host);
            if node.server().is_none() {
                node.flip();
            }
            node.want(true);
        });
    }

    fn slow_disk(&mut self, outage: Duration) {
        let host = self.any();
        let least = Duration::from_millis(*[30, 150, 700].choose(&mut self.rng).expect("not empty"));
        self.say(format_args!("{host}'s disk takes {least:?} and more"));
        self.world.node(host).set_speed(DiskSpeed { least, spread: least, spike_in: 0, spike: Duration::ZERO });
        self.after(outage, move |world| world.node(host).set_speed(world.profile.disk));
    }

    fn transfer(&mut self) {
        let to = self.any();
        let target = self.world.members().list.iter().find(|(_, host, _)| *host == to).map(|(id, _, _)| *id);
        let target = target.filter(|_| self.rng.random_bool(0.5));
        let id = if self.rng.random_bool(0.3) { JournalId::SYSTEM } else { self.journal.id() };
        let Some(leader) = self.world.leader(id.0) else { return };
        self.say(format_args!("journal {id}: the leadership moves from {leader}"));
        let admin = self.operator.admin();
        let trace = self.world.trace.clone();
        self.outages.spawn(async move {
            let moved = timeout(Duration::from_secs(5), async {
                match id {
                    JournalId::SYSTEM => admin.transfer_all_leaders(&leader.address(), target).await,
                    id => admin.transfer_leader(id, target).await,
                }
            });
            match moved.await {
                Ok(Ok(moved)) => trace.event(format_args!("moved: {moved:?}")),
                Ok(Err(error)) => trace.event(format_args!("not moved: {error}")),
                Err(_) => trace.event("not moved in time"),
            }
        });
    }

    fn trim(&mut self) {
        let share = self.rng.random_range(0.2..1.0);
        let (journal, trace) = (self.journal.clone(), self.world.trace.clone());
        self.say("the journal is trimmed");
        self.outages.spawn(async move {
            let Ok(now) = journal.check_tail().await else { return };
            let before = now.start.0 + ((now.tail.0 - now.start.0) as f64 * share) as u64;
            match timeout(Duration::from_secs(5), journal.trim(Position(before))).await {
                Ok(Ok(start)) => trace.event(format_args!("trimmed up to {start}")),
                Ok(Err(error)) => trace.event(format_args!("not trimmed: {error}")),
                Err(_) => trace.event("not trimmed in time"),
            }
        });
    }
}
