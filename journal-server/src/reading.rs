//! Reading a group's log for those who must not see its holes: Raft, and readers of the journal. A read
//! that meets damage waits for the repair beneath it.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::offload::Offload;
use crate::segment::{Error, Log, LogEntry};

/// So long a hole may stay before its readers are told, and the group stops.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Entries of `[from, to)`: at least one if there is one, then up to `max_bytes`.
pub async fn read(log: &Log, offload: Offload, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
    if let Some(entries) = log.read_cached(from, to, max_bytes) {
        return Ok(entries);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut holes = log.watch_holes();
    loop {
        holes.mark_unchanged();
        let reader = log.clone();
        match offload.run(move || Ok(reader.read_blocking(from, to, max_bytes))).await? {
            Err(Error::Damaged { hole }) => {
                let filled = async {
                    // A hole that was filled meanwhile has changed nothing since.
                    let still =
                        log.holes().iter().any(|open| (open.segment, open.offset) == (hole.segment, hole.offset));
                    !still || holes.changed().await.is_ok()
                };
                if !tokio::time::timeout_at(deadline, filled).await.unwrap_or(false) {
                    return Err(Error::Damaged { hole }.into());
                }
            }
            Err(error) => return Err(io::Error::other(error)),
            Ok(entries) => return Ok(entries),
        }
    }
}
