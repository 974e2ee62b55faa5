//! What the frames of all segments amount to: registers, index, and the holes where frames that were
//! synced cannot be read any more.
//!
//! A hole is described by what surrounds it. Every header tells the last id and the chain before its
//! frame, how many truncations and versions its segment had seen, vote and purge mark: so the first
//! readable header behind a gap tells everything that the gap amounted to, except the entries and the
//! versions in it. A gap that took neither is no hole: it is passed over, and the log is as it was.
//!
//! Versions can be made again by applying entries, as long as the one at the purge mark is there: the
//! list is cut back to what precedes the lost one, and the applied hint is dropped with it.

mod apply;
mod gap;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use self::gap::{After, Gap};
use super::format::{
    BLOCK, DATA_START, FRAME_HEADER_BYTES, FrameHeader, FrameKind, NOT_TRUNCATED, SealIndex, SegmentHeader,
    TRAILER_BYTES, decode_trailer, decode_versions,
};
use super::fs::File;
use super::index::{Index, Segment};
use super::judge::{Verdict, judge};
use super::outline::Outline;
use super::recovery::Report;
use super::scan::{EntriesFrame, Look, Window, dirty_end, look, next_header, second_copy};
use super::tape::Registers;
use super::types::{Error, Hole, Ids, LogId, Version, next_position};
use super::wound::{Stamp, Wound};

/// A segment that was begun: its header can be read.
pub(crate) struct Begun {
    pub number: u64,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub file_bytes: u64,
    pub header: SegmentHeader,
}

/// What is worth telling of a segment, besides holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An end that nothing proves to have been synced.
    Torn { segment: u64, offset: u64, bytes: u64 },
    /// Synced bytes that cannot be read and that nothing needs any more.
    Scar { segment: u64, offset: u64, end: u64 },
    /// Entries that cannot be read and were trimmed.
    Trimmed { segment: u64, offset: u64, first: u64, last: u64 },
    /// One of two copies cannot be read.
    Copy { segment: u64, offset: u64 },
    /// The footer cannot be read; the segment is read frame by frame instead.
    Footer { segment: u64 },
    /// Versions of the state were lost; they will be made again by applying entries.
    Versions { segment: u64, offset: u64 },
}

/// The last segment, as far as it is good.
pub(crate) struct Tail {
    pub number: u64,
    pub file: Arc<dyn File>,
    pub file_bytes: u64,
    pub offset: u64,
    pub sealed: bool,
    pub truncations: u32,
    pub truncated_low: u64,
    pub versions: u32,
    pub places: SealIndex,
    pub opened_upto: u64,
    /// The next entries must be found without walking over what lies before them.
    place_due: bool,
}

pub(crate) struct Replay {
    ids: Ids,
    index_step_bytes: u64,
    /// Cut what is torn; otherwise change nothing.
    mends: bool,
    /// Read every frame, also where a footer would do.
    pub reads_all: bool,
    pub registers: Registers,
    pub index: Index,
    pub report: Report,
    /// Newest run seen.
    pub run: u32,
    /// The segment to be written on.
    pub tail: Option<Tail>,
    pub wounds: Vec<Wound>,
    pub findings: Vec<Finding>,
    gap: Option<Gap>,
    /// Versions were lost behind the first so many.
    sound_versions: Option<usize>,
    /// The stream said which version is in force at the purge mark.
    base_told: bool,
    /// The version at the purge mark is lost: entries cannot make it again.
    pub state_lost: bool,
    /// The chain at the end of the stream is not known.
    pub chain_lost: bool,
}

impl Replay {
    pub(crate) fn new(ids: Ids, index_step_bytes: u64) -> Self {
        Replay {
            ids,
            index_step_bytes,
            mends: true,
            reads_all: false,
            registers: Registers { chain_at_purge: Some(0), ..Registers::default() },
            index: Index::default(),
            report: Report::default(),
            run: 0,
            tail: None,
            wounds: Vec::new(),
            findings: Vec::new(),
            gap: None,
            sound_versions: None,
            base_told: true,
            state_lost: false,
            chain_lost: false,
        }
    }

