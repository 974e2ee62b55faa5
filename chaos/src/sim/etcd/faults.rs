//! What is done to adapters: one fault after the other, beside those of the journal.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::machine::{End, Machine};
use super::profile::{Kind, Profile};
use super::troupe::Troupe;
use crate::sim::wire::Host;
use crate::sim::world::World;

pub struct Faults {
    world: Arc<World>,
    machines: Vec<Arc<Machine>>,
    profile: Profile,
    rng: StdRng,
    outages: JoinSet<()>,
    healing: CancellationToken,
}

impl Faults {
    pub fn new(troupe: &Troupe, rng: StdRng) -> Faults {
        Faults {
            world: troupe.world.clone(),
            machines: troupe.machines.clone(),
            profile: troupe.profile.clone(),
            rng,
            outages: JoinSet::new(),
            healing: CancellationToken::new(),
        }
    }

    /// Does what the profile says, until it has done enough.
    pub async fn run(&mut self) {
        if self.profile.kinds.is_empty() {
            return;
        }
        for _ in 0..self.profile.faults {
            sleep(self.profile.pause.mul_f64(self.rng.random_range(0.2..2.0))).await;
            let kind = *self.profile.kinds.choose(&mut self.rng).expect("there is at least one kind");
            self.act(kind);
        }
        sleep(self.profile.outage.mul_f64(self.rng.random::<f64>())).await;
    }

    pub async fn heal(&mut self) {
        self.healing.cancel();
        while self.outages.join_next().await.is_some() {}
        self.machines.iter().for_each(|machine| machine.want(true));
    }

    fn act(&mut self, kind: Kind) {
        let outage = self.profile.outage.mul_f64(self.rng.random_range(0.05..1.0));
        let machine = self.machines.choose(&mut self.rng).expect("there are adapters").clone();
        let node = self.world.nodes[self.rng.random_range(0..self.world.profile.nodes)].host;
        let name = &machine.name;
        match kind {
            Kind::Kill | Kind::KillEmpty | Kind::Power | Kind::Restart => {
                let end = match kind {
                    Kind::Kill => End::Kill,
                    Kind::KillEmpty => End::KillEmpty,
                    Kind::Power => End::Power,
                    _ => End::Stop,
                };
                let flushed = self.rng.random_bool(0.5);
                // Engines flush by themselves, whenever they like.
                if flushed {
                    machine.flush();
                }
                self.say(format_args!("{name} ends: {end:?}, for {outage:?}, flushed: {flushed}"));
                machine.want(false);
                machine.end(end);
                self.after(outage, move |_| machine.want(true));
            }
            Kind::Cut => self.cut(&machine, vec![(machine.host, node), (node, machine.host)], outage),
            Kind::CutOneWay => {
                let link = if self.rng.random_bool(0.5) { (machine.host, node) } else { (node, machine.host) };
                self.cut(&machine, vec![link], outage);
            }
            Kind::Isolate => {
                let nodes: Vec<Host> = self.world.nodes.iter().map(|node| node.host).collect();
                let links = nodes.iter().flat_map(|node| [(machine.host, *node), (*node, machine.host)]).collect();
                self.cut(&machine, links, outage);
            }
            Kind::Reset => {
                self.say(format_args!("{name}-{node} reset"));
                self.world.wire.reset(machine.host, node);
            }
            Kind::Slow => {
                let by = Duration::from_millis(self.rng.random_range(10..400));
                self.say(format_args!("{name}'s links are slower by {by:?}"));
                self.world.wire.slow(machine.host, by);
                let host = machine.host;
                self.after(outage, move |world| world.wire.slow(host, Duration::ZERO));
            }
        }
    }

    fn cut(&mut self, machine: &Machine, links: Vec<(Host, Host)>, outage: Duration) {
        let names: Vec<String> = links.iter().map(|(a, b)| format!("{a}>{b}")).collect();
        self.say(format_args!("{}: {} cut for {outage:?}", machine.name, names.join(" ")));
        links.iter().for_each(|(a, b)| self.world.wire.cut(*a, *b));
        self.after(outage, move |world| links.iter().for_each(|(a, b)| world.wire.mend(*a, *b)));
    }

    fn say(&self, what: impl std::fmt::Display) {
        self.world.trace.event(format_args!("FAULT {what}"));
    }

    fn after(&mut self, outage: Duration, undo: impl FnOnce(&World) + Send + 'static) {
        let (world, healing) = (self.world.clone(), self.healing.clone());
        self.outages.spawn(async move {
            healing.run_until_cancelled(sleep(outage)).await;
            undo(&world);
        });
    }
}
