//! Adapters over three journal nodes against three members of etcd: the same loads from the same
//! client, in pairs, with one adapter and with three.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Comparison, Figure, Plan, Table, list, median, say};
use crate::cluster::{Adapter, AdapterOptions, Cluster, Options};
use crate::etcd::{self, Etcd};
use crate::load::{self, Outcome, Profile};

/// Where an adapter's store belongs.
const MEMORY_DIR: &str = "/dev/shm";
const ADAPTERS: [usize; 2] = [1, 3];
const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(15);

/// One load, as both sides get it.
struct Load {
    name: &'static str,
    profile: Profile,
    clients: usize,
    keys: u64,
}

const fn load(name: &'static str, profile: Profile, clients: usize, keys: u64) -> Load {
    Load { name, profile, clients, keys }
}

const LOADS: [Load; 10] = [
    load("put_1", Profile::Put, 1, 10_000),
    load("put_256", Profile::Put, 256, 10_000),
    load("put_1000", Profile::Put, 1000, 10_000),
    load("txn_256", Profile::Txn, 256, 10_000),
    load("txn_1000", Profile::Txn, 1000, 10_000),
    load("get_256", Profile::Get, 256, 10_000),
    load("get_serializable_256", Profile::GetSerializable, 256, 10_000),
    load("range_1000_keys", Profile::Range, 16, 10_000),
    load("nodes_256", Profile::Nodes, 256, 10_000),
    load("watch_100", Profile::Watch, 64, 10_000),
];

/// What is promised of a load.
struct Promise {
    load: &'static str,
    name: &'static str,
    what: &'static str,
    of: fn(&Outcome) -> Option<f64>,
    comparison: Comparison,
    target: f64,
}

const fn promise(
    load: &'static str,
    name: &'static str,
    what: &'static str,
    of: fn(&Outcome) -> Option<f64>,
    comparison: Comparison,
    target: f64,
) -> Promise {
    Promise { load, name, what, of, comparison, target }
}

fn rate(outcome: &Outcome) -> Option<f64> {
    Some(outcome.per_second)
}

fn p50(outcome: &Outcome) -> Option<f64> {
    Some(outcome.all.p50_us as f64)
}

fn p99(outcome: &Outcome) -> Option<f64> {
    Some(outcome.all.p99_us as f64)
}

fn cpu(outcome: &Outcome) -> Option<f64> {
    outcome.server_cpu_us
}

fn event_rate(outcome: &Outcome) -> Option<f64> {
    outcome.events_per_second
}

fn event_cpu(outcome: &Outcome) -> Option<f64> {
    outcome.server_cpu_us_per_event
}

const SIXTH: f64 = 1.0 / 6.0;
const THIRD: f64 = 1.0 / 3.0;