    /// Looks at everything and touches nothing.
    pub(crate) fn for_verification(ids: Ids) -> Self {
        Replay { mends: false, reads_all: true, ..Replay::new(ids, 64 << 10) }
    }

    /// Reads single segments of a log that runs.
    pub(crate) fn for_inspection(ids: Ids, index_step_bytes: u64) -> Self {
        Replay { mends: false, ..Replay::new(ids, index_step_bytes) }
    }

    /// Reads one segment of a log that runs, all of whose bytes up to `begun.file_bytes` are synced.
    pub(crate) fn inspect(&mut self, begun: &Begun, next: Option<&SegmentHeader>) -> Result<(), Error> {
        self.open_oldest(begun);
        let end = match next {
            Some(next) => FramesEnd::Told(next.clone()),
            None => FramesEnd::Synced(begun.file_bytes),
        };
        self.by_frames(begun, end)
    }

    /// Reads one segment: by its footer if another follows that opens with all that a footer does not
    /// tell (versions, the chain at the purge mark), else frame by frame.
    pub(crate) fn segment(&mut self, begun: &Begun, next: Option<&Begun>) -> Result<(), Error> {
        self.open_oldest(begun);
        if let Some(next) = next
            && !self.reads_all
            && self.first_state(next)?.is_some()
            && self.by_footer(begun)?
        {
            return Ok(());
        }
        self.by_frames(begun, next.map_or(FramesEnd::Open, |next| FramesEnd::Told(next.header.clone())))
    }

    fn open_oldest(&mut self, begun: &Begun) {
        self.report.segments += 1;
        if self.report.segments == 1 {
            // The oldest segment: what lay below is purged, perhaps only by a later frame.
            self.registers.outline = Outline::unknown_upto(begun.header.previous_last, None);
            self.registers.chain = begun.header.previous_chain;
        }
        self.run = self.run.max(begun.header.run);
        self.index.add_segment(Segment {
            number: begun.number,
            path: begun.path.clone(),
            file: begun.file.clone(),
            end: DATA_START,
            file_bytes: begun.file_bytes,
            sealed: false,
        });
    }

    /// Drops, never clamps, what names an id that is not exactly in the log; forgets holes that
    /// nothing needs any more. To be called once, after the last segment.
    pub(crate) fn settle(&mut self, dir: &std::path::Path) -> Result<(), Error> {
        let outline = &self.registers.outline;
        if !outline.is_complete() {
            let why = format!(
                "positions above the purge mark {:?} are in no segment; the log ends at {:?}",
                outline.purged(),
                outline.last()
            );
            return Err(Error::Invalid { path: dir.to_owned(), why });
        }
        if let Some(mark) = outline.purged() {
            for Hole { segment, offset, first, last, .. } in self.wounds.iter().map(|wound| &wound.hole) {
                if *last <= mark.position {
                    let (segment, offset, first, last) = (*segment, *offset, *first, *last);
                    self.findings.push(Finding::Trimmed { segment, offset, first, last });
                }
            }
            self.wounds.retain(|wound| wound.hole.last > mark.position);
            let chain = self.registers.chain_at_purge;
            self.wounds.iter_mut().for_each(|wound| wound.forget_upto(mark, chain));
            self.wounds.retain(|wound| !wound.is_void());
        }
        self.settle_versions();
        let outline = &self.registers.outline;
        let known = |id: &LogId| outline.contains(*id);
        self.registers.committed = self.registers.committed.filter(known);
        self.registers.applied = self.registers.applied.filter(known);
        self.registers.versions.drop_unknown(outline);
        Ok(())
    }

    fn settle_versions(&mut self) {
        let Some(sound) = self.sound_versions else { return };
        let base = match self.registers.outline.purged() {
            Some(mark) => self.registers.versions.base(mark),
            None => None,
        };
        if base.is_some_and(|base| sound <= base) {
            // What was lost lies below the purge mark: nobody can ask for it.
            return;
        }
        let first_after_base = base.map_or(0, |base| base + 1);
        if sound == first_after_base && self.registers.outline.purged().is_some() && !self.base_told {
            self.state_lost = true;
        }
        self.registers.versions.keep_first(sound);
        self.registers.applied = None;
    }

