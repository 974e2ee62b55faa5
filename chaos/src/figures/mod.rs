//! The figures that are promised: measured, held against their targets, written into a table.
//!
//! Every figure states how it was measured in one line of the table. One that cannot be measured here
//! is skipped, and counted as skipped; it never passes.

mod adapters;
mod failover;
mod idle;
mod restart;
mod table;
mod throughput;

use std::path::{Path, PathBuf};

use anyhow::Context;

pub use table::{Comparison, Figure, Table};

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// On the disk that is measured.
    pub dir: PathBuf,
    /// Where the sources are, for the scripts that build peers.
    pub repository: PathBuf,
    /// Only figures whose name begins with one of these.
    pub only: Vec<String>,
    pub warm_up_s: u64,
    pub duration_s: u64,
    /// Pairs, of which the median counts.
    pub pairs: usize,
    /// Leaders killed, and moved.
    pub kills: usize,
    pub idle_s: u64,
    /// The same of the adapters' loads, of which there are many.
    pub adapter_duration_s: u64,
    /// What a restart finds in its journal.
    pub restart_bytes: u64,
}

impl Plan {
    fn wants(&self, names: &[&str]) -> bool {
        self.only.is_empty() || names.iter().any(|name| self.only.iter().any(|only| name.starts_with(only)))
    }

    /// A fresh directory for one cluster.
    fn fresh(&self, name: &str) -> anyhow::Result<tempfile::TempDir> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        let prefix = format!("figures-{name}-");
        Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.dir)?)
    }
}

/// Measures everything that the plan wants.
pub async fn measure(plan: &Plan) -> anyhow::Result<Table> {
    let mut table = Table::default();
    if plan.wants(&throughput::NAMES) {
        throughput::measure(plan, &mut table).await.context("throughput")?;
    }
    if plan.wants(&restart::NAMES) {
        restart::measure(plan, &mut table).await.context("restart")?;
    }
    if plan.wants(&failover::NAMES) {
        failover::measure(plan, &mut table).await.context("failover")?;
    }
    if plan.wants(&idle::NAMES) {
        idle::measure(plan, &mut table).await.context("idle")?;
    }
    adapters::measure(plan, &mut table).await.context("adapters")?;
    Ok(table)
}

/// Says what is being done, so that nobody wonders for half an hour.
fn say(line: impl AsRef<str>) {
    eprintln!("==> {}", line.as_ref());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn list(values: &[f64], digits: usize) -> String {
    let texts: Vec<_> = values.iter().map(|value| format!("{value:.digits$}")).collect();
    texts.join(", ")
}

/// Writes the table between the markers of a document.
pub fn write_into(document: &Path, text: &str) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
    let new = table::replace(&old, text).with_context(|| format!("{} has no place for figures", document.display()))?;
    std::fs::write(document, new).with_context(|| format!("cannot write {}", document.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert_eq!(worst(&[1.0, 7.0, 2.0]), 7.0);
    }
}