/// All of them ratios: ours over etcd's.
#[rustfmt::skip]
const PROMISES: [Promise; 21] = [
    promise("put_1", "p50", "1 client, puts: p50", p50, Comparison::AtMost, 0.8),
    promise("put_256", "rate", "256 clients, puts/s", rate, Comparison::AtLeast, 5.0),
    promise("put_256", "p99", "256 clients, puts: p99", p99, Comparison::AtMost, 0.5),
    promise("put_256", "cpu", "256 clients, servers' processor a put", cpu, Comparison::AtMost, SIXTH),
    promise("put_1000", "rate", "1000 clients, puts/s", rate, Comparison::AtLeast, 5.0),
    promise("put_1000", "p99", "1000 clients, puts: p99", p99, Comparison::AtMost, 0.5),
    promise("put_1000", "cpu", "1000 clients, servers' processor a put", cpu, Comparison::AtMost, SIXTH),
    promise("txn_256", "rate", "256 clients, Kubernetes' transactions/s", rate, Comparison::AtLeast, 5.0),
    promise("txn_256", "p99", "256 clients, Kubernetes' transactions: p99", p99, Comparison::AtMost, 0.5),
    promise("txn_256", "cpu", "256 clients, servers' processor a transaction", cpu, Comparison::AtMost, SIXTH),
    promise("txn_1000", "rate", "1000 clients, Kubernetes' transactions/s", rate, Comparison::AtLeast, 5.0),
    promise("txn_1000", "p99", "1000 clients, Kubernetes' transactions: p99", p99, Comparison::AtMost, 0.5),
    promise("txn_1000", "cpu", "1000 clients, servers' processor a transaction", cpu, Comparison::AtMost, SIXTH),
    promise("get_256", "rate", "256 clients, linearizable gets/s", rate, Comparison::AtLeast, 2.0),
    promise("get_256", "cpu", "256 clients, servers' processor a linearizable get", cpu, Comparison::AtMost, 0.5),
    promise("get_serializable_256", "rate", "256 clients, serializable gets/s", rate, Comparison::AtLeast, 2.0),
    promise("get_serializable_256", "cpu", "256 clients, servers' processor a serializable get", cpu, Comparison::AtMost, 0.5),
    promise("range_1000_keys", "rate", "ranges of 1000 keys a second", rate, Comparison::AtLeast, 2.0),
    promise("range_1000_keys", "cpu", "servers' processor a range of 1000 keys", cpu, Comparison::AtMost, 0.5),
    promise("watch_100", "rate", "100 watchers of everything, events/s", event_rate, Comparison::AtLeast, 3.0),
    promise("watch_100", "cpu", "100 watchers of everything, servers' processor an event", event_cpu, Comparison::AtMost, THIRD),
];

/// By adapters (0: etcd) and load: what each pair gave.
type Outcomes = BTreeMap<(usize, &'static str), Vec<Outcome>>;

/// Whether the plan wants any of these figures.
pub fn wanted(plan: &Plan) -> bool {
    LOADS.iter().any(|load| needs(plan, load))
}

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    let etcd = etcd::program(&plan.repository)?;
    let mut outcomes = Outcomes::new();
    let mut lines = Vec::new();
    for number in 1..=plan.pairs {
        for adapters in ADAPTERS {
            say(format!("pair {number} of {}: {adapters} adapter(s) over three nodes", plan.pairs));
            ours(plan, adapters, &mut outcomes, &mut lines).await?;
        }
        if let Some(etcd) = &etcd {
            say(format!("pair {number} of {}: three members of etcd", plan.pairs));
            theirs(plan, etcd, &mut outcomes, &mut lines).await?;
        }
    }
    table.beside.push(("Every load of adapters and of etcd, as `chaos load` told it".into(), lines));
    for adapters in ADAPTERS {
        for promise in PROMISES.iter().filter(|promise| plan.wants(&[&name(adapters, promise)])) {
            table.push(figure(adapters, promise, &outcomes));
        }
    }
    Ok(())
}

fn name(adapters: usize, promise: &Promise) -> String {
    format!("adapter{adapters}_{}_{}", promise.load, promise.name)
}

fn figure(adapters: usize, promise: &Promise, outcomes: &Outcomes) -> Figure {
    let side = |side: usize| outcomes.get(&(side, promise.load)).map(Vec::as_slice).unwrap_or_default();
    let pairs = side(adapters).iter().zip(side(0));
    let ratios: Vec<f64> =
        pairs.filter_map(|(ours, theirs)| Some((promise.of)(ours)? / (promise.of)(theirs)?)).collect();
    let adapters_text = if adapters == 1 { "1 adapter" } else { "3 adapters" };
    Figure {
        name: name(adapters, promise).into(),
        what: format!("{adapters_text}, {}, over etcd's", promise.what).into(),
        unit: "x",
        comparison: promise.comparison,
        target: promise.target,
        value: (!ratios.is_empty()).then(|| median(ratios.clone())),
        note: if ratios.is_empty() { "etcd could not be built here".into() } else { list(&ratios, 2) },
    }
}

