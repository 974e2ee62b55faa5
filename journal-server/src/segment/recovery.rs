//! Opening a journal: what the files say is made into a log again, or it is said what they lack.
//!
//! **Torn or damaged.** A frame that cannot be read is *damaged* if anything proves that it was synced
//! once: a later frame whose `synced_upto` lies beyond it, or a segment that follows. Otherwise it is
//! *torn*: a crash took it while nobody had been told of it. It and all behind it is cut, zeroed and
//! synced, asking nobody. Damage is never cut.
//!
//! **Order.** Unsealed segments and the directory are synced first (what a killed process wrote but
//! never synced must not be acknowledged from the page cache), their cached pages dropped, and only
//! then anything is read.
//!
//! **Stale frames.** Each opening of a journal is a run with a number of its own; within a segment runs
//! never fall. A frame of an older run behind one of a newer run is a leftover and is never accepted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::format::{
    BadHeader, DATA_START, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, FrameKind, NOT_TRUNCATED, Place, SUB_DROPPED,
    SUB_RUN, SealIndex, SegmentHeader, TRAILER_BYTES, decode_trailer, decode_versions, number_of,
};
use super::fs::{File, Fs};
use super::index::{Index, Segment};
use super::keeper::Keeper;
use super::log::{KeeperBell, Log, Shared, State};
use super::metrics::Metrics;
use super::outline::{Outline, Versions};
use super::reader::{Found, Window, chain_at, frame_at};
use super::ring::Ring;
use super::shelf::{Shelf, Spare, zero};
use super::tape::{Active, PreviousSegment, Registers, Sheet, Tape};
use super::types::{Error, Hole, Ids, LogId, Options, Version, Vote, next_position};
use super::writer::{Writer, apply_effect};

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
    pub clean: bool,
}

/// Synced frames that cannot be read, in segments that are checked in full at the start.
#[derive(Debug)]
pub struct Damaged {
    holes: Vec<Hole>,
    vote: Option<Vote>,
}

impl Damaged {
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }
}

/// Opens the journal in `dir`, making it if it is not there (and [`Options::create`] allows).
pub fn open(fs: Arc<dyn Fs>, dir: &Path, ids: Ids, options: Options) -> Result<Opened, Error> {
    let files = find(fs.as_ref(), dir, &options)?;
    let mut scan = Scan::new(ids, options.index_step_bytes);
    let begun = begun(fs.as_ref(), dir, &ids, files)?;
    for (i, file) in begun.files.iter().enumerate() {
        if let Some(hole) = scan.segment(file, begun.files.get(i + 1))? {
            let damaged = Damaged { holes: vec![hole], vote: scan.registers.vote };
            return Ok(Opened::Damaged(damaged));
        }
    }
    scan.settle(dir)?;
    start(fs, dir, ids, options, scan, begun.unused)
}

/// What a frame that cannot be read is.
enum Bad {
    /// Synced entries, or a version of the state.
    Hole(Box<Hole>),
    /// Something that is told elsewhere as well.
    Empty { goes_on: u64 },
    /// The seal of a segment that another one follows.
    Seal,
    /// Never acknowledged, and cut.
    Torn,
}

/// A segment file and its header.
struct Begun {
    number: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    file_bytes: u64,
}

