//! Bytes on disk: one journal's log as a single ordered stream of checksummed frames in numbered
//! files. Knows files, not Raft.

pub mod fs;
pub use stub::*;
#[allow(unused, clippy::all, missing_docs)]
mod stub {
use bytes::Bytes; use std::io;
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogId { pub term: u64, pub position: u64 }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote { pub term: u64, pub node: u64, pub committed: bool }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind { Blank = 0, Entry = 1, Urgent = 2, Control = 3, Membership = 4 }
impl TryFrom<u8> for Kind { type Error=(); fn try_from(v:u8)->Result<Self,()> {Err(())}}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry { pub id: LogId, pub kind: Kind, pub crc: u32, pub body: Bytes }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version { pub at: LogId, pub bytes: Bytes }
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct Error;
#[derive(Debug, Clone)] pub struct Log;
impl Log {
  pub fn append(&self, entries: Vec<LogEntry>, done: Done){panic!()}
  pub fn save_vote(&self, vote: Vote, done: Done){panic!()}
  pub fn truncate_after(&self, last: Option<LogId>){panic!()}
  pub fn purge(&self, upto: LogId){panic!()}
  pub fn commit_hint(&self, committed: LogId){panic!()}
  pub fn applied_hint(&self, applied: LogId){panic!()}
  pub fn save_version(&self, version: Version){panic!()}
  pub fn install_snapshot(&self, version: Version, chain: u64, done: Done){panic!()}
  pub fn vote(&self) -> Option<Vote>{panic!()} pub fn purged(&self) -> Option<LogId>{panic!()} pub fn last(&self) -> Option<LogId>{panic!()}
  pub fn durable(&self) -> Option<LogId>{panic!()}
  pub fn recovered_commit(&self) -> Option<LogId>{panic!()} pub fn recovered_applied(&self) -> Option<LogId>{panic!()}
  pub fn versions(&self) -> Vec<Version>{panic!()}
  pub fn chain_at_blocking(&self, position: u64) -> Result<u64,Error>{panic!()}
  pub fn log_id_at(&self, position: u64) -> Option<LogId>{panic!()}
  pub fn term_runs(&self) -> Vec<LogId>{panic!()}
  pub fn read_cached(&self, from: u64, to: u64, max_bytes: usize) -> Option<Vec<LogEntry>>{panic!()}
  pub fn read_blocking(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<LogEntry>, Error>{panic!()}
  pub fn disk_bytes(&self) -> u64{panic!()} pub fn queued_bytes(&self) -> usize{panic!()} pub fn failed(&self) -> Option<String>{panic!()}
  pub fn close(&self){panic!()}
}
pub struct Ids { pub cluster: u128, pub node: u64, pub group: u64 }
#[derive(Clone)] pub struct Options;
pub struct Report; pub struct Writer; pub struct Keeper; #[derive(Debug)] pub struct Damaged; pub struct Plan;
impl Damaged { pub fn holes(&self)->&[u64]{panic!()}}
pub enum Opened { Ready { log: Log, writer: Writer, keeper: Keeper, report: Report }, Damaged(Damaged) }
pub fn open(fs: std::sync::Arc<dyn super::fs::Fs>, dir: &std::path::Path, ids: Ids, options: Options) -> Result<Opened, Error>{panic!()}
pub fn spawn_writer_thread(writer: Writer, name:&str){}
pub fn spawn_keeper_thread(writer: Keeper, name:&str){}
pub async fn drive_writer(writer: Writer, pause: impl FnMut(&Plan) -> futures::future::BoxFuture<'static,()>) {}
pub async fn drive_keeper(writer: Keeper) {}
}
