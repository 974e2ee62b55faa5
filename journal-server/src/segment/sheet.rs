//! One plan's writes and syncs, as they will be performed: what the tape lays out, the writer performs.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::format::Place;
use super::fs::File;
use super::index::Segment;

/// Slices in one vectored write (IOV_MAX).
const SLICES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) enum Part {
    Staged(Range<usize>),
    Body(Bytes),
}

#[derive(Debug)]
enum Op {
    Write { file: Arc<dyn File>, offset: u64, parts: Range<usize> },
    Sync { file: Arc<dyn File> },
}

/// What becomes true of the index once a plan is synced, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    Opened(Segment),
    Sealed { segment: u64, end: u64, file_bytes: u64 },
    Place { segment: u64, place: Place },
    Cut { first_removed: u64 },
    End { segment: u64, end: u64, file_bytes: u64 },
}

/// Writes and syncs, to be performed in order; none may be skipped after a failure.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    /// Headers, tables and small bodies, laid out as they will be written.
    pub(super) staged: Vec<u8>,
    pub(super) parts: Vec<Part>,
    ops: Vec<Op>,
    /// The write under construction: where it begins, and its first part.
    pub(super) open: Option<(u64, usize)>,
    pub effects: Vec<Effect>,
    pub entries: usize,
    pub bytes: u64,
    pub rotations: u32,
}

impl Sheet {
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.open.is_none()
    }

    /// Empties it, keeping the memory of its buffers up to `keep` bytes.
    pub(crate) fn recycle(&mut self, keep: usize) {
        self.staged.clear();
        if self.staged.capacity() > keep {
            self.staged = Vec::new();
        }
        self.parts.clear();
        self.ops.clear();
        self.effects.clear();
        self.open = None;
        self.entries = 0;
        self.bytes = 0;
        self.rotations = 0;
    }

    pub(super) fn begin_at(&mut self, offset: u64) {
        if self.open.is_none() {
            self.open = Some((offset, self.parts.len()));
        }
    }

    pub(super) fn note_staged(&mut self, from: usize) {
        let to = self.staged.len();
        if to == from {
            return;
        }
        self.bytes += (to - from) as u64;
        let first_part = self.open.map_or(0, |(_, first)| first);
        let in_this_write = first_part < self.parts.len();
        match self.parts.last_mut() {
            Some(Part::Staged(range)) if in_this_write && range.end == from => range.end = to,
            _ => self.parts.push(Part::Staged(from..to)),
        }
    }

    pub(super) fn stage(&mut self, bytes: &[u8]) {
        let from = self.staged.len();
        self.staged.extend_from_slice(bytes);
        self.note_staged(from);
    }

    pub(super) fn stage_zeros(&mut self, count: usize) {
        let from = self.staged.len();
        self.staged.resize(from + count, 0);
        self.note_staged(from);
    }

    pub(super) fn close_write(&mut self, file: &Arc<dyn File>) {
        if let Some((offset, first)) = self.open.take() {
            let parts = first..self.parts.len();
            self.ops.push(Op::Write { file: file.clone(), offset, parts });
        }
    }

    pub(super) fn write_apart(&mut self, file: &Arc<dyn File>, offset: u64, bytes: &[u8]) {
        self.begin_at(offset);
        self.stage(bytes);
        self.close_write(file);
    }

    pub(super) fn sync(&mut self, file: &Arc<dyn File>) {
        self.ops.push(Op::Sync { file: file.clone() });
    }

    /// Performs everything, `sync` for each sync.
    pub(crate) fn perform(&self, mut sync: impl FnMut(&dyn File) -> io::Result<()>) -> io::Result<()> {
        let mut slices: Vec<io::IoSlice<'_>> = Vec::new();
        for op in &self.ops {
            match op {
                Op::Sync { file } => sync(file.as_ref())?,
                Op::Write { file, offset, parts } => {
                    let mut offset = *offset;
                    let mut bytes = 0u64;
                    for part in &self.parts[parts.clone()] {
                        let slice = match part {
                            Part::Staged(range) => &self.staged[range.clone()],
                            Part::Body(body) => &body[..],
                        };
                        slices.push(io::IoSlice::new(slice));
                        bytes += slice.len() as u64;
                        if slices.len() == SLICES_MAX {
                            file.write_all_at(&slices, offset)?;
                            offset += bytes;
                            bytes = 0;
                            slices.clear();
                        }
                    }
                    if !slices.is_empty() {
                        file.write_all_at(&slices, offset)?;
                        slices.clear();
                    }
                }
            }
        }
        Ok(())
    }
}
