//! What a seed draws for its adapters and their clients.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Something that may be done to an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process is killed; its store is there, up to the last flush.
    Kill,
    /// The same, and tmpfs with it.
    KillEmpty,
    /// The machine loses power: nobody is told, and nothing is left.
    Power,
    /// A clean stop, and a start some time later.
    Restart,
    /// It and one node hear nothing of each other.
    Cut,
    /// What it says does not reach a node, or what nodes say does not reach it.
    CutOneWay,
    /// It reaches no node, clients reach it.
    Isolate,
    /// Its connections to a node are reset.
    Reset,
    Slow,
}

const KINDS: [Kind; 9] = [
    Kind::Kill,
    Kind::KillEmpty,
    Kind::Power,
    Kind::Restart,
    Kind::Cut,
    Kind::CutOneWay,
    Kind::Isolate,
    Kind::Reset,
    Kind::Slow,
];

#[derive(Debug, Clone)]
pub struct Profile {
    pub adapters: usize,
    pub kinds: Vec<Kind>,
    pub faults: usize,
    pub pause: Duration,
    pub outage: Duration,
    pub clients: u32,
    pub rest: Duration,
    pub keys: u64,
    pub watchers: u32,
    pub keepers: u32,
    /// One in so many calls compacts.
    pub compact_in: u32,
    pub nearest: bool,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Profile {
    pub fn draw(rng: &mut StdRng, adapters: usize) -> Profile {
        let share = *[0.2, 0.5, 0.8].choose(rng).expect("not empty");
        let kinds = KINDS.into_iter().filter(|_| rng.random_bool(share)).collect();
        Profile {
            adapters,
            kinds,
            faults: rng.random_range(2..14),
            pause: ms(*[200, 500, 1200].choose(rng).expect("not empty")),
            outage: ms(*[300, 1500, 4000].choose(rng).expect("not empty")),
            clients: rng.random_range(3..7),
            rest: ms(*[15, 40, 100].choose(rng).expect("not empty")),
            keys: *[3, 8, 20].choose(rng).expect("not empty"),
            watchers: rng.random_range(1..4),
            keepers: rng.random_range(0..3),
            compact_in: *[20, 60, 400].choose(rng).expect("not empty"),
            nearest: rng.random_bool(0.3),
        }
    }

    /// Nothing happens by itself.
    pub fn calm(&mut self) {
        self.kinds.clear();
        self.clients = 3;
        self.rest = ms(50);
        self.keys = 8;
        self.watchers = 2;
        self.keepers = 1;
        self.compact_in = 400;
        self.nearest = false;
    }
}
