//! Whether a page costs the more, the more keys there are behind it.

use std::time::Duration;

use anyhow::Context;

use super::super::{Comparison, Figure, Plan, Table, list, median, say};
use super::scene::{Scene, closed};
use super::{name, side};
use crate::load::{Outcome, Profile};

pub const NAMES: [&str; 6] =
    ["first_page_p50", "first_page_cpu", "old_page_p50", "old_page_cpu", "next_page_p50", "next_page_cpu"];

const MANY: u64 = 150_000;
const FEW: u64 = 500;
const CLIENTS: usize = 4;
const OLD: Duration = Duration::from_secs(10);

/// Ratios over the page of few keys: (p50, servers' processor).
type Ratios = Vec<(f64, f64)>;

pub async fn measure(plan: &Plan, adapters: usize, table: &mut Table) -> anyhow::Result<()> {
    let (mut first, mut old, mut next) = (Ratios::new(), Ratios::new(), Ratios::new());
    for number in 1..=plan.pairs {
        say(format!(
            "pair {number} of {}: {}, pages of 500 from {FEW} keys, then from {MANY}",
            plan.pairs,
            side(adapters)
        ));
        let scene = Scene::adapters(plan, adapters).await?;
        let load = |profile, keys| closed(profile, CLIENTS, keys, 256, plan.adapter_duration_s);
        let few = cost(&scene.load("few", load(Profile::FirstPage, FEW)).await?, "first page")?;
        let over = |(p50, cpu): (f64, f64)| (p50 / few.0, cpu / few.1);
        first.push(over(cost(&scene.load("first", load(Profile::FirstPage, MANY)).await?, "first page")?));
        let aged = crate::load::Plan { warm_up: OLD, ..load(Profile::OldPage, MANY) };
        old.push(over(cost(&scene.load("old", aged).await?, "first page")?));
        next.push(over(cost(&scene.load("next", load(Profile::List, MANY)).await?, "next page")?));
        scene.strike().await?;
    }
    let kinds = [
        ("first pages at the current revision", first),
        ("first pages at a revision at least 10 s old, amid puts", old),
        ("pages that continue", next),
    ];
    for (number, (what, ratios)) in kinds.into_iter().enumerate() {
        let (p50s, cpus): (Vec<f64>, Vec<f64>) = ratios.into_iter().unzip();
        for (which, of, values) in [(0, "p50", p50s), (1, "processor of all servers", cpus)] {
            table.push(Figure {
                name: name(adapters, NAMES[2 * number + which]).into(),
                what: format!("{}, {what}, 500 of {MANY} keys: {of}, over a page of {FEW} of {FEW}", side(adapters))
                    .into(),
                unit: "x",
                comparison: Comparison::AtMost,
                target: 2.0,
                value: Some(median(values.clone())),
                note: list(&values, 2),
            });
        }
    }
    Ok(())
}

/// p50 of one kind of page, and the processor's time for any answer (nearly all are of that kind).
fn cost(outcome: &Outcome, kind: &str) -> anyhow::Result<(f64, f64)> {
    let page = outcome.kinds.iter().find(|(name, _)| *name == kind).context("no page was answered")?;
    Ok((page.1.p50_us as f64, outcome.server_cpu_us.context("the servers are known")?))
}
