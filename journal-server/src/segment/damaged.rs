//! A log that cannot run yet: synced frames of it cannot be read, or the state at its purge mark is
//! lost. It waits here for what its peers have, and refuses everything else.
//!
//! **Nothing is guessed.** A hole is filled with what proves to have been there (`wound.rs`), or it is
//! cut when others have said that it cannot have been committed; that judgement is made above. Before
//! a cut the node stores a vote ([`Damaged::store_vote`]), so that it cannot help an older leader
//! afterwards to commit what it has just given up.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::format::{FrameKind, TRAILER_BYTES, decode_trailer};
use super::fs::File;
use super::index::Stretch;
use super::metrics::Metrics;
use super::recovery::{Opened, Report, open_at};
use super::replay::{Finding, Replay};
use super::scan::{Look, Window, look, second_copy};
use super::shelf::Spare;
use super::start::{Going, Place};
use super::types::{Error, Hole, LogEntry, LogId, Version, Vote, next_position};
use super::wound::Wound;

pub struct Damaged {
    place: Place,
    wounds: Vec<(Wound, Arc<dyn File>)>,
    holes: Vec<Hole>,
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    state_lost: bool,
    chain_lost: bool,
    report: Report,
    findings: Vec<Finding>,
    going: Going,
    failed: Option<String>,
    metrics: Metrics,
}

/// More positions than these that cannot be read are told by another call.
const BAD_MAX: usize = 4096;

impl std::fmt::Debug for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Damaged")
            .field("dir", &self.place.dir)
            .field("holes", &self.holes)
            .field("state_lost", &self.state_lost)
            .finish_non_exhaustive()
    }
}

impl Damaged {
    pub(crate) fn new(place: Place, mut replay: Replay, unused: Option<(u64, Spare)>) -> Damaged {
        let lookup = Box::new(|position| Err(Error::Refused { why: format!("the log below {position} is damaged") }));
        let registers = &replay.registers;
        let (vote, committed) = (registers.vote, registers.committed);
        let (purged, last) = (registers.outline.purged(), registers.outline.last());
        let file_of = |wound: &Wound| replay.index.segment(wound.hole.segment).map(|segment| segment.file.clone());
        let wounds: Vec<_> =
            replay.wounds.iter().filter_map(|wound| file_of(wound).map(|file| (wound.clone(), file))).collect();
        let holes: Vec<Hole> = wounds.iter().map(|(wound, _)| wound.hole.clone()).collect();
        for hole in &holes {
            tracing::error!(journal = place.ids.group, "damaged: {hole}");
        }
        if replay.state_lost {
            tracing::error!(journal = place.ids.group, "damaged: the state at the purge mark is lost");
        }
        let going = Going::on(&place, &mut replay, unused, lookup, false);
        let place_ids = place.ids;
        let damaged = Damaged {
            place,
            wounds,
            holes,
            vote,
            purged,
            last,
            committed,
            state_lost: replay.state_lost,
            chain_lost: replay.chain_lost,
            report: replay.report,
            findings: replay.findings,
            going,
            failed: None,
            metrics: Metrics::new(place_ids.group),
        };
        damaged.metrics.damaged_frames.increment(damaged.report.damaged_frames);
        damaged.metrics.damaged_segments.set(damaged.damaged_segments() as f64);
        damaged
    }

    /// What is missing, lowest position first.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// The durable vote. It outlives any damage that is proven: every later frame repeats it.
    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last id of the log, holes or not.
    pub fn last(&self) -> Option<LogId> {
        self.last
    }

    /// The commit hint, if exactly its id can be read here.
    pub fn committed(&self) -> Option<LogId> {
        self.committed
    }