async fn ours(plan: &Plan, count: usize, outcomes: &mut Outcomes, lines: &mut Vec<String>) -> anyhow::Result<()> {
    let dir = plan.fresh("adapters")?;
    let memory = tempfile::Builder::new().prefix("figures-adapters-").tempdir_in(MEMORY_DIR)?;
    let cluster = Cluster::start(Options { dir: Some(dir.path().to_owned()), ..Options::default() }).await?;
    let mut adapters = Vec::new();
    for number in 0..count {
        let name = format!("a{}", number + 1);
        let adapter = Adapter::prepare(AdapterOptions {
            home: memory.path().join(&name),
            name,
            client_port: cluster.adapter_port(number, 0),
            metrics_port: cluster.adapter_port(number, 2),
            journal: cluster.endpoints(),
            program: None,
            flags: vec!["--quota-backend-bytes=8589934592".into()],
        })?;
        adapter.start()?;
        adapter.wait_ready(PATIENCE).await?;
        adapters.push(adapter);
    }
    let endpoints: Vec<_> = adapters.iter().map(|adapter| adapter.endpoint().to_string()).collect();
    let nodes = cluster.nodes().iter().filter_map(|node| node.pid());
    let pids: Vec<_> = nodes.chain(adapters.iter().filter_map(Adapter::pid)).collect();
    run_all(plan, count, &endpoints, &pids, outcomes, lines).await?;
    for adapter in &adapters {
        ensure!(!adapter.stop(GRACE).await, "{} did not stop after the load", adapter.name());
    }
    let killed = cluster.stop().await;
    ensure!(killed.is_empty(), "nodes did not stop after the load: {}", killed.join(", "));
    Ok(())
}

async fn theirs(plan: &Plan, etcd: &Path, outcomes: &mut Outcomes, lines: &mut Vec<String>) -> anyhow::Result<()> {
    let dir = plan.fresh("adapters")?;
    let members = Etcd::start(etcd, dir.path()).await?;
    let endpoints: Vec<_> = members.endpoints().split(',').map(str::to_owned).collect();
    run_all(plan, 0, &endpoints, &members.pids(), outcomes, lines).await?;
    members.stop().await;
    Ok(())
}

async fn run_all(
    plan: &Plan,
    side: usize,
    endpoints: &[String],
    pids: &[u32],
    outcomes: &mut Outcomes,
    lines: &mut Vec<String>,
) -> anyhow::Result<()> {
    for load in LOADS.iter().filter(|load| needs(plan, load)) {
        let load_plan = load::Plan {
            endpoints: endpoints.to_vec(),
            profile: load.profile,
            clients: load.clients,
            connections: load.clients.min(8),
            rate: None,
            watchers: 100,
            keys: load.keys,
            value_bytes: 256,
            warm_up: Duration::from_secs(2),
            length: Duration::from_secs(plan.adapter_duration_s),
            seed: 1,
            server_pids: pids.to_vec(),
        };
        // On a thread of its own: the processes are watched meanwhile.
        let outcome = tokio::task::spawn_blocking(move || load::run(&load_plan)).await?;
        let outcome = outcome.with_context(|| format!("the load {}", load.name))?;
        ensure!(outcome.failed == 0, "{}: {} failed: {:?}", load.name, outcome.failed, outcome.first_failure);
        let who = if side == 0 { "etcd".into() } else { format!("{side} adapter(s)") };
        let line = format!("{who}, {}: {}", load.name, outcome.lines().join("; "));
        eprintln!("    {line}");
        lines.push(line);
        outcomes.entry((side, load.name)).or_default().push(outcome);
    }
    Ok(())
}

/// Whether a figure that is wanted needs the load.
fn needs(plan: &Plan, load: &Load) -> bool {
    let of_load = |promise: &&Promise| promise.load == load.name;
    let mut names = PROMISES.iter().filter(of_load).flat_map(|promise| ADAPTERS.map(|count| name(count, promise)));
    plan.only.is_empty() || names.any(|name| plan.wants(&[&name]))
}
