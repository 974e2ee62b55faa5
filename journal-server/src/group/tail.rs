//! Reading a journal from a position on, then live. Any node serves; runs leave nothing out.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Group;
use crate::marks::Mark;
use crate::segment::{Kind, LogEntry};

/// One piece of the journal: every position of `[from, to)` is among the entries or holds none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub from: u64,
    pub to: u64,
    /// Position, checksum, payload.
    pub entries: Vec<(u64, u32, Bytes)>,
    pub watermark: u64,
    pub term: u64,
}

/// Why a tail ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailEnd {
    /// What it asks for was trimmed.
    Gap {
        start: u64,
    },
    /// This node was given a snapshot and does not hold what the journal still has.
    Behind {
        holds_from: u64,
    },
    /// This node cannot read its own log.
    Failed(String),
    Stopped,
}

pub struct TailCursor {
    group: Arc<Group>,
    marks: watch::Receiver<Mark>,
    next: u64,
}

impl Group {
    pub fn tail(self: &Arc<Self>, from: u64) -> TailCursor {
        // Position 0 never holds an entry.
        TailCursor { group: self.clone(), marks: self.marks.watch(), next: from.max(1) }
    }
}

impl TailCursor {
    /// The next run, as soon as there is one.
    pub async fn next(&mut self) -> Result<Run, TailEnd> {
        loop {
            let mark = *self.marks.borrow_and_update();
            let holds_from = self.group.replica.log().purged().map_or(1, |purged| purged.position + 1);
            if self.next < mark.start {
                return Err(TailEnd::Gap { start: mark.start });
            }
            if self.next < holds_from {
                return Err(TailEnd::Behind { holds_from });
            }
            if self.next < mark.tail {
                match self.read(mark).await {
                    Ok(run) => return Ok(run),
                    // Trimmed between the look at the marks and the read: look again.
                    Err(_) if self.was_trimmed() => continue,
                    Err(error) => return Err(TailEnd::Failed(error.to_string())),
                }
            }
            tokio::select! {
                biased;
                () = self.group.stop.cancelled() => return Err(TailEnd::Stopped),
                changed = self.marks.changed() => if changed.is_err() { return Err(TailEnd::Stopped) },
            }
        }
    }

    fn was_trimmed(&self) -> bool {
        let log = self.group.replica.log();
        let purged = log.purged().map_or(0, |purged| purged.position);
        self.next <= purged || self.next < self.marks.borrow().start
    }

    async fn read(&mut self, mark: Mark) -> std::io::Result<Run> {
        let (from, max_bytes) = (self.next, self.group.shared.limits.tail_run_bytes);
        let log = self.group.replica.log();
        let offload = self.group.shared.offload();
        let read = crate::reading::read(log, offload, from, mark.tail, max_bytes).await?;
        let Some(last) = read.last() else {
            return Err(std::io::Error::other(format!("nothing can be read at {from}")));
        };
        let to = last.id.position + 1;
        let is_entry = |entry: &LogEntry| matches!(entry.kind, Kind::Entry | Kind::Urgent);
        let entries = read.into_iter().filter(is_entry).map(|e| (e.id.position, e.crc, e.body)).collect();
        self.next = to;
        Ok(Run { from, to, entries, watermark: mark.tail, term: mark.tail_term })
    }
}