    /// The state at the purge mark is lost as well, and entries cannot make it again: no filling
    /// helps, the node must be replaced.
    pub fn is_state_lost(&self) -> bool {
        self.state_lost
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The versions of the state that can be read, oldest first.
    pub fn versions(&self) -> &[Version] {
        self.going.tape.registers.versions.as_slice()
    }

    /// Holes filled so far.
    pub fn repaired(&self) -> u64 {
        self.place.repaired
    }

    /// Segments that have holes.
    pub fn damaged_segments(&self) -> u64 {
        self.holes.iter().map(|hole| hole.segment).collect::<BTreeSet<u64>>().len() as u64
    }

    /// Why nothing is written any more.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Entries of `[from, to)` that can be read, about `max_bytes` of them, and the positions among them
    /// that cannot.
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> (Vec<LogEntry>, Vec<u64>) {
        let (mut entries, mut bad) = (Vec::new(), Vec::new());
        let mut at = from.max(next_position(self.purged));
        let end = to.min(next_position(self.last));
        let mut bytes = 0;
        while at < end && bytes < max_bytes && bad.len() < BAD_MAX {
            let before = at;
            // A stretch that cannot be read says so position by position.
            let _ = self.read_stretch(&mut at, end, max_bytes, &mut bytes, &mut entries);
            if at == before {
                bad.push(at);
                at += 1;
            }
        }
        (entries, bad)
    }

    fn read_stretch(
        &self,
        at: &mut u64,
        end: u64,
        max_bytes: usize,
        bytes: &mut usize,
        out: &mut Vec<LogEntry>,
    ) -> std::io::Result<()> {
        if self.wounds.iter().any(|(wound, _)| wound.lacks(*at)) {
            return Ok(());
        }
        let Some(Stretch { segment, mut offset, limit }) = self.going.index.find(*at) else { return Ok(()) };
        let stop = end.min(limit);
        let ids = &self.place.ids;
        let mut window = Window::new(segment.file.clone(), segment.end, 256 << 10);
        while *at < stop && offset < segment.end && *bytes < max_bytes {
            let hurt = |wound: &Wound| wound.hole.segment == segment.number && wound.hole.offset == offset;
            match look(&mut window, ids, segment.number, offset, 0)? {
                Look::Entries(frame) => {
                    offset = frame.header.end();
                    for entry in frame.entries(*at, stop) {
                        let Ok(entry) = entry else { return Ok(()) };
                        if entry.id.position != *at {
                            return Ok(());
                        }
                        *bytes += entry.weight();
                        *at += 1;
                        out.push(entry);
                    }
                }
                Look::Other(header, _) => offset = header.end(),
                Look::Headed(header) if header.kind != FrameKind::Entries || header.last_position() < *at => {
                    offset = header.end();
                }
                Look::Headed(_) | Look::Nothing => {
                    let copy = second_copy(&mut window, ids, segment.number, offset, 0)?;
                    let hole = self.wounds.iter().map(|(wound, _)| wound).find(|wound| hurt(wound));
                    let scar = self.findings.iter().find_map(|finding| match finding {
                        Finding::Scar { segment: number, offset: begin, end } => {
                            (*number == segment.number && *begin == offset).then_some(*end)
                        }
                        _ => None,
                    });
                    match (copy, hole, scar) {
                        (Some((header, _)), ..) => offset = header.end(),
                        (None, Some(wound), _) => offset = wound.hole.end,
                        (None, None, Some(end)) => offset = end,
                        (None, None, None) => return Ok(()),
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes up entries that belong into holes; whatever is complete and proves to be right is written
    /// and synced. True once no hole is left: then [`Damaged::reopen`].
    ///
    /// [`Error::Refused`]: what was offered is not what was there; others may offer again.
    pub fn fill(&mut self, entries: &[LogEntry]) -> Result<bool, Error> {
        self.check_usable()?;
        let mut refused = None;
        let mut closed = Vec::new();
        for (i, (wound, file)) in self.wounds.iter_mut().enumerate() {
            match wound.offer(entries) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    refused = Some(format!("{why} ({})", wound.hole));
                    continue;
                }
            }
            match wound.fill(file.as_ref(), &self.place.ids) {
                Ok(Ok(())) => {
                    tracing::info!(journal = self.place.ids.group, "repaired: {}", wound.hole);
                    closed.push(i);
                }
                Ok(Err(why)) => refused = Some(format!("{why} ({})", wound.hole)),
                Err(error) => {
                    self.failed = Some(error.to_string());
                    return Err(self.place.writing()(error));
                }
            }
        }
        self.metrics.repaired.increment(closed.len() as u64);
        self.place.repaired += closed.len() as u64;
        for i in closed.into_iter().rev() {
            self.wounds.remove(i);
        }
        self.holes = self.wounds.iter().map(|(wound, _)| wound.hole.clone()).collect();
        self.metrics.damaged_segments.set(self.damaged_segments() as f64);
        match refused {
            Some(why) => Err(Error::Refused { why }),
            None => Ok(self.wounds.is_empty()),
        }
    }

    /// Makes a vote durable. A vote never goes back.
    pub fn store_vote(&mut self, vote: Vote) -> Result<(), Error> {
        if self.vote.is_some_and(|old| (vote.term, vote.committed) < (old.term, old.committed)) {
            return Err(Error::Refused { why: format!("{:?} is stored, which is newer", self.vote) });
        }
        self.write(|going| going.write(|tape, sheet, _| tape.vote(sheet, vote)))?;
        self.vote = Some(vote);
        Ok(())
    }

    /// Gives up everything from `from` on, which must be the lowest hole's first position or lie below
    /// it: others have said that none of it can have been committed. Refused if it is known here that
    /// some of it was.
    pub fn cut(&mut self, from: u64) -> Result<(), Error> {
        if let Some(committed) = self.committed.filter(|id| id.position >= from) {
            return Err(Error::Refused { why: format!("{committed} was committed, as this node knows") });
        }
        self.cut_anyway(from)
    }

    /// The operator's way out when no peer has what is missing: gives up everything from the lowest
    /// hole on, acknowledged or not. The positions that are lost.
    pub fn accept_loss(&mut self) -> Result<Option<(u64, u64)>, Error> {
        let Some(first) = self.holes.iter().map(|hole| hole.first).min() else { return Ok(None) };
        let last = self.last.map_or(first, |last| last.position);
        self.cut_anyway(first)?;
        tracing::warn!(journal = self.place.ids.group, first, last, "positions were given up by the operator");
        Ok(Some((first, last)))
    }

    /// Reads everything once more.
    pub fn reopen(self) -> Result<Opened, Error> {
        open_at(self.place)
    }

    fn cut_anyway(&mut self, from: u64) -> Result<(), Error> {
        let refused = |why: &str| Err(Error::Refused { why: why.into() });
        let Some((lowest, _)) = self.wounds.iter().min_by_key(|(wound, _)| wound.hole.first) else {
            return refused("nothing is missing");
        };
        if from != lowest.hole.first {
            return refused("only the lowest hole can be cut, with all behind it");
        }
        if from < next_position(self.purged) {
            return refused("it lies below the purge mark");
        }
        let (before, chain) = (lowest.hole.before, lowest.hole.chain_before);
        let Some(chain) = chain.filter(|_| from == 0 || before.is_some()) else {
            return refused("what lies below the hole is not known: this node must be replaced");
        };
        self.write(|going| going.write(|tape, sheet, _| tape.truncate_to(sheet, before, chain)))?;
        self.wounds.clear();
        self.holes.clear();
        self.last = before;
        Ok(())
    }

    fn write(&mut self, what: impl FnOnce(&mut Going) -> std::io::Result<()>) -> Result<(), Error> {
        self.check_usable()?;
        if self.chain_lost {
            return Err(Error::Refused { why: "the newest entries must be filled first".into() });
        }
        let written = self.open_footers().and_then(|()| what(&mut self.going));
        written.map_err(|error| {
            self.failed = Some(error.to_string());
            self.place.writing()(error)
        })
    }

    /// Makes sure that segments with holes are read frame by frame at every start, also if a segment is
    /// begun behind them: takes away what would lead to their footers.
    fn open_footers(&self) -> std::io::Result<()> {
        for (wound, file) in &self.wounds {
            let Some(segment) = self.going.index.segment(wound.hole.segment) else { continue };
            let Some(at) = segment.file_bytes.checked_sub(TRAILER_BYTES) else { continue };
            let mut trailer = [0; TRAILER_BYTES as usize];
            file.read_exact_at(&mut trailer, at)?;
            if decode_trailer(&trailer, &self.place.ids, segment.number).is_some() {
                file.zero(at, at + TRAILER_BYTES)?;
                file.sync()?;
            }
        }
        Ok(())
    }

    fn check_usable(&self) -> Result<(), Error> {
        if let Some(why) = &self.failed {
            return Err(Error::Failed(why.clone()));
        }
        if self.state_lost {
            return Err(Error::Refused { why: "the state is lost: this node must be replaced".into() });
        }
        Ok(())
    }
}
