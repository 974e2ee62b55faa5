//! A hole and how to fill it: what a filling must be to be believed, and how it is laid out where the
//! lost frames were.
//!
//! **What is believed.** An entry is known by its id and the checksum of its body; a log up to an id is
//! known by its chain. So a filling is right if its ids are those that are known to have been there,
//! or if the chain over it arrives where the next readable frame says that it stood; where both are
//! known, both must agree.
//!
//! **Where it goes.** In place, and nowhere else: the frames behind the hole stay where they are, and so
//! do the places by which an index finds them. What is written is proven to have been synced by what
//! lies behind it, so a crash while it is written leaves a hole again and never a torn end.

use std::collections::BTreeMap;
use std::io;

use super::format::{
    EntryRecord, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Place, align8, chain_after, record_of, table_bytes,
};
use super::fs::File;
use super::scan::EntriesFrame;
use super::tape::encode_frame;
use super::types::{Hole, Ids, LogEntry, LogId, Vote, chain_next, next_position};

/// What was known where a gap begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub last: Option<LogId>,
    pub chain: u64,
    pub truncations: u32,
    pub truncated_low: u64,
}

/// What the frames of a filling say besides their entries: what was in force behind the gap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub run: u32,
    pub truncations: u32,
    pub truncated_low: u64,
    pub versions: u32,
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
}

#[derive(Debug, Clone)]
pub(crate) enum Cause {
    /// Some bodies of one frame, whose header and table are whole.
    Bodies { header: Box<FrameHeader>, records: Vec<EntryRecord>, bad: Vec<u64> },
    /// Whole frames.
    Frames { start: Start, stamp: Stamp },
}

#[derive(Debug, Clone)]
pub(crate) struct Wound {
    pub hole: Hole,
    pub cause: Cause,
    /// Frames that an index looks for at a certain offset inside the hole.
    pub anchors: Vec<Place>,
    /// What was offered so far.
    offered: BTreeMap<u64, LogEntry>,
}

/// Why a filling is not taken.
pub(crate) type Refusal = String;

impl Wound {
    pub(crate) fn new(hole: Hole, cause: Cause) -> Self {
        Wound { hole, cause, anchors: Vec::new(), offered: BTreeMap::new() }
    }

    /// A frame of which only some bodies are bad.
    pub(crate) fn bodies(frame: &EntriesFrame, bad: &[u64]) -> Self {
        let header = &frame.header;
        let (term, begin) = (header.first().term, header.first().position);
        let (first, last) = (bad[0], bad[bad.len() - 1]);
        let chain_upto = |position: u64| chain_after(header, &frame.records[..(position + 1 - begin) as usize]);
        let before = if first == begin { header.last } else { Some(LogId::new(term, first - 1)) };
        let hole = Hole {
            first,
            last,
            identities: Some((first..=last).map(|position| LogId::new(term, position)).collect()),
            before,
            chain_before: Some(if first == begin { header.chain } else { chain_upto(first - 1) }),
            after: LogId::new(term, last),
            chain_after: Some(chain_upto(last)),
            segment: header.segment,
            offset: header.offset,
            end: header.end(),
        };
        let cause =
            Cause::Bodies { header: Box::new(header.clone()), records: frame.records.clone(), bad: bad.to_vec() };
        Wound::new(hole, cause)
    }

    /// The log was cut after `at`: what lay above is not needed, and the chain there is known.
    pub(crate) fn end_at(&mut self, at: LogId, chain: Option<u64>) {
        if at.position >= self.hole.last {
            return;
        }
        self.hole.last = at.position;
        self.hole.after = at;
        self.hole.chain_after = chain;
        let kept = (at.position + 1 - self.hole.first) as usize;
        if let Some(ids) = &mut self.hole.identities {
            ids.truncate(kept);
        }
        if let Cause::Bodies { bad, .. } = &mut self.cause {
            bad.retain(|position| *position <= at.position);
        }
        self.offered.retain(|position, _| *position <= at.position);
    }

    /// Everything up to `mark` is purged.
    pub(crate) fn forget_upto(&mut self, mark: LogId, chain: Option<u64>) {
        if mark.position < self.hole.first {
            return;
        }
        let gone = (mark.position + 1 - self.hole.first) as usize;
        self.hole.first = mark.position + 1;
        self.hole.before = Some(mark);
        self.hole.chain_before = chain;
        if let Some(ids) = &mut self.hole.identities {
            ids.drain(..gone.min(ids.len()));
        }
        if let Cause::Bodies { bad, .. } = &mut self.cause {
            bad.retain(|position| *position > mark.position);
        }
        self.offered.retain(|position, _| *position > mark.position);
    }

    /// Nothing of it is needed any more.
    pub(crate) fn is_void(&self) -> bool {
        match &self.cause {
            Cause::Bodies { bad, .. } => bad.is_empty(),
            Cause::Frames { .. } => self.hole.first > self.hole.last,
        }
    }

