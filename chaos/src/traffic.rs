//! Appenders that work until they are told to stop, and write down what they were told.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use journal_client::{AppendError, Entry, Journal, TailEntry};
use proto::Position;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::history::{Append, History, Mark, Outcome, TailCheck};

/// How much of it.
#[derive(Debug, Clone)]
pub struct Load {
    /// Each waits for its answer, then rests.
    pub appenders: u32,
    pub rest: Duration,
    /// Each keeps a stream of its own, on which so many entries are under way at once.
    pub streamers: u32,
    pub under_way: usize,
    pub entry_bytes: usize,
    /// One reads the linearizable tail, with the same rest.
    pub tail_checks: bool,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            appenders: 8,
            rest: Duration::from_millis(2),
            streamers: 2,
            under_way: 8,
            entry_bytes: 256,
            tail_checks: true,
        }
    }
}

/// Appenders at work.
pub struct Traffic {
    stop: CancellationToken,
    workers: JoinSet<History>,
}

impl Traffic {
    /// Sets them to work. Marks begin with `first`, so that a later traffic on the same journal can
    /// have others.
    pub fn start(journal: Arc<dyn Journal>, load: Load, first: u32) -> Traffic {
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for appender in first..first + load.appenders {
            workers.spawn(append(journal.clone(), load.clone(), appender, stop.clone()));
        }
        for appender in first + load.appenders..first + load.appenders + load.streamers {
            workers.spawn(stream(journal.clone(), load.clone(), appender, stop.clone()));
        }
        if load.tail_checks {
            workers.spawn(check_tails(journal.clone(), load.rest.max(Duration::from_millis(5)), stop.clone()));
        }
        Traffic { stop, workers }
    }

    /// Lets every appender finish what it has under way, and takes what they wrote down.
    pub async fn stop(mut self) -> History {
        self.stop.cancel();
        let mut history = History::default();
        while let Some(worker) = self.workers.join_next().await {
            let one = worker.expect("workers do not panic, and nobody aborts them");
            history.appends.extend(one.appends);
            history.tail_checks.extend(one.tail_checks);
        }
        history
    }
}

/// Entries that are due at fixed times, whether or not earlier ones were answered.
pub struct OpenLoop {
    stop: CancellationToken,
    pacer: tokio::task::JoinHandle<History>,
}

impl OpenLoop {
    /// `rate` entries a second, each as an appender of its own, called when it is due.
    pub fn start(journal: Arc<dyn Journal>, rate: u64, entry_bytes: usize) -> OpenLoop {
        let stop = CancellationToken::new();
        let pacer = tokio::spawn(pace(journal, rate, entry_bytes, stop.clone()));
        OpenLoop { stop, pacer }
    }

    /// Waits for the answers that are still open.
    pub async fn stop(self) -> History {
        self.stop.cancel();
        self.pacer.await.expect("the pacer does not panic, and nobody aborts it")
    }
}

async fn pace(journal: Arc<dyn Journal>, rate: u64, entry_bytes: usize, stop: CancellationToken) -> History {
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let begun = Instant::now();
    let mut under_way = JoinSet::new();
    let mut history = History::default();
    let mut number = 0;
    while !stop.is_cancelled() {
        ticks.tick().await;
        while let Some(done) = under_way.try_join_next() {
            history.appends.extend(done);
        }
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while number < due {
            // Everyone is somebody else: calls that are under way together have no order.
            let mark = Mark { appender: number as u32, number: 0 };
            number += 1;
            let journal = journal.clone();
            under_way.spawn(async move {
                let called = Instant::now();
                let outcome = outcome_of(journal.append(Entry::new(mark.payload(entry_bytes))).await);
                Append { mark, called, answered: Instant::now(), outcome }
            });
        }
    }
    while let Some(done) = under_way.join_next().await {
        history.appends.extend(done);
    }
    history
}

/// Everything that a journal holds now, from its start to its linearizable tail.
pub async fn read_all(journal: &dyn Journal) -> anyhow::Result<Vec<(Position, Bytes)>> {
    let bounds = journal.check_tail().await.context("cannot learn where the journal ends")?;
    read_to(journal.tail(bounds.start).await?, bounds.tail).await
}

/// Everything that a tail stream brings below `tail`.
pub async fn read_to(mut stream: journal_client::TailStream, tail: Position) -> anyhow::Result<Vec<(Position, Bytes)>> {
    let mut entries = Vec::new();
    loop {
        let run = timeout(Duration::from_secs(20), stream.next()).await;
        let run = run.context("the tail stream stands still")?.context("the tail stream ended")??;
        let below = |entry: &TailEntry| entry.position < tail;
        entries.extend(run.entries.into_iter().filter(below).map(|entry| (entry.position, entry.payload)));
        if run.to >= tail {
            return Ok(entries);
        }
    }
}

async fn append(journal: Arc<dyn Journal>, load: Load, appender: u32, stop: CancellationToken) -> History {
    let mut history = History::default();
    let mut number = 0;
    while !stop.is_cancelled() {
        let mark = Mark { appender, number };
        number += 1;
        let called = Instant::now();
        let outcome = outcome_of(journal.append(Entry::new(mark.payload(load.entry_bytes))).await);
        history.appends.push(Append { mark, called, answered: Instant::now(), outcome });
        sleep(load.rest).await;
    }
    history
}

/// Keeps `under_way` entries on a stream. A stream that ended is followed by another; what it left
/// open is written down as it was answered, and nothing is sent twice.
async fn stream(journal: Arc<dyn Journal>, load: Load, appender: u32, stop: CancellationToken) -> History {
    let mut history = History::default();
    let mut number = 0;
    'streams: while !stop.is_cancelled() {
        let Ok(stream) = journal.appender().await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.is_cancelled() {
            let called = Instant::now();
            let marks: Vec<Mark> =
                (number..number + load.under_way as u64).map(|number| Mark { appender, number }).collect();
            number += load.under_way as u64;
            let entries = marks.iter().map(|mark| Entry::new(mark.payload(load.entry_bytes))).collect();
            let tickets = stream.append(entries).await;
            let answered = futures::future::join_all(
                tickets.into_iter().map(|ticket| ticket.map(|answer| (answer, Instant::now()))),
            );
            let mut over = false;
            for (mark, (answer, answered)) in marks.into_iter().zip(answered.await) {
                over |= answer.is_err();
                history.appends.push(Append { mark, called, answered, outcome: outcome_of(answer) });
            }
            if over {
                sleep(Duration::from_millis(10)).await;
                continue 'streams;
            }
            sleep(load.rest).await;
        }
    }
    history
}

async fn check_tails(journal: Arc<dyn Journal>, rest: Duration, stop: CancellationToken) -> History {
    let mut history = History::default();
    while !stop.is_cancelled() {
        let called = Instant::now();
        if let Ok(tail) = journal.check_tail().await {
            history.tail_checks.push(TailCheck { called, answered: Instant::now(), tail: tail.tail });
        }
        sleep(rest).await;
    }
    history
}

/// What an appender writes down of an answer.
pub fn outcome_of(answer: Result<Position, AppendError>) -> Outcome {
    match answer {
        Ok(position) => Outcome::Committed(position),
        Err(AppendError::Rejected(refusal)) => Outcome::Rejected(refusal.message),
        Err(AppendError::Unknown(why)) => Outcome::Unknown(why),
    }
}
