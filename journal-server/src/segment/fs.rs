//! The one seam between the journal and its disk. Production uses `RealFs`; tests use a disk that
//! crashes, tears, flips and fills at will. Nothing else in the house opens a journal's files.
//!
//! The calls are synchronous and may block: callers run on the writer's thread or on a thread made
//! for blocking work, never on a runtime's.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// As aligned as a device may ask for.
#[repr(align(4096))]
struct Zeros([u8; 64 << 10]);

static ZEROS: Zeros = Zeros([0; 64 << 10]);

/// A directory tree on one file system.
pub trait Fs: Debug + Send + Sync + 'static {
    /// Makes the directory and its parents, durably.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Makes a new, empty file; an existing one is an error.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames within a directory. Durable only after [`Fs::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable only after [`Fs::sync_dir`].
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The paths in a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Total bytes of the file system, and those free to this process.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// An open file. Handles are shared; there is no cursor.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait File: Debug + Send + Sync + 'static {
    /// Fills the buffer from `offset`; the end of the file before that is `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of the buffers, one after the other, from `offset`.
    fn write_all_at(&self, buffers: &[io::IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes zeros over `[from, to)`.
    fn zero(&self, from: u64, to: u64) -> io::Result<()> {
        write_zeros(from, to, |zeros, at| self.write_all_at(zeros, at))
    }
    /// `fdatasync`: on return, everything written before the call survives a power cut. An error is
    /// final: the caller must never try again.
    fn sync(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Drops the cached clean pages of the file, so that what is read next comes from the device.
    fn drop_cache(&self) -> io::Result<()>;
}

/// Zeros over `[from, to)`, by way of `write`.
pub(super) fn write_zeros(
    from: u64,
    to: u64,
    write: impl Fn(&[io::IoSlice<'_>], u64) -> io::Result<()>,
) -> io::Result<()> {
    const CHUNK: usize = 16;
    let mut at = from;
    while at < to {
        let start = at;
        let mut slices = Vec::with_capacity(CHUNK);
        while at < to && slices.len() < CHUNK {
            let len = (to - at).min(ZEROS.0.len() as u64);
            slices.push(io::IoSlice::new(&ZEROS.0[..len as usize]));
            at += len;
        }
        write(&slices, start)?;
    }
    Ok(())
}
