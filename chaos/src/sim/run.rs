//! One seed, from an empty cluster to a verdict.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::clock;
use super::etcd;
use super::faults::Faults;
use super::plant::Plant;
use super::profile::Profile;
use super::stage::Stage;
use super::stories::Story;
use super::trace::{Detail, Trace};
use super::world::{World, fork};
use crate::check::Verdict;

/// What a seed came to.
#[derive(Debug)]
pub struct Outcome {
    pub hash: u64,
    pub events: u64,
    pub simulated: Duration,
    pub verdict: Result<Verdict, Vec<String>>,
    /// The newest events, for whoever has to understand a failure.
    pub recent: Vec<String>,
}

/// How a seed is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub nodes: Option<usize>,
    /// Adapters beside the nodes, if there are any.
    pub adapters: Option<usize>,
    pub detail: Detail,
    /// What happens, instead of what the seed draws.
    pub story: Option<Story>,
    /// A bug that should be found.
    pub plant: Option<Plant>,
}

const ADAPTERS_CHANCE: u64 = 0x6164_6170_7465_7273;

/// Runs the world of a seed. In a program that answers for time and chance (see [`super::clock`]),
/// this process belongs to the simulation from now on.
pub fn run(seed: u64, options: Options) -> Outcome {
    clock::begin(seed);
    // Some chance is drawn once a thread; this one has not drawn yet.
    let world = std::thread::Builder::new().name(format!("seed {seed}")).stack_size(64 << 20);
    let world = world.spawn(move || run_here(seed, options)).expect("there are threads");
    world.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_here(seed: u64, options: Options) -> Outcome {
    journal_server::raft::seed_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing but memory");
    runtime.block_on(async {
        let trace = Trace::new(options.detail);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut profile = Profile::draw(&mut rng, options.nodes);
        let adapters = options.adapters.or(options.story.and_then(Story::adapters));
        if let Some(adapters) = adapters {
            // Chance of its own: the nodes' world is the same with adapters and without.
            let mut rng = StdRng::seed_from_u64(seed ^ ADAPTERS_CHANCE);
            profile.with_adapters(etcd::Profile::draw(&mut rng, adapters));
        }
        if let Some(story) = options.story {
            story.set(&mut profile);
        }
        if let Some(plant) = options.plant {
            plant.set(&mut profile);
        }
        trace.event(format_args!("seed {seed}: {profile:?}"));
        let world = World::new(&mut rng, profile, options.plant, trace.clone());
        let verdict = match live(&world, &mut rng, options.story).await {
            Ok(verdict) => match world.witness.all_broken() {
                broken if broken.is_empty() => Ok(verdict),
                broken => Err(broken),
            },
            Err(error) => {
                let mut why = world.witness.all_broken();
                why.push(format!("{error:#}"));
                Err(why)
            }
        };
        Outcome {
            hash: trace.hash(),
            events: trace.count(),
            simulated: Duration::from_millis(trace.now_ms()),
            verdict,
            recent: trace.recent(),
        }
    })
}

async fn live(world: &Arc<World>, rng: &mut StdRng, story: Option<Story>) -> anyhow::Result<Verdict> {
    if world.profile.adapters.is_some() {
        return etcd::live(world, rng, story.and_then(Story::tale)).await;
    }
    let mut stage = Stage::begin(world.clone()).await?;
    match story {
        Some(story) => story.tell(&mut stage, rng).await?,
        None => {
            stage.load();
            let mut faults = Faults::new(world.clone(), fork(rng), stage.journals[0].clone(), stage.operator.clone());
            faults.run().await;
            faults.heal().await;
            stage.recovers().await?;
        }
    }
    stage.end().await
}
