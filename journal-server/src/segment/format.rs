//! Bytes on disk: the segment header, the frame header, the payloads. Pure: encodes and decodes,
//! opens nothing. `docs/FORMATS.md` describes the same to the byte; a change here is a change there.
//!
//! A segment is `[header][header copy][frame][frame]...[seal]......[trailer]`. A frame is a header of
//! [`FRAME_HEADER_BYTES`] and a payload. The header alone carries everything small that is in force
//! at this point of the stream (vote, purge mark, hints, last id, chain), so that any later frame
//! stands in for a lost one: only entries and versions of the state can be lost with a frame.
//!
//! All numbers are little-endian; frames begin at multiples of 8.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::types::{Ids, Kind, LogEntry, LogId, Version, Vote, chain_next};

pub(crate) const FORMAT_VERSION: u32 = 1;
/// Blocks that a disk loses or keeps as one, as far as double writing is concerned.
pub(crate) const BLOCK: u64 = 4096;
/// The first frame. Before it lie the segment header and its copy, one block each.
pub(crate) const DATA_START: u64 = 2 * BLOCK;
pub(crate) const FRAME_HEADER_BYTES: usize = 192;
pub(crate) const ENTRY_RECORD_BYTES: usize = 12;
pub(crate) const TRAILER_BYTES: u64 = 64;
/// Payloads up to this size are written twice where the kind asks for it.
pub(crate) const DOUBLE_PAYLOAD_MAX: usize = 1 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"JRNLSEG\n";
const TRAILER_MAGIC: [u8; 8] = *b"JRNLEND\n";
pub(crate) const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"JfRm");

pub(crate) const fn align_up(value: u64, to: u64) -> u64 {
    value.div_ceil(to) * to
}

pub(crate) const fn align8(value: u64) -> u64 {
    align_up(value, 8)
}

/// What a frame says. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// Everything that the frames before it amount to, entries excepted. Opens each segment, and each
    /// run of a process in a segment. Payload: the versions. `aux`: the chain at the purge mark.
    State = 1,
    /// A run of entries of one term. `at`: the first. Payload: a table, then the bodies.
    Entries = 2,
    /// The vote is in the header.
    Vote = 3,
    /// Everything after `at` (all, if absent) is removed. `aux`: the chain at `at`.
    Truncate = 4,
    /// The purge mark is in the header. `aux`: the chain there. `sub` 1: the log was dropped.
    Purge = 5,
    /// A version of the state in force from `at` on. Payload: its bytes.
    Version = 6,
    /// A version received from elsewhere: the log begins after `at`. `sub` 1: the log was dropped;
    /// 0: what follows `at` is kept. `aux`: the chain there.
    Snapshot = 7,
    /// Nothing but proof that all before it is synced. `sub`: 1 idle, 2 clean stop.
    Mark = 8,
    /// The end of a segment. Payload: its index.
    Seal = 9,
    /// Nothing: fills what a repair left over.
    Pad = 10,
}

impl FrameKind {
    fn from_u8(byte: u8) -> Option<FrameKind> {
        use FrameKind::*;
        [State, Entries, Vote, Truncate, Purge, Version, Snapshot, Mark, Seal, Pad]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Written twice, in two blocks, before the one sync: one whole copy counts.
    pub fn is_double(self) -> bool {
        use FrameKind::*;
        matches!(self, State | Vote | Truncate | Purge | Version | Snapshot)
    }
}

pub(crate) const SUB_DROPPED: u8 = 1;
pub(crate) const SUB_IDLE: u8 = 1;
pub(crate) const SUB_STOP: u8 = 2;
pub(crate) const SUB_RUN: u8 = 1;

/// Where truncations of a segment reached: "nothing was removed".
pub(crate) const NOT_TRUNCATED: u64 = u64::MAX;
/// No log gets so far in any time: a header with such a number was never written, and whatever is added to one
/// that was does not overflow.
pub const NUMBERS_END: u64 = 1 << 62;
/// The same for runs, and for what is counted within one segment.
const COUNTS_END: u32 = 1 << 31;

fn is_possible(id: LogId) -> bool {
    id.term < NUMBERS_END && id.position < NUMBERS_END
}

/// The header of a frame. Vote, purge mark and hints are those in force *with* this frame; `last`,
/// `chain` and the counters are those *before* it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader {
    pub segment: u64,
    pub offset: u64,
    /// Which opening of the journal wrote it; never falls within a segment.
    pub run: u32,
    pub kind: FrameKind,
    pub sub: u8,
    /// This is the second of two copies; `twin` is where the first lies.
    pub copy: bool,
    /// This is the first of two copies.
    pub doubled: bool,
    /// Distance to the next frame; of a first copy, to the frame after the second.
    pub frame_len: u32,
    pub payload_len: u32,
    /// CRC-32 of the payload; of entries, of the table only (each body has its own).
    pub payload_crc: u32,
    pub count: u32,
    /// Truncations (and drops) in this segment before this frame, and the lowest position removed.
    pub truncations: u32,
    pub truncated_low: u64,
    /// Version and Snapshot frames in this segment before this frame.
    pub versions: u32,
    /// Everything in this segment below this offset, and all segments before it, are known synced.
    pub synced_upto: u64,
    pub twin: u64,
    pub last: Option<LogId>,
    pub chain: u64,
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    pub applied: Option<LogId>,
    pub at: Option<LogId>,
    pub aux: Option<u64>,
}

