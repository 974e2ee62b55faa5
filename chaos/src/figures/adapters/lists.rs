//! Lists that must show what was just written, through a real kube-apiserver.

use std::time::Duration;

use anyhow::Context;

use super::super::{Comparison, Figure, Plan, Table, list, median, say};
use super::scene::Scene;
use super::{name, side};
use crate::etcd;
use crate::kubernetes::{Plane, Programs, Storage, Upkeep};

pub const NAMES: [&str; 2] = ["list_own_kind_p99", "list_other_kind_p99"];

/// What the program that drives API servers says of each kind of list.
const SAID: [&str; 2] =
    ["consistent lists right after a write of their kind:", "consistent lists right after a write of another kind:"];
const COUNT: usize = 400;
const GRACE: Duration = Duration::from_secs(20);

pub async fn measure(plan: &Plan, adapters: usize, table: &mut Table) -> anyhow::Result<()> {
    say("lists through kube-apiserver (which is built first, once, in about six minutes)");
    let programs = match Programs::built(&plan.repository) {
        Ok(programs) => programs,
        Err(error) => {
            say(format!("SKIPPED: {error:#}"));
            NAMES.iter().enumerate().for_each(|(which, _)| table.push(figure(adapters, which, Vec::new())));
            return Ok(());
        }
    };
    let mut p99s = [Vec::new(), Vec::new()];
    let mut lines = Vec::new();
    for number in 1..=plan.pairs {
        say(format!("run {number} of {}: lists over {}", plan.pairs, side(adapters)));
        let said = drive(Scene::adapters(plan, adapters).await?, &programs).await?;
        for (which, prefix) in SAID.iter().enumerate() {
            let line = said.lines().find(|line| line.starts_with(prefix)).context("nothing was said of lists")?;
            p99s[which].push(p99_ms(line).with_context(|| format!("no p99 in {line:?}"))?);
        }
        lines.extend(said.lines().map(|line| format!("{}: {line}", side(adapters))));
    }
    if let Some(program) = etcd::program(&plan.repository)? {
        say("lists over three members of etcd");
        let said = drive(Scene::etcd(plan, &program).await?, &programs).await?;
        lines.extend(said.lines().map(|line| format!("etcd: {line}")));
    }
    table.beside.push((format!("Lists through kube-apiserver, {}", side(adapters)), lines));
    for (which, values) in p99s.into_iter().enumerate() {
        table.push(figure(adapters, which, values));
    }
    Ok(())
}

/// What the program that drives the API server says at its end.
async fn drive(scene: Scene, programs: &Programs) -> anyhow::Result<String> {
    let plane = Plane::prepare(programs.clone())?;
    let storage =
        Storage { endpoints: scene.endpoints().iter().map(|at| format!("http://{at}")).collect(), papers: None };
    // What is measured is not to share its processors with checks.
    let upkeep = Upkeep { compaction: Duration::from_secs(300), comparison: Duration::from_secs(300) };
    let server = plane.api_server(0, &storage, &upkeep)?;
    plane.ready(&server).await?;
    let said = plane.drive(&[&server], "lists", &[&format!("--count={COUNT}")]).await?;
    server.stop(GRACE).await;
    scene.strike().await?;
    Ok(said)
}

fn figure(adapters: usize, which: usize, values: Vec<f64>) -> Figure {
    let of = ["its own", "another"][which];
    Figure {
        name: name(adapters, NAMES[which]).into(),
        what: format!(
            "{}, a consistent list through kube-apiserver right after a write of {of} kind, p99",
            side(adapters)
        )
        .into(),
        unit: "ms",
        comparison: Comparison::Below,
        target: 10.0,
        value: (!values.is_empty()).then(|| median(values.clone())),
        note: if values.is_empty() { "Kubernetes could not be built here".into() } else { list(&values, 2) },
    }
}

/// Of a line as in `…: 200, p50 1.2ms, p99 8.31ms, longest 12ms`, as Go writes durations.
fn p99_ms(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("p99 ")?;
    let text = rest.split(',').next()?.trim();
    let number_of = |unit: &str| text.strip_suffix(unit)?.parse::<f64>().ok();
    number_of("ms").or_else(|| Some(number_of("µs")? / 1e3)).or_else(|| Some(number_of("s")? * 1e3))
}

#[cfg(test)]
mod tests {
    use super::p99_ms;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(p99_ms("lists: 200, p50 1.2ms, p99 8.31ms, longest 12ms"), Some(8.31));
        assert_eq!(p99_ms("lists: 200, p50 90µs, p99 500µs, longest 12ms"), Some(0.5));
        assert_eq!(p99_ms("lists: 200, p50 1.2ms, p99 1.5s, longest 2s"), Some(1500.0));
        assert_eq!(p99_ms("lists: none"), None);
    }
}
