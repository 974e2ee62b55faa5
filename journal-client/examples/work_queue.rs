//! A replicated queue: producers put jobs in, one worker takes them out in order, and what is done is
//! trimmed away.
//!
//! ```text
//! work_queue work 127.0.0.1:7400 worker.state
//! work_queue put  127.0.0.1:7400 10
//! ```
//!
//! The worker's state is one position and the jobs that it has done of late, saved together after
//! each run. A worker that dies starts again from what it saved: a job may be done twice by a worker
//! that died between doing and saving, as with every queue, but none is left out, and a job that was
//! put in twice (see `put`) is done once.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use futures::StreamExt;
use journal_client::{AppendError, Cluster, Entry, Journal, RemoteJournal, Settings, TcpConnector, TrimPolicy};
use proto::Position;

/// A job that was put in twice comes twice within this many.
const JOBS_REMEMBERED: usize = 1000;
/// Trimming is an entry too: not worth one for every job.
const TRIM_EVERY: u64 = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["put", endpoints, count] => put(&open(endpoints).await?, count.parse()?).await,
        ["work", endpoints, state] => work(&open(endpoints).await?, Path::new(state)).await,
        _ => bail!("usage: work_queue put ENDPOINTS COUNT | work ENDPOINTS STATE-FILE"),
    }
}

async fn open(endpoints: &str) -> anyhow::Result<RemoteJournal> {
    let connector = Arc::new(TcpConnector::new(None, false)?);
    let cluster = Cluster::new(endpoints.split(','), connector, Settings::default())?;
    // `Free`: whoever may append may trim.
    Ok(cluster.journal_or_create(&"jobs".parse()?, TrimPolicy::Free, 0).await?)
}

/// Puts jobs in, in order: over an appender of our own, many under way at once.
///
/// An appender ends at the first job that did not certainly get in. What then has no position is put
/// in again, in order, over another one. A job whose outcome was unknown may so be in the queue
/// twice; it has the same name both times, and the worker does it once.
async fn put(journal: &RemoteJournal, count: usize) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut jobs: VecDeque<String> = (0..count).map(|n| format!("job-{now:x}-{n}")).collect();
    for _ in 0..10 {
        let appender = journal.appender().await?;
        let entries = jobs.iter().map(|job| Entry::new(job.clone())).collect();
        for ticket in appender.append(entries).await {
            match ticket.await {
                Ok(position) => {
                    let job = jobs.pop_front().context("more answers than jobs")?;
                    println!("{job} at {position}");
                }
                Err(AppendError::Rejected(why)) if !why.reason.passes() => return Err(why.into()),
                // This one and all behind it are put in again.
                Err(error) => {
                    eprintln!("{error}");
                    break;
                }
            }
        }
        if jobs.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bail!("{} jobs may or may not be in the queue", jobs.len())
}

async fn work(journal: &RemoteJournal, file: &Path) -> anyhow::Result<()> {
    let mut state = match std::fs::read_to_string(file) {
        Ok(text) => State::parse(&text)?,
        Err(_) => State { next: journal.describe().await?.start, done: VecDeque::new() },
    };
    let mut trimmed = state.next;
    // Nobody else trims this queue, so a gap here is an error like any other.
    let mut tail = journal.tail(state.next).await?;
    while let Some(run) = tail.next().await {
        let run = run?;
        for entry in &run.entries {
            let job = String::from_utf8_lossy(&entry.payload).into_owned();
            if state.done.contains(&job) {
                continue;
            }
            println!("doing {job}");
            state.done.push_back(job);
        }
        let forget = state.done.len().saturating_sub(JOBS_REMEMBERED);
        state.done.drain(..forget);
        state.next = run.to;
        state.save(file)?;
        // Only what is saved as done may go.
        if state.next.0 - trimmed.0 >= TRIM_EVERY {
            trimmed = journal.trim(state.next).await?;
        }
    }
    Ok(())
}

/// What the worker has done: everything below `next`, of which these were the last.
struct State {
    next: Position,
    done: VecDeque<String>,
}

impl State {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let next = lines.next().context("the state is empty")?.parse()?;
        Ok(State { next: Position(next), done: lines.map(str::to_owned).collect() })
    }

    /// The file holds the old state or the new one, never half of each.
    fn save(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = format!("{}\n", self.next);
        for job in &self.done {
            text.push_str(job);
            text.push('\n');
        }
        let beside = file.with_extension("new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, file).context("the state cannot be saved")
    }
}