    /// True if the footer told everything.
    fn by_footer(&mut self, begun: &Begun) -> Result<bool, Error> {
        let reading = |error| Error::Io { what: format!("reading {}", begun.path.display()), source: error };
        let mut window = Window::new(begun.file.clone(), begun.file_bytes, 64 << 10);
        let Some((seal, places)) = read_footer(&mut window, &self.ids, begun.number).map_err(reading)? else {
            self.findings.push(Finding::Footer { segment: begun.number });
            return Ok(false);
        };
        // The first frame says where this segment begins, if it is the oldest.
        let Some((state, versions)) = self.first_state(begun)? else { return Ok(false) };
        if state.last != self.registers.outline.last() || state.chain != self.registers.chain {
            return Ok(false);
        }
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
        self.registers.chain = seal.chain;
        self.registers.outline.settle(seal.last, seal.purged);
        self.take_registers(&seal);
        if seal.truncations > 0 {
            self.cut_wounds(seal.truncated_low, None, None);
        }
        self.end_segment(begun, seal.end(), true);
        self.tail = None;
        Ok(true)
    }

    /// The State frame that opens a segment and the versions in it, if its first copy is whole.
    fn first_state(&self, begun: &Begun) -> Result<Option<(FrameHeader, Vec<Version>)>, Error> {
        let mut window = Window::new(begun.file.clone(), begun.file_bytes, 64 << 10);
        let at_start = look(&mut window, &self.ids, begun.number, DATA_START, 0)
            .map_err(Error::io(format!("reading {}", begun.path.display())))?;
        Ok(match at_start {
            Look::Other(header, payload) if header.kind == FrameKind::State => {
                decode_versions(&payload).map(|versions| (header, versions))
            }
            _ => None,
        })
    }

