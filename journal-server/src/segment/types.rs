//! The vocabulary of the segment engine: log ids, votes, entries, versions, holes, errors. Plain
//! values without behaviour on disk; `format.rs` alone knows how they look as bytes.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Identity of a log entry. Two logs that hold the same id hold the same entry there, and the same
/// log below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    pub term: u64,
    pub position: u64,
}

impl LogId {
    pub const fn new(term: u64, position: u64) -> Self {
        LogId { term, position }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.position, self.term)
    }
}

/// The position that follows an optional id: the log of `None` begins at 0.
pub(crate) fn next_position(last: Option<LogId>) -> u64 {
    last.map_or(0, |id| id.position + 1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// What an entry is to the journal. The numbers are on disk and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    Blank = 0,
    Entry = 1,
    Urgent = 2,
    Control = 3,
    Membership = 4,
}

impl Kind {
    pub fn from_u8(byte: u8) -> Option<Kind> {
        Some(match byte {
            0 => Kind::Blank,
            1 => Kind::Entry,
            2 => Kind::Urgent,
            3 => Kind::Control,
            4 => Kind::Membership,
            _ => return None,
        })
    }
}

/// One entry of the log. `crc` is the CRC-32 (IEEE) of `body`, made by whoever made the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub id: LogId,
    pub kind: Kind,
    pub crc: u32,
    pub body: Bytes,
}

impl LogEntry {
    pub fn new(id: LogId, kind: Kind, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        LogEntry { id, kind, crc: crc32fast::hash(&body), body }
    }

    /// What the entry weighs in queues and in the ring.
    pub fn weight(&self) -> usize {
        self.body.len() + ENTRY_OVERHEAD_BYTES
    }
}

const ENTRY_OVERHEAD_BYTES: usize = 64;

/// The chain checksum after one more entry. It depends on nothing but the log, so it is equal on all
/// nodes at equal log ids; a log that begins has chain 0.
pub fn chain_next(chain: u64, id: LogId, kind: Kind, crc: u32) -> u64 {
    let mut bytes = [0u8; 29];
    bytes[0..8].copy_from_slice(&chain.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.position.to_le_bytes());
    bytes[16..24].copy_from_slice(&id.term.to_le_bytes());
    bytes[24] = kind as u8;
    bytes[25..29].copy_from_slice(&crc.to_le_bytes());
    xxh3_64(&bytes)
}

/// The chain of a log that was purged past its own end: nothing below is known, so it begins anew.
pub(crate) fn chain_of_mark(mark: LogId) -> u64 {
    chain_next(0, mark, Kind::Blank, 0)
}

/// One version of the replicated state and membership: in force from `at` on. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub at: LogId,
    pub bytes: Bytes,
}

/// Whose segments these are. Frames of other clusters, nodes or groups are never accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub cluster: u128,
    pub node: u64,
    pub group: u64,
}

#[derive(Debug, Clone)]
pub struct Options {
    /// What a segment is pre-written to. A segment grows beyond it rather than refuse a frame.
    pub segment_bytes: u64,
    /// Synced entries kept in memory for readers. What is not synced is kept in any case.
    pub ring_bytes: usize,
    /// What one sync covers at most (one append may exceed it).
    pub batch_bytes: usize,
    pub batch_entries: usize,
    /// What one frame of entries carries at most (one entry may exceed it).
    pub frame_bytes: usize,
    /// How long the queue must have been empty before an idle mark is written.
    pub idle_mark: Duration,
    /// Distance of the positions that the index remembers, in bytes.
    pub index_step_bytes: u64,
    /// Make the journal if there is none. Off, a missing journal is a lost disk.
    pub create: bool,
    /// Read every segment frame by frame at the start, also where a footer would do.
    pub read_all: bool,
    /// Bytes a scrub step reads.
    pub scrub_step_bytes: u64,
    /// Told of every sync that the writer waits for.
    pub sync_watch: Option<Arc<dyn SyncWatch>>,
}

/// Watches how long syncs take, while they take it.
pub trait SyncWatch: fmt::Debug + Send + Sync {
    /// Runs one sync.
    fn watch(&self, sync: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;
    /// A sync that takes simulated time begins; it ends when the answer is dropped.
    fn begins(&self) -> Box<dyn Send>;
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            ring_bytes: 16 << 20,
            batch_bytes: 4 << 20,
            batch_entries: 4096,
            frame_bytes: 1 << 20,
            idle_mark: Duration::from_millis(10),
            index_step_bytes: 64 << 10,
            create: true,
            read_all: false,
            scrub_step_bytes: 1 << 20,
            sync_watch: None,
        }
    }
}

/// Answers one call, once. Dropping it unanswered is allowed only where the call's contract says so.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Positions that were synced here and cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// First and last damaged position.
    pub first: u64,
    pub last: u64,
    /// The ids of the positions, where a header still tells them.
    pub identities: Option<Vec<LogId>>,
    /// The id below `first`, if there is one, and the chain there, if it is known.
    pub before: Option<LogId>,
    pub chain_before: Option<u64>,
    /// The id at `last`, and the chain there: what a filling must arrive at.
    pub after: LogId,
    pub chain_after: Option<u64>,
    /// Where on disk.
    pub segment: u64,
    pub offset: u64,
    pub end: u64,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "positions {}..={} (segment {}, bytes {}..{})",
            self.first, self.last, self.segment, self.offset, self.end
        )
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The files contradict themselves in a way that no repair is made for.
    #[error("{}: {why}", path.display())]
    Invalid { path: PathBuf, why: String },
    /// A journal that must exist does not: its disk was lost.
    #[error("{}: the journal's files are gone", .0.display())]
    Lost(PathBuf),
    #[error("damaged: {hole}")]
    Damaged { hole: Box<Hole> },
    /// The position was purged; `first` is the lowest one that may be asked for.
    #[error("purged below {first}")]
    Purged { first: u64 },
    /// What was offered does not fit: nothing was changed.
    #[error("refused: {why}")]
    Refused { why: String },
    /// A write or a sync failed earlier. Final.
    #[error("the disk failed: {0}")]
    Failed(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { what, source } => io::Error::new(source.kind(), format!("{what}: {source}")),
            Error::Damaged { .. } | Error::Invalid { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
            Error::Lost(_) => io::Error::new(io::ErrorKind::NotFound, error),
            other => io::Error::other(other),
        }
    }
}
