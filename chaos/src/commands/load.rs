//! `chaos load`: loads an etcd endpoint, or two of them in turn, and tells what came of it.

use std::path::PathBuf;
use std::time::Duration;

use chaos::load::{self, Outcome, Plan, Profile};

#[derive(clap::Args)]
pub struct Args {
    /// Endpoints of one side, plaintext; connections are dealt to them in turn
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// Another side, loaded in turn with the first, to tell the ratio
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    against: Vec<String>,
    #[arg(long, value_enum, default_value = "put")]
    profile: Profile,
    /// Clients that each wait for their answer; with --rate, the most that are under way at once
    #[arg(long, value_name = "N", default_value_t = 256)]
    clients: usize,
    /// Connections that the clients share
    #[arg(long, value_name = "N", default_value_t = 8)]
    connections: usize,
    /// Operations a second, due at fixed times; without it, as many as the clients get answered
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Watchers of everything, for the profile `watch`
    #[arg(long, value_name = "N", default_value_t = 100)]
    watchers: usize,
    /// Keys that are put or read
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keys: u64,
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    value_bytes: usize,
    /// Seconds that do not count
    #[arg(long, value_name = "S", default_value_t = 2)]
    warm_up: u64,
    /// Seconds that count
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
    /// Runs of each side; medians are compared
    #[arg(long, value_name = "N", default_value_t = 1)]
    pairs: usize,
    /// Processes whose processor time is told for each answer
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    server_pids: Vec<u32>,
    /// The same, of the other side
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    against_pids: Vec<u32>,
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print everything that was measured as JSON
    #[arg(long)]
    json: bool,
    /// Draw the last run of each side
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.clients > 0 && args.seconds > 0 && args.pairs > 0,
        "clients, seconds and pairs are at least 1"
    );
    anyhow::ensure!(args.value_bytes >= 8, "--value-bytes: at least 8");
    let plan = |endpoints: &[String], server_pids: &[u32], seed| Plan {
        endpoints: endpoints.to_vec(),
        profile: args.profile,
        clients: args.clients,
        connections: args.connections.min(args.clients),
        rate: args.rate,
        watchers: args.watchers,
        keys: args.keys.max(1),
        value_bytes: args.value_bytes,
        warm_up: Duration::from_secs(args.warm_up),
        length: Duration::from_secs(args.seconds),
        seed,
        server_pids: server_pids.to_vec(),
        stop: None,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..args.pairs as u64 {
        let side = |name: &str, plan: Plan| -> anyhow::Result<Outcome> {
            let outcome = load::run(&plan)?;
            if !args.json {
                println!("{name}");
                outcome.lines().iter().for_each(|line| println!("  {line}"));
            }
            Ok(outcome)
        };
        let seed = args.seed + pair;
        ours.push(side(&args.endpoints.join(","), plan(&args.endpoints, &args.server_pids, seed))?);
        if !args.against.is_empty() {
            theirs.push(side(&args.against.join(","), plan(&args.against, &args.against_pids, seed))?);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "runs": ours, "against": theirs }))?);
    } else if !theirs.is_empty() {
        compare(&ours, &theirs);
    }
    if let (Some(file), Some(last)) = (&args.plot, ours.last()) {
        let (name, other) = (args.endpoints.join(","), args.against.join(","));
        let mut sides = vec![(name.as_str(), last)];
        sides.extend(theirs.last().map(|outcome| (other.as_str(), outcome)));
        std::fs::write(file, load::svg(&format!("{}, {} clients", last.profile, last.clients), &sides))?;
    }
    Ok(())
}

fn compare(ours: &[Outcome], theirs: &[Outcome]) {
    let ratio = |what: &str, of: &dyn Fn(&Outcome) -> Option<f64>| {
        let side = |runs: &[Outcome]| median(runs.iter().filter_map(of).collect());
        if let (Some(ours), Some(theirs)) = (side(ours), side(theirs))
            && theirs > 0.0
        {
            println!("ratio {what:<24} {:.2}", ours / theirs);
        }
    };
    ratio("answers a second", &|run| Some(run.per_second));
    ratio("p50", &|run| Some(run.all.p50_us as f64));
    ratio("p99", &|run| Some(run.all.p99_us as f64));
    ratio("servers' processor", &|run| run.server_cpu_us);
    ratio("events a second", &|run| run.events_per_second);
    ratio("processor an event", &|run| run.server_cpu_us_per_event);
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