    /// Takes up what fits. True: everything has been offered.
    pub(crate) fn offer(&mut self, entries: &[LogEntry]) -> Result<bool, Refusal> {
        for entry in entries {
            let position = entry.id.position;
            if !self.lacks(position) || !self.may_be(entry.id) {
                continue;
            }
            if crc32fast::hash(&entry.body) != entry.crc {
                return Err(format!("the entry offered for {} is damaged itself", entry.id));
            }
            self.offered.insert(position, entry.clone());
        }
        let needed = match &self.cause {
            Cause::Bodies { bad, .. } => bad.len() as u64,
            Cause::Frames { .. } => self.hole.last + 1 - self.hole.first,
        };
        Ok(self.offered.len() as u64 == needed)
    }

    /// Whether this position is missing.
    pub(crate) fn lacks(&self, position: u64) -> bool {
        match &self.cause {
            Cause::Bodies { bad, .. } => bad.contains(&position),
            Cause::Frames { .. } => self.hole.first <= position && position <= self.hole.last,
        }
    }

    /// Whether an id may have been here, by all that is known without the others of the hole.
    fn may_be(&self, id: LogId) -> bool {
        let known = self.hole.identities.as_ref().and_then(|ids| ids.get((id.position - self.hole.first) as usize));
        let low = self.hole.before.map_or(0, |before| before.term);
        known.is_none_or(|known| *known == id) && low <= id.term && id.term <= self.hole.after.term
    }

    /// Once everything was offered: writes and syncs it, if it is right. What is wrong is forgotten, so
    /// that somebody else may offer.
    pub(crate) fn fill(&mut self, file: &dyn File, ids: &Ids) -> io::Result<Result<(), Refusal>> {
        let writes = match self.verified_writes(ids) {
            Ok(writes) => writes,
            Err(refusal) => {
                self.offered.clear();
                return Ok(Err(refusal));
            }
        };
        for (offset, bytes) in &writes {
            file.write_all_at(&[io::IoSlice::new(bytes)], *offset)?;
        }
        file.sync()?;
        Ok(Ok(()))
    }

    fn verified_writes(&self, ids: &Ids) -> Result<Vec<(u64, Vec<u8>)>, Refusal> {
        match &self.cause {
            Cause::Bodies { header, records, .. } => self.body_writes(header, records),
            Cause::Frames { start, stamp } => {
                self.verify()?;
                Ok(vec![(self.hole.offset, self.lay_out(ids, start, stamp)?)])
            }
        }
    }

    /// The table says what each body was.
    fn body_writes(&self, header: &FrameHeader, records: &[EntryRecord]) -> Result<Vec<(u64, Vec<u8>)>, Refusal> {
        let first = header.first();
        let mut writes = Vec::new();
        let mut at = header.offset + FRAME_HEADER_BYTES as u64 + table_bytes(records.len()) as u64;
        for (i, record) in records.iter().enumerate() {
            let id = LogId::new(first.term, first.position + i as u64);
            if let Some(entry) = self.offered.get(&id.position) {
                if entry.id != id || record_of(entry) != *record {
                    return Err(format!("{} was offered for {id}, and is not the same entry", entry.id));
                }
                writes.push((at, entry.body.to_vec()));
            }
            at += u64::from(record.len);
        }
        Ok(writes)
    }

    fn verify(&self) -> Result<(), Refusal> {
        let hole = &self.hole;
        let mut below = hole.before.map_or(0, |id| id.term);
        for (i, entry) in self.offered.values().enumerate() {
            let known = hole.identities.as_ref().map(|ids| ids[i]);
            if known.is_some_and(|known| known != entry.id) {
                return Err(format!("{} was offered for {known:?}", entry.id));
            }
            if entry.id.term < below {
                return Err(format!("{} cannot follow an entry of term {below}", entry.id));
            }
            below = entry.id.term;
        }
        if self.offered.values().next_back().map(|entry| entry.id) != Some(hole.after) {
            return Err(format!("what was offered does not arrive at {}", hole.after));
        }
        let (Some(chain), Some(arrives)) = (hole.chain_before, hole.chain_after) else {
            return match hole.identities {
                Some(_) => Ok(()),
                None => Err("neither ids nor chain are known: this node must be replaced".into()),
            };
        };
        let over = |chain, entry: &LogEntry| chain_next(chain, entry.id, entry.kind, entry.crc);
        if self.offered.values().fold(chain, over) != arrives {
            return Err("the chain does not close: this is not what was there".into());
        }
        Ok(())
    }

