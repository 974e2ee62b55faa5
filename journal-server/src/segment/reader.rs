//! Reads entries back from synced segments, checking everything it hands out. Every reader walks
//! frames forward from a place in the index; bytes are read in large pieces, and bodies are slices
//! of those pieces.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{
    BLOCK, DOUBLE_PAYLOAD_MAX, EntryRecord, FRAME_HEADER_BYTES, FrameHeader, FrameKind, chain_after, decode_table,
    second_copy_offset, table_bytes,
};
use super::fs::File;
use super::index::{Segment, Stretch};
use super::log::Shared;
use super::types::{Error, Ids, LogEntry, LogId, next_position};

/// Bytes read at once.
const PIECE_BYTES: u64 = 256 << 10;

/// A view of a file through one piece at a time.
pub(crate) struct Window {
    file: Arc<dyn File>,
    /// Nothing is read from here on.
    end: u64,
    piece_bytes: u64,
    at: u64,
    piece: Bytes,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn File>, end: u64, piece_bytes: u64) -> Self {
        Window { file, end, piece_bytes, at: 0, piece: Bytes::new() }
    }

    /// The bytes at `[offset, offset + len)`; fewer where the file ends.
    pub(crate) fn get(&mut self, offset: u64, len: u64) -> io::Result<Bytes> {
        let len = len.min(self.end.saturating_sub(offset));
        let held = offset >= self.at && offset + len <= self.at + self.piece.len() as u64;
        if !held {
            let want = len.max(self.piece_bytes).min(self.end.saturating_sub(offset));
            let mut piece = vec![0u8; want as usize];
            self.file.read_exact_at(&mut piece, offset)?;
            self.at = offset;
            self.piece = Bytes::from(piece);
        }
        let from = (offset - self.at) as usize;
        Ok(self.piece.slice(from..from + len as usize))
    }
}

/// One Entries frame, header and table checked, bodies not.
pub(crate) struct EntriesFrame {
    pub header: FrameHeader,
    pub records: Vec<EntryRecord>,
    payload: Bytes,
}

impl EntriesFrame {
    /// The entries at `[from, to)`, each body checked. `Err` names the first bad one.
    pub(crate) fn entries(&self, from: u64, to: u64) -> impl Iterator<Item = Result<LogEntry, u64>> + '_ {
        let first = self.header.first();
        let mut at = table_bytes(self.records.len());
        self.records.iter().enumerate().filter_map(move |(i, record)| {
            let start = at;
            at += record.len as usize;
            let id = LogId::new(first.term, first.position + i as u64);
            if id.position < from || id.position >= to {
                return None;
            }
            let body = self.payload.slice(start..at);
            let whole = crc32fast::hash(&body) == record.crc;
            Some(if whole { Ok(LogEntry { id, kind: record.kind, crc: record.crc, body }) } else { Err(id.position) })
        })
    }
}

/// What a walk finds at a frame's place.
pub(crate) enum Found {
    Entries(EntriesFrame),
    Other(FrameHeader),
    Bad,
}

pub(crate) fn frame_at(window: &mut Window, ids: &Ids, segment: u64, offset: u64) -> io::Result<Found> {
    let head = window.get(offset, FRAME_HEADER_BYTES as u64)?;
    let Some(header) = FrameHeader::decode(&head, ids, segment, offset) else {
        return Ok(Found::Bad);
    };
    if header.kind != FrameKind::Entries {
        return Ok(Found::Other(header));
    }
    let payload = window.get(offset + FRAME_HEADER_BYTES as u64, u64::from(header.payload_len))?;
    Ok(match decode_table(&header, &payload) {
        Some(records) if payload.len() == header.payload_len as usize => {
            Found::Entries(EntriesFrame { header, records, payload })
        }
        _ => Found::Bad,
    })
}

/// Where to go on behind a frame that cannot be read, if nothing at `position` or above is in it.
fn end_of_unneeded(
    window: &mut Window,
    ids: &Ids,
    segment: u64,
    offset: u64,
    position: u64,
) -> io::Result<Option<u64>> {
    let head = window.get(offset, FRAME_HEADER_BYTES as u64)?;
    match FrameHeader::decode(&head, ids, segment, offset) {
        Some(header) if header.last_position() < position => Ok(Some(header.end())),
        Some(_) => Ok(None),
        None => end_by_copy(window, ids, segment, offset),
    }
}

/// Where to go on behind a frame that cannot be read, if its second copy can.
pub(crate) fn end_by_copy(window: &mut Window, ids: &Ids, segment: u64, offset: u64) -> io::Result<Option<u64>> {
    let reach = offset + 2 * BLOCK + DOUBLE_PAYLOAD_MAX as u64;
    let mut at = second_copy_offset(offset, FRAME_HEADER_BYTES as u64);
    while at < reach {
        let head = window.get(at, FRAME_HEADER_BYTES as u64)?;
        if head.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        match FrameHeader::decode(&head, ids, segment, at) {
            Some(header) if header.copy && header.twin == offset => return Ok(Some(header.end())),
            _ => at += BLOCK,
        }
    }
    Ok(None)
}

/// The part of the log that may be asked for, and what of it is in memory.
struct Bounds {
    purged: Option<LogId>,
    last: Option<LogId>,
}

