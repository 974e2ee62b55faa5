//! Tail readers: follow the journal from a node of their choice, for ever, and show the witness what
//! they are shown. They start again where they were, or where the journal begins now.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use journal_client::{RemoteJournal, TailError, TailFrom};
use proto::Position;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::trace::Trace;
use super::witness::Witness;

pub struct Reader {
    pub name: String,
    pub journal: Arc<RemoteJournal>,
    pub from: TailFrom,
    pub witness: Witness,
    pub trace: Trace,
}

impl Reader {
    pub async fn follow(self, stop: CancellationToken) -> Position {
        let mut at = Position(1);
        while !stop.is_cancelled() {
            let Some(Ok(stream)) = stop.run_until_cancelled(self.journal.tail_at(at, self.from.clone())).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            at = self.read(stream, at, &stop).await;
        }
        at
    }

    /// Reads until the stream ends. Where to go on.
    async fn read(
        &self,
        mut stream: journal_client::TailStream,
        mut at: Position,
        stop: &CancellationToken,
    ) -> Position {
        while let Some(Some(run)) = stop.run_until_cancelled(stream.next()).await {
            match run {
                Ok(run) if run.from != at => {
                    self.witness.broken(format!("{} expected {at}, and was shown {}", self.name, run.from));
                    return run.to;
                }
                Ok(run) => {
                    self.trace.number("shown", run.to.0);
                    self.witness.shown(&self.name, &run);
                    at = run.to;
                }
                Err(TailError::Gap { start }) => {
                    if start <= at {
                        self.witness.broken(format!("{}: a gap at {at} up to {start}", self.name));
                    }
                    self.trace.event(format_args!("{} goes on at {start}: what it wanted is trimmed", self.name));
                    return start;
                }
                Err(TailError::Broken { at, why }) => {
                    self.witness.broken(format!("{}: the tail is broken at {at}: {why}", self.name));
                    return at;
                }
                Err(TailError::Failed(_)) => break,
            }
        }
        at
    }
}