    /// The bytes of the whole hole: a truncation if one was lost, the entries, and padding.
    fn lay_out(&self, ids: &Ids, start: &Start, stamp: &Stamp) -> Result<Vec<u8>, Refusal> {
        let hole = &self.hole;
        let mut image = Image { ids, hole, out: Vec::new(), stretchable: None };
        let mut last = start.last;
        let mut chain = start.chain;
        let blank = FrameHeader {
            segment: hole.segment,
            offset: 0,
            run: stamp.run,
            kind: FrameKind::Entries,
            sub: 0,
            copy: false,
            doubled: false,
            frame_len: 0,
            payload_len: 0,
            payload_crc: 0,
            count: 0,
            truncations: stamp.truncations,
            truncated_low: stamp.truncated_low,
            versions: stamp.versions,
            synced_upto: 0,
            twin: 0,
            last: None,
            chain: 0,
            vote: stamp.vote,
            purged: stamp.purged,
            committed: None,
            applied: None,
            at: None,
            aux: None,
        };
        let chain_before = hole.chain_before.ok_or("the chain below the hole is not known")?;
        if hole.first < next_position(start.last) {
            let header = FrameHeader {
                kind: FrameKind::Truncate,
                truncations: start.truncations,
                truncated_low: start.truncated_low,
                last,
                chain,
                at: hole.before,
                aux: Some(chain_before),
                ..blank.clone()
            };
            image.put(header, &[]);
        }
        (last, chain) = (hole.before.or(last.filter(|_| hole.first > 0)), chain_before);
        let entries: Vec<&LogEntry> = self.offered.values().collect();
        let mut from = 0;
        while from < entries.len() {
            let first = entries[from].id;
            let anchor = self.anchors.iter().find(|anchor| anchor.position == first.position);
            if let Some(anchor) = anchor {
                image.go_to(anchor.offset, &blank, last, chain)?;
            }
            let until = self.anchors.iter().map(|anchor| anchor.position).find(|at| *at > first.position);
            let joins =
                |entry: &&LogEntry| entry.id.term == first.term && until.is_none_or(|until| entry.id.position < until);
            let count = entries[from..].iter().take_while(|entry| joins(entry)).count();
            let run = &entries[from..from + count];
            let mut payload = Vec::new();
            run.iter().for_each(|entry| record_of(entry).encode(&mut payload));
            payload.resize(table_bytes(count), 0);
            let payload_crc = crc32fast::hash(&payload);
            run.iter().for_each(|entry| payload.extend_from_slice(&entry.body));
            let header =
                FrameHeader { last, chain, at: Some(first), count: count as u32, payload_crc, ..blank.clone() };
            image.put(header, &payload);
            chain = run.iter().fold(chain, |chain, entry| chain_next(chain, entry.id, entry.kind, entry.crc));
            last = run.last().map(|entry| entry.id);
            from += count;
        }
        image.go_to(hole.end, &blank, last, chain)?;
        Ok(image.out)
    }
}

/// Frames as they are laid out into a hole.
struct Image<'a> {
    ids: &'a Ids,
    hole: &'a Hole,
    out: Vec<u8>,
    /// The last frame, if it may be made longer, and what is in its header.
    stretchable: Option<(usize, FrameHeader)>,
}

impl Image<'_> {
    fn offset(&self) -> u64 {
        self.hole.offset + self.out.len() as u64
    }

    fn put(&mut self, header: FrameHeader, payload: &[u8]) {
        let from = self.out.len();
        let offset = self.offset();
        let entries = header.kind == FrameKind::Entries;
        let payload_crc = if entries { header.payload_crc } else { crc32fast::hash(payload) };
        let header =
            FrameHeader { offset, synced_upto: offset, payload_len: payload.len() as u32, payload_crc, ..header };
        encode_frame(self.ids, header.clone(), payload, &mut self.out);
        let frame_len = (self.out.len() - from) as u32;
        self.stretchable = entries.then_some((from, FrameHeader { frame_len, ..header }));
    }

    /// Fills up to an offset, with a longer last frame or with padding.
    fn go_to(&mut self, offset: u64, blank: &FrameHeader, last: Option<LogId>, chain: u64) -> Result<(), Refusal> {
        let Some(missing) = offset.checked_sub(self.offset()) else {
            return Err("what was offered is longer than what was there: this node must be replaced".into());
        };
        if missing == 0 {
            return Ok(());
        }
        if let Some((from, header)) = self.stretchable.take() {
            let header = FrameHeader { frame_len: header.frame_len + missing as u32, ..header };
            header.encode(self.ids, &mut self.out[from..from + FRAME_HEADER_BYTES]);
        } else if missing >= align8(FRAME_HEADER_BYTES as u64) {
            let at = self.offset();
            let header = FrameHeader {
                kind: FrameKind::Pad,
                offset: at,
                synced_upto: at,
                frame_len: missing as u32,
                last,
                chain,
                ..blank.clone()
            };
            let from = self.out.len();
            self.out.resize(from + FRAME_HEADER_BYTES, 0);
            header.encode(self.ids, &mut self.out[from..]);
        } else {
            return Err("there is no room for padding: this node must be replaced".into());
        }
        self.out.resize((offset - self.hole.offset) as usize, 0);
        Ok(())
    }
}
