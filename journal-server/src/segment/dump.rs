//! Tells what is in a segment, frame by frame, for people: whatever can be read, and where nothing can.

use std::io;
use std::path::Path;

use super::format::{DATA_START, FrameHeader};
use super::fs::Fs;
use super::recovery::read_header;
use super::scan::{Look, Window, look, next_header};
use super::types::{Error, Ids, Kind, LogId};

/// What a segment says of itself, before its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub ids: Ids,
    pub number: u64,
    pub run: u32,
    pub previous_last: Option<LogId>,
    pub file_bytes: u64,
}

/// One line of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Frame {
        header: Box<FrameHeader>,
        entries: Vec<EntryLine>,
        whole: bool,
    },
    /// Nothing can be told of these bytes.
    Unreadable {
        offset: u64,
        end: u64,
    },
}

/// One entry of an Entries frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryLine {
    pub id: LogId,
    pub kind: Kind,
    pub crc: u32,
    pub len: u32,
    /// The body is what its checksum says.
    pub whole: bool,
}

/// Reads the segment at `path` and tells all its frames in order. None: it was never begun.
pub fn dump(
    fs: &dyn Fs,
    path: &Path,
    mut opening: impl FnMut(Opening) -> io::Result<()>,
    mut line: impl FnMut(Line) -> io::Result<()>,
) -> Result<Option<()>, Error> {
    let reading = |source| Error::Io { what: format!("reading {}", path.display()), source };
    let telling = Error::io("writing the dump");
    let file = fs.open(path).map_err(reading)?;
    let file_bytes = file.len().map_err(reading)?;
    let Ok(header) = read_header(&file, file_bytes) else { return Ok(None) };
    let (ids, number) = (header.ids, header.number);
    let told = opening(Opening { ids, number, run: header.run, previous_last: header.previous_last, file_bytes });
    told.map_err(telling)?;
    let mut window = Window::new(file, file_bytes, 1 << 20);
    let (mut at, mut run) = (DATA_START, 0);
    while at < file_bytes {
        let told = match look(&mut window, &ids, number, at, run).map_err(reading)? {
            Look::Entries(frame) => {
                let bad = frame.bad_bodies();
                let first = frame.header.first();
                let entry = |(i, record): (usize, &super::format::EntryRecord)| {
                    let id = LogId::new(first.term, first.position + i as u64);
                    let whole = !bad.contains(&id.position);
                    EntryLine { id, kind: record.kind, crc: record.crc, len: record.len, whole }
                };
                let entries = frame.records.iter().enumerate().map(entry).collect();
                Line::Frame { header: Box::new(frame.header), entries, whole: bad.is_empty() }
            }
            Look::Other(header, _) => Line::Frame { header: Box::new(header), entries: Vec::new(), whole: true },
            Look::Headed(header) => Line::Frame { header: Box::new(header), entries: Vec::new(), whole: false },
            Look::Nothing => match next_header(&mut window, &ids, number, at + 8, run).map_err(reading)? {
                Some(next) => Line::Unreadable { offset: at, end: next.offset },
                None => break,
            },
        };
        at = match &told {
            Line::Frame { header, .. } => {
                run = header.run;
                header.end()
            }
            Line::Unreadable { end, .. } => *end,
        };
        line(told).map_err(Error::io("writing the dump"))?;
    }
    Ok(Some(()))
}

/// The segments of a log, in order.
pub fn segments(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    Ok(super::verify::segments(fs, dir)?.into_iter().map(|(_, path)| path).collect())
}
