//! The stream of frames as something that is written: what is in force at its end, and how the next
//! frames are laid out. Plans writes; performs none.
//!
//! **Order is the safety argument.** Frames are laid out in the order in which they were asked for,
//! at rising offsets, and one plan is performed and synced before the next is made. So what is lost
//! in a crash is a part of the last plan, and `synced_upto` in a header states what the plans before
//! it have made durable. A segment is sealed and synced before a byte of the next one is written:
//! that a segment follows proves that all of this one was durable.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::format::{
    BLOCK, DATA_START, DOUBLE_PAYLOAD_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind, NOT_TRUNCATED, Place,
    SUB_DROPPED, SealIndex, SegmentHeader, TRAILER_BYTES, align_up, align8, encode_trailer, encode_versions, record_of,
    second_copy_offset, table_bytes,
};
use super::fs::File;
use super::index::Segment;
use super::outline::{Outline, Versions};
use super::sheet::{Effect, Part, Sheet};
use super::shelf::Shelf;
use super::types::{Error, Ids, LogEntry, LogId, Options, Version, Vote, chain_next, chain_of_mark, next_position};

/// Bodies up to this size are copied next to each other: cheaper than one more slice for the kernel.
const COPY_BODY_MAX: usize = 2048;
/// How far back chain checksums are remembered, in entries.
const RECENT_CHAINS: usize = 8192;

/// What is in force at a point of the stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registers {
    pub outline: Outline,
    /// At the last id.
    pub chain: u64,
    /// At the purge mark, where known. A log that never was purged has 0.
    pub chain_at_purge: Option<u64>,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub applied: Option<LogId>,
    pub versions: Versions,
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub number: u64,
    pub file: Arc<dyn File>,
    pub file_bytes: u64,
    /// Where the next frame goes.
    pub offset: u64,
    /// Everything below is synced.
    pub synced: u64,
    pub truncations: u32,
    pub truncated_low: u64,
    pub versions: u32,
    pub index: SealIndex,
    /// The next Entries frame must be in the index, wherever it lies.
    pub place_due: bool,
    /// Where the State frame that opened it ends: an emptier segment is never sealed.
    pub opened_upto: u64,
}

/// Looks up the chain checksum of a position that this process did not write lately.
pub(crate) type ChainLookup = Box<dyn Fn(u64) -> Result<u64, Error> + Send>;

pub(crate) struct Tape {
    ids: Ids,
    run: u32,
    segment_bytes: u64,
    frame_bytes: usize,
    index_step_bytes: u64,
    pub registers: Registers,
    pub active: Active,
    shelf: Arc<Shelf>,
    chain_lookup: ChainLookup,
    /// Chains of the newest entries, up to the last one.
    recent: VecDeque<u64>,
    /// Entries not yet in a frame.
    pending: Vec<LogEntry>,
    pending_bytes: usize,
    /// The last frame proves that everything is synced: no mark is due.
    pub proven: bool,
}

/// What a frame's header says of the stream before it.
#[derive(Clone, Copy)]
struct Before {
    last: Option<LogId>,
    chain: u64,
}

impl Tape {
    pub(crate) fn new(
        ids: Ids,
        run: u32,
        options: &Options,
        registers: Registers,
        active: Active,
        shelf: Arc<Shelf>,
        chain_lookup: ChainLookup,
    ) -> Self {
        Tape {
            ids,
            run,
            segment_bytes: options.segment_bytes,
            frame_bytes: options.frame_bytes,
            index_step_bytes: options.index_step_bytes,
            registers,
            active,
            shelf,
            chain_lookup,
            recent: VecDeque::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            proven: true,
        }
    }