struct Files {
    files: Vec<Begun>,
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
    let last_begun = opened.iter().rposition(|(_, _, file, bytes)| read_header(file.as_ref(), *bytes).is_ok());
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
        match read_header(file.as_ref(), file_bytes) {
            Ok(header) if header.ids != *ids || header.number != number => {
                return Err(invalid("it belongs to another journal, node or cluster".into()));
            }
            Ok(_) if unused.is_some() => {
                return Err(invalid("the header of a segment before it cannot be read".into()));
            }
            Ok(_) => {
                if begun.last().is_some_and(|last| last.number + 1 != number) {
                    return Err(invalid("the segment before it is missing".into()));
                }
                begun.push(Begun { number, path, file, file_bytes });
            }
            Err(BadHeader::Version(version)) => {
                return Err(invalid(format!("its format is version {version}, which this build does not know")));
            }
            Err(BadHeader::Damaged) => {
                if let Some(frame) = next_frame(&file, file_bytes, ids, number, DATA_START, 0)?
                    && frame.synced_upto > DATA_START
                {
                    return Err(invalid("its header cannot be read, but frames behind it were synced".into()));
                }
                // Never begun, or torn while it was: nothing of it was ever acknowledged.
                if unused.is_some() {
                    fs.unlink(&path).map_err(io("removing"))?;
                    continue;
                }
                let written = dirty_end(&file, file_bytes).map_err(io("reading"))?;
                if written > 0 {
                    zero(file.as_ref(), 0, written).map_err(io("clearing"))?;
                    file.sync().map_err(io("syncing"))?;
                }
                unused = Some((number, Spare { path, file, file_bytes }));
            }
        }
    }
    if begun.is_empty() && unused.as_ref().is_some_and(|(number, _)| *number > 1) {
        return Err(Error::Lost(dir.to_owned()));
    }
    Ok(Files { files: begun, unused })
}

fn read_header(file: &dyn File, file_bytes: u64) -> Result<SegmentHeader, BadHeader> {
    let mut bytes = vec![0u8; file_bytes.min(DATA_START) as usize];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return Err(BadHeader::Damaged);
    }
    let half = bytes.len().min(DATA_START as usize / 2);
    match SegmentHeader::decode(&bytes[..half]) {
        Err(BadHeader::Damaged) => SegmentHeader::decode(&bytes[half..]),
        first => first,
    }
}

/// The end of the last byte that is not zero.
fn dirty_end(file: &Arc<dyn File>, file_bytes: u64) -> std::io::Result<u64> {
    let mut window = Window::new(file.clone(), file_bytes, 1 << 20);
    let (mut at, mut end) = (0, 0);
    while at < file_bytes {
        let piece = window.get(at, 1 << 20)?;
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            end = at + last as u64 + 1;
        }
        at += piece.len() as u64;
    }
    Ok(end)
}

/// The first readable frame header at or after `from` whose run is not older than `run`.
fn next_frame(
    file: &Arc<dyn File>,
    file_bytes: u64,
    ids: &Ids,
    segment: u64,
    from: u64,
    run: u32,
) -> Result<Option<FrameHeader>, Error> {
    let magic = FRAME_MAGIC.to_le_bytes();
    let mut window = Window::new(file.clone(), file_bytes, 1 << 20);
    let mut at = from;
    while at + FRAME_HEADER_BYTES as u64 <= file_bytes {
        let piece = window.get(at, 1 << 20).map_err(Error::io("reading a segment"))?;
        for start in (0..piece.len()).step_by(8) {
            if piece.len() - start < 4 || piece[start..start + 4] != magic {
                continue;
            }
            let offset = at + start as u64;
            let mut own = Window::new(file.clone(), file_bytes, FRAME_HEADER_BYTES as u64);
            let head = own.get(offset, FRAME_HEADER_BYTES as u64).map_err(Error::io("reading a segment"))?;
            let header = FrameHeader::decode(&head, ids, segment, offset);
            if let Some(header) = header.filter(|header| header.run >= run) {
                return Ok(Some(header));
            }
        }
        at += (piece.len() as u64).div_ceil(8) * 8;
    }
    Ok(None)
}

/// The stream read so far.
struct Scan {
    ids: Ids,
    index_step_bytes: u64,
    registers: Registers,
    index: Index,
    report: Report,
    /// Newest run seen.
    run: u32,
    /// The segment that would be written on: its number and what it amounts to.
    active: Option<Tail>,
}

/// The last segment, as far as it is good.
struct Tail {
    number: u64,
    file: Arc<dyn File>,
    file_bytes: u64,
    offset: u64,
    sealed: bool,
    truncations: u32,
    truncated_low: u64,
    versions: u32,
    places: SealIndex,
    /// The next entries must be found without walking over what was removed before them.
    place_due: bool,
    opened_upto: u64,
}