pub(crate) fn read_blocking(shared: &Shared, from: u64, to: u64, max_bytes: usize) -> Result<Vec<LogEntry>, Error> {
    let mut out: Vec<LogEntry> = Vec::new();
    let mut bytes = 0usize;
    let mut at = from;
    loop {
        let stop = {
            let state = shared.state.lock();
            let bounds = Bounds { purged: state.outline.purged(), last: state.outline.last() };
            if at < next_position(bounds.purged) {
                if out.is_empty() {
                    return Err(Error::Purged { first: next_position(bounds.purged) });
                }
                return Ok(out);
            }
            let stop = to.min(next_position(bounds.last));
            if at >= stop || state.ring.read(at, stop, max_bytes, &mut bytes, &mut out) {
                return Ok(out);
            }
            state.ring.first().map_or(stop, |first| first.min(stop))
        };
        let before = out.len();
        match read_disk(shared, at, stop, max_bytes, &mut bytes, &mut out) {
            Ok(full) if full => return Ok(out),
            Ok(_) => {}
            // What precedes a hole is delivered first.
            Err(Error::Damaged { .. }) if !out.is_empty() => return Ok(out),
            Err(error) => {
                if purged_meanwhile(shared, at).is_some() {
                    continue;
                }
                return Err(error);
            }
        }
        if out.len() == before {
            if purged_meanwhile(shared, at).is_some() {
                continue;
            }
            return Err(Error::Invalid {
                path: shared.shelf.dir.clone(),
                why: format!("position {at} is in the log and in no segment"),
            });
        }
        at += (out.len() - before) as u64;
    }
}

fn purged_meanwhile(shared: &Shared, position: u64) -> Option<u64> {
    let first = next_position(shared.state.lock().outline.purged());
    (position < first).then_some(first)
}

/// Reads a stretch. True: the budget is spent.
fn read_disk(
    shared: &Shared,
    from: u64,
    to: u64,
    max_bytes: usize,
    bytes: &mut usize,
    out: &mut Vec<LogEntry>,
) -> Result<bool, Error> {
    let Some(Stretch { segment, offset, limit }) = shared.index.read().find(from) else {
        return Ok(false);
    };
    let stop = to.min(limit);
    let mut at = from;
    let mut offset = offset;
    let budget = max_bytes.saturating_sub(*bytes) as u64 + shared.options.index_step_bytes;
    let mut window = Window::new(segment.file.clone(), segment.end, budget.clamp(16 << 10, PIECE_BYTES));
    let reading = || Error::io(format!("reading {}", segment.path.display()));
    while at < stop && offset < segment.end {
        let found = frame_at(&mut window, &shared.ids, segment.number, offset).map_err(reading())?;
        match found {
            Found::Other(header) => offset = header.end(),
            Found::Entries(frame) => {
                offset = frame.header.end();
                for entry in frame.entries(at, stop) {
                    let Ok(entry) = entry else {
                        return Err(damage(shared, &segment, at));
                    };
                    if !out.is_empty() && *bytes + entry.body.len() > max_bytes {
                        return Ok(true);
                    }
                    *bytes += entry.body.len();
                    at += 1;
                    out.push(entry);
                }
            }
            Found::Bad => {
                let beyond = end_of_unneeded(&mut window, &shared.ids, segment.number, offset, at);
                match beyond.map_err(reading())? {
                    Some(end) => offset = end,
                    None => return Err(damage(shared, &segment, at)),
                }
            }
        }
    }
    Ok(*bytes >= max_bytes)
}

/// Finds out what exactly is broken around a position, and remembers it.
fn damage(shared: &Shared, segment: &Segment, position: u64) -> Error {
    match super::repair::inspect(shared, segment, position) {
        Ok(hole) => Error::Damaged { hole: Box::new(hole) },
        Err(error) => error,
    }
}

pub(crate) fn chain_at_blocking(shared: &Shared, position: u64) -> Result<u64, Error> {
    chain_at(shared, position)
}

/// The chain at a position, from the frame that holds it.
pub(crate) fn chain_at(shared: &Shared, position: u64) -> Result<u64, Error> {
    {
        let state = shared.state.lock();
        if state.purged_chain.is_some_and(|(mark, _)| mark.position == position)
            && let Some((_, chain)) = state.purged_chain
        {
            return Ok(chain);
        }
    }
    let not_there = || Error::Refused { why: format!("position {position} is not in a segment") };
    let Some(Stretch { segment, mut offset, limit }) = shared.index.read().find(position) else {
        return Err(not_there());
    };
    if position >= limit {
        return Err(not_there());
    }
    let mut window = Window::new(segment.file.clone(), segment.end, 64 << 10);
    let reading = || Error::io(format!("reading {}", segment.path.display()));
    while offset < segment.end {
        let found = frame_at(&mut window, &shared.ids, segment.number, offset).map_err(reading())?;
        match found {
            Found::Other(header) => offset = header.end(),
            Found::Bad => {
                let beyond = end_of_unneeded(&mut window, &shared.ids, segment.number, offset, position);
                match beyond.map_err(reading())? {
                    Some(end) => offset = end,
                    None => return Err(damage(shared, &segment, position)),
                }
            }
            Found::Entries(frame) => {
                offset = frame.header.end();
                let first = frame.header.first();
                if position < first.position || position > frame.header.last_position() {
                    continue;
                }
                let count = (position - first.position + 1) as usize;
                return Ok(chain_after(&frame.header, &frame.records[..count]));
            }
        }
    }
    Err(not_there())
}
