//! Reads one segment file frame by frame and says of each place what is there: a whole frame, or one
//! that cannot be read and what can still be told of it. Knows nothing of the log that the frames
//! amount to, and changes nothing.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{
    BLOCK, DOUBLE_PAYLOAD_MAX, EntryRecord, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, FrameKind, decode_table,
    second_copy_offset, table_bytes,
};
use super::fs::File;
use super::types::{Ids, LogEntry, LogId};

/// What is read again, one by one, when a larger piece cannot be read.
const SECTOR: u64 = 512;

/// A view of a file through one piece at a time.
///
/// Sectors that the device refuses to read are handed out as zeros and remembered: no frame with one
/// of them in it is whole, and what is to be done about that is decided as for any other damage.
pub(crate) struct Window {
    file: Arc<dyn File>,
    /// Nothing is read from here on.
    end: u64,
    piece_bytes: u64,
    at: u64,
    piece: Bytes,
    unreadable: Vec<u64>,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn File>, end: u64, piece_bytes: u64) -> Self {
        Window { file, end, piece_bytes, at: 0, piece: Bytes::new(), unreadable: Vec::new() }
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The bytes at `[offset, offset + len)`; fewer where the file ends.
    pub(crate) fn get(&mut self, offset: u64, len: u64) -> io::Result<Bytes> {
        let len = len.min(self.end.saturating_sub(offset));
        let held = offset >= self.at && offset + len <= self.at + self.piece.len() as u64;
        if !held {
            let want = len.max(self.piece_bytes).min(self.end.saturating_sub(offset));
            let mut piece = vec![0u8; want as usize];
            if let Err(error) = self.file.read_exact_at(&mut piece, offset) {
                self.read_around(&mut piece, offset, error)?;
            }
            self.at = offset;
            self.piece = Bytes::from(piece);
        }
        let from = (offset - self.at) as usize;
        Ok(self.piece.slice(from..from + len as usize))
    }

    /// Whether anything at or behind `offset` could not be read.
    pub(crate) fn is_unreadable_from(&self, offset: u64) -> bool {
        self.unreadable.iter().any(|sector| sector + SECTOR > offset)
    }

    /// Reads what can be read of a piece. A file of which nothing can be read is a disk that is gone.
    fn read_around(&mut self, piece: &mut [u8], offset: u64, error: io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Err(error);
        }
        let end = offset + piece.len() as u64;
        let (mut at, mut any) = (offset, false);
        while at < end {
            let next = ((at / SECTOR + 1) * SECTOR).min(end);
            let part = &mut piece[(at - offset) as usize..(next - offset) as usize];
            match self.file.read_exact_at(part, at) {
                Ok(()) => any = true,
                Err(_) => {
                    part.fill(0);
                    self.unreadable.push(at / SECTOR * SECTOR);
                }
            }
            at = next;
        }
        if any || piece.len() as u64 <= SECTOR { Ok(()) } else { Err(error) }
    }
}

/// One Entries frame, header and table checked, bodies not.
pub(crate) struct EntriesFrame {
    pub header: FrameHeader,
    pub records: Vec<EntryRecord>,
    payload: Bytes,
}

impl EntriesFrame {
    /// The entries at `[from, to)`, each body checked. `Err` names a bad one.
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

    /// Positions whose bodies are bad.
    pub(crate) fn bad_bodies(&self) -> Vec<u64> {
        self.entries(0, u64::MAX).filter_map(Result::err).collect()
    }
}

/// What is at a place where a frame should begin.
pub(crate) enum Look {
    /// Header and table are whole; whoever wants a body checks it.
    Entries(EntriesFrame),
    /// Any other kind, whole. The payload is the first copy's.
    Other(FrameHeader, Bytes),
    /// The header is whole, and nothing is known of the payload.
    Headed(FrameHeader),
    Nothing,
}

/// What is at `offset`. A frame of a run before `run` is a leftover: nothing.
pub(crate) fn look(window: &mut Window, ids: &Ids, segment: u64, offset: u64, run: u32) -> io::Result<Look> {
    let head = window.get(offset, FRAME_HEADER_BYTES as u64)?;
    let header = FrameHeader::decode(&head, ids, segment, offset).filter(|header| header.run >= run);
    let Some(header) = header.filter(|header| header.end() <= window.end()) else {
        return Ok(Look::Nothing);
    };
    let payload = window.get(offset + FRAME_HEADER_BYTES as u64, u64::from(header.payload_len))?;
    if payload.len() != header.payload_len as usize {
        return Ok(Look::Headed(header));
    }
    Ok(match header.kind {
        FrameKind::Entries => match decode_table(&header, &payload) {
            Some(records) => Look::Entries(EntriesFrame { header, records, payload }),
            None => Look::Headed(header),
        },
        FrameKind::Pad => Look::Other(header, Bytes::new()),
        _ if crc32fast::hash(&payload) == header.payload_crc => Look::Other(header, payload),
        _ => Look::Headed(header),
    })
}

/// The second copy of the frame whose first copy should be whole at `offset`, and is not. Its header
/// names its own place; the next frame is where that one ends.
pub(crate) fn second_copy(
    window: &mut Window,
    ids: &Ids,
    segment: u64,
    offset: u64,
    run: u32,
) -> io::Result<Option<(FrameHeader, Bytes)>> {
    let reach = offset + 2 * BLOCK + DOUBLE_PAYLOAD_MAX as u64;
    let mut at = second_copy_offset(offset, FRAME_HEADER_BYTES as u64);
    while at < reach {
        let head = window.get(at, FRAME_HEADER_BYTES as u64)?;
        if head.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let header = FrameHeader::decode(&head, ids, segment, at);
        if header.is_some_and(|header| header.copy && header.twin == offset) {
            return Ok(match look(window, ids, segment, at, run)? {
                Look::Other(header, payload) => Some((header, payload)),
                _ => None,
            });
        }
        at += BLOCK;
    }
    Ok(None)
}

/// The first frame header at or after `from` that can be read and whose run is not older than `run`.
pub(crate) fn next_header(
    window: &mut Window,
    ids: &Ids,
    segment: u64,
    from: u64,
    run: u32,
) -> io::Result<Option<FrameHeader>> {
    const STEP: u64 = 64 << 10;
    let magic = FRAME_MAGIC.to_le_bytes();
    let mut at = from;
    while at + FRAME_HEADER_BYTES as u64 <= window.end() {
        let piece = window.get(at, STEP)?;
        if !is_zero(&piece) {
            for start in (0..piece.len()).step_by(8) {
                if piece.len() - start < 4 || piece[start..start + 4] != magic {
                    continue;
                }
                let offset = at + start as u64;
                let head = window.get(offset, FRAME_HEADER_BYTES as u64)?;
                let header = FrameHeader::decode(&head, ids, segment, offset);
                if let Some(header) = header.filter(|header| header.run >= run) {
                    return Ok(Some(header));
                }
            }
        }
        at += STEP;
    }
    Ok(None)
}

/// The end of the last byte at or behind `from` that is not zero, or `from`.
pub(crate) fn dirty_end(window: &mut Window, from: u64) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let (mut at, mut end) = (from, from);
    while at < window.end() {
        let piece = window.get(at, STEP)?;
        if !is_zero(&piece)
            && let Some(last) = piece.iter().rposition(|byte| *byte != 0)
        {
            end = at + last as u64 + 1;
        }
        at += piece.len() as u64;
    }
    Ok(end)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}
