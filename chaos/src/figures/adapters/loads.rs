//! The same loads from the same client on adapters and on etcd, in pairs, with one adapter and with
//! three.

use std::collections::BTreeMap;

use anyhow::Context;

use super::super::{Comparison, Figure, Plan, Table, list, median, say};
use super::ADAPTERS;
use super::scene::{Scene, closed};
use crate::etcd;
use crate::load::{Outcome, Profile};

/// One load, as both sides get it.
struct Load {
    name: &'static str,
    profile: Profile,
    clients: usize,
    keys: u64,
    /// An open loop, at half of the rate that this earlier load came to on the same side.
    half_of: Option<&'static str>,
}

const fn load(name: &'static str, profile: Profile, clients: usize, keys: u64) -> Load {
    Load { name, profile, clients, keys, half_of: None }
}

const LOADS: [Load; 11] = [
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
    Load { half_of: Some("watch_100"), ..load("watch_100_half", Profile::Watch, 256, 10_000) },
];

/// What is promised of a load.
struct Promise {
    load: &'static str,
    name: &'static str,
    what: &'static str,
    of: fn(&Outcome) -> Option<f64>,
    comparison: Comparison,
    target: f64,
    /// In milliseconds, and not over etcd's.
    absolute: bool,
}

const fn promise(
    load: &'static str,
    name: &'static str,
    what: &'static str,
    of: fn(&Outcome) -> Option<f64>,
    comparison: Comparison,
    target: f64,
) -> Promise {
    Promise { load, name, what, of, comparison, target, absolute: false }
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

fn event_lag_ms(outcome: &Outcome) -> Option<f64> {
    Some(outcome.event_lag?.p99_us as f64 / 1e3)
}

const SIXTH: f64 = 1.0 / 6.0;
const THIRD: f64 = 1.0 / 3.0;

/// Ratios, ours over etcd's, but for what is absolute.
#[rustfmt::skip]
const PROMISES: [Promise; 24] = [
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
    promise("nodes_256", "rate", "256 clients, what 100,000 nodes ask for: answers/s", rate, Comparison::AtLeast, 3.0),
    promise("nodes_256", "cpu", "256 clients, what 100,000 nodes ask for: servers' processor an answer", cpu, Comparison::AtMost, THIRD),
    promise("watch_100", "rate", "100 watchers of everything, events/s", event_rate, Comparison::AtLeast, 3.0),
    promise("watch_100", "cpu", "100 watchers of everything, servers' processor an event", event_cpu, Comparison::AtMost, THIRD),
    Promise { absolute: true, ..promise("watch_100_half", "lag_p99", "100 watchers, half of that rate: an event after its put's answer, p99", event_lag_ms, Comparison::Below, 5.0) },
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
            say(format!("pair {number} of {}: {} over three nodes", plan.pairs, super::side(adapters)));
            let scene = Scene::adapters(plan, adapters).await?;
            run_all(plan, scene, adapters, &mut outcomes, &mut lines).await?;
        }
        if let Some(etcd) = &etcd {
            say(format!("pair {number} of {}: three members of etcd", plan.pairs));
            let scene = Scene::etcd(plan, etcd).await?;
            run_all(plan, scene, 0, &mut outcomes, &mut lines).await?;
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
    super::name(adapters, &format!("{}_{}", promise.load, promise.name))
}

fn figure(adapters: usize, promise: &Promise, outcomes: &Outcomes) -> Figure {
    let side = |side: usize| outcomes.get(&(side, promise.load)).map(Vec::as_slice).unwrap_or_default();
    let absolute = promise.absolute;
    let values: Vec<f64> = match absolute {
        true => side(adapters).iter().filter_map(promise.of).collect(),
        false => {
            let pairs = side(adapters).iter().zip(side(0));
            pairs.filter_map(|(ours, theirs)| Some((promise.of)(ours)? / (promise.of)(theirs)?)).collect()
        }
    };
    Figure {
        name: name(adapters, promise).into(),
        what: format!("{}, {}{}", super::side(adapters), promise.what, if absolute { "" } else { ", over etcd's" })
            .into(),
        unit: if absolute { "ms" } else { "x" },
        comparison: promise.comparison,
        target: promise.target,
        value: (!values.is_empty()).then(|| median(values.clone())),
        note: if values.is_empty() { "etcd could not be built here".into() } else { list(&values, 2) },
    }
}

async fn run_all(
    plan: &Plan,
    scene: Scene,
    side: usize,
    outcomes: &mut Outcomes,
    lines: &mut Vec<String>,
) -> anyhow::Result<()> {
    for load in LOADS.iter().filter(|load| needs(plan, load)) {
        let mut loaded = closed(load.profile, load.clients, load.keys, 256, plan.adapter_duration_s);
        if let Some(whole) = load.half_of {
            let whole = outcomes.get(&(side, whole)).and_then(|all| all.last());
            loaded.rate = Some((whole.context("the load that it halves comes first")?.per_second / 2.0) as u64);
        }
        let outcome = scene.load(load.name, loaded).await?;
        let who = super::side(side);
        let line = format!("{who}, {}: {}", load.name, outcome.lines().join("; "));
        eprintln!("    {line}");
        lines.push(line);
        outcomes.entry((side, load.name)).or_default().push(outcome);
    }
    scene.strike().await
}

/// Whether a figure that is wanted needs the load.
fn needs(plan: &Plan, load: &Load) -> bool {
    // A load that another one halves is needed for that one, too.
    let halves = LOADS.iter().filter(|half| half.half_of == Some(load.name)).map(|half| half.name);
    let loads: Vec<_> = halves.chain([load.name]).collect();
    let of_load = |promise: &&Promise| loads.contains(&promise.load);
    let mut names = PROMISES.iter().filter(of_load).flat_map(|promise| ADAPTERS.map(|count| name(count, promise)));
    plan.only.is_empty() || names.any(|name| plan.wants(&[&name]))
}