impl Scan {
    fn new(ids: Ids, index_step_bytes: u64) -> Self {
        Scan {
            ids,
            index_step_bytes,
            registers: Registers { chain_at_purge: Some(0), ..Registers::default() },
            index: Index::default(),
            report: Report::default(),
            run: 0,
            active: None,
        }
    }

    /// Reads one segment: by its footer if it is sealed and the next one opens with all that a footer
    /// does not tell (versions, the chain at the purge mark), else frame by frame. A hole ends it.
    fn segment(&mut self, begun: &Begun, next: Option<&Begun>) -> Result<Option<Hole>, Error> {
        self.report.segments += 1;
        self.index.add_segment(Segment {
            number: begun.number,
            path: begun.path.clone(),
            file: begun.file.clone(),
            end: DATA_START,
            file_bytes: begun.file_bytes,
            sealed: false,
        });
        if let Some(next) = next
            && self.first_state(next)?.is_some()
            && self.by_footer(begun)?
        {
            return Ok(None);
        }
        self.by_frames(begun, next)
    }

    /// True if the footer told everything.
    fn by_footer(&mut self, begun: &Begun) -> Result<bool, Error> {
        let reading = |error| Error::Io { what: format!("reading {}", begun.path.display()), source: error };
        let Some(trailer_at) = begun.file_bytes.checked_sub(TRAILER_BYTES) else { return Ok(false) };
        let mut window = Window::new(begun.file.clone(), begun.file_bytes, 64 << 10);
        let trailer = window.get(trailer_at, TRAILER_BYTES).map_err(reading)?;
        let Some(seal_at) = decode_trailer(&trailer, &self.ids, begun.number) else { return Ok(false) };
        let head = window.get(seal_at, FRAME_HEADER_BYTES as u64).map_err(reading)?;
        let seal = FrameHeader::decode(&head, &self.ids, begun.number, seal_at);
        let Some(seal) = seal.filter(|seal| seal.kind == FrameKind::Seal) else { return Ok(false) };
        let payload = window.get(seal_at + FRAME_HEADER_BYTES as u64, u64::from(seal.payload_len)).map_err(reading)?;
        if payload.len() != seal.payload_len as usize || crc32fast::hash(&payload) != seal.payload_crc {
            return Ok(false);
        }
        let Some(places) = SealIndex::decode(&payload) else { return Ok(false) };
        // The first frame says where this segment begins, if it is the oldest.
        let Some((state, versions)) = self.first_state(begun)? else { return Ok(false) };
        self.state(&state, versions);
        let outline = &mut self.registers.outline;
        if seal.truncations > 0 {
            // Whatever follows is told below: by the runs, or as the last id.
            outline.cut_after(seal.truncated_low, None);
            self.index.cut(seal.truncated_low);
        }
        for (i, first) in places.runs.iter().enumerate() {
            let end = match places.runs.get(i + 1) {
                Some(next) => next.position,
                None => next_position(seal.last),
            };
            if end > first.position && !outline.holds_past(first.position) {
                outline.push(*first, end - first.position);
            }
        }
        for place in &places.places {
            self.index.add_place(begun.number, *place);
        }
        self.take_registers(&seal);
        self.registers.chain = seal.chain;
        self.registers.outline.settle(seal.last, seal.purged);
        if let Some(segment) = self.index.segment_mut(begun.number) {
            segment.end = seal.end();
            segment.sealed = true;
        }
        self.active = None;
        Ok(true)
    }

