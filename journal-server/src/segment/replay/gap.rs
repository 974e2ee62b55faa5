//! Gaps: synced frames that cannot be read, and what the first readable header behind them tells of what
//! was in them.

use std::path::PathBuf;

use bytes::Bytes;

use super::super::format::{DATA_START, FrameHeader, FrameKind, chain_after, file_name};
use super::super::index::Stretch;
use super::super::outline::Versions;
use super::super::scan::{Look, Window, look};
use super::super::types::{Error, Hole, LogId, next_position};
use super::super::wound::{Cause, Stamp, Start, Wound};
use super::{Begun, Finding, Replay, Tail, Whole};

/// Synced frames in a row that cannot be read, up to where the scan is.
pub(super) struct Gap {
    pub segment: u64,
    pub offset: u64,
    pub start: Start,
    /// The header of the one frame that it consists of, if it can be read.
    pub header: Option<FrameHeader>,
}

/// What is told of the stream by whatever can be read behind a gap.
pub(super) struct After {
    pub last: Option<LogId>,
    pub chain: u64,
    pub stamp: Stamp,
}

impl Replay {
    /// Notes that the synced frame at `at` cannot be read; the scan goes on at `tail.offset`.
    pub(super) fn lose(&mut self, tail: &mut Tail, begun: &Begun, at: u64, header: Option<FrameHeader>) {
        self.report.damaged_frames += 1;
        if let Some(header) = &header {
            self.take_registers(header);
        }
        let opens = at == DATA_START && self.report.segments == 1;
        match header.as_ref().map(|header| header.kind) {
            // Vote, marks and pads carry nothing but their headers.
            Some(FrameKind::Seal) => {
                tail.sealed = true;
                return;
            }
            Some(FrameKind::Version) => {
                tail.versions += 1;
                self.lose_versions(begun.number, at);
                self.note_scar(begun.number, at, tail.offset);
                return;
            }
            Some(FrameKind::Snapshot) => {
                let header = header.expect("it has a kind");
                self.apply(tail, Whole::Other(header, Bytes::new()));
                self.registers.versions = Versions::default();
                self.state_lost = true;
                self.note_scar(begun.number, at, tail.offset);
                return;
            }
            Some(FrameKind::State) => {
                self.forget_opening(opens);
                tail.opened_upto = tail.opened_upto.max(tail.offset);
                self.note_scar(begun.number, at, tail.offset);
                return;
            }
            Some(kind) if kind != FrameKind::Entries => {
                self.note_scar(begun.number, at, tail.offset);
                return;
            }
            _ => {}
        }
        if header.is_none() {
            self.forget_opening(opens);
        }
        match &mut self.gap {
            Some(gap) => gap.header = None,
            None => {
                let start = Start {
                    last: self.registers.outline.last(),
                    chain: self.registers.chain,
                    truncations: tail.truncations,
                    truncated_low: tail.truncated_low,
                };
                self.gap = Some(Gap { segment: begun.number, offset: at, start, header });
            }
        }
    }

    /// The oldest segment's opening is lost, and with it the versions up to here.
    fn forget_opening(&mut self, opens: bool) {
        if opens {
            self.sound_versions = Some(0);
            self.base_told = false;
        }
    }

    fn note_scar(&mut self, segment: u64, offset: u64, end: u64) {
        self.findings.push(Finding::Scar { segment, offset, end });
    }

    pub(super) fn lose_versions(&mut self, segment: u64, offset: u64) {
        let known = self.registers.versions.as_slice().len();
        self.sound_versions = Some(self.sound_versions.map_or(known, |sound| sound.min(known)));
        self.findings.push(Finding::Versions { segment, offset });
    }

    /// Compares what a readable header says of the stream before it with what was read.
    pub(super) fn meet(&mut self, tail: &mut Tail, header: &FrameHeader) -> Result<(), Error> {
        if header.versions != tail.versions {
            self.lose_versions(tail.number, header.offset);
            tail.versions = header.versions;
        }
        let own_effect = matches!(header.kind, FrameKind::Purge | FrameKind::Snapshot);
        if !own_effect
            && let Some(mark) = header.purged
            && Some(mark) != self.registers.outline.purged()
        {
            self.learn_purge(tail, mark, header);
        }
        let stamp = Stamp {
            run: header.run,
            truncations: header.truncations,
            truncated_low: header.truncated_low,
            versions: header.versions,
            vote: header.vote,
            purged: self.registers.outline.purged(),
        };
        self.pass(tail, After { last: header.last, chain: header.chain, stamp })
    }

    /// A purge mark that no frame told of: the first thing heard of the log below the oldest segment,
    /// or what a lost frame did.
    fn learn_purge(&mut self, tail: &Tail, mark: LogId, header: &FrameHeader) {
        let outline = &mut self.registers.outline;
        if next_position(outline.last()) <= mark.position {
            self.registers.chain = header.chain;
        }
        outline.mark_purged(mark);
        let first = self.report.segments == 1 && tail.offset == DATA_START;
        if !first {
            self.registers.chain_at_purge = None;
            self.purge_versions(mark);
            self.base_told = false;
        }
    }

