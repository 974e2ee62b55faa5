//! A log that cannot run yet: synced frames of it cannot be read, or the state at its purge mark is
//! lost. It waits here for what its peers have, and refuses everything else.
//!
//! **Nothing is guessed.** A hole is filled with what proves to have been there (`wound.rs`), or it is
//! cut when others have said that it cannot have been committed; that judgement is made above. Before
//! a cut the node stores a vote ([`Damaged::store_vote`]), so that it cannot help an older leader
//! afterwards to commit what it has just given up.

use std::sync::Arc;

use super::fs::File;
use super::recovery::{Opened, Report, open_at};
use super::replay::{Finding, Replay};
use super::shelf::Spare;
use super::start::{Going, Place};
use super::types::{Error, Hole, LogEntry, LogId, Vote, next_position};
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
}

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
        let going = Going::on(&place, &mut replay, unused, lookup);
        Damaged {
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
        }
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
        let metrics = super::metrics::Metrics::new(self.place.ids.group);
        metrics.repaired.increment(closed.len() as u64);
        self.place.repaired += closed.len() as u64;
        for i in closed.into_iter().rev() {
            self.wounds.remove(i);
        }
        self.holes = self.wounds.iter().map(|(wound, _)| wound.hole.clone()).collect();
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
        what(&mut self.going).map_err(|error| {
            self.failed = Some(error.to_string());
            self.place.writing()(error)
        })
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