    /// The State frame that opens a segment and the versions in it, if its first copy is whole.
    fn first_state(&self, begun: &Begun) -> Result<Option<(FrameHeader, Vec<Version>)>, Error> {
        let reading = |error| Error::Io { what: format!("reading {}", begun.path.display()), source: error };
        let mut window = Window::new(begun.file.clone(), begun.file_bytes, 64 << 10);
        let head = window.get(DATA_START, FRAME_HEADER_BYTES as u64).map_err(reading)?;
        let header = FrameHeader::decode(&head, &self.ids, begun.number, DATA_START);
        let Some(header) = header.filter(|header| header.kind == FrameKind::State) else { return Ok(None) };
        let payload =
            window.get(DATA_START + FRAME_HEADER_BYTES as u64, u64::from(header.payload_len)).map_err(reading)?;
        if payload.len() != header.payload_len as usize || crc32fast::hash(&payload) != header.payload_crc {
            return Ok(None);
        }
        Ok(decode_versions(&payload).map(|versions| (header, versions)))
    }

    fn by_frames(&mut self, begun: &Begun, next: Option<&Begun>) -> Result<Option<Hole>, Error> {
        let reading = |error| Error::Io { what: format!("reading {}", begun.path.display()), source: error };
        let mut tail = Tail {
            number: begun.number,
            file: begun.file.clone(),
            file_bytes: begun.file_bytes,
            offset: DATA_START,
            sealed: false,
            truncations: 0,
            truncated_low: NOT_TRUNCATED,
            versions: 0,
            places: SealIndex::default(),
            place_due: true,
            opened_upto: DATA_START,
        };
        let mut window = Window::new(begun.file.clone(), begun.file_bytes, 1 << 20);
        // Runs never fall within a segment; one that the segment before had seen may go on here.
        let mut run = 0;
        while tail.offset < begun.file_bytes && !tail.sealed {
            let found = self.read_frame(&mut window, begun, tail.offset, run).map_err(reading)?;
            let found = match found {
                Some(found) => Some(found),
                // Of a frame that is written twice, one whole copy counts.
                None => {
                    let from = tail.offset + 8;
                    let following = next_frame(&begun.file, begun.file_bytes, &self.ids, begun.number, from, run)?;
                    match following.filter(|header| header.copy && header.twin == tail.offset) {
                        Some(copy) => self.read_frame(&mut window, begun, copy.offset, run).map_err(reading)?,
                        None => None,
                    }
                }
            };
            let Some((frame, end)) = found else {
                match self.bad(begun, &mut tail, run, next)? {
                    Bad::Hole(hole) => return Ok(Some(*hole)),
                    Bad::Empty { goes_on } => tail.offset = goes_on,
                    Bad::Seal => tail.sealed = true,
                    Bad::Torn => break,
                }
                continue;
            };
            run = frame.header().run;
            self.run = self.run.max(run);
            self.report.frames += 1;
            self.apply(&mut tail, frame);
            tail.offset = end;
        }
        if let Some(segment) = self.index.segment_mut(begun.number) {
            segment.end = tail.offset;
            segment.sealed = tail.sealed;
        }
        for place in &tail.places.places {
            self.index.add_place(begun.number, *place);
        }
        if next.is_some() && !tail.sealed {
            return Err(Error::Invalid {
                path: begun.path.clone(),
                why: "it ends before its seal, though a segment follows".into(),
            });
        }
        self.active = Some(tail);
        Ok(None)
    }

    /// One whole frame that may follow one of `run`, and where the next one is.
    fn read_frame(
        &self,
        window: &mut Window,
        begun: &Begun,
        offset: u64,
        run: u32,
    ) -> std::io::Result<Option<(Frame, u64)>> {
        let frame = match frame_at(window, &self.ids, begun.number, offset)? {
            Found::Bad => return Ok(None),
            Found::Entries(entries) => {
                let whole = entries.entries(0, u64::MAX).all(|entry| entry.is_ok());
                let follows = entries.header.last == self.registers.outline.last();
                if !whole || !follows {
                    return Ok(None);
                }
                Frame::Entries(entries)
            }
            Found::Other(header) => {
                let payload = window.get(offset + FRAME_HEADER_BYTES as u64, u64::from(header.payload_len))?;
                if payload.len() != header.payload_len as usize || crc32fast::hash(&payload) != header.payload_crc {
                    return Ok(None);
                }
                Frame::Other(header, payload)
            }
        };
        let header = frame.header();
        if header.run < run {
            return Ok(None);
        }
        let end = header.end();
        Ok(Some((frame, end)))
    }

