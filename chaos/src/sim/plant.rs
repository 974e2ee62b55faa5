//! Bugs on purpose, to see that the simulation can fail: disks that lie, in ways in which disks and
//! the code above them have lied before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use journal_server::segment::fs::{File, Fs, Space};

use super::profile::{Kind, Profile};

/// A bug that should be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A sync of a file says that it is done, and does nothing.
    NothingSynced,
    /// The same, but only of segments: the node still knows who it is.
    SegmentsNotSynced,
    /// What is found in the page cache at the start is taken for synced.
    CacheTrusted,
    /// A sync of a directory does nothing.
    NamesNotSynced,
    /// A failed sync or write is reported as done.
    FailuresHidden,
    /// An adapter takes what it was shown for all there is, and asks nobody.
    UnaskedTail,
    /// An adapter gives what it sends again new numbers.
    Renumbered,
    /// An adapter misses an entry of its tail.
    LostEntry,
}

impl Plant {
    pub const ALL: [(&'static str, Plant); 8] = [
        ("nothing-synced", Plant::NothingSynced),
        ("segments-not-synced", Plant::SegmentsNotSynced),
        ("cache-trusted", Plant::CacheTrusted),
        ("names-not-synced", Plant::NamesNotSynced),
        ("failures-hidden", Plant::FailuresHidden),
        ("unasked-tail", Plant::UnaskedTail),
        ("renumbered", Plant::Renumbered),
        ("lost-entry", Plant::LostEntry),
    ];
}

impl Plant {
    /// Makes a world in which the bug can show. Few have disks that fail, and one failure alone is
    /// repaired from peers.
    pub fn set(self, profile: &mut Profile) {
        if self == Plant::FailuresHidden {
            profile.kinds = vec![Kind::WriteFails, Kind::SyncFails, Kind::Power, Kind::PowerOfAll];
        }
    }
}

/// The disk, with the bug before it.
pub fn fs(plant: Option<Plant>, fs: Arc<dyn Fs>) -> Arc<dyn Fs> {
    match plant {
        None => fs,
        Some(plant) => Arc::new(Liar { plant, fs }),
    }
}

#[derive(Debug)]
struct Liar {
    plant: Plant,
    fs: Arc<dyn Fs>,
}

#[derive(Debug)]
struct LyingFile {
    plant: Plant,
    segment: bool,
    /// Syncs of a file that was there before which are still to be lies.
    lies: AtomicU8,
    file: Arc<dyn File>,
}

impl Liar {
    fn file(&self, path: &Path, found: bool, file: Arc<dyn File>) -> Arc<dyn File> {
        let segment = path.components().any(|part| part.as_os_str() == "groups");
        let lies = AtomicU8::new(if found { RECOVERY_SYNCS } else { 0 });
        Arc::new(LyingFile { plant: self.plant, segment, lies, file })
    }
}

impl Fs for Liar {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open(path).map(|file| self.file(path, true, file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.create(path).map(|file| self.file(path, false, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.fs.unlink(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self.plant {
            Plant::NamesNotSynced => Ok(()),
            _ => self.fs.sync_dir(dir),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.fs.list(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.fs.space(dir)
    }
}

/// What a start syncs of a segment that it finds, and a little more.
const RECOVERY_SYNCS: u8 = 6;

impl LyingFile {
    fn lie(&self) -> bool {
        self.lies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn hide(&self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if self.plant == Plant::FailuresHidden && error.raw_os_error() == Some(libc::EIO) => Ok(()),
            result => result,
        }
    }
}

impl File for LyingFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, buffers: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.hide(self.file.write_all_at(buffers, offset))
    }

    fn sync(&self) -> io::Result<()> {
        match self.plant {
            Plant::NothingSynced => Ok(()),
            Plant::SegmentsNotSynced if self.segment => Ok(()),
            Plant::CacheTrusted if self.lie() => Ok(()),
            _ => self.hide(self.file.sync()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn drop_cache(&self) -> io::Result<()> {
        match self.plant {
            Plant::CacheTrusted => Ok(()),
            _ => self.file.drop_cache(),
        }
    }
}
