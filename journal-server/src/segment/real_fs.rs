//! The disk itself: [`Fs`] and [`File`] on Linux system calls. Owns nothing but file descriptors.
//!
//! A call that is interrupted is repeated and a short write goes on; every other error is passed to
//! the caller as it came and never tried again, because a second `fdatasync` after a failed one
//! succeeds without having written anything. Blocks its thread.

// The standard library has no `pwritev`, `posix_fadvise` or `statvfs`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fs::{File, Fs, Space, write_zeros};

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

/// What the kernel takes in one `pwritev`.
const IOV_MAX: usize = libc::UIO_MAXIOV as usize;
/// A journal is the operator's secret: entries are what clients wrote.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// What devices ask of direct writes, at most.
const DIRECT_ALIGN: u64 = 4096;

impl Fs for RealFs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        // From the top down, and existing ones too: a process may have been killed between making a
        // directory and syncing its parent.
        let mut chain: Vec<&Path> = dir.ancestors().filter(|it| !it.as_os_str().is_empty()).collect();
        chain.reverse();
        for part in chain {
            let made = match DirBuilder::new().mode(DIR_MODE).create(part) {
                Ok(()) => true,
                Err(_) if part.is_dir() => false,
                Err(error) => return Err(error),
            };
            let Some(parent) = part.parent() else { continue };
            match self.sync_dir(parent) {
                // Not ours: a directory that we may pass through but not read, or that lies on a
                // file system without such a thing as a sync.
                Err(error) if !made && is_foreign(&error) => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile::create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        fs::File::open(dir)?.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort_unstable();
        Ok(paths)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        let mut told = MaybeUninit::<libc::statvfs>::zeroed();
        retry(|| {
            // SAFETY: `path` is a terminated string and `told` has room for the answer; both outlive
            // the call.
            match unsafe { libc::statvfs(path.as_ptr(), told.as_mut_ptr()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })?;
        // SAFETY: the call succeeded, so the kernel filled it in; it began as zeroes anyway.
        let told = unsafe { told.assume_init() };
        Ok(Space {
            total_bytes: told.f_blocks.saturating_mul(told.f_frsize),
            free_bytes: told.f_bavail.saturating_mul(told.f_frsize),
        })
    }
}

/// An open file. The standard library opens everything with `O_CLOEXEC`.
#[derive(Debug)]
struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        write_all(buffers, offset, |slices, at| self.pwritev(slices, at))
    }

    /// Past the page cache, where the file system can: there, a segment of zeros costs as much as the
    /// entries that are written over it later, and pushes out what somebody reads.
    fn zero(&self, from: u64, to: u64) -> io::Result<()> {
        let through = |file: &RealFile| write_zeros(from, to, |zeros, at| file.write_all_at(zeros, at));
        let aligned = from.is_multiple_of(DIRECT_ALIGN) && to.is_multiple_of(DIRECT_ALIGN);
        match aligned.then(|| through(&self.direct()?)) {
            // Neither the call nor the alignment means anything to some file systems.
            Some(Err(error)) if error.kind() == ErrorKind::InvalidInput => through(self),
            None => through(self),
            Some(done) => done,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn drop_cache(&self) -> io::Result<()> {
        retry(|| {
            // SAFETY: the descriptor is open for as long as `self.file` lives; no memory is passed.
            match unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        })
    }
}

impl RealFile {
    fn create(path: &Path) -> io::Result<RealFile> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
        Ok(RealFile { file })
    }

    /// The same file, written past the page cache. Not every file system has such a thing.
    fn direct(&self) -> io::Result<RealFile> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
        Ok(RealFile { file })
    }

    fn pwritev(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let count = slices.len().min(IOV_MAX) as libc::c_int;
        let offset = libc::off_t::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
        // SAFETY: `IoSlice` has the layout of `iovec`; `count` is at most the number of slices, each
        // of which borrows its memory beyond the call; the descriptor is open.
        let written =
            unsafe { libc::pwritev(self.file.as_raw_fd(), slices.as_ptr().cast::<libc::iovec>(), count, offset) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}

/// Writes all of the buffers with a call that may be interrupted or write less than it was given.
fn write_all(
    buffers: &[IoSlice<'_>],
    mut offset: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut owned: Vec<IoSlice<'_>> = buffers.iter().filter(|it| !it.is_empty()).copied().collect();
    let mut rest = owned.as_mut_slice();
    while !rest.is_empty() {
        match retry(|| write(rest, offset))? {
            0 => return Err(ErrorKind::WriteZero.into()),
            written => {
                IoSlice::advance_slices(&mut rest, written);
                offset += written as u64;
            }
        }
    }
    Ok(())
}

/// Repeats what a signal interrupted, and nothing else.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn is_foreign(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
        || error.raw_os_error() == Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(parts: &[Vec<u8>]) -> Vec<IoSlice<'_>> {
        parts.iter().map(|part| IoSlice::new(part)).collect()
    }

    #[test]
    fn a_vectored_write_of_more_slices_than_the_kernel_takes_arrives_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = RealFs.create(&path).unwrap();
        let parts: Vec<Vec<u8>> = (0..2 * IOV_MAX + 3).map(|n| vec![n as u8; n % 7]).collect();
        file.write_all_at(&slices(&parts), 100).unwrap();
        file.sync().unwrap();
        let whole = parts.concat();
        assert_eq!(file.len().unwrap(), 100 + whole.len() as u64);
        let mut read = vec![0; whole.len()];
        RealFs.open(&path).unwrap().read_exact_at(&mut read, 100).unwrap();
        assert_eq!(read, whole);
    }

    #[test]
    fn short_and_interrupted_writes_go_on_where_they_stopped() {
        let parts: Vec<Vec<u8>> = vec![vec![1; 5], vec![], vec![2; 1], vec![3; 9]];
        let mut written = Vec::new();
        let mut calls = 0;
        write_all(&slices(&parts), 7, |given, at| {
            calls += 1;
            assert_eq!(at, 7 + written.len() as u64);
            if calls % 2 == 0 {
                return Err(io::Error::from_raw_os_error(libc::EINTR));
            }
            let flat: Vec<u8> = given.iter().flat_map(|it| it.iter().copied()).collect();
            let some = flat.len().min(2);
            written.extend_from_slice(&flat[..some]);
            Ok(some)
        })
        .unwrap();
        assert_eq!(written, parts.concat());
    }

    #[test]
    fn an_error_other_than_an_interruption_is_not_tried_again() {
        for errno in [libc::EIO, libc::ENOSPC, libc::EAGAIN, libc::EROFS] {
            let mut calls = 0;
            let error = write_all(&[IoSlice::new(b"abc")], 0, |_, _| {
                calls += 1;
                Err(io::Error::from_raw_os_error(errno))
            })
            .unwrap_err();
            assert_eq!((calls, error.raw_os_error()), (1, Some(errno)));
        }
    }

    #[test]
    fn a_write_that_takes_nothing_is_an_error_and_not_a_loop() {
        let error = write_all(&[IoSlice::new(b"abc")], 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WriteZero);
    }

    #[test]
    fn a_real_disk_reports_full_as_full() {
        // The one device that is full everywhere.
        let file = RealFs.open(Path::new("/dev/full")).unwrap();
        let error = file.write_all_at(&[IoSlice::new(b"abc")], 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn names_come_and_go_as_the_trait_says() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        RealFs.create_dir(&dir).unwrap();
        RealFs.create_dir(&dir).unwrap();
        let (one, two) = (dir.join("one"), dir.join("two"));
        RealFs.create(&one).unwrap();
        assert_eq!(RealFs.create(&one).unwrap_err().kind(), ErrorKind::AlreadyExists);
        RealFs.rename(&one, &two).unwrap();
        assert_eq!(RealFs.open(&one).unwrap_err().kind(), ErrorKind::NotFound);
        RealFs.create(&one).unwrap();
        assert_eq!(RealFs.list(&dir).unwrap(), vec![one.clone(), two.clone()]);
        RealFs.sync_dir(&dir).unwrap();
        assert!(RealFs.remove_dir(&dir).is_err());
        RealFs.unlink(&one).unwrap();
        RealFs.unlink(&two).unwrap();
        RealFs.remove_dir(&dir).unwrap();
        assert_eq!(RealFs.list(&dir).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn reading_past_the_end_is_an_unexpected_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealFs.create(&dir.path().join("file")).unwrap();
        file.write_all_at(&[IoSlice::new(b"abc")], 0).unwrap();
        let error = file.read_exact_at(&mut [0; 4], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        file.drop_cache().unwrap();
        let space = RealFs.space(dir.path()).unwrap();
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
    }

    #[test]
    fn zeros_go_over_what_was_there_and_under_what_comes_aligned_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealFs.create(&dir.path().join("file")).unwrap();
        let end = 5 * DIRECT_ALIGN;
        file.write_all_at(&slices(&[vec![7; end as usize]]), 0).unwrap();
        let mut whole = vec![7; end as usize];
        for (from, to) in [(DIRECT_ALIGN, 3 * DIRECT_ALIGN), (4 * DIRECT_ALIGN - 5, 4 * DIRECT_ALIGN + 9)] {
            file.zero(from, to).unwrap();
            whole[from as usize..to as usize].fill(0);
        }
        file.write_all_at(&slices(&[vec![9; 3]]), DIRECT_ALIGN + 1).unwrap();
        whole[DIRECT_ALIGN as usize + 1..][..3].fill(9);
        file.zero(end, 2 * end).unwrap();
        whole.resize(2 * end as usize, 0);
        file.sync().unwrap();
        for _ in 0..2 {
            let mut read = vec![1; whole.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read == whole);
            file.drop_cache().unwrap();
        }
        assert_eq!(file.len().unwrap(), 2 * end);
    }

    #[test]
    fn files_are_closed_on_exec_and_private() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let RealFile { file } = RealFile::create(&dir.path().join("file")).unwrap();
        // SAFETY: asks for the flags of a descriptor that is open.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
        assert_eq!(file.metadata().unwrap().mode() & 0o077, 0);
    }
}