    /// Decides what a frame that cannot be read is. A hole if it was synced; else it is cut.
    fn bad(&mut self, begun: &Begun, tail: &mut Tail, run: u32, next: Option<&Begun>) -> Result<Bad, Error> {
        let at = tail.offset;
        let mut proof = next.is_some();
        let mut leftovers_end = at;
        let mut from = at + 8;
        let mut next_good: Option<FrameHeader> = None;
        while let Some(header) = next_frame(&begun.file, begun.file_bytes, &self.ids, begun.number, from, run)? {
            proof |= header.synced_upto > at;
            leftovers_end = leftovers_end.max(header.end());
            from = header.offset + 8;
            if next_good.is_none() && header.offset > at {
                next_good = Some(header);
            }
            if proof {
                break;
            }
        }
        if proof {
            if let Some(goes_on) = next_good.as_ref().filter(|good| self.nothing_was_lost(tail, good)) {
                self.pad(begun, tail, run, goes_on)?;
                return Ok(Bad::Empty { goes_on: goes_on.offset });
            }
            if next.is_some_and(|next| self.was_the_seal(tail, next)) {
                tracing::warn!(
                    journal = self.ids.group,
                    segment = begun.number,
                    at,
                    "a seal is damaged; it is not needed"
                );
                return Ok(Bad::Seal);
            }
            let first = next_position(self.registers.outline.last());
            let after = next_good.as_ref().and_then(|header| header.last).unwrap_or(LogId::new(0, first));
            return Ok(Bad::Hole(Box::new(Hole {
                first,
                last: after.position.max(first),
                identities: None,
                before: self.registers.outline.last(),
                chain_before: Some(self.registers.chain),
                after,
                chain_after: next_good.as_ref().map(|header| header.chain),
                segment: begun.number,
                offset: at,
                end: next_good.map_or(begun.file_bytes, |header| header.offset),
            })));
        }
        let dirty = dirty_end_from(&begun.file, begun.file_bytes, at)
            .map_err(Error::io(format!("reading {}", begun.path.display())))?;
        let upto = dirty.max(leftovers_end).min(begun.file_bytes);
        if upto > at {
            self.report.torn_bytes += upto - at;
            self.report.torn_frames += 1;
            tracing::info!(
                journal = self.ids.group,
                segment = begun.number,
                at,
                bytes = upto - at,
                "a torn end was cut"
            );
            let clearing = |error| Error::Io { what: format!("clearing {}", begun.path.display()), source: error };
            zero(begun.file.as_ref(), at, upto).map_err(clearing)?;
            begun.file.sync().map_err(clearing)?;
        }
        Ok(Bad::Torn)
    }

    /// Whether a good frame behind bad ones tells everything that they can have said: no entries, no
    /// truncation, no version was in them.
    fn nothing_was_lost(&self, tail: &Tail, good: &FrameHeader) -> bool {
        let registers = &self.registers;
        !good.copy
            && good.last == registers.outline.last()
            && good.purged == registers.outline.purged()
            && good.chain == registers.chain
            && good.truncations == tail.truncations
            && good.versions == tail.versions
    }

    /// Whether the bad frame at the end of a segment was its seal, and nothing else was lost.
    fn was_the_seal(&self, tail: &Tail, next: &Begun) -> bool {
        read_header(next.file.as_ref(), next.file_bytes).is_ok_and(|header| {
            header.previous_end == tail.offset
                && header.previous_last == self.registers.outline.last()
                && header.previous_chain == self.registers.chain
                && header.previous_truncations == tail.truncations
                && header.previous_versions == tail.versions
        })
    }