const PRESENT_LAST: u16 = 1;
const PRESENT_VOTE: u16 = 2;
const VOTE_COMMITTED: u16 = 4;
const PRESENT_PURGED: u16 = 8;
const PRESENT_COMMITTED: u16 = 16;
const PRESENT_APPLIED: u16 = 32;
const PRESENT_AT: u16 = 64;
const PRESENT_AUX: u16 = 128;
const PRESENT_ALL: u16 = 255;
const FLAG_COPY: u8 = 1;
const FLAG_DOUBLED: u8 = 2;

/// What makes the frames of one segment of one journal in one run unlike all others.
fn salt(ids: &Ids, segment: u64, run: u32) -> u64 {
    let mut bytes = [0u8; 44];
    bytes[0..16].copy_from_slice(&ids.cluster.to_le_bytes());
    bytes[16..24].copy_from_slice(&ids.node.to_le_bytes());
    bytes[24..32].copy_from_slice(&ids.group.to_le_bytes());
    bytes[32..40].copy_from_slice(&segment.to_le_bytes());
    bytes[40..44].copy_from_slice(&run.to_le_bytes());
    xxh3_64(&bytes)
}

struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    fn id(&mut self, at: usize, value: Option<LogId>) {
        let id = value.unwrap_or(LogId::new(0, 0));
        self.u64(at, id.term);
        self.u64(at + 8, id.position);
    }
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}
pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
fn get_id(bytes: &[u8], at: usize, present: bool) -> Option<LogId> {
    present.then(|| LogId::new(get_u64(bytes, at), get_u64(bytes, at + 8)))
}

