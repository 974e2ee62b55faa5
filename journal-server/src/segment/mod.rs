//! Bytes on disk: one journal's log as a single ordered stream of checksummed frames in numbered
//! files. Knows files, not Raft.

pub mod fault_disk;
pub mod fs;
pub mod real_fs;
