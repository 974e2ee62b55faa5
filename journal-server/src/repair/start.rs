//! Repair before a group runs: a log that was found damaged when it was opened is filled from peers, or
//! cut where that is safe, however long it takes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::ask::{self, Said};
use super::cut::{Case, Ruling};
use super::{Holder, Patient, Tell};
use crate::group::Shared;
use crate::raft;
use crate::segment::{Damaged, Error, Hole, LogEntry, Opened};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Returns the log once nothing is missing any more, opened anew. An error is the disk's, or `give_up`.
pub async fn before_start(
    shared: &Arc<Shared>,
    group: u64,
    damaged: Damaged,
    give_up: &CancellationToken,
    tell: &Tell,
) -> anyhow::Result<Opened> {
    let patient: Patient = Arc::new(Mutex::new(Some(damaged)));
    let _entered = shared.repairs.enter(group, Holder::Waiting(patient.clone()));
    let mut pause = PAUSE_MIN;
    loop {
        let treated = give_up.run_until_cancelled(round(shared, group, &patient)).await;
        let Some(treated) = treated else { anyhow::bail!("the node stops, or the journal is gone") };
        match treated? {
            Treated::Whole => break,
            Treated::Waits(why) => {
                tracing::warn!(group, "waiting to be repaired: {why}");
                tell(format!("damaged, and waiting for peers: {why}"));
            }
        }
        let slept = give_up.run_until_cancelled(tokio::time::sleep(pause)).await;
        anyhow::ensure!(slept.is_some(), "the node stops, or the journal is gone");
        pause = (pause * 2).min(PAUSE_MAX);
    }
    let damaged = patient.lock().take();
    let damaged = damaged.expect("only this function takes it, and once");
    let reopen = move || damaged.reopen().map_err(io::Error::other);
    Ok(shared.offload().run(reopen).await?)
}

enum Treated {
    Whole,
    /// For what, in words.
    Waits(String),
}

/// Asks everybody once for everything that is missing.
async fn round(shared: &Arc<Shared>, group: u64, patient: &Patient) -> io::Result<Treated> {
    let (holes, state_lost) = with(patient, |damaged| (damaged.holes().to_vec(), damaged.is_state_lost()));
    if state_lost {
        let why = "the replicated state at the trim cut is lost, which entries cannot make again: this node must be \
                   replaced (journal members replace)";
        return Ok(Treated::Waits(why.to_owned()));
    }
    let sources = ask::sources(shared, group);
    let mut waits = Vec::new();
    let mut lowest: Option<(Hole, Vec<Said>)> = None;
    for hole in holes {
        let mut heard = Vec::new();
        let mut filled = false;
        for source in &sources {
            let offer = |entries: Vec<LogEntry>| {
                let patient = patient.clone();
                async move { fill(shared, patient, entries).await }
            };
            heard.push(ask::ask(shared, group, source, &hole, offer).await);
            filled = !with(patient, |damaged| is_open(damaged, &hole));
            if filled {
                break;
            }
        }
        if let Some(why) = with(patient, |damaged| damaged.failed().map(str::to_owned)) {
            return Err(io::Error::other(why));
        }
        if !filled {
            waits.push(ask::describe_all(&heard, &hole));
            lowest.get_or_insert((hole, heard));
        }
    }
    let Some((hole, heard)) = lowest else { return Ok(Treated::Whole) };
    if cut(shared, group, patient, hole, &heard).await? {
        return Ok(Treated::Whole);
    }
    Ok(Treated::Waits(waits.join("; ")))
}

async fn fill(shared: &Arc<Shared>, patient: Patient, entries: Vec<LogEntry>) -> Result<(), String> {
    let fill = move || match patient.lock().as_mut().expect("taken only after the last round").fill(&entries) {
        Ok(_) => Ok(None),
        // Somebody else may have the right ones.
        Err(Error::Refused { why }) => Ok(Some(why)),
        Err(error) => Err(io::Error::other(error)),
    };
    match shared.offload().run(fill).await {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(format!("offers something else: {why}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Gives up the lowest hole and all behind it, if it cannot have been committed.
async fn cut(shared: &Arc<Shared>, group: u64, patient: &Patient, hole: Hole, heard: &[Said]) -> io::Result<bool> {
    let (heard, patient) = (heard.to_vec(), patient.clone());
    let cut = move || {
        let mut damaged = patient.lock();
        let damaged = damaged.as_mut().expect("taken only after the last round");
        // Without voters nothing is ruled: better to wait than to fail.
        let voters = raft::voters_below(damaged, hole.first).unwrap_or_else(|error| {
            tracing::warn!(group, "the voters below {} are not known: {error}", hole.first);
            Vec::new()
        });
        let Ruling::Cut { vote } = Case::new(&hole, damaged.vote(), voters).rule(&heard) else {
            return Ok(false);
        };
        if damaged.vote().is_none_or(|own| own.term < vote.term) {
            damaged.store_vote(vote).map_err(io::Error::other)?;
        }
        match damaged.cut(hole.first) {
            Ok(()) => {
                tracing::warn!(group, from = hole.first, "cut what others never had: it was never committed");
                Ok(true)
            }
            Err(Error::Refused { why }) => {
                tracing::warn!(group, "the damaged end is not cut: {why}");
                Ok(false)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    };
    shared.offload().run(cut).await
}

fn is_open(damaged: &Damaged, hole: &Hole) -> bool {
    damaged.holes().iter().any(|open| (open.segment, open.offset) == (hole.segment, hole.offset))
}

fn with<T>(patient: &Patient, look: impl FnOnce(&Damaged) -> T) -> T {
    look(patient.lock().as_ref().expect("taken only after the last round"))
}
