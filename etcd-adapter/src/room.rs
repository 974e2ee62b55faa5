//! The room that the store has on its file system: when writes must end, and what is kept back for that.
//!
//! Replicas hold the same data, so the write that fills one fills all. Below a reserve an adapter raises
//! the NOSPACE alarm through the journal, long before it would have to stop; deletes and compaction go
//! on within the reserve. A ballast file is given up whenever the store is opened, so that even a full
//! one can be replayed up to the deletes that make room again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// This part of the file system is the reserve, in percent, unless a compaction needs more.
const RESERVE_PERCENT: u64 = 15;
/// But no more than this: what deletes and compactions need does not grow with the disk that they are on.
const RESERVE_MAX: u64 = 4 << 30;
/// The ballast is this part of the file system, in percent, and no more than is ever replayed at once.
const BALLAST_PERCENT: u64 = 5;
const BALLAST_MAX: u64 = 64 << 20;
const BALLAST: &str = "ballast";

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

/// Says how much room there is at a path.
pub type Measure = fn(&Path) -> io::Result<Space>;

/// What the kernel says.
pub fn measure(path: &Path) -> io::Result<Space> {
    let told = rustix::fs::statvfs(path)?;
    Ok(Space { total: told.f_blocks * told.f_frsize, free: told.f_bavail * told.f_frsize })
}

/// The room of one data directory.
pub struct Room {
    dir: PathBuf,
    measure: Measure,
    tight: AtomicBool,
}

impl Room {
    /// Gives the ballast up: whoever opens the store may need what it holds.
    pub fn begin(dir: &Path, measure: Measure) -> io::Result<Room> {
        match fs::remove_file(dir.join(BALLAST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Room { dir: dir.to_owned(), measure, tight: AtomicBool::new(false) })
    }

    /// Whether there was less than the reserve when it was last looked at.
    pub fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    /// Looks. Says whether there is less than the reserve now.
    pub fn look(&self) -> io::Result<bool> {
        let space = (self.measure)(&self.dir)?;
        let tight = space.free < reserve(space, self.biggest_file()?);
        self.tight.store(tight, Ordering::Relaxed);
        Ok(tight)
    }

    /// Keeps a ballast, if there is room for it beyond the reserve. Says whether there is one.
    pub fn keep_ballast(&self) -> io::Result<bool> {
        let path = self.dir.join(BALLAST);
        if path.exists() {
            return Ok(true);
        }
        let space = (self.measure)(&self.dir)?;
        let bytes = ballast(space);
        if space.free < reserve(space, self.biggest_file()?) + bytes {
            return Ok(false);
        }
        let file = fs::File::create(&path)?;
        let kept = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1));
        if let Err(error) = kept {
            // A file without blocks is no ballast.
            fs::remove_file(&path)?;
            return Err(error.into());
        }
        Ok(true)
    }

    /// The largest file of the store.
    fn biggest_file(&self) -> io::Result<u64> {
        let entries = match fs::read_dir(self.dir.join("store")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut biggest = 0;
        for entry in entries {
            // One that has just been compacted away has no size.
            if let Ok(about) = entry?.metadata() {
                biggest = biggest.max(about.len());
            }
        }
        Ok(biggest)
    }
}

/// What must stay free. A compaction writes its output before its input goes: some of the largest files.
fn reserve(space: Space, biggest_file: u64) -> u64 {
    (space.total / 100 * RESERVE_PERCENT).min(RESERVE_MAX).max(4 * biggest_file)
}

fn ballast(space: Space) -> u64 {
    (space.total / 100 * BALLAST_PERCENT).min(BALLAST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plenty(_: &Path) -> io::Result<Space> {
        Ok(Space { total: 1_000_000, free: 900_000 })
    }

    /// More than the reserve, and less than reserve and ballast.
    fn little(_: &Path) -> io::Result<Space> {
        Ok(Space { total: 1_000_000, free: 160_000 })
    }

    #[test]
    fn the_reserve_is_a_part_of_the_whole_or_what_the_largest_files_need() {
        let space = Space { total: 1_000_000, free: 0 };
        assert_eq!(reserve(space, 0), 150_000);
        assert_eq!(reserve(space, 100_000), 400_000);
    }

    #[test]
    fn the_reserve_on_a_large_disk_is_what_is_needed_and_not_a_part_of_the_disk() {
        let space = Space { total: 1 << 40, free: 0 };
        assert_eq!(reserve(space, 0), RESERVE_MAX);
        assert_eq!(reserve(space, 2 << 30), 8 << 30);
    }

    #[test]
    fn a_ballast_is_kept_beyond_the_reserve_only_and_given_up_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(BALLAST);
        assert!(!Room::begin(dir.path(), little).unwrap().keep_ballast().unwrap());
        assert!(!path.exists());
        assert!(Room::begin(dir.path(), plenty).unwrap().keep_ballast().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 50_000);
        Room::begin(dir.path(), little).unwrap();
        assert!(!path.exists(), "it was not given up");
    }

    #[test]
    fn large_files_make_room_tight_that_would_do_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::begin(dir.path(), little).unwrap();
        assert!(!room.look().unwrap());
        fs::create_dir(dir.path().join("store")).unwrap();
        fs::write(dir.path().join("store/1.sst"), vec![0; 50_000]).unwrap();
        assert!(room.look().unwrap() && room.is_tight());
    }

    #[test]
    fn the_kernel_says_how_much_there_is() {
        let space = measure(Path::new("/")).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
    }
}
