//! What kind of world a seed is. Drawn once, before anything happens: a seed has some kinds of faults
//! and not others, is fast or slow, calm or wild. Many small, different worlds find more than one
//! that has everything in it.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::etcd;
use super::node::{DiskSpeed, Sizes};
use super::wire::Latency;

/// Something that may be done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process is killed; the page cache stays.
    Kill,
    /// A machine loses power, and what it had not synced.
    Power,
    /// The same within a step: between a write and its sync, or within one.
    StopWithin,
    PowerOfAll,
    KillOfAll,
    CleanRestart,
    /// The power goes within a clean stop.
    PowerInStop,
    /// A process is stopped for a while: nothing gets in or out, and then everything at once.
    Freeze,
    /// A bit of one machine's disk is another one when its process begins again.
    Flip,
    /// Two machines hear nothing of each other.
    Cut,
    /// One hears the other, who does not hear it.
    CutOneWay,
    /// One is cut off from all other nodes, clients still reach it.
    Isolate,
    /// Connections are reset.
    Reset,
    SlowLink,
    SlowDisk,
    SyncFails,
    WriteFails,
    /// There is hardly any room left on a disk, or none.
    FullDisk,
    Transfer,
    Trim,
    /// Members come, go and are replaced.
    Members,
    /// A disk is lost, and its node replaced.
    Wipe,
}

const KINDS: [Kind; 22] = [
    Kind::Kill,
    Kind::Power,
    Kind::StopWithin,
    Kind::PowerOfAll,
    Kind::KillOfAll,
    Kind::CleanRestart,
    Kind::PowerInStop,
    Kind::Freeze,
    Kind::Flip,
    Kind::Cut,
    Kind::CutOneWay,
    Kind::Isolate,
    Kind::Reset,
    Kind::SlowLink,
    Kind::SlowDisk,
    Kind::SyncFails,
    Kind::WriteFails,
    Kind::FullDisk,
    Kind::Transfer,
    Kind::Trim,
    Kind::Members,
    Kind::Wipe,
];

#[derive(Debug, Clone)]
pub struct Profile {
    pub nodes: usize,
    /// Machines beyond those that form the cluster.
    pub spares: usize,
    pub kinds: Vec<Kind>,
    /// Between two faults, on average.
    pub pause: Duration,
    /// How long things stay broken, at most.
    pub outage: Duration,
    pub faults: usize,
    pub latency: Latency,
    pub disk: DiskSpeed,
    pub sizes: Sizes,
    pub appenders: u32,
    pub streamers: u32,
    pub rest: Duration,
    pub entry_bytes: usize,
    /// Nothing in a world of nodes only.
    pub adapters: Option<etcd::Profile>,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Profile {
    /// Adapters too, and room for their entries.
    pub fn with_adapters(&mut self, adapters: etcd::Profile) {
        self.sizes.entry_bytes_max = 512 << 10;
        self.sizes.segment_bytes = self.sizes.segment_bytes.max(1 << 20);
        self.sizes.ring_bytes = self.sizes.ring_bytes.max(1 << 20);
        self.adapters = Some(adapters);
    }

    pub fn draw(rng: &mut StdRng, nodes: Option<usize>) -> Profile {
        let drawn = if rng.random_bool(0.3) { 5 } else { 3 };
        let share = *[0.2, 0.4, 0.7].choose(rng).expect("not empty");
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.random_bool(share)).collect();
        if kinds.is_empty() {
            kinds.push(KINDS[rng.random_range(0..KINDS.len())]);
        }
        // What a disk forgets, others must know: no second disk is lost beside it.
        if kinds.contains(&Kind::Flip) {
            kinds.retain(|kind| !matches!(kind, Kind::Wipe | Kind::Members));
        }
        let latency = Latency {
            least: ms(rng.random_range(0..2)),
            spread: ms(*[1, 3, 10].choose(rng).expect("not empty")),
            spike_in: *[0, 50, 300].choose(rng).expect("not empty"),
            spike: ms(rng.random_range(20..300)),
        };
        let disk = DiskSpeed {
            least: ms(rng.random_range(0..2)),
            spread: ms(*[1, 4, 20].choose(rng).expect("not empty")),
            spike_in: *[0, 20, 200].choose(rng).expect("not empty"),
            spike: ms(rng.random_range(20..400)),
        };
        Profile {
            nodes: nodes.unwrap_or(drawn),
            spares: 2,
            kinds,
            pause: ms(*[150, 400, 900].choose(rng).expect("not empty")),
            outage: ms(*[300, 1000, 3000].choose(rng).expect("not empty")),
            faults: rng.random_range(8..24),
            latency,
            disk,
            sizes: Sizes {
                segment_bytes: *[128 << 10, 256 << 10, 1 << 20].choose(rng).expect("not empty"),
                ring_bytes: *[64 << 10, 256 << 10].choose(rng).expect("not empty"),
                entry_bytes_max: 64 << 10,
            },
            appenders: rng.random_range(1..4),
            streamers: rng.random_range(0..3),
            rest: ms(*[5, 20, 60].choose(rng).expect("not empty")),
            entry_bytes: *[40, 300, 3000].choose(rng).expect("not empty"),
            adapters: None,
        }
    }
}