impl FrameHeader {
    pub(crate) fn encode(&self, ids: &Ids, out: &mut [u8]) {
        debug_assert_eq!(out.len(), FRAME_HEADER_BYTES);
        out.fill(0);
        let present = self.last.map_or(0, |_| PRESENT_LAST)
            | self.vote.map_or(0, |v| PRESENT_VOTE | if v.committed { VOTE_COMMITTED } else { 0 })
            | self.purged.map_or(0, |_| PRESENT_PURGED)
            | self.committed.map_or(0, |_| PRESENT_COMMITTED)
            | self.applied.map_or(0, |_| PRESENT_APPLIED)
            | self.at.map_or(0, |_| PRESENT_AT)
            | self.aux.map_or(0, |_| PRESENT_AUX);
        let mut put = Put(out);
        put.u32(0, FRAME_MAGIC);
        put.u64(8, salt(ids, self.segment, self.run));
        put.u64(16, self.offset);
        put.u32(24, self.run);
        put.0[28] = self.kind as u8;
        put.0[29] = if self.copy { FLAG_COPY } else { 0 } | if self.doubled { FLAG_DOUBLED } else { 0 };
        put.u16(30, present);
        put.u32(32, self.payload_len);
        put.u32(36, self.payload_crc);
        put.u32(40, self.frame_len);
        put.u32(44, self.count);
        put.u32(48, self.truncations);
        put.u32(52, self.versions);
        put.u64(56, self.truncated_low);
        put.u64(64, self.synced_upto);
        put.u64(72, self.twin);
        put.id(80, self.last);
        put.u64(96, self.chain);
        put.u64(104, self.vote.map_or(0, |v| v.term));
        put.u64(112, self.vote.map_or(0, |v| v.node));
        put.id(120, self.purged);
        put.id(136, self.committed);
        put.id(152, self.applied);
        put.id(168, self.at);
        put.u64(184, self.aux.unwrap_or(0));
        // The count has three bytes, `sub` the fourth.
        put.0[47] = self.sub;
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header at this place, or nothing: garbage, a frame from elsewhere, or from another offset.
    pub(crate) fn decode(bytes: &[u8], ids: &Ids, segment: u64, offset: u64) -> Option<FrameHeader> {
        if bytes.len() < FRAME_HEADER_BYTES || get_u32(bytes, 0) != FRAME_MAGIC {
            return None;
        }
        let bytes = &bytes[..FRAME_HEADER_BYTES];
        if crc32fast::hash(&bytes[8..]) != get_u32(bytes, 4) {
            return None;
        }
        let run = get_u32(bytes, 24);
        if get_u64(bytes, 8) != salt(ids, segment, run) || get_u64(bytes, 16) != offset {
            return None;
        }
        let kind = FrameKind::from_u8(bytes[28])?;
        let flags = bytes[29];
        let present = get_u16(bytes, 30);
        if flags & !(FLAG_COPY | FLAG_DOUBLED) != 0 || present & !PRESENT_ALL != 0 {
            return None;
        }
        let header = FrameHeader {
            segment,
            offset,
            run,
            kind,
            sub: bytes[47],
            copy: flags & FLAG_COPY != 0,
            doubled: flags & FLAG_DOUBLED != 0,
            payload_len: get_u32(bytes, 32),
            payload_crc: get_u32(bytes, 36),
            frame_len: get_u32(bytes, 40),
            count: get_u32(bytes, 44) & 0x00ff_ffff,
            truncations: get_u32(bytes, 48),
            versions: get_u32(bytes, 52),
            truncated_low: get_u64(bytes, 56),
            synced_upto: get_u64(bytes, 64),
            twin: get_u64(bytes, 72),
            last: get_id(bytes, 80, present & PRESENT_LAST != 0),
            chain: get_u64(bytes, 96),
            vote: (present & PRESENT_VOTE != 0).then(|| Vote {
                term: get_u64(bytes, 104),
                node: get_u64(bytes, 112),
                committed: present & VOTE_COMMITTED != 0,
            }),
            purged: get_id(bytes, 120, present & PRESENT_PURGED != 0),
            committed: get_id(bytes, 136, present & PRESENT_COMMITTED != 0),
            applied: get_id(bytes, 152, present & PRESENT_APPLIED != 0),
            at: get_id(bytes, 168, present & PRESENT_AT != 0),
            aux: (present & PRESENT_AUX != 0).then(|| get_u64(bytes, 184)),
        };
        header.is_sane().then_some(header)
    }

    fn is_sane(&self) -> bool {
        let whole = FRAME_HEADER_BYTES as u64 + u64::from(self.payload_len);
        let mut ids = [self.last, self.purged, self.committed, self.applied, self.at].into_iter().flatten();
        ids.all(is_possible)
            && self.vote.is_none_or(|vote| vote.term < NUMBERS_END)
            && [self.run, self.truncations, self.versions].iter().all(|count| *count < COUNTS_END)
            && u64::from(self.frame_len) >= whole
            && self.frame_len.is_multiple_of(8)
            && self.offset.is_multiple_of(8)
            && self.synced_upto <= self.offset
            && (!self.copy || self.twin < self.offset)
            && !(self.copy && self.doubled)
            && (!self.doubled || u64::from(self.frame_len) >= 2 * self.own_len())
            && match self.kind {
                FrameKind::Entries => self.at.is_some() && self.count > 0,
                FrameKind::Version | FrameKind::Snapshot => self.at.is_some(),
                _ => true,
            }
    }

    /// Header and payload of one copy.
    pub(crate) fn own_len(&self) -> u64 {
        align8(FRAME_HEADER_BYTES as u64 + u64::from(self.payload_len))
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.frame_len)
    }

    /// Where the second copy of this first copy lies, if it has one.
    pub(crate) fn twin_offset(&self) -> Option<u64> {
        self.doubled.then(|| self.end() - self.own_len())
    }

    /// The first id of an Entries frame.
    pub(crate) fn first(&self) -> LogId {
        self.at.expect("an Entries header without its first id is not sane")
    }

    /// The last position of an Entries frame.
    pub(crate) fn last_position(&self) -> u64 {
        self.first().position + u64::from(self.count) - 1
    }
}

/// Where the second copy of a frame begins, whose first copy lies at `offset`: in a block that the
/// first has no part in.
pub(crate) fn second_copy_offset(offset: u64, own_len: u64) -> u64 {
    align_up(offset + own_len, BLOCK)
}

/// One line of the table of an Entries frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryRecord {
    pub len: u32,
    pub crc: u32,
    pub kind: Kind,
}

impl EntryRecord {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
    }

    fn decode(bytes: &[u8]) -> Option<EntryRecord> {
        Some(EntryRecord { len: get_u32(bytes, 0), crc: get_u32(bytes, 4), kind: Kind::from_u8(bytes[8])? })
    }
}