    /// Passes over what was lost since the last readable frame, if anything was.
    pub(super) fn pass(&mut self, tail: &mut Tail, after: After) -> Result<(), Error> {
        let outline = &self.registers.outline;
        let same = after.last == outline.last() && after.chain == self.registers.chain;
        if self.gap.is_some() || !same {
            self.close_gap(tail, &after)?;
        }
        tail.truncations = after.stamp.truncations;
        tail.truncated_low = tail.truncated_low.min(after.stamp.truncated_low);
        Ok(())
    }

    fn close_gap(&mut self, tail: &mut Tail, after: &After) -> Result<(), Error> {
        let gap = self.gap.take().unwrap_or_else(|| Gap {
            segment: tail.number,
            offset: tail.offset,
            start: Start {
                last: self.registers.outline.last(),
                chain: self.registers.chain,
                truncations: tail.truncations,
                truncated_low: tail.truncated_low,
            },
            header: None,
        });
        // Nothing below a gap may be found by walking over it.
        tail.place_due = true;
        let (last, chain) = (self.registers.outline.last(), self.registers.chain);
        if after.last == last && after.chain == chain {
            self.note_scar(gap.segment, gap.offset, tail.offset);
            return Ok(());
        }
        let cut_unseen = after.stamp.truncations != gap.start.truncations;
        let contradicts = !cut_unseen && after.last.map(|id| id.position) == last.map(|id| id.position);
        if contradicts || (!cut_unseen && next_position(after.last) < next_position(last)) {
            return Err(Error::Invalid {
                path: PathBuf::from(file_name(tail.number)),
                why: format!(
                    "the frame at {} follows {:?}, but the log before it ends at {last:?}",
                    tail.offset, after.last
                ),
            });
        }
        let mut first = next_position(last);
        if cut_unseen {
            first = first.min(after.stamp.truncated_low);
            self.cut_wounds(first, None, None);
        }
        let floor = next_position(self.registers.outline.purged());
        first = first.max(floor);
        match after.last {
            Some(upto) if upto.position >= first => {
                let before = first.checked_sub(1).and_then(|below| self.registers.outline.id_at(below));
                let chain_before = self.chain_below(first, &gap.start);
                let header = gap
                    .header
                    .filter(|header| header.first().position == first && header.last_position() == upto.position);
                let identities = header.map(|header| {
                    (first..=upto.position).map(|position| LogId::new(header.first().term, position)).collect()
                });
                let hole = Hole {
                    first,
                    last: upto.position,
                    identities,
                    before: before.or(gap.start.last.filter(|last| last.position + 1 == first)),
                    chain_before,
                    after: upto,
                    chain_after: Some(after.chain),
                    segment: gap.segment,
                    offset: gap.offset,
                    end: tail.offset,
                };
                self.cut(tail, first, before);
                // What terms the positions have is not known; the log does not run before they are.
                self.registers.outline.push(LogId::new(upto.term, first), upto.position - first + 1);
                self.wounds.push(Wound::new(hole, Cause::Frames { start: gap.start, stamp: after.stamp }));
            }
            _ => {
                self.cut(tail, next_position(after.last), after.last);
                self.note_scar(gap.segment, gap.offset, tail.offset);
            }
        }
        self.registers.chain = after.chain;
        Ok(())
    }

    /// A gap at the very end of what was synced: only its own header tells what was in it.
    pub(super) fn close_unended(&mut self, tail: &mut Tail, gap: Gap) {
        let Some(header) = gap.header else { return };
        let (first, last) = (header.first(), header.last_position());
        let hole = Hole {
            first: first.position,
            last,
            identities: Some((first.position..=last).map(|position| LogId::new(first.term, position)).collect()),
            before: header.last,
            chain_before: Some(header.chain),
            after: LogId::new(first.term, last),
            chain_after: None,
            segment: gap.segment,
            offset: gap.offset,
            end: tail.offset,
        };
        self.registers.outline.push(first, u64::from(header.count));
        self.chain_lost = true;
        let stamp = Stamp {
            run: header.run,
            truncations: gap.start.truncations,
            truncated_low: gap.start.truncated_low,
            versions: tail.versions,
            vote: header.vote,
            purged: self.registers.outline.purged(),
        };
        self.wounds.push(Wound::new(hole, Cause::Frames { start: gap.start, stamp }));
    }

    fn chain_below(&self, first: u64, start: &Start) -> Option<u64> {
        let outline = &self.registers.outline;
        if first == next_position(start.last) {
            return Some(start.chain);
        }
        let below = first.checked_sub(1)?;
        if outline.purged().is_some_and(|mark| mark.position == below) {
            return self.registers.chain_at_purge;
        }
        let Stretch { segment, mut offset, .. } = self.index.find(below)?;
        let mut window = Window::new(segment.file.clone(), segment.file_bytes, 64 << 10);
        loop {
            match look(&mut window, &self.ids, segment.number, offset, 0).ok()? {
                Look::Entries(frame) if frame.header.last_position() >= below => {
                    let count = (below.checked_sub(frame.header.first().position)? + 1) as usize;
                    return Some(chain_after(&frame.header, &frame.records[..count]));
                }
                Look::Entries(frame) => offset = frame.header.end(),
                Look::Other(header, _) => offset = header.end(),
                Look::Headed(_) | Look::Nothing => return None,
            }
        }
    }
}
