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

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    if loads::wanted(plan) {
        loads::measure(plan, table).await.context("loads")?;
    }
    if plan.wants(&tool::NAMES) {
        tool::measure(plan, table).await.context("etcd's own benchmark")?;
    }
    if plan.wants(&pages::NAMES) {
        pages::measure(plan, table).await.context("pages")?;
    }
    if plan.wants(&compaction::NAMES) {
        compaction::measure(plan, table).await.context("compaction")?;
    }
    if plan.wants(&lists::NAMES) {
        lists::measure(plan, table).await.context("lists")?;
    }
    if plan.wants(&memory::NAMES) {
        memory::measure(plan, table).await.context("memory")?;
    }
    Ok(())
}
