//! Bugs planted on purpose, each as a disk that lies the way the bug would. A harness that lets one
//! of them live proves nothing about the code that it passes.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal_server::segment::fs::{File, Fs, Space};

use super::case;

/// Which calls do not do what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    NeverSync,
    RotateWithoutNames,
    RetrySync,
    TrustTheCache,
    SyncFirst,
}

#[derive(Debug)]
struct LyingFs(Arc<dyn Fs>, Bug);

#[derive(Debug)]
struct LyingFile(Arc<dyn File>, Bug);

impl Fs for LyingFs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(LyingFile(self.0.open(path)?, self.1)))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(LyingFile(self.0.create(path)?, self.1)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.0.unlink(path)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let rotating = self.1 == Bug::RotateWithoutNames && self.0.list(dir)?.len() > 1;
        if rotating { Ok(()) } else { self.0.sync_dir(dir) }
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }
    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.0.space(dir)
    }
}

impl File for LyingFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.1 == Bug::SyncFirst {
            self.0.sync()?;
        }
        self.0.write_all_at(buffers, offset)
    }
    fn sync(&self) -> io::Result<()> {
        match self.1 {
            Bug::NeverSync | Bug::SyncFirst => Ok(()),
            Bug::RetrySync => self.0.sync().or_else(|_| self.0.sync()),
            Bug::RotateWithoutNames | Bug::TrustTheCache => self.0.sync(),
        }
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn drop_cache(&self) -> io::Result<()> {
        if self.1 == Bug::TrustTheCache { Ok(()) } else { self.0.drop_cache() }
    }
}

fn lying<const BUG: usize>(fs: Arc<dyn Fs>) -> Arc<dyn Fs> {
    const BUGS: [Bug; 5] =
        [Bug::NeverSync, Bug::RotateWithoutNames, Bug::RetrySync, Bug::TrustTheCache, Bug::SyncFirst];
    Arc::new(LyingFs(fs, BUGS[BUG]))
}

/// Requires that a case among so many finds the bug.
fn must_be_found(what: &str, cases: u64, view: super::machine::View) {
    let found = (0..cases).find(|seed| case::run(*seed, view).is_err() && case::run(*seed, |fs| fs).is_ok());
    super::tell(&format!("planted bug: {what}: found by case {found:?}"));
    assert!(found.is_some(), "{cases} cases pass with a planted bug: {what}");
}

#[test]
fn acknowledging_what_was_never_synced_is_found() {
    must_be_found("nothing is ever synced", 50, lying::<0>);
}

#[test]
fn rotating_without_syncing_the_directory_is_found() {
    must_be_found("the directory is not synced when a segment begins", 200, lying::<1>);
}

#[test]
fn retrying_a_failed_sync_is_found() {
    must_be_found("a failed sync is tried again", 400, lying::<2>);
}

#[test]
fn reading_the_start_from_the_page_cache_is_found() {
    must_be_found("cached pages are trusted at the start", 5000, lying::<3>);
}

#[test]
fn syncing_before_the_write_instead_of_after_it_is_found() {
    must_be_found("the sync comes before its write", 50, lying::<4>);
}
