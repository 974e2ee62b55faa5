//! How long appends stand still when a leader is killed, and when it is moved on purpose, at 1,000
//! appends a second that are due whether or not earlier ones were answered.

use std::sync::Arc;
use std::time::Duration;

use journal_client::RemoteJournal;
use tokio::time::{Instant, sleep};

use super::{Comparison, Figure, Plan, Table, list, say, worst};
use crate::cluster::{Cluster, Options};
use crate::history::{History, Outcome};
use crate::traffic::{OpenLoop, read_all};

pub const NAMES: [&str; 3] = ["failover_gap", "transfer_gap", "transfer_failures"];

const RATE: u64 = 1_000;
/// Watched after a kill, and after a transfer.
const AFTER_KILL: Duration = Duration::from_secs(5);
const AFTER_TRANSFER: Duration = Duration::from_millis(1_500);

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    let dir = plan.fresh("failover")?;
    let cluster = Cluster::start(Options { dir: Some(dir.path().to_owned()), ..Options::default() }).await?;
    let journal = Arc::new(cluster.journal("figures").await?);

    say(format!("{} leaders killed at {RATE} appends a second", plan.kills));
    let mut gaps = Vec::new();
    for _ in 0..plan.kills {
        gaps.push(kill(&cluster, &journal).await?.as_secs_f64());
    }
    table.push(Figure {
        name: NAMES[0].into(),
        what: "leader killed: longest gap between answers, worst".into(),
        unit: "s",
        comparison: Comparison::Below,
        target: 3.0,
        value: Some(worst(&gaps)),
        note: list(&gaps, 2),
    });

    say(format!("{} planned transfers at {RATE} appends a second", plan.kills));
    let mut gaps = Vec::new();
    let mut failures = 0;
    for _ in 0..plan.kills {
        let (gap, failed) = transfer(&cluster, &journal).await?;
        gaps.push(gap.as_secs_f64() * 1000.0);
        failures += failed;
    }
    table.push(Figure {
        name: NAMES[1].into(),
        what: "leader moved on purpose: longest gap between answers, worst".into(),
        unit: "ms",
        comparison: Comparison::Below,
        target: 100.0,
        value: Some(worst(&gaps)),
        note: list(&gaps, 0),
    });
    table.push(Figure {
        name: NAMES[2].into(),
        what: "leader moved on purpose: rejected or unknown appends, all together".into(),
        unit: "",
        comparison: Comparison::AtMost,
        target: 0.0,
        value: Some(failures as f64),
        note: format!("{} transfers", plan.kills),
    });
    Ok(())
}

async fn kill(cluster: &Cluster, journal: &Arc<RemoteJournal>) -> anyhow::Result<Duration> {
    let leader = cluster.leader_of(journal.id()).await?;
    let traffic = OpenLoop::start(journal.clone(), RATE, 256);
    sleep(Duration::from_secs(1)).await;
    let killed = Instant::now();
    cluster.node(leader).kill9();
    sleep(AFTER_KILL).await;
    let history = traffic.stop().await;
    verify(journal, &history).await?;
    cluster.node(leader).start()?;
    cluster.wait_ready().await?;
    // It has caught up and votes again.
    sleep(Duration::from_secs(1)).await;
    Ok(history.longest_gap(killed, killed + AFTER_KILL))
}

async fn transfer(cluster: &Cluster, journal: &Arc<RemoteJournal>) -> anyhow::Result<(Duration, usize)> {
    let traffic = OpenLoop::start(journal.clone(), RATE, 256);
    sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    cluster.client()?.admin().transfer_leader(journal.id(), None).await?;
    sleep(AFTER_TRANSFER).await;
    let history = traffic.stop().await;
    verify(journal, &history).await?;
    let failed = history.appends.iter().filter(|append| !matches!(append.outcome, Outcome::Committed(_))).count();
    Ok((history.longest_gap(begun, begun + AFTER_TRANSFER), failed))
}

/// A quick answer that is not true is worth nothing.
async fn verify(journal: &RemoteJournal, history: &History) -> anyhow::Result<()> {
    use journal_client::Journal;
    let entries = read_all(journal).await?;
    if let Err(violations) = crate::check::check(history, &entries) {
        anyhow::bail!("promises were broken: {violations:?}");
    }
    // The next round is compared with its own entries only.
    let tail = journal.check_tail().await?.tail;
    journal.trim(tail).await?;
    Ok(())
}