    /// Fills the place of frames that are not needed, so that readers can pass it.
    fn pad(&self, begun: &Begun, tail: &Tail, run: u32, goes_on: &FrameHeader) -> Result<(), Error> {
        tracing::warn!(
            journal = self.ids.group,
            segment = begun.number,
            at = tail.offset,
            bytes = goes_on.offset - tail.offset,
            "damaged frames that held nothing are padded"
        );
        let header = FrameHeader {
            offset: tail.offset,
            run,
            kind: FrameKind::Pad,
            sub: 0,
            doubled: false,
            frame_len: (goes_on.offset - tail.offset) as u32,
            payload_len: 0,
            payload_crc: 0,
            count: 0,
            synced_upto: goes_on.synced_upto.min(tail.offset),
            twin: 0,
            at: None,
            aux: None,
            ..goes_on.clone()
        };
        let mut bytes = [0u8; FRAME_HEADER_BYTES];
        header.encode(&self.ids, &mut bytes);
        let padding = |error| Error::Io { what: format!("padding {}", begun.path.display()), source: error };
        begun.file.write_all_at(&[std::io::IoSlice::new(&bytes)], tail.offset).map_err(padding)?;
        begun.file.sync().map_err(padding)
    }

    fn state(&mut self, header: &FrameHeader, versions: Vec<Version>) {
        self.run = self.run.max(header.run);
        let first = header.offset == DATA_START || (header.copy && header.twin == DATA_START);
        if self.report.segments == 1 && first {
            // The oldest segment: what lay below is purged, perhaps only by a later frame.
            self.registers.outline = Outline::unknown_upto(header.last, header.purged);
        }
        self.registers.versions = Versions::new(versions);
        self.registers.chain = header.chain;
        self.take_registers(header);
        if header.aux.is_some() || header.purged.is_some() {
            self.registers.chain_at_purge = header.aux;
        }
    }

    fn take_registers(&mut self, header: &FrameHeader) {
        self.registers.vote = header.vote;
        self.registers.committed = header.committed;
        self.registers.applied = header.applied;
    }

    fn apply(&mut self, tail: &mut Tail, frame: Frame) {
        self.take_registers(frame.header());
        self.report.clean = false;
        match frame {
            Frame::Entries(entries) => {
                let header = &entries.header;
                let first = header.first();
                if !self.registers.outline.accepts(first) {
                    // Checked against `last` when it was read; a term that falls is a bug of the writer.
                    tracing::error!(journal = self.ids.group, at = %first, "an entry's term is below its predecessor's");
                }
                let last = tail.places.places.last();
                let far = last.is_none_or(|place| header.offset - place.offset >= self.index_step_bytes);
                if far || tail.place_due {
                    tail.places.places.push(Place { position: first.position, offset: header.offset });
                    tail.place_due = false;
                }
                if tail.places.runs.last().is_none_or(|run| run.term != first.term) {
                    tail.places.runs.push(first);
                }
                self.registers.outline.push(first, u64::from(header.count));
                self.registers.chain = super::format::chain_after(header, &entries.records);
            }
            Frame::Other(header, payload) => {
                let at = header.at;
                match header.kind {
                    FrameKind::State => {
                        if let Some(versions) = decode_versions(&payload) {
                            self.state(&header, versions);
                        }
                        tail.opened_upto = tail.opened_upto.max(header.end().max(header.twin_offset().unwrap_or(0)));
                    }
                    FrameKind::Truncate => {
                        let first_removed = next_position(at);
                        self.registers.outline.cut_after(first_removed, at);
                        self.registers.versions.cut(first_removed);
                        self.registers.chain = header.aux.unwrap_or(0);
                        self.cut(tail, first_removed);
                    }
                    FrameKind::Purge => {
                        if header.sub == SUB_DROPPED {
                            self.drop_log(tail, at, header.aux);
                        }
                        if let Some(mark) = at {
                            self.registers.outline.mark_purged(mark);
                            self.registers.versions.purge(mark);
                            self.registers.chain_at_purge = header.aux;
                        }
                    }
                    FrameKind::Version => {
                        if let Some(at) = at {
                            self.registers.versions.save(Version { at, bytes: payload });
                        }
                        tail.versions += 1;
                    }
                    FrameKind::Snapshot => {
                        if let Some(at) = at {
                            let version = Version { at, bytes: payload };
                            if header.sub == SUB_DROPPED {
                                self.drop_log(tail, Some(at), header.aux);
                                self.registers.versions = Versions::new(vec![version]);
                            } else {
                                self.registers.outline.mark_purged(at);
                                self.registers.versions.install(version);
                                self.registers.chain_at_purge = header.aux;
                            }
                        }
                        tail.versions += 1;
                    }
                    FrameKind::Mark => self.report.clean = header.sub == super::format::SUB_STOP,
                    FrameKind::Seal => tail.sealed = true,
                    // The vote was in the header.
                    FrameKind::Vote | FrameKind::Pad | FrameKind::Entries => {}
                }
            }
        }
    }

