//! What a cluster costs that nobody uses: the node that leads everything.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use journal_client::{Entry, Journal};
use proto::{JournalId, NodeId};
use tokio::time::{Instant, sleep};

use super::{Comparison, Figure, Plan, Table, say};
use crate::cluster::{Cluster, Options};
use crate::procfs;

pub const NAMES: [&str; 2] = ["idle_cpu", "idle_memory"];

const JOURNALS: usize = 8;
/// A little more than a ring holds.
const FILL_BYTES: usize = 20 << 20;
const ENTRY_BYTES: usize = 64 << 10;

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    let dir = plan.fresh("idle")?;
    let cluster = Cluster::start(Options { dir: Some(dir.path().to_owned()), ..Options::default() }).await?;
    say(format!("{JOURNALS} journals, their rings filled once, then nobody for {} s", plan.idle_s));
    let mut ids = Vec::new();
    for number in 0..JOURNALS {
        let journal = cluster.journal(&format!("idle-{number}")).await?;
        let stream = journal.appender().await?;
        let payload = Bytes::from(vec![0x5a; ENTRY_BYTES]);
        for _ in 0..FILL_BYTES / ENTRY_BYTES / 16 {
            let entries = (0..16).map(|_| Entry::new(payload.clone())).collect();
            for ticket in stream.append(entries).await {
                ticket.await.context("cannot fill the ring")?;
            }
        }
        ids.push(journal.id());
    }
    ids.push(JournalId::SYSTEM);
    let leader = gather(&cluster, &ids).await?;
    let pid = cluster.node(leader).pid().context("the leader runs")?;
    // Clients are gone, and what they caused has come to rest.
    sleep(Duration::from_secs(5)).await;

    let cpu = || procfs::cpu_seconds(pid).context("the leader runs");
    let (before, begun) = (cpu()?, Instant::now());
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(plan.idle_s) {
        sleep(Duration::from_secs(1)).await;
        most = most.max(procfs::resident_bytes(pid).context("the leader runs")?);
    }
    let share = (cpu()? - before) / begun.elapsed().as_secs_f64() * 100.0;
    let what_for = format!("{JOURNALS} journals and the catalogue, {} s", plan.idle_s);
    table.push(Figure {
        name: NAMES[0].into(),
        what: "idle, the node that leads everything: share of one core".into(),
        unit: "%",
        comparison: Comparison::Below,
        target: 1.0,
        value: Some(share),
        note: what_for.clone(),
    });
    table.push(Figure {
        name: NAMES[1].into(),
        what: "idle, the node that leads everything: most resident memory".into(),
        unit: "MB",
        comparison: Comparison::Below,
        target: 100.0,
        value: Some(most as f64 / 1e6),
        note: what_for,
    });
    Ok(())
}

/// Moves all leaderships to one node, and answers which.
async fn gather(cluster: &Cluster, ids: &[JournalId]) -> anyhow::Result<usize> {
    let target = cluster.leader_of(JournalId::SYSTEM).await?;
    let to = NodeId(cluster.status(target).await?.node_id);
    let admin = cluster.client()?.admin();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut elsewhere = 0;
        for id in ids {
            let leader = cluster.leader_of(*id).await?;
            if leader != target {
                elsewhere += 1;
                let address = cluster.node(leader).endpoint().to_string();
                admin.transfer_all_leaders(&address, Some(to)).await?;
                sleep(Duration::from_millis(300)).await;
            }
        }
        if elsewhere == 0 {
            return Ok(target);
        }
        anyhow::ensure!(Instant::now() < deadline, "the leaderships do not come together on one node");
    }
}