/// The bytes of the table of `count` entries, padding included.
pub(crate) fn table_bytes(count: usize) -> usize {
    (count * ENTRY_RECORD_BYTES).next_multiple_of(8)
}

/// Decodes the table of an Entries frame, if it is whole.
pub(crate) fn decode_table(header: &FrameHeader, payload: &[u8]) -> Option<Vec<EntryRecord>> {
    let count = header.count as usize;
    let table = payload.get(..table_bytes(count))?;
    if crc32fast::hash(table) != header.payload_crc {
        return None;
    }
    let records = table[..count * ENTRY_RECORD_BYTES]
        .chunks_exact(ENTRY_RECORD_BYTES)
        .map(EntryRecord::decode)
        .collect::<Option<Vec<_>>>()?;
    let bodies: u64 = records.iter().map(|record| u64::from(record.len)).sum();
    (table.len() as u64 + bodies == u64::from(header.payload_len)).then_some(records)
}

/// The chain after all entries of a frame.
pub(crate) fn chain_after(header: &FrameHeader, records: &[EntryRecord]) -> u64 {
    let mut id = header.first();
    let mut chain = header.chain;
    for record in records {
        chain = chain_next(chain, id, record.kind, record.crc);
        id.position += 1;
    }
    chain
}

pub(crate) fn record_of(entry: &LogEntry) -> EntryRecord {
    EntryRecord { len: entry.body.len() as u32, crc: entry.crc, kind: entry.kind }
}

