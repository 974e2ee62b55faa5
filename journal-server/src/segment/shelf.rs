//! Where the next segment's file comes from: a pre-written spare if the keeper has made one, else a
//! new, empty file that grows as it is written. The writer never waits for the pre-writing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::format::file_name;
use super::fs::{File, Fs};

const SPARE_TMP: &str = "spare.tmp";
/// A spare is made in so many pieces, none smaller than the other.
const PIECES: u64 = 64;
const PIECE_BYTES_MIN: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Spare {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub file_bytes: u64,
}

/// A spare whose zeros are not all written yet.
#[derive(Debug)]
pub(crate) struct Unready {
    path: PathBuf,
    file: Arc<dyn File>,
    zeroed: u64,
}

#[derive(Debug)]
pub(crate) struct Shelf {
    pub fs: Arc<dyn Fs>,
    pub dir: PathBuf,
    segment_bytes: u64,
    stock: Mutex<Stock>,
    spare_bytes: AtomicU64,
}

#[derive(Debug)]
struct Stock {
    /// The highest number that is in use: a spare for it or one below is too late.
    taken: u64,
    spare: Option<(u64, Spare)>,
}

impl Shelf {
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path, segment_bytes: u64, taken: u64) -> Self {
        Shelf {
            fs,
            dir: dir.to_path_buf(),
            segment_bytes,
            stock: Mutex::new(Stock { taken, spare: None }),
            spare_bytes: AtomicU64::new(0),
        }
    }

    /// A file for segment `number`, its name durable, its bytes all zero.
    pub(crate) fn take(&self, number: u64) -> io::Result<Spare> {
        let mut stock = self.stock.lock();
        stock.taken = number;
        self.spare_bytes.store(0, Ordering::Relaxed);
        if let Some((spare_number, spare)) = stock.spare.take()
            && spare_number == number
        {
            return Ok(spare);
        }
        let path = self.dir.join(file_name(number));
        let file = self.fs.create(&path)?;
        self.fs.sync_dir(&self.dir)?;
        Ok(Spare { path, file, file_bytes: 0 })
    }

    /// Puts back what recovery found unused.
    pub(crate) fn put(&self, number: u64, spare: Spare) {
        self.spare_bytes.store(spare.file_bytes, Ordering::Relaxed);
        self.stock.lock().spare = Some((number, spare));
    }

    pub(crate) fn has_spare(&self) -> bool {
        self.stock.lock().spare.is_some()
    }

    pub(crate) fn spare_bytes(&self) -> u64 {
        self.spare_bytes.load(Ordering::Relaxed)
    }

    /// Begins the next spare, under a name that the next start removes.
    pub(crate) fn begin(&self) -> io::Result<Unready> {
        let path = self.dir.join(SPARE_TMP);
        Ok(Unready { file: self.fs.create(&path)?, path, zeroed: 0 })
    }

    /// One piece of zeros more, synced by itself: a sync of the whole would hold up the writer's for
    /// as long as the disk takes for a segment. True: it is the next segment now. An error (a full
    /// disk, say) leaves nothing behind; the writer does without.
    pub(crate) fn go_on(&self, spare: &mut Unready) -> io::Result<bool> {
        match self.zero_piece(spare) {
            Ok(()) if spare.zeroed < self.segment_bytes => Ok(false),
            Ok(()) => self.put_up(spare).map(|()| true),
            Err(error) => {
                // Best effort: the next start removes what is left.
                let _ = self.fs.unlink(&spare.path);
                Err(error)
            }
        }
    }

    fn zero_piece(&self, spare: &mut Unready) -> io::Result<()> {
        let piece = (self.segment_bytes / PIECES).max(PIECE_BYTES_MIN);
        let upto = (spare.zeroed + piece).min(self.segment_bytes);
        spare.file.zero(spare.zeroed, upto)?;
        spare.zeroed = upto;
        spare.file.sync()
    }

    fn put_up(&self, spare: &Unready) -> io::Result<()> {
        let mut stock = self.stock.lock();
        let number = stock.taken + 1;
        let path = self.dir.join(file_name(number));
        self.fs.rename(&spare.path, &path)?;
        self.fs.sync_dir(&self.dir)?;
        self.spare_bytes.store(self.segment_bytes, Ordering::Relaxed);
        stock.spare = Some((number, Spare { path, file: spare.file.clone(), file_bytes: self.segment_bytes }));
        Ok(())
    }
}
