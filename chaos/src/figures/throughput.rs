//! Appends against the disk, and against etcd: `journal bench`, in pairs.

use std::borrow::Cow;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::{Comparison, Figure, Plan, Table, list, median, say};
use crate::cluster::{Cluster, Options, beside_this_program};
use crate::etcd::{self, Etcd};

pub const NAMES: [&str; 6] = [
    "append_1_p50",
    "append_256_ratio",
    "append_256_p99_ratio",
    "append_1000_ratio",
    "append_1000_p99_ratio",
    "tail_lag_p99",
];

/// What one pair of runs gave.
#[derive(Default)]
struct Pair {
    p50_ratio: f64,
    /// By appenders: (puts/s ratio, p99 ratio).
    against_etcd: Vec<(u64, f64, f64)>,
    tail_lag_ms: f64,
}

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    let etcd = etcd::program(&plan.repository)?;
    let mut pairs = Vec::new();
    let mut lines = Vec::new();
    for number in 1..=plan.pairs {
        say(format!("pair {number} of {}: disk, ping, journal, etcd", plan.pairs));
        pairs.push(pair(plan, etcd.as_deref(), &mut lines).await?);
    }
    table.beside.push(("Every load of the pairs, as `journal bench` told it".into(), lines));

    let all = |of: &dyn Fn(&Pair) -> Option<f64>| -> Vec<f64> { pairs.iter().filter_map(of).collect() };
    let mut push = |name, what, comparison, target, unit, values: Vec<f64>| {
        let value = (!values.is_empty()).then(|| median(values.clone()));
        let note = if values.is_empty() { "etcd could not be built here".into() } else { list(&values, 2) };
        table.push(Figure {
            name: Cow::Borrowed(name),
            what: Cow::Borrowed(what),
            unit,
            comparison,
            target,
            value,
            note,
        });
    };
    push(
        NAMES[0],
        "1 appender, p50, over p50 of 3 concurrent fdatasyncs + 2 pings",
        Comparison::AtMost,
        1.3,
        "x",
        all(&|pair| Some(pair.p50_ratio)),
    );
    let ratio = |appenders: u64, p99: bool| {
        all(&move |pair| {
            let found = pair.against_etcd.iter().find(|(of, ..)| *of == appenders)?;
            Some(if p99 { found.2 } else { found.1 })
        })
    };
    push(NAMES[1], "256 appenders, appends/s over etcd's puts/s", Comparison::AtLeast, 8.0, "x", ratio(256, false));
    push(NAMES[2], "256 appenders, p99 over etcd's p99", Comparison::Below, 1.0, "x", ratio(256, true));
    push(NAMES[3], "1000 appenders, appends/s over etcd's puts/s", Comparison::AtLeast, 8.0, "x", ratio(1000, false));
    push(NAMES[4], "1000 appenders, p99 over etcd's p99", Comparison::Below, 1.0, "x", ratio(1000, true));
    push(
        NAMES[5],
        "tail reader at a follower, p99 behind the answer, at half of the 256-appender rate",
        Comparison::AtMost,
        2.0,
        "ms",
        all(&|pair| Some(pair.tail_lag_ms)),
    );
    Ok(())
}

