//! Who drives append streams: the appender that many callers share, and the one that is a caller's
//! own. Both end their task when their handle is dropped and all that was appended is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::time::Instant;

use super::leader::{Failure, Leader};
use super::nodes::Pause;
use super::queue::{End, Kind, Next, Queue, Wanted};
use super::stream::{self, AppendStream};
use crate::error::{AppendError, Error, Reason, Refusal};
use crate::journal::{Appender, Entry, Ticket};
use proto::Position;

/// Bounds of one appender, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub message: usize,
    pub unanswered: usize,
}

// ---- many callers --------------------------------------------------------------------------

/// One append stream for many callers. It is opened when the first entry comes, and opened again at
/// the next leader for whatever waits.
pub(super) struct SharedAppender {
    queue: Arc<Queue>,
}

impl SharedAppender {
    /// Must be called within a runtime.
    pub fn start(leader: Arc<Leader>, bounds: Bounds) -> Self {
        let queue = Queue::new(Kind::Shared, leader.id, bounds.message, bounds.unanswered);
        tokio::spawn(drive_shared(Driven(queue.clone()), leader));
        SharedAppender { queue }
    }

    pub async fn append(&self, entry: Entry) -> Result<Position, AppendError> {
        self.queue.push(entry).await.await
    }
}

impl Drop for SharedAppender {
    fn drop(&mut self) {
        self.queue.close();
    }
}

async fn drive_shared(driven: Driven, leader: Arc<Leader>) {
    let queue = &driven.0;
    let mut pause = Pause::new();
    while queue.wanted().await == Wanted::Stream {
        match open_while_patience_lasts(queue, &leader).await {
            Ok(stream) => {
                let opened = Instant::now();
                stream.run().await;
                // Streams that open and end at once are not to be had in a tight loop.
                if opened.elapsed() < Pause::LONGEST {
                    tokio::time::sleep(pause.take()).await;
                } else {
                    pause.reset();
                }
            }
            Err(refusal) => queue.refuse_waiting(&refusal),
        }
    }
}

/// Tries leader after leader. Entries whose patience ends meanwhile are answered with the last
/// refusal; a refusal that will not pass is returned, and is for everybody who waits.
async fn open_while_patience_lasts(queue: &Arc<Queue>, leader: &Arc<Leader>) -> Result<AppendStream, Refusal> {
    let mut pause = Pause::new();
    let mut last = Refusal::new(Reason::NotLeader, "no node has answered yet");
    loop {
        let mut wait = std::time::Duration::ZERO;
        let attempt = async {
            let attempt = stream::open(queue, leader).await;
            if attempt.as_ref().is_err_and(|failure| !failure.try_at_once && !failure.is_final()) {
                wait = pause.take();
            }
            attempt
        };
        let attempt = expiring(queue, leader, &last, attempt).await;
        match attempt {
            Ok(stream) => return Ok(stream),
            Err(failure) if failure.is_final() => return Err(failure.into_refusal()),
            Err(failure) => last = failure.into_refusal(),
        }
        leader.metrics.retries.increment(1);
        expiring(queue, leader, &last, tokio::time::sleep(wait)).await;
    }
}

/// Does `work`, and meanwhile answers the entries whose patience ends.
async fn expiring<T>(queue: &Queue, leader: &Leader, why: &Refusal, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        queue.expire(leader.patience, why);
        let deadline = queue.oldest().map(|since| since + leader.patience);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + leader.patience);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// A queue with a driver. However that ends (its runtime may be shut down beneath it, even before it
/// began), nobody waits for it in vain.
struct Driven(Arc<Queue>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.finish(End::Lost("the appender's runtime is gone".into()));
        self.0.end(Refusal::new(Reason::StreamEnded, "the appender's runtime is gone"));
    }
}

// ---- one caller ----------------------------------------------------------------------------

/// An append stream of one caller's own.
pub(super) struct OwnAppender {
    queue: Arc<Queue>,
    term: Arc<AtomicU64>,
}

impl OwnAppender {
    /// Opens the stream. Waits for a leader as long as patience allows.
    pub async fn open(leader: Arc<Leader>, bounds: Bounds) -> Result<Self, Error> {
        let queue = Queue::new(Kind::Own, leader.id, bounds.message, bounds.unanswered);
        let stream = open_within_patience(&queue, &leader).await.map_err(|failure| failure.error)?;
        let term = Arc::new(AtomicU64::new(stream.term()));
        tokio::spawn(drive_own(Driven(queue.clone()), leader, stream, term.clone()));
        Ok(OwnAppender { queue, term })
    }
}

#[async_trait]
impl Appender for OwnAppender {
    async fn append(&self, entries: Vec<Entry>) -> Vec<Ticket> {
        self.queue.push_all(entries).await
    }

    fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }
}

impl Drop for OwnAppender {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Goes from leader to leader for as long as every entry was committed, or rejected unseen by a
/// leader that moves away: then order is kept. Anything else is the end of the appender.
async fn drive_own(driven: Driven, leader: Arc<Leader>, first: AppendStream, term: Arc<AtomicU64>) {
    let queue = &driven.0;
    let mut stream = first;
    while stream.run().await == Next::Another && queue.wanted().await == Wanted::Stream {
        match open_within_patience(queue, &leader).await {
            Ok(next) => {
                term.store(next.term(), Ordering::Relaxed);
                stream = next;
            }
            Err(failure) => return queue.end(failure.into_refusal()),
        }
    }
}

async fn open_within_patience(queue: &Arc<Queue>, leader: &Arc<Leader>) -> Result<AppendStream, Failure> {
    let deadline = Instant::now() + leader.patience;
    let mut pause = Pause::new();
    loop {
        let failure = match stream::open(queue, leader).await {
            Ok(stream) => return Ok(stream),
            Err(failure) => failure,
        };
        let wait = if failure.try_at_once { Default::default() } else { pause.take() };
        if failure.is_final() || Instant::now() + wait >= deadline {
            return Err(failure);
        }
        leader.metrics.retries.increment(1);
        tokio::time::sleep(wait).await;
    }
}
