//! Checks a log that nobody runs, byte by byte, and changes nothing: neither what is damaged nor what a
//! start would put right.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{BadHeader, DATA_START, number_of};
use super::fs::{File, Fs};
use super::recovery::read_header;
use super::replay::{Begun, Finding, Replay};
use super::scan::{Window, next_header};
use super::types::{Error, Hole, Ids, LogId, Vote};

/// What a log holds and lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub segments: usize,
    pub frames: u64,
    pub bytes: u64,
    /// Nothing up to here is held any more.
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub committed: Option<LogId>,
    pub vote: Option<Vote>,
    /// The last thing written was a clean stop.
    pub clean: bool,
    /// What was synced and cannot be read, and is needed.
    pub holes: Vec<Hole>,
    /// The state at the purge mark cannot be read: no peer's entries make it again.
    pub state_lost: bool,
    /// Why the files are no log at all.
    pub invalid: Option<String>,
    /// What else is not as it should be. None of it keeps a node from running.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// A node would run on it without anybody's help.
    pub fn is_sound(&self) -> bool {
        self.holes.is_empty() && !self.state_lost && self.invalid.is_none()
    }
}

/// The bytes that [`verify`] will read of a log.
pub fn size(fs: &dyn Fs, dir: &Path) -> io::Result<u64> {
    segments(fs, dir)?.into_iter().map(|(_, path)| fs.open(&path)?.len()).sum()
}

/// Checks the log in `dir`. `progress` is told of bytes as they are read.
pub fn verify(fs: &dyn Fs, dir: &Path, ids: Ids, progress: Arc<dyn Fn(u64) + Send + Sync>) -> Result<Verdict, Error> {
    let reading = |path: &Path| Error::io(format!("reading {}", path.display()));
    let mut verdict = Verdict::default();
    let mut begun: Vec<Begun> = Vec::new();
    let mut invalid = Vec::new();
    for (number, path) in segments(fs, dir).map_err(reading(dir))? {
        let file: Arc<dyn File> =
            Arc::new(Watched { file: fs.open(&path).map_err(reading(&path))?, progress: progress.clone() });
        let file_bytes = file.len().map_err(reading(&path))?;
        verdict.bytes += file_bytes;
        match read_header(&file, file_bytes) {
            Ok(header) if header.ids != ids || header.number != number => {
                invalid.push(format!("{} belongs to another journal, node or cluster", path.display()));
            }
            Ok(header) => {
                if begun.last().is_some_and(|last: &Begun| last.number + 1 != number) {
                    invalid.push(format!("the segment before {} is missing, or cannot be told", path.display()));
                }
                begun.push(Begun { number, path, file, file_bytes, header });
            }
            Err(BadHeader::Version(version)) => {
                invalid.push(format!("{} has format version {version}, which is not known here", path.display()));
            }
            Err(BadHeader::Damaged) => {
                let mut window = Window::new(file, file_bytes, 1 << 20);
                let mut from = DATA_START;
                while let Some(frame) = next_header(&mut window, &ids, number, from, 0).map_err(reading(&path))? {
                    if frame.synced_upto > DATA_START {
                        let why = "its header cannot be read, but frames behind it were synced";
                        invalid.push(format!("{}: {why}", path.display()));
                        break;
                    }
                    from = frame.offset + 8;
                }
            }
        }
    }
    let mut replay = Replay::for_verification(ids);
    for (i, segment) in begun.iter().enumerate() {
        if let Err(error) = replay.segment(segment, begun.get(i + 1)) {
            match error {
                Error::Invalid { .. } => invalid.push(error.to_string()),
                error => return Err(error),
            }
        }
    }
    if let Err(error) = replay.settle(dir) {
        invalid.push(error.to_string());
    }
    if begun.is_empty() && invalid.is_empty() {
        invalid.push(format!("{} holds no segment that was begun", dir.display()));
    }
    let registers = &replay.registers;
    verdict.segments = begun.len();
    verdict.frames = replay.report.frames;
    verdict.clean = replay.report.clean;
    verdict.purged = registers.outline.purged();
    verdict.last = registers.outline.last();
    verdict.committed = registers.committed;
    verdict.vote = registers.vote;
    verdict.holes = replay.wounds.iter().map(|wound| wound.hole.clone()).collect();
    verdict.state_lost = replay.state_lost;
    verdict.findings = replay.findings;
    verdict.invalid = (!invalid.is_empty()).then(|| invalid.join("; "));
    Ok(verdict)
}

pub(super) fn segments(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let number = |path: &PathBuf| number_of(&path.file_name()?.to_string_lossy());
    let mut numbered: Vec<(u64, PathBuf)> =
        fs.list(dir)?.into_iter().filter_map(|path| Some((number(&path)?, path))).collect();
    numbered.sort();
    Ok(numbered)
}

/// A file that tells what is read of it and takes nothing.
#[derive(Clone)]
struct Watched {
    file: Arc<dyn File>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl File for Watched {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (self.progress)(buffer.len() as u64);
        self.file.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, _: &[io::IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}