/// The payload of a State frame.
pub(crate) fn encode_versions(versions: &[Version], out: &mut Vec<u8>) {
    out.extend_from_slice(&(versions.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for version in versions {
        out.extend_from_slice(&version.at.term.to_le_bytes());
        out.extend_from_slice(&version.at.position.to_le_bytes());
        out.extend_from_slice(&(version.bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(&version.bytes);
    }
}

pub(crate) fn decode_versions(payload: &Bytes) -> Option<Vec<Version>> {
    let count = get_u32(payload.get(..8)?, 0);
    let mut at = 8;
    let mut versions = Vec::new();
    for _ in 0..count {
        let head = payload.get(at..at + 24)?;
        let id = LogId::new(get_u64(head, 0), get_u64(head, 8));
        let len = usize::try_from(get_u64(head, 16)).ok()?;
        let end = (at + 24).checked_add(len)?;
        if end > payload.len() {
            return None;
        }
        versions.push(Version { at: id, bytes: payload.slice(at + 24..end) });
        at = end;
    }
    (at == payload.len()).then_some(versions)
}

/// A place in a segment from which a reader may walk: the frame at `offset` holds `position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub position: u64,
    pub offset: u64,
}

/// The payload of a Seal frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SealIndex {
    /// Live places of this segment, by position.
    pub places: Vec<Place>,
    /// The first id of each run of one term that this segment's live entries form.
    pub runs: Vec<LogId>,
}

impl SealIndex {
    pub(crate) fn encoded_len(&self) -> usize {
        8 + (self.places.len() + self.runs.len()) * 16
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.places.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for place in &self.places {
            out.extend_from_slice(&place.position.to_le_bytes());
            out.extend_from_slice(&place.offset.to_le_bytes());
        }
        for id in &self.runs {
            out.extend_from_slice(&id.term.to_le_bytes());
            out.extend_from_slice(&id.position.to_le_bytes());
        }
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<SealIndex> {
        let head = payload.get(..8)?;
        let places = get_u32(head, 0) as usize;
        let runs = get_u32(head, 4) as usize;
        if payload.len() != 8 + (places.checked_add(runs)?).checked_mul(16)? {
            return None;
        }
        let mut pairs = payload[8..].chunks_exact(16).map(|pair| (get_u64(pair, 0), get_u64(pair, 8)));
        let places: Vec<Place> =
            pairs.by_ref().take(places).map(|(position, offset)| Place { position, offset }).collect();
        let runs: Vec<LogId> = pairs.map(|(term, position)| LogId { term, position }).collect();
        let rise = places.is_sorted_by(|a, b| a.position < b.position && a.offset < b.offset)
            && runs.is_sorted_by(|a, b| a.term < b.term && a.position < b.position);
        rise.then_some(SealIndex { places, runs })
    }
}

/// The last bytes of a sealed file: where its Seal frame lies.
pub(crate) fn encode_trailer(ids: &Ids, segment: u64, seal_offset: u64) -> [u8; TRAILER_BYTES as usize] {
    let mut out = [0u8; TRAILER_BYTES as usize];
    out[0..8].copy_from_slice(&TRAILER_MAGIC);
    out[8..16].copy_from_slice(&salt(ids, segment, 0).to_le_bytes());
    out[16..24].copy_from_slice(&seal_offset.to_le_bytes());
    let crc = crc32fast::hash(&out[..60]);
    out[60..64].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(crate) fn decode_trailer(bytes: &[u8], ids: &Ids, segment: u64) -> Option<u64> {
    let bytes = bytes.get(..TRAILER_BYTES as usize)?;
    let whole = bytes[0..8] == TRAILER_MAGIC
        && get_u32(bytes, 60) == crc32fast::hash(&bytes[..60])
        && get_u64(bytes, 8) == salt(ids, segment, 0);
    whole.then(|| get_u64(bytes, 16))
}

/// The header of a segment: two copies, one block each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    pub ids: Ids,
    pub number: u64,
    pub run: u32,
    /// What the segment before amounts to: the offset of its seal, its last id and chain, and what
    /// its counters stood at.
    pub previous_end: u64,
    pub previous_last: Option<LogId>,
    pub previous_chain: u64,
    pub previous_truncations: u32,
    pub previous_truncated_low: u64,
    pub previous_versions: u32,
}

const SEGMENT_HEADER_BYTES: usize = 128;

impl SegmentHeader {
    /// Both copies, padded to their blocks.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut block = [0u8; BLOCK as usize];
        block[0..8].copy_from_slice(&SEGMENT_MAGIC);
        block[16..32].copy_from_slice(&self.ids.cluster.to_le_bytes());
        let mut put = Put(&mut block);
        put.u32(8, FORMAT_VERSION);
        put.u32(12, self.run);
        put.u64(32, self.ids.node);
        put.u64(40, self.ids.group);
        put.u64(48, self.number);
        put.u64(56, self.previous_end);
        put.id(64, self.previous_last);
        put.u64(80, self.previous_chain);
        put.u64(88, self.previous_truncated_low);
        put.u32(96, self.previous_truncations);
        put.u32(100, self.previous_versions);
        put.u32(104, self.previous_last.is_some().into());
        let crc = crc32fast::hash(&block[..SEGMENT_HEADER_BYTES - 4]);
        block[SEGMENT_HEADER_BYTES - 4..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&block);
        out.extend_from_slice(&block);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        let crc = crc32fast::hash(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        if bytes[0..8] != SEGMENT_MAGIC || get_u32(bytes, SEGMENT_HEADER_BYTES - 4) != crc {
            return Err(BadHeader::Damaged);
        }
        let version = get_u32(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(BadHeader::Version(version));
        }
        let header = SegmentHeader {
            ids: Ids {
                cluster: u128::from_le_bytes(bytes[16..32].try_into().expect("sixteen bytes")),
                node: get_u64(bytes, 32),
                group: get_u64(bytes, 40),
            },
            number: get_u64(bytes, 48),
            run: get_u32(bytes, 12),
            previous_end: get_u64(bytes, 56),
            previous_last: get_id(bytes, 64, get_u32(bytes, 104) != 0),
            previous_chain: get_u64(bytes, 80),
            previous_truncated_low: get_u64(bytes, 88),
            previous_truncations: get_u32(bytes, 96),
            previous_versions: get_u32(bytes, 100),
        };
        match header.is_sane() {
            true => Ok(header),
            false => Err(BadHeader::Damaged),
        }
    }

    fn is_sane(&self) -> bool {
        let counts = [self.run, self.previous_truncations, self.previous_versions];
        self.number < NUMBERS_END
            && self.previous_last.is_none_or(is_possible)
            && counts.iter().all(|count| *count < COUNTS_END)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged,
    Version(u32),
}

/// Makes checksums right over bytes that are not: what a fuzzer changed would otherwise be found out
/// before anything of it was looked at.
pub(crate) mod reseal {
    use super::*;

    pub(crate) fn segment_header(block: &mut [u8]) {
        let crc = crc32fast::hash(&block[..SEGMENT_HEADER_BYTES - 4]);
        block[SEGMENT_HEADER_BYTES - 4..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    /// The checksum, the salt and the place; the payload's checksum is not looked at.
    pub(crate) fn frame_header(header: &mut [u8], ids: &Ids, segment: u64, offset: u64) {
        let run = get_u32(header, 24);
        let mut put = Put(header);
        put.u32(0, FRAME_MAGIC);
        put.u64(8, salt(ids, segment, run));
        put.u64(16, offset);
        let crc = crc32fast::hash(&header[8..FRAME_HEADER_BYTES]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The name of a segment's file, and back.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}