async fn pair(plan: &Plan, etcd: Option<&Path>, lines: &mut Vec<String>) -> anyhow::Result<Pair> {
    let dir = plan.fresh("pair")?;
    let ground = bench(plan, lines, &["--only", "disk,ping", "--disk-dir", &text(dir.path())]).await?;
    let sync = number(&ground["disk"][1]["p50_us"])?;
    let ping = number(&ground["ping"]["p50_us"])?;

    let cluster = Cluster::start(Options { dir: Some(dir.path().join("journal")), ..Options::default() }).await?;
    // Not `bench`, which the load program would delete between its runs.
    let journal = cluster.journal("figures").await?;
    let leader = cluster.leader_of(journal.id()).await?;
    let follower = cluster.others(leader).next().context("three nodes run")?.1.endpoint().to_string();
    let endpoints = cluster.endpoints().join(",");
    let pids = joined(cluster.nodes().iter().filter_map(|node| node.pid()));
    let ours = ["--endpoints", &endpoints, "--journal", "figures", "--server-pids", &pids, "--sizes", "256"];
    let closed = bench(plan, lines, &[&ours[..], &["--only", "closed", "--appenders", "1,256,1000"]].concat()).await?;
    let of = |report: &Value, appenders: u64| load(report, appenders);
    let (rate_256, _, _) = of(&closed, 256)?;
    let half = format!("{}", (rate_256 / 2.0) as u64);
    let open =
        bench(plan, lines, &[&ours[..], &["--only", "open", "--rates", &half, "--tail-node", &follower]].concat())
            .await?;
    let tail_lag_ms = number(&open["loads"][0]["tail_lag"]["p99_us"])? / 1000.0;
    let killed = cluster.stop().await;
    ensure!(killed.is_empty(), "nodes did not stop after the load: {}", killed.join(", "));
    drop(cluster);

    let mut pair = Pair { p50_ratio: of(&closed, 1)?.1 / (sync + 2.0 * ping), tail_lag_ms, ..Pair::default() };
    let Some(etcd) = etcd else { return Ok(pair) };
    let members = Etcd::start(etcd, &dir.path().join("etcd")).await?;
    let (endpoints, pids) = (members.endpoints(), joined(members.pids().into_iter()));
    let theirs = ["--skip-journal", "--etcd", &endpoints, "--etcd-pids", &pids, "--sizes", "256"];
    let theirs = bench(
        plan,
        lines,
        &[&theirs[..], &["--only", "closed", "--appenders", "1,256,1000", "--streams", "8"]].concat(),
    )
    .await?;
    members.stop().await;
    for appenders in [256, 1000] {
        let (our_rate, _, our_p99) = of(&closed, appenders)?;
        let (their_rate, _, their_p99) = of(&theirs, appenders)?;
        pair.against_etcd.push((appenders, our_rate / their_rate, our_p99 / their_p99));
    }
    Ok(pair)
}

/// (answers a second, p50, p99) of the load with so many appenders.
fn load(report: &Value, appenders: u64) -> anyhow::Result<(f64, f64, f64)> {
    let loads = report["loads"].as_array().context("the load program reports its loads")?;
    let load = loads.iter().find(|load| load["appenders"] == appenders).context("a load is missing")?;
    let failed = load["rejected"].as_u64().unwrap_or(0) + load["unknown"].as_u64().unwrap_or(0);
    ensure!(failed == 0, "{failed} entries failed: {}", load["first_failure"]);
    Ok((number(&load["per_second"])?, number(&load["p50_us"])?, number(&load["p99_us"])?))
}

/// Runs `journal bench`, shows what it says, and reads what it measured.
async fn bench(plan: &Plan, lines: &mut Vec<String>, args: &[&str]) -> anyhow::Result<Value> {
    let program = beside_this_program("journal")?;
    let output = Command::new(program)
        .args(["bench", "--json"])
        .args(["--warm-up", &plan.warm_up_s.to_string(), "--duration", &plan.duration_s.to_string()])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run journal bench")?;
    let told = String::from_utf8_lossy(&output.stderr);
    for line in told.lines() {
        eprintln!("    {line}");
        lines.push(without_place(line));
    }
    ensure!(output.status.success(), "journal bench {args:?} failed");
    serde_json::from_slice(&output.stdout).context("journal bench did not print JSON")
}

/// The table says nothing of where on this machine the disk was measured.
fn without_place(line: &str) -> String {
    match line.strip_prefix("disk of ").and_then(|rest| rest.split_once(": ")) {
        Some((_, what)) => format!("disk: {what}"),
        None => line.to_owned(),
    }
}

fn number(value: &Value) -> anyhow::Result<f64> {
    value.as_f64().context("a number is missing in what journal bench measured")
}

fn joined(pids: impl Iterator<Item = u32>) -> String {
    pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(",")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
