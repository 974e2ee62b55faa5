//! Holes: entries that were synced here and cannot be read any more. Found by readers; filled, when a
//! peer has the same entries, beneath the reader.
//!
//! What is written into a hole must be what was there: the ids and checksums are in the frame's table,
//! and every body offered must match them. A frame whose own header or table is gone is not filled in
//! place; the node then has to be replaced.

use std::io;

use super::format::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, decode_table, table_bytes};
use super::index::Segment;
use super::log::Shared;
use super::reader::{Window, end_by_copy};
use super::types::{Error, Hole, LogEntry, LogId};

/// A hole found while reading.
#[derive(Debug, Clone)]
pub(crate) struct KnownHole {
    pub hole: Hole,
}

impl Shared {
    /// Forgets holes in what is no longer part of the log.
    pub(crate) fn forget_holes(&self, gone: impl Fn(&Hole) -> bool) {
        let mut holes = self.holes.lock();
        let before = holes.len();
        holes.retain(|known| !gone(&known.hole));
        if holes.len() != before {
            self.holes_count.send_replace(holes.len());
        }
    }
}

/// Finds out what exactly cannot be read around `position`, and remembers it.
pub(crate) fn inspect(shared: &Shared, segment: &Segment, position: u64) -> Result<Hole, Error> {
    let stretch = shared.index.read().find(position);
    let mut offset = stretch.map_or(super::format::DATA_START, |stretch| stretch.offset);
    let mut window = Window::new(segment.file.clone(), segment.end, 64 << 10);
    let mut before: Option<LogId> = None;
    let hole = loop {
        let head = window
            .get(offset, FRAME_HEADER_BYTES as u64)
            .map_err(Error::io(format!("reading {}", segment.path.display())))?;
        let Some(header) = FrameHeader::decode(&head, &shared.ids, segment.number, offset) else {
            let by_copy = end_by_copy(&mut window, &shared.ids, segment.number, offset)
                .map_err(Error::io(format!("reading {}", segment.path.display())))?;
            if let Some(end) = by_copy {
                offset = end;
                continue;
            }
            // The header itself is gone: how far the hole reaches is not known from here.
            break Hole {
                first: position,
                last: position,
                identities: None,
                before,
                chain_before: None,
                after: LogId::new(0, position),
                chain_after: None,
                segment: segment.number,
                offset,
                end: segment.end,
            };
        };
        if header.kind == FrameKind::Entries && header.last_position() >= position {
            let first = header.first();
            let ids = (first.position..=header.last_position()).map(|at| LogId::new(first.term, at));
            break Hole {
                first: first.position,
                last: header.last_position(),
                identities: Some(ids.collect()),
                before: header.last,
                chain_before: Some(header.chain),
                after: LogId::new(first.term, header.last_position()),
                chain_after: None,
                segment: segment.number,
                offset,
                end: header.end(),
            };
        }
        before = header.last;
        offset = header.end();
        if offset >= segment.end {
            return Err(Error::Refused { why: format!("position {position} is in no frame") });
        }
    };
    let mut holes = shared.holes.lock();
    if !holes.iter().any(|known| known.hole.offset == hole.offset && known.hole.segment == hole.segment) {
        tracing::error!(journal = shared.ids.group, "damaged: {hole}");
        shared.metrics.damaged_frames.increment(1);
        holes.push(KnownHole { hole: hole.clone() });
        shared.holes_count.send_replace(holes.len());
    }
    Ok(hole)
}

/// Writes offered entries into the holes that they belong to.
pub(crate) fn patch_blocking(shared: &Shared, entries: &[LogEntry]) -> Result<(), Error> {
    let holes: Vec<Hole> = shared.holes.lock().iter().map(|known| known.hole.clone()).collect();
    for hole in holes {
        let inside = |entry: &&LogEntry| entry.id.position >= hole.first && entry.id.position <= hole.last;
        let offered: Vec<&LogEntry> = entries.iter().filter(inside).collect();
        if offered.is_empty() {
            continue;
        }
        fill(shared, &hole, &offered)?;
        shared.forget_holes(|known| known.segment == hole.segment && known.offset == hole.offset);
        shared.metrics.repaired.increment(1);
        tracing::info!(journal = shared.ids.group, "repaired: {hole}");
    }
    Ok(())
}

fn fill(shared: &Shared, hole: &Hole, offered: &[&LogEntry]) -> Result<(), Error> {
    let refused = |why: &str| Error::Refused { why: format!("{why} ({hole})") };
    let segment = shared.index.read().segment(hole.segment).cloned();
    let segment = segment.ok_or_else(|| refused("the segment is gone"))?;
    let reading = |error: io::Error| Error::Io { what: format!("reading {}", segment.path.display()), source: error };
    let mut window = Window::new(segment.file.clone(), segment.end, 64 << 10);
    let head = window.get(hole.offset, FRAME_HEADER_BYTES as u64).map_err(reading)?;
    let header = FrameHeader::decode(&head, &shared.ids, segment.number, hole.offset)
        .ok_or_else(|| refused("the frame's header is gone: replace this node"))?;
    let payload_at = hole.offset + FRAME_HEADER_BYTES as u64;
    let payload = window.get(payload_at, u64::from(header.payload_len)).map_err(reading)?;
    let records =
        decode_table(&header, &payload).ok_or_else(|| refused("the frame's table is gone: replace this node"))?;
    let first = header.first();
    let mut at = table_bytes(records.len());
    for (i, record) in records.iter().enumerate() {
        let start = at;
        at += record.len as usize;
        if crc32fast::hash(&payload[start..at]) == record.crc {
            continue;
        }
        let id = LogId::new(first.term, first.position + i as u64);
        let entry = offered.iter().find(|entry| entry.id == id).ok_or_else(|| refused("not all of it was offered"))?;
        let same = entry.crc == record.crc
            && entry.kind == record.kind
            && entry.body.len() == record.len as usize
            && crc32fast::hash(&entry.body) == record.crc;
        if !same {
            return Err(refused("what was offered is not what was there"));
        }
        let written = segment.file.write_all_at(&[io::IoSlice::new(&entry.body)], payload_at + start as u64);
        if let Err(error) = written.and_then(|()| segment.file.sync()) {
            shared.fail(&error.to_string());
            return Err(Error::Failed(error.to_string()));
        }
    }
    Ok(())
}
