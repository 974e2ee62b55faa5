//! Opening a journal: what the files say is made into a log again, or it is said what they lack.
//!
//! **Torn or damaged.** See `judge.rs`. What is torn is cut, with all behind it, zeroed and synced,
//! asking nobody. Damage is never cut: the log does not run before its peers have filled it, or have
//! said that they never had it ([`Damaged`]).
//!
//! **Order.** Unsealed segments and the directory are synced first (what a killed process wrote but
//! never synced must not be acknowledged from the page cache), their cached pages dropped, and only
//! then anything is read.
//!
//! **Stale frames.** Each opening of a journal is a run with a number of its own; within a segment runs
//! never fall. A frame of an older run behind one of a newer run is a leftover and is never accepted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::damaged::Damaged;
use super::format::{BLOCK, BadHeader, DATA_START, SegmentHeader, number_of};
use super::fs::{File, Fs};
use super::keeper::Keeper;
use super::log::Log;
use super::replay::{Begun, Replay};
use super::scan::{Window, dirty_end, next_header};
use super::shelf::Spare;
use super::start::{Place, start};
use super::types::{Error, Ids, Options};
use super::writer::Writer;

/// A journal, opened or in need of help.
#[expect(clippy::large_enum_variant, reason = "a journal is opened once")]
pub enum Opened {
    Ready { log: Log, writer: Writer, keeper: Keeper, report: Report },
    Damaged(Damaged),
}

/// What recovery found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: usize,
    /// Frames read in full.
    pub frames: u64,
    /// Bytes from the first torn frame to the last leftover, cut.
    pub torn_bytes: u64,
    /// Torn ends that were cut: at most one a segment that was being written.
    pub torn_frames: u64,
    /// Frames that were synced and cannot be read.
    pub damaged_frames: u64,
    /// The last thing written was a clean-stop mark.
    pub clean: bool,
}

/// Opens the journal in `dir`, making it if it is not there (and [`Options::create`] allows).
pub fn open(fs: Arc<dyn Fs>, dir: &Path, ids: Ids, options: Options) -> Result<Opened, Error> {
    open_at(Place { fs, dir: dir.to_owned(), ids, options, repaired: 0 })
}

pub(crate) fn open_at(place: Place) -> Result<Opened, Error> {
    let Place { fs, dir, ids, options, .. } = &place;
    let files = find(fs.as_ref(), dir, options)?;
    let Files { begun, unused } = begun(fs.as_ref(), dir, ids, files)?;
    let mut replay = Replay::new(*ids, options.index_step_bytes);
    replay.reads_all = options.read_all;
    for (i, segment) in begun.iter().enumerate() {
        replay.segment(segment, begun.get(i + 1))?;
    }
    replay.settle(dir)?;
    if !replay.wounds.is_empty() || replay.state_lost {
        return Ok(Opened::Damaged(Damaged::new(place, replay, unused)));
    }
    start(place, replay, unused)
}

struct Files {
    begun: Vec<Begun>,
    /// The spare: pre-written, or torn while it was begun.
    unused: Option<(u64, Spare)>,
}

fn find(fs: &dyn Fs, dir: &Path, options: &Options) -> Result<Vec<(u64, PathBuf)>, Error> {
    let what = || format!("opening {}", dir.display());
    if options.create {
        fs.create_dir(dir).map_err(Error::io(what()))?;
    }
    let mut numbered = Vec::new();
    for path in fs.list(dir).map_err(Error::io(what()))? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".tmp") {
            fs.unlink(&path).map_err(Error::io(what()))?;
        } else if let Some(number) = number_of(&name) {
            numbered.push((number, path));
        }
    }
    numbered.sort();
    if numbered.is_empty() && !options.create {
        return Err(Error::Lost(dir.to_owned()));
    }
    Ok(numbered)
}

