//! How long after its answer an entry is seen by somebody who reads the tail at another node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use journal_client::{Cluster, Journal};
use parking_lot::Mutex;
use proto::{JournalId, Position};

use super::report::{Latencies, Latency};

/// Pairs answers with sights, in whatever order they come.
#[derive(Default)]
pub struct Lag(Mutex<Pairs>);

#[derive(Default)]
struct Pairs {
    /// One of the two, and whether it is the answer, until the other comes.
    half: HashMap<Position, (Instant, bool)>,
    latencies: Option<Latencies>,
}

impl Lag {
    pub fn answered(&self, position: Position, at: Instant) {
        self.pair(position, at, true);
    }

    pub fn seen(&self, position: Position, at: Instant) {
        self.pair(position, at, false);
    }

    /// What was measured since the last call, in a window of that length.
    pub fn take(&self, window: Duration) -> Latency {
        let mut pairs = self.0.lock();
        pairs.half.clear();
        pairs.latencies.take().unwrap_or_else(Latencies::new).over(window)
    }

    /// Seen before it was answered counts as no lag at all.
    fn pair(&self, position: Position, at: Instant, answer: bool) {
        let mut pairs = self.0.lock();
        let Some((other, other_is_answer)) = pairs.half.remove(&position) else {
            pairs.half.insert(position, (at, answer));
            return;
        };
        if other_is_answer == answer {
            return;
        }
        let (answered, seen) = if answer { (at, other) } else { (other, at) };
        let lag = seen.saturating_duration_since(answered);
        pairs.latencies.get_or_insert_with(Latencies::new).record(lag);
    }
}

/// A reader with a thread and connections of its own. Dropping it ends it.
pub struct Reader {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Reader {
    /// Reads the journal from its present tail on; returns when it does.
    pub fn start(
        connect: impl FnOnce() -> anyhow::Result<Cluster> + Send + 'static,
        id: JournalId,
        lag: Arc<Lag>,
    ) -> anyhow::Result<Reader> {
        let over = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let ends = over.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let journal = connect()?.journal_with_id(id);
                let from = journal.check_tail().await?.tail;
                let mut tail = journal.tail(from).await.context("cannot read the tail")?;
                let _ = ready.send(());
                while !ends.load(Ordering::Relaxed) {
                    let Ok(run) = tokio::time::timeout(Duration::from_millis(100), tail.next()).await else { continue };
                    let now = Instant::now();
                    let run = run.context("the tail stream ended")??;
                    run.entries.iter().for_each(|entry| lag.seen(entry.position, now));
                }
                Ok(())
            })
        });
        // If it ends before it is ready, it says why in the end.
        let _ = is_ready.recv();
        Ok(Reader { over, thread: Some(thread) })
    }

    pub fn stop(mut self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(done)) => done.context("the tail reader failed"),
            Some(Err(_)) => anyhow::bail!("the tail reader panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_from_the_answer_and_is_never_negative() {
        let lag = Lag::default();
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        lag.answered(Position(1), at(10));
        lag.seen(Position(1), at(13));
        lag.seen(Position(2), at(20));
        lag.answered(Position(2), at(25));
        lag.answered(Position(3), at(30));
        let figures = lag.take(Duration::from_secs(1));
        assert_eq!(figures.count, 2, "one was never seen");
        assert!((2_990.0..3_010.0).contains(&figures.max_us), "{figures:?}");
        assert_eq!(figures.p50_us, 0.0);
    }
}
