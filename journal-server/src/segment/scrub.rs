//! Reads sealed segments again, a little at a time, and finds what has gone bad since.

use super::format::{DATA_START, FrameKind};
use super::index::Segment;
use super::log::Log;
use super::repair::inspect_all;
use super::scan::{Look, Window, look, second_copy};
use super::types::Error;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// Read so many bytes.
    Bytes(u64),
    /// Everything was read once; the next step begins anew.
    PassDone,
}

/// Goes over the sealed segments of a log. What is broken becomes a hole of the log
/// ([`Log::watch_holes`]); whoever fills holes does the rest.
pub struct Scrubber {
    log: Log,
    /// The next segment is this one, or the first one after it.
    number: u64,
    /// The one being read, and where.
    reading: Option<(Segment, Window, u64)>,
    done_bytes: u64,
}

impl Scrubber {
    pub fn new(log: Log) -> Scrubber {
        Scrubber { log, number: 0, reading: None, done_bytes: 0 }
    }

    /// Reads on by about [`super::Options::scrub_step_bytes`].
    pub fn step_blocking(&mut self) -> Result<Scrubbed, Error> {
        let shared = self.log.shared.clone();
        let Some((segment, mut window, mut offset)) = self.reading.take().or_else(|| self.next()) else {
            (self.number, self.done_bytes) = (0, 0);
            shared.metrics.scrub_passes.increment(1);
            shared.metrics.scrub_progress.set(1.0);
            return Ok(Scrubbed::PassDone);
        };
        self.number = segment.number + 1;
        let from = offset;
        if offset == DATA_START {
            // What is on the disk, and not what is in memory.
            let dropping = |source| Error::Io { what: format!("reading {}", segment.path.display()), source };
            segment.file.drop_cache().map_err(dropping)?;
        }
        let mut damaged = false;
        while offset < segment.end && offset - from < shared.options.scrub_step_bytes && !damaged {
            match self.whole(&segment, &mut window, offset)? {
                Some(end) => offset = end,
                None => damaged = true,
            }
        }
        let mut bytes = offset.min(segment.end) - from;
        if damaged {
            // Finds the rest of it as well.
            inspect_all(&shared, &segment)?;
            bytes = segment.end - from;
        } else if offset < segment.end {
            self.reading = Some((segment, window, offset));
        }
        self.done_bytes += bytes;
        shared.metrics.scrub_bytes.increment(bytes);
        let all: u64 = shared.index.read().segments().filter(|it| it.sealed).map(|it| it.end - DATA_START).sum();
        shared.metrics.scrub_progress.set((self.done_bytes as f64 / all.max(1) as f64).min(1.0));
        Ok(Scrubbed::Bytes(bytes))
    }

    /// Gives back what it holds until the next pass.
    pub fn rests(&mut self) {
        self.reading = None;
    }

    fn next(&self) -> Option<(Segment, Window, u64)> {
        let index = self.log.shared.index.read();
        let segment = index.segments().find(|segment| segment.sealed && segment.number >= self.number)?.clone();
        let piece = self.log.shared.options.scrub_step_bytes.min(256 << 10);
        let window = Window::new(segment.file.clone(), segment.end, piece);
        Some((segment, window, DATA_START))
    }

    /// Where the frame after this one begins, if this one is whole or known not to be needed.
    fn whole(&self, segment: &Segment, window: &mut Window, offset: u64) -> Result<Option<u64>, Error> {
        let shared = &self.log.shared;
        let (ids, number) = (&shared.ids, segment.number);
        let reading = |source| Error::Io { what: format!("reading {}", segment.path.display()), source };
        if let Some(end) = shared.scar_end(number, offset) {
            return Ok(Some(end));
        }
        Ok(match look(window, ids, number, offset, 0).map_err(reading)? {
            Look::Entries(frame) => frame.bad_bodies().is_empty().then_some(frame.header.end()),
            Look::Other(header, _) => Some(header.end()),
            Look::Headed(header) if header.kind == FrameKind::Entries => None,
            // Told elsewhere as well: by its copy, or by the headers and the state that follow.
            Look::Headed(header) => Some(header.end()),
            Look::Nothing => {
                let copy = second_copy(window, ids, number, offset, 0).map_err(reading)?;
                copy.map(|(header, _)| header.end())
            }
        })
    }
}