/// Tells begun segments from a spare, after syncing whatever may hold unsynced bytes.
fn begun(fs: &dyn Fs, dir: &Path, ids: &Ids, files: Vec<(u64, PathBuf)>) -> Result<Files, Error> {
    fs.sync_dir(dir).map_err(Error::io(format!("syncing {}", dir.display())))?;
    let mut opened = Vec::with_capacity(files.len());
    for (number, path) in files {
        let file = fs.open(&path).map_err(Error::io(format!("opening {}", path.display())))?;
        let file_bytes = file.len().map_err(Error::io(format!("reading {}", path.display())))?;
        opened.push((number, path, file, file_bytes));
    }
    // What lies before the last segment that was begun is sealed and was synced before that one's
    // header was written. All after it may hold unsynced bytes; one plan may begin several segments.
    let last_begun = opened.iter().rposition(|(_, _, file, bytes)| read_header(file, *bytes).is_ok());
    let maybe_unsynced = last_begun.unwrap_or(0).saturating_sub(1);
    let mut begun: Vec<Begun> = Vec::new();
    let mut unused = None;
    for (i, (number, path, file, file_bytes)) in opened.into_iter().enumerate() {
        let io = |what: &str| Error::io(format!("{what} {}", path.display()));
        let invalid = |why: String| Error::Invalid { path: path.clone(), why };
        if i >= maybe_unsynced {
            file.sync().map_err(io("syncing"))?;
            file.drop_cache().map_err(io("dropping the cache of"))?;
        }
        match read_header(&file, file_bytes) {
            Ok(header) if header.ids != *ids || header.number != number => {
                return Err(invalid("it belongs to another journal, node or cluster".into()));
            }
            Ok(_) if unused.is_some() => {
                return Err(invalid("the header of a segment before it cannot be read".into()));
            }
            Ok(header) => {
                if begun.last().is_some_and(|last| last.number + 1 != number) {
                    return Err(invalid("the segment before it is missing".into()));
                }
                begun.push(Begun { number, path, file, file_bytes, header });
            }
            Err(BadHeader::Version(version)) => {
                return Err(invalid(format!("its format is version {version}, which this build does not know")));
            }
            Err(BadHeader::Damaged) => {
                let mut window = Window::new(file.clone(), file_bytes, 1 << 20);
                let mut from = DATA_START;
                while let Some(frame) = next_header(&mut window, ids, number, from, 0).map_err(io("reading"))? {
                    if frame.synced_upto > DATA_START {
                        return Err(invalid("its header cannot be read, but frames behind it were synced".into()));
                    }
                    from = frame.offset + 8;
                }
                // Never begun, or torn while it was: nothing of it was ever acknowledged.
                if unused.is_some() {
                    fs.unlink(&path).map_err(io("removing"))?;
                    continue;
                }
                let written = dirty_end(&mut window, 0).map_err(io("reading"))?;
                if window.is_unreadable_from(0) {
                    return Err(invalid("some of it cannot be read, its header among it".into()));
                }
                if written > 0 {
                    file.zero(0, written).map_err(io("clearing"))?;
                    file.sync().map_err(io("syncing"))?;
                }
                unused = Some((number, Spare { path, file, file_bytes }));
            }
        }
    }
    if begun.is_empty() && unused.as_ref().is_some_and(|(number, _)| *number > 1) {
        return Err(Error::Lost(dir.to_owned()));
    }
    Ok(Files { begun, unused })
}

/// Either copy will do.
pub(crate) fn read_header(file: &Arc<dyn File>, file_bytes: u64) -> Result<SegmentHeader, BadHeader> {
    let mut window = Window::new(file.clone(), file_bytes.min(DATA_START), DATA_START);
    let mut copy = |offset| match window.get(offset, BLOCK) {
        Ok(bytes) => SegmentHeader::decode(&bytes),
        Err(_) => Err(BadHeader::Damaged),
    };
    match copy(0) {
        Err(BadHeader::Damaged) => copy(BLOCK),
        first => first,
    }
}