    fn drop_log(&mut self, tail: &mut Tail, mark: Option<LogId>, chain: Option<u64>) {
        self.registers.outline = Outline::starting_after(mark);
        self.registers.chain = chain.unwrap_or(0);
        self.registers.chain_at_purge = chain;
        self.cut(tail, 0);
    }

    fn cut(&mut self, tail: &mut Tail, first_removed: u64) {
        tail.truncations += 1;
        tail.truncated_low = tail.truncated_low.min(first_removed);
        tail.places.places.retain(|place| place.position < first_removed);
        tail.places.runs.retain(|run| run.position < first_removed);
        tail.place_due = true;
        self.index.cut(first_removed);
    }

    /// Drops, never clamps, what names an id that is not exactly in the log.
    fn settle(&mut self, dir: &Path) -> Result<(), Error> {
        let outline = &self.registers.outline;
        if !outline.is_complete() {
            let why = format!(
                "positions above the purge mark {:?} are in no segment; the log ends at {:?}",
                outline.purged(),
                outline.last()
            );
            return Err(Error::Invalid { path: dir.to_owned(), why });
        }
        let known = |id: &LogId| outline.contains(*id);
        self.registers.committed = self.registers.committed.filter(known);
        self.registers.applied = self.registers.applied.filter(known);
        self.registers.versions.drop_unknown(outline);
        Ok(())
    }
}

enum Frame {
    Entries(super::reader::EntriesFrame),
    Other(FrameHeader, bytes::Bytes),
}

impl Frame {
    fn header(&self) -> &FrameHeader {
        match self {
            Frame::Entries(entries) => &entries.header,
            Frame::Other(header, _) => header,
        }
    }
}

fn dirty_end_from(file: &Arc<dyn File>, file_bytes: u64, from: u64) -> std::io::Result<u64> {
    let mut window = Window::new(file.clone(), file_bytes, 1 << 20);
    let (mut at, mut end) = (from, from);
    while at < file_bytes {
        let piece = window.get(at, 1 << 20)?;
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            end = at + last as u64 + 1;
        }
        at += piece.len() as u64;
    }
    Ok(end)
}

