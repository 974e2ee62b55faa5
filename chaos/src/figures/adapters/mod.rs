//! Adapters over three journal nodes, measured as clients of etcd see them: against three members of
//! etcd under the same load, and against themselves.

mod compaction;
mod lists;
mod loads;
mod memory;
mod pages;
mod scene;
mod tool;

use anyhow::Context;

use super::{Plan, Table};

/// Every figure is taken with one adapter, and with three on the same processors.
const ADAPTERS: [usize; 2] = [1, 3];

fn name(adapters: usize, figure: &str) -> String {
    format!("adapter{adapters}_{figure}")
}

/// Who is measured, in words.
fn side(adapters: usize) -> String {
    match adapters {
        0 => "etcd".into(),
        1 => "1 adapter".into(),
        more => format!("{more} adapters"),
    }
}

fn wanted(plan: &Plan, adapters: usize, figures: &[&str]) -> bool {
    figures.iter().any(|figure| plan.wants(&[&name(adapters, figure)]))
}

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    if loads::wanted(plan) {
        loads::measure(plan, table).await.context("loads")?;
    }
    if ADAPTERS.iter().any(|adapters| wanted(plan, *adapters, &tool::NAMES)) {
        tool::measure(plan, table).await.context("etcd's own benchmark")?;
    }
    for adapters in ADAPTERS {
        if wanted(plan, adapters, &pages::NAMES) {
            pages::measure(plan, adapters, table).await.context("pages")?;
        }
        if wanted(plan, adapters, &compaction::NAMES) {
            compaction::measure(plan, adapters, table).await.context("compaction")?;
        }
        if wanted(plan, adapters, &lists::NAMES) {
            lists::measure(plan, adapters, table).await.context("lists")?;
        }
    }
    // What one replica takes does not depend on how many there are beside it.
    if wanted(plan, 1, &memory::NAMES) {
        memory::measure(plan, table).await.context("memory")?;
    }
    Ok(())
}
