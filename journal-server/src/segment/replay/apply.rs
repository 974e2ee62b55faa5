//! What each readable frame does to the registers, the index and the holes.

use super::super::format::{FrameHeader, FrameKind, Place, SUB_DROPPED, SUB_STOP, chain_after, decode_versions};
use super::super::outline::{Outline, Versions};
use super::super::scan::EntriesFrame;
use super::super::types::{LogId, Version, next_position};
use super::{Replay, Tail, Whole};

impl Replay {
    pub(super) fn state(&mut self, header: &FrameHeader, versions: Vec<Version>) {
        self.registers.versions = Versions::new(versions);
        self.sound_versions = None;
        self.base_told = true;
        self.state_lost = false;
        self.take_registers(header);
        if let Some(mark) = header.purged {
            self.registers.outline.mark_purged(mark);
            self.registers.chain_at_purge = header.aux;
        }
    }

    pub(super) fn take_registers(&mut self, header: &FrameHeader) {
        self.registers.vote = header.vote;
        self.registers.committed = header.committed;
        self.registers.applied = header.applied;
    }

    pub(super) fn apply(&mut self, tail: &mut Tail, frame: Whole) {
        self.take_registers(frame.header());
        self.report.clean = false;
        let (header, payload) = match frame {
            Whole::Entries(entries) => return self.apply_entries(tail, &entries),
            Whole::Other(header, payload) => (header, payload),
        };
        match header.kind {
            FrameKind::State => {
                if let Some(versions) = decode_versions(&payload) {
                    self.state(&header, versions);
                }
                tail.opened_upto = tail.opened_upto.max(header.end());
            }
            FrameKind::Truncate => {
                let first_removed = next_position(header.at);
                let chain = header.aux.unwrap_or(0);
                self.registers.chain = chain;
                self.cut_wounds(first_removed, header.at, Some(chain));
                self.note_cut(tail, first_removed, header.at);
            }
            FrameKind::Purge => {
                if let Some(mark) = header.purged {
                    if header.sub == SUB_DROPPED {
                        self.drop_log(tail, mark, header.aux);
                    }
                    self.registers.outline.mark_purged(mark);
                    self.registers.chain_at_purge = header.aux;
                    self.purge_versions(mark);
                    let base = self.registers.versions.base(mark);
                    let base = base.map(|base| self.registers.versions.as_slice()[base].at);
                    self.base_told = true;
                    self.state_lost = base != header.at;
                }
            }
            FrameKind::Version => {
                if let Some(at) = header.at {
                    self.registers.versions.save(Version { at, bytes: payload });
                    let len = self.registers.versions.as_slice().len();
                    self.sound_versions = self.sound_versions.map(|sound| sound.min(len - 1));
                }
                tail.versions += 1;
            }
            FrameKind::Snapshot => {
                if let Some(at) = header.at {
                    let version = Version { at, bytes: payload };
                    if header.sub == SUB_DROPPED {
                        self.drop_log(tail, at, header.aux);
                        self.registers.versions = Versions::new(vec![version]);
                        self.sound_versions = None;
                    } else {
                        self.registers.outline.mark_purged(at);
                        let removed = self.registers.versions.install(version);
                        self.sound_versions = self.sound_versions.map(|sound| sound.saturating_sub(removed) + 1);
                        self.registers.chain_at_purge = header.aux;
                    }
                    self.base_told = true;
                    self.state_lost = false;
                }
                tail.versions += 1;
            }
            FrameKind::Mark => self.report.clean = header.sub == SUB_STOP,
            FrameKind::Seal => tail.sealed = true,
            // The vote was in the header.
            FrameKind::Vote | FrameKind::Pad | FrameKind::Entries => {}
        }
    }

    fn apply_entries(&mut self, tail: &mut Tail, entries: &EntriesFrame) {
        let header = &entries.header;
        let first = header.first();
        if !self.registers.outline.accepts(first) {
            // Compared with `last` before; a term that falls is a bug of the writer.
            tracing::error!(journal = self.ids.group, at = %first, "an entry's term is below its predecessor's");
        }
        let last = tail.places.places.last();
        let far = last.is_none_or(|place| header.offset - place.offset >= self.index_step_bytes);
        if far || tail.place_due {
            let place = Place { position: first.position, offset: header.offset };
            tail.places.places.push(place);
            self.index.add_place(tail.number, place);
            tail.place_due = false;
        }
        if tail.places.runs.last().is_none_or(|run| run.term != first.term) {
            tail.places.runs.push(first);
        }
        self.registers.outline.push(first, u64::from(header.count));
        self.registers.chain = chain_after(header, &entries.records);
    }

    pub(super) fn purge_versions(&mut self, mark: LogId) {
        let before = self.registers.versions.as_slice().len();
        self.registers.versions.purge(mark);
        let removed = before - self.registers.versions.as_slice().len();
        self.sound_versions = self.sound_versions.and_then(|sound| match sound.checked_sub(removed) {
            Some(0) if removed > 0 => None,
            rest => rest,
        });
    }

    fn drop_log(&mut self, tail: &mut Tail, mark: LogId, chain: Option<u64>) {
        tail.truncations += 1;
        tail.truncated_low = 0;
        self.cut_index(tail, 0);
        self.wounds.clear();
        self.registers.outline = Outline::starting_after(Some(mark));
        self.registers.chain = chain.unwrap_or(0);
        self.registers.chain_at_purge = chain;
    }

    /// A truncation that a frame tells of.
    fn note_cut(&mut self, tail: &mut Tail, first_removed: u64, before: Option<LogId>) {
        tail.truncations += 1;
        tail.truncated_low = tail.truncated_low.min(first_removed);
        self.cut(tail, first_removed, before);
    }

    /// Holes in what was removed are none any more. One that reaches into it ends where the rest does.
    pub(super) fn cut_wounds(&mut self, first_removed: u64, before: Option<LogId>, chain: Option<u64>) {
        self.wounds.retain(|wound| wound.hole.first < first_removed);
        let Some(position) = first_removed.checked_sub(1) else { return };
        for wound in &mut self.wounds {
            let id = before.or_else(|| self.registers.outline.id_at(position));
            wound.end_at(id.unwrap_or(LogId::new(wound.hole.after.term, position)), chain);
        }
    }

    pub(super) fn cut(&mut self, tail: &mut Tail, first_removed: u64, before: Option<LogId>) {
        self.registers.outline.cut_after(first_removed, before);
        self.registers.versions.cut(first_removed);
        let len = self.registers.versions.as_slice().len();
        self.sound_versions = self.sound_versions.map(|sound| sound.min(len));
        self.cut_index(tail, first_removed);
    }

    fn cut_index(&mut self, tail: &mut Tail, first_removed: u64) {
        tail.places.places.retain(|place| place.position < first_removed);
        tail.places.runs.retain(|run| run.position < first_removed);
        tail.place_due = true;
        self.index.cut(first_removed);
    }
}