/// Puts the log together and writes down that a new run begins.
fn start(
    fs: Arc<dyn Fs>,
    dir: &Path,
    ids: Ids,
    options: Options,
    scan: Scan,
    unused: Option<(u64, Spare)>,
) -> Result<Opened, Error> {
    let Scan { registers, mut index, report, run, active, .. } = scan;
    let last_number = index.segments().next_back().map_or(0, |segment| segment.number);
    let shelf = Arc::new(Shelf::new(fs, dir, options.segment_bytes, last_number));
    if let Some((number, spare)) = unused {
        shelf.put(number, spare);
    }
    let recovered: Arc<OnceLock<Weak<Shared>>> = Arc::default();
    let lookup = {
        let recovered = recovered.clone();
        Box::new(move |position| match recovered.get().and_then(Weak::upgrade) {
            Some(shared) => chain_at(&shared, position),
            None => Err(Error::Refused { why: "the journal is still being opened".into() }),
        })
    };
    let run = run + 1;
    let (tail, begins) = match active {
        Some(tail) => {
            let begins = tail.sealed;
            (tail, begins)
        }
        None => (nowhere(), true),
    };
    let previous = PreviousSegment {
        end: tail.offset,
        truncations: tail.truncations,
        truncated_low: tail.truncated_low,
        versions: tail.versions,
    };
    let active = Active {
        number: tail.number,
        file: tail.file,
        file_bytes: tail.file_bytes,
        offset: tail.offset,
        synced: tail.offset,
        truncations: tail.truncations,
        truncated_low: tail.truncated_low,
        versions: tail.versions,
        index: tail.places,
        place_due: true,
        opened_upto: tail.opened_upto,
    };
    let mut tape = Tape::new(ids, run, &options, registers, active, shelf.clone(), lookup);
    let mut sheet = Sheet::default();
    let writing = |error| Error::Io { what: format!("writing to {}", dir.display()), source: error };
    match begins {
        true => {
            let previous = if last_number == 0 { PreviousSegment::NONE } else { previous };
            tape.open_segment(&mut sheet, last_number + 1, previous).map_err(writing)?;
        }
        false => tape.state(&mut sheet, SUB_RUN).map_err(writing)?,
    }
    tape.finish(&mut sheet).map_err(writing)?;
    sheet.perform(|file| file.sync()).map_err(writing)?;
    for effect in sheet.effects.drain(..) {
        apply_effect(&mut index, effect);
    }
    index.set_written(tape.registers.outline.purged(), tape.registers.outline.last());
    tape.proven = false;

    let registers = &tape.registers;
    let last = registers.outline.last();
    let state = State {
        outline: registers.outline.clone(),
        vote: registers.vote,
        versions: registers.versions.clone(),
        committed: registers.committed,
        applied: registers.applied,
        queue: Default::default(),
        versions_queued: 0,
        rewinds_queued: 0,
        ring: Ring::new(options.ring_bytes),
        durable: last,
        written: last,
        purged_durable: registers.outline.purged(),
        purged_chain: registers.outline.purged().zip(registers.chain_at_purge),
        recovered_commit: registers.committed,
        recovered_applied: registers.applied,
        failed: None,
        closing: false,
        parked: false,
    };
    let shared = Arc::new(Shared {
        ids,
        metrics: Metrics::new(ids.group),
        options,
        state: Mutex::new(state),
        wake: Condvar::new(),
        notify: Notify::new(),
        index: RwLock::new(index),
        shelf,
        queued_bytes: Default::default(),
        keeper: KeeperBell::default(),
        holes: Mutex::default(),
        holes_count: watch::Sender::new(0),
    });
    if report.torn_bytes > 0 {
        shared.metrics.torn_frames.increment(1);
    }
    // Nobody else has the cell: it is set once, here.
    let _ = recovered.set(Arc::downgrade(&shared));
    let log = Log { shared: shared.clone() };
    let keeper = Keeper::new(shared.clone());
    Ok(Opened::Ready { log, writer: Writer::new(shared, tape), keeper, report })
}

/// Stands in for the last segment where there is none, or none that may be written on: replaced by
/// `open_segment` before anything is written.
fn nowhere() -> Tail {
    Tail {
        number: 0,
        file: Arc::new(Nowhere),
        file_bytes: 0,
        offset: 0,
        sealed: true,
        truncations: 0,
        truncated_low: NOT_TRUNCATED,
        versions: 0,
        places: SealIndex::default(),
        place_due: true,
        opened_upto: 0,
    }
}

/// A file that is never written.
#[derive(Debug)]
struct Nowhere;

impl File for Nowhere {
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn write_all_at(&self, _: &[std::io::IoSlice<'_>], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn sync(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn len(&self) -> std::io::Result<u64> {
        Ok(0)
    }
    fn drop_cache(&self) -> std::io::Result<()> {
        Ok(())
    }
}
