//! Puts by etcd's own benchmark, a Go program: what users of etcd would run. Its client costs more than
//! our servers do, and takes its processor time from the same cores: it hides a part of the ratio.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use tokio::process::Command;

use super::super::{Comparison, Figure, Plan, Table, list, median, say};
use super::ADAPTERS;
use super::scene::Scene;
use crate::etcd;

pub const NAMES: [&str; 2] = ["tool_put_256_rate", "tool_put_1000_rate"];

const CLIENTS: [usize; 2] = [256, 1000];
/// Puts of a run, for each second that a load is to last: about what etcd does in it.
const PUTS_PER_SECOND: u64 = 10_000;

/// By adapters (0: etcd) and clients: puts a second in each pair.
type Rates = BTreeMap<(usize, usize), Vec<f64>>;

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    let programs = (etcd::program(&plan.repository)?, etcd::benchmark(&plan.repository)?);
    let mut rates = Rates::new();
    if let (Some(etcd), Some(tool)) = programs {
        let mut lines = Vec::new();
        for number in 1..=plan.pairs {
            for adapters in ADAPTERS {
                say(format!("pair {number} of {}: etcd's benchmark on {}", plan.pairs, super::side(adapters)));
                let scene = Scene::adapters(plan, adapters).await?;
                run(plan, &tool, scene, adapters, &mut rates, &mut lines).await?;
            }
            say(format!("pair {number} of {}: etcd's benchmark on three members of etcd", plan.pairs));
            let scene = Scene::etcd(plan, &etcd).await?;
            run(plan, &tool, scene, 0, &mut rates, &mut lines).await?;
        }
        table.beside.push(("Puts by etcd's own benchmark, 100 connections, 256 bytes".into(), lines));
    }
    for adapters in ADAPTERS {
        for clients in CLIENTS {
            table.push(figure(adapters, clients, &rates));
        }
    }
    Ok(())
}

fn figure(adapters: usize, clients: usize, rates: &Rates) -> Figure {
    let side = |side: usize| rates.get(&(side, clients)).map(Vec::as_slice).unwrap_or_default();
    let ratios: Vec<f64> = side(adapters).iter().zip(side(0)).map(|(ours, theirs)| ours / theirs).collect();
    Figure {
        name: super::name(adapters, &format!("tool_put_{clients}_rate")).into(),
        what: format!("{}, {clients} clients of etcd's own benchmark, puts/s over etcd's", super::side(adapters))
            .into(),
        unit: "x",
        comparison: Comparison::AtLeast,
        target: 3.0,
        value: (!ratios.is_empty()).then(|| median(ratios.clone())),
        note: if ratios.is_empty() { "etcd could not be built here".into() } else { list(&ratios, 2) },
    }
}

async fn run(
    plan: &Plan,
    tool: &Path,
    scene: Scene,
    side: usize,
    rates: &mut Rates,
    lines: &mut Vec<String>,
) -> anyhow::Result<()> {
    for clients in CLIENTS {
        let total = (plan.adapter_duration_s * PUTS_PER_SECOND).to_string();
        let output = Command::new(tool)
            .args(["--endpoints", &scene.endpoints().join(","), "--conns", "100", "--clients", &clients.to_string()])
            .args(["put", "--sequential-keys", "--key-size", "32", "--val-size", "256"])
            .args(["--key-space-size", &total, "--total", &total])
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {}", tool.display()))?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{} failed: {}", tool.display(), String::from_utf8_lossy(&output.stderr));
        let rate = rate(&told).with_context(|| format!("no rate in what the benchmark told: {told}"))?;
        let who = super::side(side);
        let line = format!("{who}, {clients} clients: {rate:.0}/s");
        eprintln!("    {line}");
        lines.push(line);
        rates.entry((side, clients)).or_default().push(rate);
    }
    scene.strike().await
}

/// The rate in the summary; none if any call failed.
fn rate(told: &str) -> Option<f64> {
    if told.contains("Error distribution") {
        return None;
    }
    let line = told.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn the_rate_is_read_and_a_run_with_errors_has_none() {
        let told = "Summary:\n  Total:\t1.5 secs.\n  Requests/sec:\t6789.5\n";
        assert_eq!(rate(told), Some(6789.5));
        assert_eq!(rate(&format!("{told}\nError distribution:\n  [3] etcdserver: too many requests\n")), None);
        assert_eq!(rate("Summary:"), None);
    }
}