    /// Begins the first segment of all, or the one after `previous` was sealed.
    pub(crate) fn open_segment(&mut self, sheet: &mut Sheet, number: u64, previous: PreviousSegment) -> io::Result<()> {
        let spare = self.shelf.take(number)?;
        self.active = Active {
            number,
            file: spare.file.clone(),
            file_bytes: spare.file_bytes,
            offset: DATA_START,
            synced: DATA_START,
            truncations: 0,
            truncated_low: NOT_TRUNCATED,
            versions: 0,
            index: SealIndex::default(),
            place_due: true,
            opened_upto: 0,
        };
        let header = SegmentHeader {
            ids: self.ids,
            number,
            run: self.run,
            previous_end: previous.end,
            previous_last: self.registers.outline.last(),
            previous_chain: self.registers.chain,
            previous_truncations: previous.truncations,
            previous_truncated_low: previous.truncated_low,
            previous_versions: previous.versions,
        };
        let mut bytes = Vec::with_capacity(DATA_START as usize);
        header.encode(&mut bytes);
        sheet.begin_at(0);
        sheet.stage(&bytes);
        sheet.effects.push(Effect::Opened(Segment {
            number,
            path: spare.path,
            file: spare.file,
            end: DATA_START,
            file_bytes: spare.file_bytes,
            sealed: false,
        }));
        self.put_state(sheet, 0)?;
        self.active.opened_upto = self.active.offset;
        Ok(())
    }

    pub(crate) fn state(&mut self, sheet: &mut Sheet, sub: u8) -> io::Result<()> {
        self.flush(sheet)?;
        let bytes: usize = self.registers.versions.as_slice().iter().map(|v| v.bytes.len() + 24).sum();
        self.make_room(sheet, double_len(bytes + 8))?;
        self.put_state(sheet, sub)
    }

    fn put_state(&mut self, sheet: &mut Sheet, sub: u8) -> io::Result<()> {
        let mut payload = Vec::new();
        encode_versions(self.registers.versions.as_slice(), &mut payload);
        let aux = self.registers.chain_at_purge;
        let before = self.before();
        self.put_frame(sheet, FrameKind::State, sub, None, aux, before, &payload);
        Ok(())
    }

    pub(crate) fn push(&mut self, sheet: &mut Sheet, entry: LogEntry) -> io::Result<()> {
        if let Some(last) = self.pending.last()
            && (last.id.term != entry.id.term
                || last.id.position + 1 != entry.id.position
                || self.pending_bytes + entry.body.len() > self.frame_bytes)
        {
            self.flush(sheet)?;
        }
        self.pending_bytes += entry.body.len();
        self.pending.push(entry);
        Ok(())
    }

    /// Makes one frame of the entries that wait.
    fn flush(&mut self, sheet: &mut Sheet) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let count = self.pending.len();
        let table = table_bytes(count);
        let payload_len = table + self.pending_bytes;
        let own = align8((FRAME_HEADER_BYTES + payload_len) as u64);
        self.make_room(sheet, own)?;
        let first = self.pending[0].id;
        let before = self.before();
        self.note_place(sheet, first);

        sheet.begin_at(self.active.offset);
        sheet.entries += count;
        let head = sheet.staged.len();
        sheet.stage_zeros(FRAME_HEADER_BYTES);
        let table_from = sheet.staged.len();
        let mut chain = self.registers.chain;
        for entry in &self.pending {
            record_of(entry).encode(&mut sheet.staged);
            chain = chain_next(chain, entry.id, entry.kind, entry.crc);
            self.recent.push_back(chain);
        }
        sheet.staged.resize(table_from + table, 0);
        let payload_crc = crc32fast::hash(&sheet.staged[table_from..]);
        let mut staged_from = table_from;
        for entry in self.pending.drain(..) {
            if entry.body.len() <= COPY_BODY_MAX {
                sheet.staged.extend_from_slice(&entry.body);
            } else {
                sheet.note_staged(staged_from);
                staged_from = sheet.staged.len();
                sheet.bytes += entry.body.len() as u64;
                sheet.parts.push(Part::Body(entry.body));
            }
        }
        let padding = own as usize - FRAME_HEADER_BYTES - payload_len;
        sheet.staged.resize(sheet.staged.len() + padding, 0);
        sheet.note_staged(staged_from);
        self.pending_bytes = 0;

