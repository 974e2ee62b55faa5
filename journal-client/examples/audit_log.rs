//! An audit log: programs write down what they did, and anybody can read it, from anywhere, in one
//! order, and go on reading where he stopped.
//!
//! ```text
//! audit_log record 127.0.0.1:7400,127.0.0.1:7410 alice deleted the database
//! audit_log follow 127.0.0.1:7400,127.0.0.1:7410 reader.position
//! ```
//!
//! What is worth seeing here: every record has an id of its own, made before it is first sent. So an
//! unknown outcome is no dilemma. The record is sent again, and whoever reads an id twice knows
//! that it is one record.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use futures::StreamExt;
use journal_client::{
    AppendError, Cluster, Entry, Journal, RemoteJournal, Settings, TailError, TcpConnector, TrimPolicy,
};
use proto::Position;

/// Copies of a record lie close together: as far apart as its writer kept trying.
const IDS_REMEMBERED: usize = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["record", endpoints, ref words @ ..] if !words.is_empty() => {
            record(&open(endpoints).await?, &words.join(" ")).await
        }
        ["follow", endpoints, saved] => follow(&open(endpoints).await?, Path::new(saved)).await,
        _ => bail!("usage: audit_log record ENDPOINTS TEXT... | follow ENDPOINTS POSITION-FILE"),
    }
}

async fn open(endpoints: &str) -> anyhow::Result<RemoteJournal> {
    // Plaintext to this machine only; certificates go where `None` is.
    let connector = Arc::new(TcpConnector::new(None, false)?);
    let cluster = Cluster::new(endpoints.split(','), connector, Settings::default())?;
    Ok(cluster.journal_or_create(&"audit".parse()?, TrimPolicy::Free, 0).await?)
}

async fn record(journal: &RemoteJournal, text: &str) -> anyhow::Result<()> {
    let line = format!("{}\t{text}", fresh_id()?);
    for attempt in 1..=5 {
        match journal.append(Entry::new(line.clone())).await {
            Ok(position) => {
                println!("recorded at {position}");
                return Ok(());
            }
            // It may be there, or come to be. Its id makes sending it again harmless.
            Err(AppendError::Unknown(why)) => eprintln!("attempt {attempt}: unknown: {why}"),
            // It is not there. Whether that may change, the reason says.
            Err(AppendError::Rejected(refusal)) if refusal.reason.passes() => {
                eprintln!("attempt {attempt}: {refusal}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(AppendError::Rejected(refusal)) => return Err(refusal.into()),
        }
    }
    bail!("gave up: the record may or may not be in the log")
}

async fn follow(journal: &RemoteJournal, saved: &Path) -> anyhow::Result<()> {
    let mut from = match std::fs::read_to_string(saved) {
        Ok(text) => Position(text.trim().parse().context("the saved position is no number")?),
        Err(_) => journal.describe().await?.start,
    };
    let mut recent: VecDeque<String> = VecDeque::new();
    loop {
        let mut tail = journal.tail(from).await?;
        while let Some(run) = tail.next().await {
            let run = match run {
                Ok(run) => run,
                Err(TailError::Gap { start }) => {
                    println!("-- records below {start} were given up --");
                    from = start;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            for entry in &run.entries {
                let line = String::from_utf8_lossy(&entry.payload);
                let (id, text) = line.split_once('\t').unwrap_or(("", &line));
                if recent.iter().any(|seen| seen == id) {
                    continue;
                }
                println!("{:>10}  {text}", entry.position);
                recent.push_back(id.to_owned());
                if recent.len() > IDS_REMEMBERED {
                    recent.pop_front();
                }
            }
            // What was printed need not be printed again: the next run begins at `to`.
            save(saved, run.to)?;
        }
    }
}

/// The file holds the old position or the new one, never half of each.
fn save(path: &Path, position: Position) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, position.to_string())?;
    std::fs::rename(&beside, path).context("the position cannot be saved")
}

/// Two programs, or two records of one, never have the same.
fn fresh_id() -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(format!("{:x}-{:x}", std::process::id(), now.as_nanos()))
}
