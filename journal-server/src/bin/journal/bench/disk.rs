//! What the disk itself can do: a write and an fdatasync, one after the other, into files that were
//! written before, as segments are.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::report::{Latencies, Latency};

/// Of the file of one stream.
const FILE_BYTES: u64 = 16 << 20;
pub const WRITE_BYTES: usize = 4096;

/// `streams` threads, each with its own file in `dir`, for `duration`.
pub fn measure(dir: &Path, streams: usize, duration: Duration) -> anyhow::Result<Latency> {
    let files = (0..streams).map(|number| Prepared::new(dir, number)).collect::<anyhow::Result<Vec<_>>>()?;
    let measured = std::thread::scope(|scope| {
        let streams: Vec<_> = files.iter().map(|file| scope.spawn(|| write_and_sync(file, duration))).collect();
        streams
            .into_iter()
            .map(|stream| stream.join().expect("a stream reports its errors and does not panic"))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut all = Latencies::new();
    measured.iter().for_each(|one| all.add(one));
    Ok(all.over(duration))
}

fn write_and_sync(file: &Prepared, duration: Duration) -> anyhow::Result<Latencies> {
    let block = vec![0x5a; WRITE_BYTES];
    let mut latencies = Latencies::new();
    let begun = Instant::now();
    let mut offset = 0;
    while begun.elapsed() < duration {
        let before = Instant::now();
        file.file.write_all_at(&block, offset)?;
        file.file.sync_data()?;
        latencies.record(before.elapsed());
        offset = (offset + WRITE_BYTES as u64) % FILE_BYTES;
    }
    Ok(latencies)
}

/// A file whose every block exists on the disk. Removed when dropped.
struct Prepared {
    file: File,
    _path: RemovedWhenDropped,
}

struct RemovedWhenDropped(std::path::PathBuf);

impl Drop for RemovedWhenDropped {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Prepared {
    fn new(dir: &Path, number: usize) -> anyhow::Result<Prepared> {
        let path = dir.join(format!(".journal-bench-{}-{number}", std::process::id()));
        let file =
            File::options().write(true).create_new(true).open(&path).with_context(|| {
                format!("cannot write into {}: name another directory with --disk-dir", dir.display())
            })?;
        let path = RemovedWhenDropped(path);
        let piece = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(piece.len()) {
            file.write_all_at(&piece, offset)?;
        }
        file.sync_all()?;
        Ok(Prepared { file, _path: path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_is_counted_and_nothing_stays_behind() {
        let dir = std::env::temp_dir().join(format!("journal-disk-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let measured = measure(&dir, 2, Duration::from_millis(50)).unwrap();
        assert!(measured.count >= 2);
        assert!(measured.p50_us > 0.0 && measured.p50_us <= measured.max_us);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir(&dir).unwrap();
    }
}
