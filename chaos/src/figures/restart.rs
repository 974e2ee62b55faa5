//! How long a start takes with a large journal of which nothing is in memory.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use journal_client::{Entry, Journal, RemoteJournal, Settings};
use tokio::time::{Instant, sleep, timeout};

use super::{Comparison, Figure, Plan, Table, list, say, worst};
use crate::cluster::{Cluster, Options};

pub const NAMES: [&str; 2] = ["restart_one", "restart_all"];

const ENTRY_BYTES: usize = 16 << 10;
const UNDER_WAY: usize = 64;
const ROUNDS: usize = 3;

pub async fn measure(plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    let dir = plan.fresh("restart")?;
    let cluster = Cluster::start(Options { dir: Some(dir.path().to_owned()), ..Options::default() }).await?;
    let journal = cluster.journal("figures").await?;
    say(format!("filling a journal with {} MiB", plan.restart_bytes >> 20));
    fill(&journal, plan.restart_bytes).await?;

    say("one node of three started again, nothing of it in memory");
    let mut one = Vec::new();
    for number in 0..ROUNDS {
        let node = cluster.node(number % 3);
        node.kill9();
        forget(&node.dir())?;
        let begun = Instant::now();
        node.start()?;
        while node.ready().await.is_err() {
            sleep(Duration::from_millis(2)).await;
        }
        one.push(begun.elapsed().as_secs_f64());
        sleep(Duration::from_secs(1)).await;
    }
    table.push(Figure {
        name: NAMES[0].into(),
        what: "1 GB of journal, page cache dropped: one node from process start to ready, worst".into(),
        unit: "s",
        comparison: Comparison::Below,
        target: 2.0,
        value: Some(worst(&one)),
        note: list(&one, 2),
    });

    say("all three nodes started again, nothing of them in memory");
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        cluster.nodes().iter().for_each(|node| node.kill9());
        for node in cluster.nodes() {
            forget(&node.dir())?;
        }
        let begun = Instant::now();
        for node in cluster.nodes() {
            node.start()?;
        }
        first_append(&cluster, &journal).await?;
        all.push(begun.elapsed().as_secs_f64());
        cluster.wait_ready().await?;
    }
    table.push(Figure {
        name: NAMES[1].into(),
        what: "the same, all nodes at once, to the first acknowledged append, worst".into(),
        unit: "s",
        comparison: Comparison::Below,
        target: 4.0,
        value: Some(worst(&all)),
        note: list(&all, 2),
    });
    Ok(())
}

async fn fill(journal: &RemoteJournal, bytes: u64) -> anyhow::Result<()> {
    let stream = journal.appender().await?;
    let payload = bytes::Bytes::from(vec![0x5a; ENTRY_BYTES]);
    for _ in 0..bytes / (ENTRY_BYTES * UNDER_WAY) as u64 {
        let entries = (0..UNDER_WAY).map(|_| Entry::new(payload.clone())).collect();
        for ticket in stream.append(entries).await {
            ticket.await.context("cannot fill the journal")?;
        }
    }
    Ok(())
}

/// A client that has never been refused, so that no pause of its own is measured.
async fn first_append(cluster: &Cluster, journal: &RemoteJournal) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let settings = Settings { patience: Duration::from_secs(60), ..Settings::default() };
    let client = cluster.client_with(settings)?;
    loop {
        let append = client.journal_with_id(journal.id());
        match timeout(Duration::from_secs(60), append.append(Entry::new("first"))).await {
            Ok(Ok(_)) => return Ok(()),
            failed if Instant::now() > deadline => anyhow::bail!("no append got in: {failed:?}"),
            _ => sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Drops what the kernel remembers of the files below `dir`.
fn forget(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
        } else if path.is_file() {
            let file = File::open(&path)?;
            // Only what is on the disk can be forgotten.
            file.sync_all()?;
            sys::forget(&file);
        }
    }
    Ok(())
}

/// The call that the standard library does not have.
#[allow(unsafe_code)]
mod sys {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    pub fn forget(file: &File) {
        // SAFETY: advice about a descriptor that is open; no memory is involved.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}