        let header = FrameHeader {
            at: Some(first),
            count: count as u32,
            frame_len: own as u32,
            payload_len: payload_len as u32,
            payload_crc,
            ..self.header(FrameKind::Entries, before)
        };
        header.encode(&self.ids, &mut sheet.staged[head..head + FRAME_HEADER_BYTES]);
        self.registers.outline.push(first, count as u64);
        self.registers.chain = chain;
        self.active.offset += own;
        self.proven = false;
        Ok(())
    }

    fn note_place(&mut self, sheet: &mut Sheet, first: LogId) {
        let active = &mut self.active;
        let far = active.index.places.last().is_none_or(|place| active.offset - place.offset >= self.index_step_bytes);
        if far || active.place_due {
            let place = Place { position: first.position, offset: active.offset };
            active.index.places.push(place);
            active.place_due = false;
            sheet.effects.push(Effect::Place { segment: active.number, place });
        }
        if active.index.runs.last().is_none_or(|run| run.term != first.term) {
            active.index.runs.push(first);
        }
    }

    pub(crate) fn vote(&mut self, sheet: &mut Sheet, vote: Vote) -> io::Result<()> {
        self.flush(sheet)?;
        self.make_room(sheet, double_len(0))?;
        self.registers.vote = Some(vote);
        let before = self.before();
        self.put_frame(sheet, FrameKind::Vote, 0, None, None, before, &[]);
        Ok(())
    }

    pub(crate) fn truncate(&mut self, sheet: &mut Sheet, last: Option<LogId>) -> io::Result<()> {
        self.flush(sheet)?;
        let first_removed = next_position(last);
        if first_removed >= next_position(self.registers.outline.last()) {
            return Ok(());
        }
        let chain = match last {
            Some(last) => self.chain_at(last.position)?,
            None => 0,
        };
        self.truncate_to(sheet, last, chain)
    }

    /// Removes everything after `last`, where the chain is `chain`.
    pub(crate) fn truncate_to(&mut self, sheet: &mut Sheet, last: Option<LogId>, chain: u64) -> io::Result<()> {
        let first_removed = next_position(last);
        self.make_room(sheet, double_len(0))?;
        let before = self.before();
        self.put_frame(sheet, FrameKind::Truncate, 0, last, Some(chain), before, &[]);
        self.registers.outline.cut(first_removed);
        self.registers.versions.cut(first_removed);
        self.registers.chain = chain;
        let kept = self
            .recent
            .len()
            .saturating_sub(usize::try_from(next_position(before.last) - first_removed).unwrap_or(usize::MAX));
        self.recent.truncate(kept);
        self.note_cut(sheet, first_removed);
        Ok(())
    }

    fn note_cut(&mut self, sheet: &mut Sheet, first_removed: u64) {
        let active = &mut self.active;
        active.truncations += 1;
        active.truncated_low = active.truncated_low.min(first_removed);
        active.index.places.retain(|place| place.position < first_removed);
        active.index.runs.retain(|run| run.position < first_removed);
        active.place_due = true;
        sheet.effects.push(Effect::Cut { first_removed });
    }

    fn drop_log(&mut self, sheet: &mut Sheet, mark: LogId, chain: u64) {
        self.registers.outline.reset(Some(mark));
        self.registers.chain = chain;
        self.registers.chain_at_purge = Some(chain);
        self.recent.clear();
        self.note_cut(sheet, 0);
    }

    pub(crate) fn purge(&mut self, sheet: &mut Sheet, upto: LogId) -> io::Result<()> {
        self.flush(sheet)?;
        if upto.position < next_position(self.registers.outline.purged()) {
            return Ok(());
        }
        self.make_room(sheet, double_len(0))?;
        let before = self.before();
        if self.registers.outline.contains(upto) {
            // A chain that cannot be read (a hole at the very mark) is not worth refusing to purge.
            let chain = self.chain_at(upto.position).ok();
            self.registers.outline.purge(upto);
            self.registers.chain_at_purge = chain;
            self.registers.versions.purge(upto);
            self.put_frame(sheet, FrameKind::Purge, 0, self.base(upto), chain, before, &[]);
        } else {
            let chain = chain_of_mark(upto);
            self.registers.outline.reset(Some(upto));
            self.registers.versions.purge(upto);
            self.put_frame(sheet, FrameKind::Purge, SUB_DROPPED, self.base(upto), Some(chain), before, &[]);
            self.drop_log(sheet, upto, chain);
        }
        Ok(())
    }

    /// The id of the version in force at the purge mark.
    fn base(&self, mark: LogId) -> Option<LogId> {
        let versions = &self.registers.versions;
        versions.base(mark).map(|base| versions.as_slice()[base].at)
    }

    pub(crate) fn version(&mut self, sheet: &mut Sheet, version: Version) -> io::Result<()> {
        self.flush(sheet)?;
        self.make_room(sheet, double_len(version.bytes.len()))?;
        let before = self.before();
        self.put_frame(sheet, FrameKind::Version, 0, Some(version.at), None, before, &version.bytes);
        self.active.versions += 1;
        self.registers.versions.save(version);
        Ok(())
    }

    pub(crate) fn snapshot(&mut self, sheet: &mut Sheet, version: Version, chain: u64, kept: bool) -> io::Result<()> {
        self.flush(sheet)?;
        self.make_room(sheet, double_len(version.bytes.len()))?;
        let before = self.before();
        let at = version.at;
        if kept {
            let own = self.chain_at(at.position).unwrap_or(chain);
            self.registers.outline.purge(at);
            self.registers.chain_at_purge = Some(own);
            self.put_frame(sheet, FrameKind::Snapshot, 0, Some(at), Some(own), before, &version.bytes);
            self.registers.versions.install(version);
        } else {
            self.registers.outline.reset(Some(at));
            self.put_frame(sheet, FrameKind::Snapshot, SUB_DROPPED, Some(at), Some(chain), before, &version.bytes);
            self.drop_log(sheet, at, chain);
            self.registers.versions = Versions::new(vec![version]);
        }
        self.active.versions += 1;
        Ok(())
    }

    pub(crate) fn mark(&mut self, sheet: &mut Sheet, sub: u8) -> io::Result<()> {
        self.flush(sheet)?;
        self.make_room(sheet, FRAME_HEADER_BYTES as u64)?;
        let before = self.before();
        self.put_frame(sheet, FrameKind::Mark, sub, None, None, before, &[]);
        self.proven = true;
        Ok(())
    }

    /// Ends a plan: one write for what is open, one sync.
    pub(crate) fn finish(&mut self, sheet: &mut Sheet) -> io::Result<()> {
        self.flush(sheet)?;
        let excess = self.recent.len().saturating_sub(RECENT_CHAINS);
        self.recent.drain(..excess);
        if sheet.is_empty() {
            return Ok(());
        }
        self.fill_block(sheet);
        sheet.close_write(&self.active.file);
        sheet.sync(&self.active.file);
        self.active.synced = self.active.offset;
        self.active.file_bytes = self.active.file_bytes.max(self.active.offset);
        sheet.effects.push(Effect::End {
            segment: self.active.number,
            end: self.active.offset,
            file_bytes: self.active.file_bytes,
        });
        Ok(())
    }

    /// The last block is written whole, with the zeros that are behind the last frame anyway: of a block that
    /// is not in the page cache the kernel would read the rest from the disk first.
    fn fill_block(&self, sheet: &mut Sheet) {
        let end = align_up(self.active.offset, BLOCK);
        if sheet.open.is_some() && end <= self.active.file_bytes {
            sheet.stage_zeros((end - self.active.offset) as usize);
        }
    }

    pub(crate) fn shrink(&mut self) {
        self.recent.clear();
        self.recent.shrink_to_fit();
        self.pending.shrink_to_fit();
    }

    fn before(&self) -> Before {
        Before { last: self.registers.outline.last(), chain: self.registers.chain }
    }

    /// The chain at a position of the log, as planned so far.
    fn chain_at(&self, position: u64) -> Result<u64, Error> {
        let outline = &self.registers.outline;
        let last = next_position(outline.last());
        if position + 1 == last {
            return Ok(self.registers.chain);
        }
        let back = usize::try_from(last - 1 - position).unwrap_or(usize::MAX);
        if back < self.recent.len() {
            return Ok(self.recent[self.recent.len() - 1 - back]);
        }
        if outline.purged().is_some_and(|mark| mark.position == position)
            && let Some(chain) = self.registers.chain_at_purge
        {
            return Ok(chain);
        }
        (self.chain_lookup)(position)
    }

    fn header(&self, kind: FrameKind, before: Before) -> FrameHeader {
        FrameHeader {
            segment: self.active.number,
            offset: self.active.offset,
            run: self.run,
            kind,
            sub: 0,
            copy: false,
            doubled: false,
            frame_len: 0,
            payload_len: 0,
            payload_crc: 0,
            count: 0,
            truncations: self.active.truncations,
            truncated_low: self.active.truncated_low,
            versions: self.active.versions,
            synced_upto: self.active.synced,
            twin: 0,
            last: before.last,
            chain: before.chain,
            vote: self.registers.vote,
            purged: self.registers.outline.purged(),
            committed: self.registers.committed,
            applied: self.registers.applied,
            at: None,
            aux: None,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one line of a table each")]
    fn put_frame(
        &mut self,
        sheet: &mut Sheet,
        kind: FrameKind,
        sub: u8,
        at: Option<LogId>,
        aux: Option<u64>,
        before: Before,
        payload: &[u8],
    ) {
        let header = FrameHeader {
            sub,
            at,
            aux,
            payload_len: payload.len() as u32,
            payload_crc: crc32fast::hash(payload),
            ..self.header(kind, before)
        };
        sheet.begin_at(self.active.offset);
        let from = sheet.staged.len();
        let end = encode_frame(&self.ids, header, payload, &mut sheet.staged);
        sheet.note_staged(from);
        self.active.offset = end;
        self.proven = false;
    }

    /// Makes sure that a frame of `len` bytes fits, by going on to the next segment if need be.
    fn make_room(&mut self, sheet: &mut Sheet, len: u64) -> io::Result<()> {
        let active = &self.active;
        // One more place and one more run than there are.
        let seal = (FRAME_HEADER_BYTES + active.index.encoded_len() + 32) as u64;
        let needed = active.offset + len + align8(seal) + TRAILER_BYTES;
        if needed <= self.segment_bytes || active.offset <= active.opened_upto {
            return Ok(());
        }
        self.rotate(sheet)
    }

    /// Seals the segment, syncs it, and only then begins the next one.
    fn rotate(&mut self, sheet: &mut Sheet) -> io::Result<()> {
        let file = self.active.file.clone();
        let seal_offset = self.active.offset;
        let mut payload = Vec::with_capacity(self.active.index.encoded_len());
        self.active.index.encode(&mut payload);
        let before = self.before();
        self.put_frame(sheet, FrameKind::Seal, 0, None, None, before, &payload);
        let active = &self.active;
        let trailer_offset = active.offset.max(active.file_bytes.saturating_sub(TRAILER_BYTES));
        sheet.close_write(&file);
        sheet.write_apart(&file, trailer_offset, &encode_trailer(&self.ids, active.number, seal_offset));
        sheet.sync(&file);
        sheet.rotations += 1;
        sheet.effects.push(Effect::Sealed {
            segment: active.number,
            end: active.offset,
            file_bytes: trailer_offset + TRAILER_BYTES,
        });
        let previous = PreviousSegment {
            end: seal_offset,
            truncations: active.truncations,
            truncated_low: active.truncated_low,
            versions: active.versions,
        };
        let number = active.number + 1;
        self.open_segment(sheet, number, previous)
    }
}

/// What the header of a segment says of the one before, besides the registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PreviousSegment {
    pub end: u64,
    pub truncations: u32,
    pub truncated_low: u64,
    pub versions: u32,
}

