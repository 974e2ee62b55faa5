//! Reads entries back from synced segments, checking everything it hands out. Every reader walks
//! frames forward from a place in the index; bytes are read in large pieces, and bodies are slices
//! of those pieces.

use std::io;

use super::format::{FrameKind, chain_after};
use super::index::{Segment, Stretch};
use super::log::Shared;
use super::repair::{Inspected, inspect};
use super::scan::{EntriesFrame, Look, Window, look, second_copy};
use super::types::{Error, LogEntry, LogId, next_position};

/// Bytes read at once.
const PIECE_BYTES: u64 = 256 << 10;

/// A walk over the Entries frames of a segment, from a place in the index on.
struct Walk<'a> {
    shared: &'a Shared,
    segment: Segment,
    window: Window,
    offset: u64,
}

impl<'a> Walk<'a> {
    fn new(shared: &'a Shared, segment: Segment, offset: u64, piece_bytes: u64) -> Self {
        let window = Window::new(segment.file.clone(), segment.end, piece_bytes);
        Walk { shared, segment, window, offset }
    }

    /// The next Entries frame, bodies unchecked, for somebody who is at `position`. What cannot be read
    /// and is not needed for it is passed over.
    fn next(&mut self, position: u64) -> Result<Option<EntriesFrame>, Error> {
        while self.offset < self.segment.end {
            let (ids, number) = (&self.shared.ids, self.segment.number);
            let reading = |error| reading(&self.segment, error);
            match look(&mut self.window, ids, number, self.offset, 0).map_err(reading)? {
                Look::Entries(frame) => {
                    self.offset = frame.header.end();
                    return Ok(Some(frame));
                }
                Look::Other(header, _) => self.offset = header.end(),
                // What else a frame says is not for readers.
                Look::Headed(header) if header.kind != FrameKind::Entries || header.last_position() < position => {
                    self.offset = header.end();
                }
                Look::Headed(_) => self.pass_damage(position)?,
                Look::Nothing => {
                    let copy = second_copy(&mut self.window, ids, number, self.offset, 0).map_err(reading)?;
                    match copy {
                        Some((header, _)) => self.offset = header.end(),
                        None => self.pass_damage(position)?,
                    }
                }
            }
        }
        Ok(None)
    }

    /// Goes on behind something that cannot be read, if `position` is not in it.
    fn pass_damage(&mut self, position: u64) -> Result<(), Error> {
        if let Some(end) = self.shared.scar_end(self.segment.number, self.offset) {
            self.offset = end;
            return Ok(());
        }
        match inspect(self.shared, &self.segment, position)? {
            Inspected::Hole(hole) => Err(Error::Damaged { hole: Box::new(hole) }),
            Inspected::At(offset) if offset > self.offset => {
                self.offset = offset;
                Ok(())
            }
            // Nothing was lost here, as the inspection has found out; it is not asked again.
            Inspected::At(_) => match self.shared.scar_end(self.segment.number, self.offset) {
                Some(end) => {
                    self.offset = end;
                    Ok(())
                }
                None => Err(Error::Invalid {
                    path: self.segment.path.clone(),
                    why: format!("the frame at {} cannot be read, and cannot be told from its neighbours", self.offset),
                }),
            },
        }
    }

    /// What a bad body at `position` is.
    fn damage(&self, position: u64) -> Error {
        match inspect(self.shared, &self.segment, position) {
            Ok(Inspected::Hole(hole)) => Error::Damaged { hole: Box::new(hole) },
            // It was repaired meanwhile, or reads well now and then.
            Ok(Inspected::At(_)) => reading(&self.segment, io::ErrorKind::InvalidData.into()),
            Err(error) => error,
        }
    }
}

fn reading(segment: &Segment, error: io::Error) -> Error {
    Error::Io { what: format!("reading {}", segment.path.display()), source: error }
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
    let budget = (max_bytes.saturating_sub(*bytes) as u64).saturating_add(shared.options.index_step_bytes);
    let mut walk = Walk::new(shared, segment, offset, budget.clamp(16 << 10, PIECE_BYTES));
    while at < stop {
        let Some(frame) = walk.next(at)? else { break };
        for entry in frame.entries(at, stop) {
            let entry = entry.map_err(|position| walk.damage(position))?;
            if entry.id.position != at {
                return Err(reading(&walk.segment, io::Error::other(format!("{at} is not before {}", entry.id))));
            }
            if !out.is_empty() && *bytes + entry.body.len() > max_bytes {
                return Ok(true);
            }
            *bytes += entry.body.len();
            at += 1;
            out.push(entry);
        }
    }
    Ok(*bytes >= max_bytes)
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
    let Some(Stretch { segment, offset, limit }) = shared.index.read().find(position) else {
        return Err(not_there());
    };
    if position >= limit {
        return Err(not_there());
    }
    let mut walk = Walk::new(shared, segment, offset, 64 << 10);
    while let Some(frame) = walk.next(position)? {
        let first = frame.header.first();
        if position >= first.position && position <= frame.header.last_position() {
            let count = (position - first.position + 1) as usize;
            return Ok(chain_after(&frame.header, &frame.records[..count]));
        }
    }
    Err(not_there())
}
