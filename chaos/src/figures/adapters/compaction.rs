//! What writers feel of a compaction of a million revisions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use super::super::{Comparison, Figure, Plan, Table, list, median, say};
use super::memory::compact;
use super::scene::{Scene, closed};
use super::{name, side};
use crate::cluster::get;
use crate::load::{self, Profile};

pub const NAMES: [&str; 1] = ["compaction_p99"];

const REVISIONS: u64 = 1_000_000;
const KEYS: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(300);

pub async fn measure(plan: &Plan, adapters: usize, table: &mut Table) -> anyhow::Result<()> {
    let mut ratios = Vec::new();
    let mut notes = Vec::new();
    for number in 1..=plan.pairs {
        say(format!(
            "pair {number} of {}: {}, {REVISIONS} revisions, half of the full load, a compaction",
            plan.pairs,
            side(adapters)
        ));
        let scene = Scene::adapters(plan, adapters).await?;
        let full = scene.load("full", closed(Profile::Put, 256, KEYS, 256, plan.adapter_duration_s)).await?;
        let mut put = full.answers;
        while put < REVISIONS {
            put += scene.load("fill", closed(Profile::Put, 256, KEYS, 256, 10)).await?.answers;
        }
        let half = load::Plan {
            rate: Some((full.per_second / 2.0) as u64),
            ..closed(Profile::Put, 1000, KEYS, 256, 2 * plan.adapter_duration_s)
        };
        let before = scene.load("before", half.clone()).await?;

        let stop = Arc::new(AtomicBool::new(false));
        let during = load::Plan { warm_up: Duration::ZERO, length: PATIENCE, stop: Some(stop.clone()), ..half };
        let compacting = async {
            let compacted = compact(&scene.endpoints()[0]).await?;
            let took = until_dropped(&scene, compacted).await;
            stop.store(true, Ordering::Relaxed);
            took
        };
        let (during, took) = tokio::join!(scene.load("during", during), compacting);
        let (during, took) = (during?, took?);
        ratios.push(during.all.p99_us as f64 / before.all.p99_us.max(1) as f64);
        notes.push(format!(
            "{} → {} ms in {:.0} s",
            before.all.p99_us as f64 / 1e3,
            during.all.p99_us as f64 / 1e3,
            took.as_secs_f64()
        ));
        scene.strike().await?;
    }
    table.push(Figure {
        name: name(adapters, NAMES[0]).into(),
        what: format!(
            "{}, a million revisions compacted at half of the full load: puts' p99 until the last row is dropped, \
             over that before",
            side(adapters)
        )
        .into(),
        unit: "x",
        comparison: Comparison::AtMost,
        target: 1.5,
        value: Some(median(ratios.clone())),
        note: format!("{} ({})", list(&ratios, 2), notes.join("; ")),
    });
    Ok(())
}

/// Waits until every adapter has dropped all rows up to the compacted revision; how long that took.
async fn until_dropped(scene: &Scene, compacted: i64) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    for endpoint in scene.endpoints() {
        let address = endpoint.parse()?;
        loop {
            sleep(Duration::from_millis(200)).await;
            let page = get(address, "/metrics", Duration::from_secs(5)).await?;
            let swept = page.body.lines().find_map(|line| line.strip_prefix("adapter_swept_revision "));
            if swept.and_then(|revision| revision.trim().parse::<i64>().ok()).is_some_and(|swept| swept >= compacted) {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "the compaction is not done after {PATIENCE:?}");
        }
    }
    Ok(begun.elapsed())
}