impl PreviousSegment {
    pub(crate) const NONE: PreviousSegment =
        PreviousSegment { end: 0, truncations: 0, truncated_low: NOT_TRUNCATED, versions: 0 };
}

/// An upper bound of what a doubled frame takes.
fn double_len(payload: usize) -> u64 {
    2 * align8((FRAME_HEADER_BYTES + payload) as u64) + BLOCK
}

/// Appends a frame, its second copy included where its kind asks for one. Lengths and flags of the
/// header are filled in here. Returns the offset after it.
pub(crate) fn encode_frame(ids: &Ids, mut header: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> u64 {
    let own = header.own_len();
    let offset = header.offset;
    header.doubled = header.kind.is_double() && payload.len() <= DOUBLE_PAYLOAD_MAX;
    header.copy = false;
    if !header.doubled {
        header.frame_len = own as u32;
        put_copy(ids, &header, payload, out);
        return offset + own;
    }
    let second = second_copy_offset(offset, own);
    header.frame_len = (second + own - offset) as u32;
    put_copy(ids, &header, payload, out);
    out.resize(out.len() + (second - offset - own) as usize, 0);
    let copy =
        FrameHeader { copy: true, doubled: false, twin: offset, offset: second, frame_len: own as u32, ..header };
    put_copy(ids, &copy, payload, out);
    second + own
}

fn put_copy(ids: &Ids, header: &FrameHeader, payload: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + FRAME_HEADER_BYTES, 0);
    header.encode(ids, &mut out[from..]);
    out.extend_from_slice(payload);
    out.resize(from + header.own_len() as usize, 0);
}