    fn by_frames(&mut self, begun: &Begun, frames_end: FramesEnd) -> Result<(), Error> {
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
            opened_upto: DATA_START,
            place_due: true,
        };
        // Where the frames end, if the next segment says so.
        let known_end = match &frames_end {
            FramesEnd::Told(next) => Some(next.previous_end.min(begun.file_bytes)),
            FramesEnd::Synced(end) => Some(*end),
            FramesEnd::Open => None,
        };
        let mut window = Window::new(begun.file.clone(), begun.file_bytes, 1 << 20);
        // Runs never fall within a segment; one that the segment before had seen may go on here.
        let mut run = 0;
        while tail.offset < known_end.unwrap_or(begun.file_bytes) && !tail.sealed {
            let at = tail.offset;
            let found = look(&mut window, &self.ids, begun.number, at, run).map_err(reading)?;
            let (found, bad_bodies) = match found {
                Look::Entries(frame) => {
                    let bad = frame.bad_bodies();
                    (Look::Entries(frame), bad)
                }
                found => (found, Vec::new()),
            };
            let unread = match found {
                Look::Entries(frame) if bad_bodies.is_empty() => {
                    run = self.take(&mut tail, frame.header.end(), Whole::Entries(frame))?;
                    continue;
                }
                Look::Other(header, payload) => {
                    self.check_copy(&mut window, &header).map_err(reading)?;
                    run = self.take(&mut tail, header.end(), Whole::Other(header, payload))?;
                    continue;
                }
                unread => unread,
            };
            // Of a frame that is written twice, one whole copy counts.
            if let Some((copy, payload)) =
                second_copy(&mut window, &self.ids, begun.number, at, run).map_err(reading)?
            {
                self.findings.push(Finding::Copy { segment: begun.number, offset: at });
                run = self.take(&mut tail, copy.end(), Whole::Other(copy, payload))?;
                continue;
            }
            let (mut verdict, behind) = self.judge_at(&mut window, begun, at, run, known_end).map_err(reading)?;
            // Older segments are gone, and nothing read so far has purged them: whatever did lies from here
            // on, and they were removed only when it was synced.
            if !self.registers.outline.is_complete() {
                verdict = Verdict::Damaged;
            }
            if verdict == Verdict::Torn {
                // What is torn still tells what a gap before it amounted to.
                match &unread {
                    Look::Headed(header) if self.gap.is_some() => self.meet(&mut tail, header)?,
                    Look::Entries(frame) if self.gap.is_some() => self.meet(&mut tail, &frame.header)?,
                    _ => {}
                }
                self.cut_torn(&mut window, begun, at)?;
                break;
            }
            match unread {
                Look::Entries(frame) => {
                    // Everything but some bodies is known: the log goes on.
                    self.meet(&mut tail, &frame.header)?;
                    self.wounds.push(Wound::bodies(&frame, &bad_bodies));
                    run = self.take(&mut tail, frame.header.end(), Whole::Entries(frame))?;
                }
                Look::Headed(header) => {
                    self.meet(&mut tail, &header)?;
                    run = header.run;
                    self.run = self.run.max(run);
                    tail.offset = header.end();
                    self.lose(&mut tail, begun, at, Some(header));
                }
                Look::Nothing | Look::Other(..) => {
                    tail.offset = behind.or(known_end).unwrap_or(begun.file_bytes);
                    self.lose(&mut tail, begun, at, None);
                }
            }
        }
        self.end_by_frames(begun, frames_end, tail)
    }

    /// Takes up a frame that is whole. Its run.
    fn take(&mut self, tail: &mut Tail, end: u64, frame: Whole) -> Result<u32, Error> {
        self.meet(tail, frame.header())?;
        if let Whole::Entries(entries) = &frame {
            self.go_on_with(tail, entries.header.first())?;
        }
        let run = frame.header().run;
        self.run = self.run.max(run);
        self.report.frames += 1;
        self.apply(tail, frame);
        tail.offset = end;
        Ok(run)
    }

    fn end_by_frames(&mut self, begun: &Begun, frames_end: FramesEnd, mut tail: Tail) -> Result<(), Error> {
        match frames_end {
            FramesEnd::Told(header) => {
                if header.previous_versions != tail.versions {
                    self.lose_versions(begun.number, tail.offset);
                    tail.versions = header.previous_versions;
                }
                let after = After {
                    last: header.previous_last,
                    chain: header.previous_chain,
                    stamp: Stamp {
                        run: self.run,
                        truncations: header.previous_truncations,
                        truncated_low: header.previous_truncated_low,
                        versions: header.previous_versions,
                        vote: self.registers.vote,
                        purged: self.registers.outline.purged(),
                    },
                };
                self.pass(&mut tail, after)?;
                // Whatever its end looks like, it is not written on: a segment follows.
                tail.sealed = true;
            }
            FramesEnd::Synced(_) | FramesEnd::Open => {
                if let Some(gap) = self.gap.take() {
                    self.close_unended(&mut tail, gap);
                }
            }
        }
        self.end_segment(begun, tail.offset, tail.sealed);
        self.tail = Some(tail);
        Ok(())
    }

    /// Entries never fall back behind what is there: that is what Truncate frames are for. The checksums of
    /// such a frame are right, so whoever wrote it was wrong, and nothing of the log is to be believed.
    fn go_on_with(&self, tail: &Tail, first: LogId) -> Result<(), Error> {
        let last = self.registers.outline.last();
        if first.position >= next_position(last) {
            return Ok(());
        }
        Err(Error::Invalid {
            path: PathBuf::from(super::format::file_name(tail.number)),
            why: format!("the frame at {} begins at {first}, but the log before it ends at {last:?}", tail.offset),
        })
    }

    fn end_segment(&mut self, begun: &Begun, end: u64, sealed: bool) {
        if let Some(segment) = self.index.segment_mut(begun.number) {
            segment.end = end;
            segment.sealed = sealed;
        }
    }

    /// Whether what cannot be read at `at` was synced, and where the next readable header is.
    fn judge_at(
        &mut self,
        window: &mut Window,
        begun: &Begun,
        at: u64,
        run: u32,
        known_end: Option<u64>,
    ) -> std::io::Result<(Verdict, Option<u64>)> {
        let mut promises = Vec::new();
        let mut behind = None;
        let mut from = at + 8;
        while let Some(header) = next_header(window, &self.ids, begun.number, from, run)? {
            if known_end.is_some_and(|end| header.offset >= end) {
                break;
            }
            behind.get_or_insert(header.offset);
            promises.push(header.synced_upto);
            from = header.offset + 8;
            // One promise is enough, and nothing more is needed if a segment follows.
            if header.synced_upto > at || known_end.is_some() {
                break;
            }
        }
        Ok((judge(at, promises, known_end.is_some()), behind))
    }

    /// Cuts an end that nobody was told of.
    fn cut_torn(&mut self, window: &mut Window, begun: &Begun, at: u64) -> Result<(), Error> {
        let reading = |error| Error::Io { what: format!("reading {}", begun.path.display()), source: error };
        let upto = dirty_end(window, at).map_err(reading)?;
        if window.is_unreadable_from(at) {
            // Not a torn write but a failing device, which must not take what may have been synced.
            return Err(reading(std::io::Error::other(format!("bytes behind {at} cannot be read"))));
        }
        if upto == at {
            return Ok(());
        }
        self.report.torn_bytes += upto - at;
        self.report.torn_frames += 1;
        self.findings.push(Finding::Torn { segment: begun.number, offset: at, bytes: upto - at });
        if self.mends {
            tracing::info!(
                journal = self.ids.group,
                segment = begun.number,
                at,
                bytes = upto - at,
                "a torn end was cut"
            );
            let clearing = |error| Error::Io { what: format!("clearing {}", begun.path.display()), source: error };
            begun.file.zero(at, upto).map_err(clearing)?;
            begun.file.sync().map_err(clearing)?;
        }
        Ok(())
    }

    /// Verification only: whether the other copy is whole as well.
    fn check_copy(&mut self, window: &mut Window, header: &FrameHeader) -> std::io::Result<()> {
        if self.reads_all
            && let Some(twin) = header.twin_offset()
            && second_copy(window, &self.ids, header.segment, header.offset, header.run)?.is_none()
        {
            self.findings.push(Finding::Copy { segment: header.segment, offset: twin });
        }
        Ok(())
    }
}

