//! `chaos sim`: worlds by their seeds. One seed runs in this process; many run in one process each.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chaos::sim::{self, Detail, Plant, Story};
use tokio::process::Command;
use tokio::task::JoinSet;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["seed", "seeds"])))]
pub struct Args {
    /// Run one seed, in this process
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run many seeds, each in a process of its own: from A up to, but not including, B
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Seeds at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Nodes that form the cluster [default: 3 or 5, by the seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: Option<u8>,
    /// Adapters beside the nodes, and clients that use them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    adapters: Option<u8>,
    /// Tell one of these stories, instead of what the seed draws
    #[arg(long, value_name = "NAME", value_parser = story)]
    story: Option<Named<Story>>,
    /// Plant this bug: the simulation must find it
    #[arg(long, value_name = "NAME", value_parser = plant)]
    plant: Option<Named<Plant>>,
    /// Print every fault, start, stop and answer
    #[arg(long)]
    trace: bool,
    /// Print every delivered message too
    #[arg(long)]
    trace_all: bool,
    /// Print the nodes' own logs, filtered like RUST_LOG
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Seconds of real time after which a seed counts as hung
    #[arg(long, value_name = "S", default_value_t = 120)]
    patience: u64,
}

/// Exit code of a seed that found something; anything else is a failure of the simulation itself.
const FOUND: i32 = 10;

pub fn run(args: Args) -> anyhow::Result<()> {
    match (args.seed, args.seeds.clone()) {
        (Some(seed), _) => one(seed, &args),
        (None, Some(seeds)) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(many(seeds, &args))
        }
        (None, None) => bail!("say --seed or --seeds"),
    }
}

fn one(seed: u64, args: &Args) -> anyhow::Result<()> {
    if let Some(filter) = &args.log {
        let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let detail = match (args.trace, args.trace_all) {
        (_, true) => Detail::Everything,
        (true, false) => Detail::Events,
        (false, false) => Detail::Nothing,
    };
    let story = args.story.as_ref().map(|story| story.value);
    let plant = args.plant.as_ref().map(|plant| plant.value);
    let outcome = sim::run(
        seed,
        sim::Options {
            nodes: args.nodes.map(usize::from),
            adapters: args.adapters.map(usize::from),
            detail,
            story,
            plant,
        },
    );
    let simulated = outcome.simulated.as_secs_f64();
    match outcome.verdict {
        Ok(verdict) => {
            println!("seed {seed}: {simulated:.1} s simulated, {} events; {verdict}", outcome.events);
            println!("seed {seed}: trace {:016x}", outcome.hash);
            Ok(())
        }
        Err(why) => {
            if detail == Detail::Nothing {
                outcome.recent.iter().for_each(|line| println!("    {line}"));
            }
            println!("seed {seed}: FAILED after {simulated:.1} s simulated, {} events", outcome.events);
            why.iter().for_each(|why| println!("seed {seed}: {why}"));
            println!("seed {seed}: trace {:016x}", outcome.hash);
            println!("replay: {}", replay(seed, args));
            // Whatever is left of the world is not worth taking down.
            std::process::exit(FOUND);
        }
    }
}

/// What makes a seed the world that it is, beside its number.
fn world_flags(args: &Args) -> Vec<String> {
    let nodes = args.nodes.map(|nodes| format!("--nodes={nodes}"));
    let adapters = args.adapters.map(|adapters| format!("--adapters={adapters}"));
    let story = args.story.as_ref().map(|story| format!("--story={}", story.name));
    let plant = args.plant.as_ref().map(|plant| format!("--plant={}", plant.name));
    [nodes, adapters, story, plant].into_iter().flatten().collect()
}

fn replay(seed: u64, args: &Args) -> String {
    let flags: String = world_flags(args).into_iter().map(|flag| format!(" {flag}")).collect();
    format!("chaos sim --seed {seed}{flags} --trace")
}

/// Something that was chosen by its name.
#[derive(Debug, Clone)]
struct Named<T> {
    name: String,
    value: T,
}

fn named<T: Copy>(text: &str, all: &[(&str, T)]) -> Result<Named<T>, String> {
    let found = all.iter().find(|(name, _)| *name == text);
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let (name, value) = found.ok_or_else(|| format!("write one of {}", names.join(", ")))?;
    Ok(Named { name: name.to_string(), value: *value })
}

fn story(text: &str) -> Result<Named<Story>, String> {
    named(text, &Story::ALL)
}

fn plant(text: &str) -> Result<Named<Plant>, String> {
    named(text, &Plant::ALL)
}

struct Done {
    seed: u64,
    ok: bool,
    said: String,
    took: Duration,
}

async fn many(seeds: Range<u64>, args: &Args) -> anyhow::Result<()> {
    ensure!(args.jobs > 0, "--jobs 0 would never end");
    let program = std::env::current_exe().context("cannot find this program")?;
    let begun = Instant::now();
    let total = seeds.end.saturating_sub(seeds.start);
    let (mut done, mut failed, mut slowest) = (0u64, BTreeMap::new(), (Duration::ZERO, 0));
    let mut left = seeds.clone();
    let mut running = JoinSet::new();
    let mut said_at = Instant::now();
    loop {
        while running.len() < args.jobs
            && let Some(seed) = left.next()
        {
            let mut command = Command::new(&program);
            command.args(["sim", "--seed", &seed.to_string()]);
            command.args(world_flags(args));
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            running.spawn(child(seed, command, Duration::from_secs(args.patience)));
        }
        let Some(one) = running.join_next().await else { break };
        let one = one.context("a seed's watcher fell over")?;
        done += 1;
        slowest = slowest.max((one.took, one.seed));
        if !one.ok {
            println!("{}", one.said.trim_end());
            failed.insert(one.seed, one.took);
        }
        if said_at.elapsed() > Duration::from_secs(10) {
            said_at = Instant::now();
            println!("    {done} of {total} seeds, {} failed, {:.0} s", failed.len(), begun.elapsed().as_secs_f64());
        }
    }
    for seed in failed.keys() {
        println!("failed: {}", replay(*seed, args));
    }
    println!(
        "simulation: {done} seeds ({}..{}), {} failed, {:.0} s, slowest {:.1} s (seed {})",
        seeds.start,
        seeds.end,
        failed.len(),
        begun.elapsed().as_secs_f64(),
        slowest.0.as_secs_f64(),
        slowest.1,
    );
    ensure!(failed.is_empty(), "{} of {done} seeds failed", failed.len());
    Ok(())
}

async fn child(seed: u64, mut command: Command, patience: Duration) -> Done {
    let begun = Instant::now();
    let (ok, said) = match tokio::time::timeout(patience, command.output()).await {
        Ok(Ok(output)) => {
            let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() && output.status.code() != Some(FOUND) {
                said += &String::from_utf8_lossy(&output.stderr);
                said += &format!("\nseed {seed}: the simulation itself ended with {}", output.status);
            }
            (output.status.success(), said)
        }
        Ok(Err(error)) => (false, format!("seed {seed}: cannot be run: {error}")),
        Err(_) => (false, format!("seed {seed}: hung: no end within {patience:?}")),
    };
    Done { seed, ok, said, took: begun.elapsed() }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let advice = || "write A..B, such as 0..300".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(advice)?;
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if from < to => Ok(from..to),
        _ => Err(advice()),
    }
}
