//! Bugs on purpose, to see that the simulation can fail: disks that lie, in ways in which disks and
//! the code above them have lied before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal_server::segment::fs::{File, Fs, Space};

/// A bug that should be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A sync of a file says that it is done, and does nothing.
    NothingSynced,
    /// The same, but only of segments: the node still knows who it is.
    SegmentsNotSynced,
    /// A sync of a directory does nothing.
    NamesNotSynced,
    /// A failed sync or write is reported as done.
    FailuresHidden,
}

impl Plant {
    pub const ALL: [(&'static str, Plant); 4] = [
        ("nothing-synced", Plant::NothingSynced),
        ("segments-not-synced", Plant::SegmentsNotSynced),
        ("names-not-synced", Plant::NamesNotSynced),
        ("failures-hidden", Plant::FailuresHidden),
    ];
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
    file: Arc<dyn File>,
}

impl Liar {
    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let segment = path.components().any(|part| part.as_os_str() == "groups");
        Arc::new(LyingFile { plant: self.plant, segment, file })
    }
}

impl Fs for Liar {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open(path).map(|file| self.file(path, file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.create(path).map(|file| self.file(path, file))
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

impl LyingFile {
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
            _ => self.hide(self.file.sync()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}