enum Whole {
    Entries(EntriesFrame),
    Other(FrameHeader, Bytes),
}

impl Whole {
    fn header(&self) -> &FrameHeader {
        match self {
            Whole::Entries(entries) => &entries.header,
            Whole::Other(header, _) => header,
        }
    }
}

/// What is known of where the frames of a segment end.
enum FramesEnd {
    /// The next segment's header tells.
    Told(SegmentHeader),
    /// They end somewhere at or below this offset, and all of it is synced.
    Synced(u64),
    /// Nothing.
    Open,
}

/// The Seal frame of a segment and its index, by way of the trailer.
pub(crate) fn read_footer(
    window: &mut Window,
    ids: &Ids,
    segment: u64,
) -> std::io::Result<Option<(FrameHeader, SealIndex)>> {
    let Some(trailer_at) = window.end().checked_sub(TRAILER_BYTES) else { return Ok(None) };
    let trailer = window.get(trailer_at, TRAILER_BYTES)?;
    let Some(seal_at) = decode_trailer(&trailer, ids, segment) else { return Ok(None) };
    Ok(match look(window, ids, segment, seal_at, 0)? {
        Look::Other(header, payload) if header.kind == FrameKind::Seal => {
            SealIndex::decode(&payload).map(|index| (header, index))
        }
        _ => None,
    })
}

// The scan jumps by headers and blocks; both must hold a header.
const _: () = assert!(BLOCK as usize >= FRAME_HEADER_BYTES);
