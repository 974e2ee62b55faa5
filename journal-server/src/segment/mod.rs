//! Bytes on disk: one journal's log as a single ordered stream of checksummed frames in numbered
//! files. Knows files, not Raft.
//!
//! [`open`] recovers what is there and gives three things: the [`Log`], a handle that everybody may
//! hold; the [`Writer`], which one thread or task drives; the [`Keeper`], which prepares and removes
//! files beside it.

mod damaged;
mod drive;
pub mod dump;
pub mod fault_disk;
mod format;
pub mod fs;
#[doc(hidden)]
pub mod fuzz;
mod index;
mod judge;
mod keeper;
mod log;
mod metrics;
mod outline;
mod reader;
pub mod real_fs;
mod recovery;
mod repair;
mod replay;
mod ring;
mod scan;
mod scrub;
mod sheet;
mod shelf;
mod start;
mod tape;
mod types;
pub mod verify;
mod wound;
mod writer;

pub use damaged::Damaged;
pub use drive::{clear_desk, drive_writer, lay_desk, spawn_writer_thread};
pub use format::{FrameHeader, FrameKind, NUMBERS_END};
pub use keeper::{Keeper, drive_keeper, spawn_keeper_thread};
pub use log::Log;
pub use recovery::{Opened, Report, open};
pub use replay::Finding;
pub use scrub::{Scrubbed, Scrubber};
pub use types::{Done, Error, Hole, Ids, Kind, LogEntry, LogId, Options, SyncWatch, Version, Vote, chain_next};
pub use writer::{Plan, Step, Writer};
