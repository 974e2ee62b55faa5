//! What a log must hold, by rules written a second time and as plainly as possible: the picture that
//! a list of acts amounts to, and the judgement of what is found after a crash.
//!
//! The stream of a log is one order. So what survives is exactly what some prefix of the acts amounts
//! to, the last append of it perhaps in part, and that prefix reaches at least to the newest act that
//! was answered. Nothing else is right: neither less, nor more, nor a mixture.

use std::fmt;

use bytes::Bytes;
use journal_server::segment::{Kind, Log, LogEntry, LogId, Version, Vote, chain_next};

/// Something asked of a log.
#[derive(Clone)]
pub enum Act {
    Append(Vec<LogEntry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    SaveVersion(Version),
    Install(Version, u64),
    Barrier,
}

/// What a log holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Picture {
    pub purged: Option<LogId>,
    /// Chain checksum at the purge mark.
    pub chain_below: u64,
    /// What follows the purge mark, without gaps.
    pub entries: Vec<LogEntry>,
    pub vote: Option<Vote>,
    pub versions: Vec<Version>,
}

impl Picture {
    pub fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    pub fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.position + 1)
    }

    pub fn first(&self) -> u64 {
        self.entries.first().map_or(self.next(), |entry| entry.id.position)
    }

    pub fn contains(&self, id: LogId) -> bool {
        self.purged == Some(id) || self.entry_at(id.position).is_some_and(|entry| entry.id == id)
    }

    pub fn entry_at(&self, position: u64) -> Option<&LogEntry> {
        let first = self.entries.first()?.id.position;
        self.entries.get(usize::try_from(position.checked_sub(first)?).ok()?)
    }

    /// The chain checksum at a position of the log.
    pub fn chain_at(&self, position: u64) -> u64 {
        let upto = self.entries.iter().take_while(|entry| entry.id.position <= position);
        upto.fold(self.chain_below, |chain, it| chain_next(chain, it.id, it.kind, it.crc))
    }

    pub fn apply(&mut self, act: &Act) {
        match act {
            Act::Append(entries) => self.entries.extend_from_slice(entries),
            Act::Vote(vote) => self.vote = Some(*vote),
            Act::Truncate(last) => {
                let next = last.map_or(0, |id| id.position + 1);
                self.entries.retain(|entry| entry.id.position < next);
                self.versions.retain(|version| version.at.position < next);
            }
            Act::Purge(upto) if self.contains(*upto) => {
                self.forget_upto(*upto, self.chain_at(upto.position));
            }
            Act::Purge(upto) => {
                self.entries.clear();
                self.forget_upto(*upto, chain_next(0, *upto, Kind::Blank, 0));
            }
            Act::SaveVersion(version) => {
                self.versions.retain(|old| old.at < version.at);
                self.versions.push(version.clone());
            }
            Act::Install(version, _) if self.contains(version.at) => {
                self.chain_below = self.chain_at(version.at.position);
                self.entries.retain(|entry| entry.id.position > version.at.position);
                self.purged = Some(version.at);
                self.versions.retain(|old| old.at > version.at);
                self.versions.insert(0, version.clone());
            }
            Act::Install(version, chain) => {
                self.entries.clear();
                self.purged = Some(version.at);
                self.chain_below = *chain;
                self.versions = vec![version.clone()];
            }
            Act::Barrier => {}
        }
    }

    fn forget_upto(&mut self, upto: LogId, chain: u64) {
        self.chain_below = chain;
        self.entries.retain(|entry| entry.id.position > upto.position);
        self.purged = Some(upto);
        let snapshot = self.versions.iter().rposition(|version| version.at <= upto);
        self.versions.drain(..snapshot.unwrap_or(0));
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<String> = Vec::new();
        for run in self.entries.chunk_by(|a, b| a.id.term == b.id.term) {
            let (first, last) = (run[0].id, run[run.len() - 1].id);
            runs.push(format!("{}..={}@{}", first.position, last.position, first.term));
        }
        let versions: Vec<String> = self.versions.iter().map(|it| it.at.to_string()).collect();
        write!(f, "purged {:?} entries {runs:?} vote {:?} versions {versions:?}", self.purged, self.vote)
    }
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Append(entries) => {
                let ids: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
                write!(f, "append {}", ids.join(" "))
            }
            Act::Vote(vote) => write!(f, "{vote:?}"),
            Act::Truncate(last) => write!(f, "truncate after {last:?}"),
            Act::Purge(upto) => write!(f, "purge up to {upto}"),
            Act::SaveVersion(version) => write!(f, "save version {}", version.at),
            Act::Install(version, _) => write!(f, "install {}", version.at),
            Act::Barrier => write!(f, "barrier"),
        }
    }
}

/// Everything that was asked since the log was last found in a certain state, and what must be left
/// of it.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    base: Picture,
    acts: Vec<Act>,
    /// So many acts were answered, or precede one that was.
    answered: usize,
    /// What the log should say of itself while nothing goes wrong.
    pub asked: Picture,
    commit_hints: Vec<LogId>,
    /// With each: how many acts a log that names it must hold.
    applied_hints: Vec<(LogId, usize)>,
    versions_upto: usize,
}

impl Oracle {
    /// Notes an act before it is asked, and tells its number.
    pub fn ask(&mut self, act: Act) -> usize {
        self.asked.apply(&act);
        if matches!(act, Act::SaveVersion(_) | Act::Install(..)) {
            self.versions_upto = self.acts.len() + 1;
        }
        self.acts.push(act);
        self.acts.len()
    }

    /// The act of this number was answered: it is durable, and all before it.
    pub fn answer(&mut self, number: usize) {
        self.answered = self.answered.max(number);
    }

    pub fn answered(&self) -> usize {
        self.answered
    }

    /// What was asked since the log was last judged.
    pub fn acts(&self) -> &[Act] {
        &self.acts
    }

    pub fn asked_count(&self) -> usize {
        self.acts.len()
    }

    pub fn hint_commit(&mut self, id: LogId) {
        self.commit_hints.push(id);
    }

    pub fn hint_applied(&mut self, id: LogId) {
        self.applied_hints.push((id, self.versions_upto));
    }

    /// Judges what a log holds after a crash. What it holds is the new beginning: it was served, and
    /// is counted upon.
    pub fn judge(&mut self, log: &Log) -> Result<(), String> {
        let found = read_picture(log)?;
        let reached = self.explain(&found, self.answered)?;
        self.judge_hints(log, &found, reached)?;
        let commit = log.recovered_commit();
        let applied = log.recovered_applied();
        *self = Oracle {
            asked: found.clone(),
            base: found,
            commit_hints: commit.into_iter().collect(),
            applied_hints: applied.into_iter().map(|id| (id, 0)).collect(),
            ..Oracle::default()
        };
        Ok(())
    }

    /// The number of acts that amount to this picture, if it is at least `floor`.
    pub fn explain(&self, found: &Picture, floor: usize) -> Result<usize, String> {
        let mut picture = self.base.clone();
        // The longest prefix that fits: acts that change nothing leave a choice.
        let mut reached = (picture == *found).then_some(0);
        for (number, act) in (1..).zip(&self.acts) {
            match act {
                // Of an append that nobody was told of a part may be left.
                Act::Append(entries) if number > floor => {
                    for entry in entries {
                        if same(&picture, found) {
                            reached = Some(number - 1);
                        }
                        picture.entries.push(entry.clone());
                    }
                }
                act => picture.apply(act),
            }
            if same(&picture, found) {
                reached = Some(number);
            }
        }
        if let Some(reached) = reached.filter(|reached| *reached >= floor) {
            return Ok(reached);
        }
        Err(match reached {
            Some(number) => format!("only {number} acts are left of {floor} answered: found {found:?}"),
            None => format!("no prefix of the acts amounts to what was found: {found:?}"),
        })
    }

    /// What was asked since the log was last judged.
    pub fn story(&self) -> String {
        let acts: Vec<String> = (1..).zip(&self.acts).map(|(n, act)| format!("{n}: {act:?}")).collect();
        format!(
            "began as {:?}\nasked for {:?}\nanswered up to {}\n{}",
            self.base,
            self.asked,
            self.answered,
            acts.join("\n")
        )
    }

    fn judge_hints(&self, log: &Log, found: &Picture, reached: usize) -> Result<(), String> {
        if let Some(id) = log.recovered_commit() {
            check(found.contains(id), || format!("the commit hint {id} names nothing in {found:?}"))?;
            check(self.commit_hints.contains(&id), || format!("commit hint {id} was invented"))?;
        }
        if let Some(id) = log.recovered_applied() {
            check(found.contains(id), || format!("the applied hint {id} names nothing in {found:?}"))?;
            let given = self.applied_hints.iter().find(|(hint, _)| *hint == id);
            let Some((_, needs)) = given else {
                return Err(format!("applied hint {id} was invented"));
            };
            check(*needs <= reached, || {
                format!("applied hint {id} needs the versions of {needs} acts, and {reached} are left")
            })?;
        }
        Ok(())
    }
}

fn same(picture: &Picture, found: &Picture) -> bool {
    // The cheap comparisons first: this is asked for every prefix.
    picture.last() == found.last() && picture.entries.len() == found.entries.len() && picture == found
}

pub fn check(right: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(why()) }
}

/// Reads everything that a log holds, by every way of asking, and requires that the answers agree.
pub fn read_picture(log: &Log) -> Result<Picture, String> {
    let (purged, last) = (log.purged(), log.last());
    let first = purged.map_or(0, |mark| mark.position + 1);
    let end = last.map_or(0, |id| id.position + 1);
    let mut entries: Vec<LogEntry> = Vec::new();
    while first + (entries.len() as u64) < end {
        let at = first + entries.len() as u64;
        let some = log.read_blocking(at, end, 3000).map_err(|error| format!("reading {at}: {error}"))?;
        check(!some.is_empty(), || format!("nothing at {at}, and the log ends at {end}"))?;
        entries.extend(some);
    }
    for (position, entry) in (first..).zip(&entries) {
        check(entry.id.position == position, || format!("{} stands at {position}", entry.id))?;
        check(crc32fast::hash(&entry.body) == entry.crc, || format!("{} is not whole", entry.id))?;
        check(log.log_id_at(position) == Some(entry.id), || {
            format!("{} is read where {:?} is said to be", entry.id, log.log_id_at(position))
        })?;
    }
    let picture = Picture {
        purged,
        chain_below: match purged {
            Some(mark) => log.chain_at_blocking(mark.position).map_err(|error| error.to_string())?,
            None => 0,
        },
        entries,
        vote: log.vote(),
        versions: log.versions(),
    };
    check(picture.last() == last, || format!("the last entry is {:?}, not {last:?}", picture.last()))?;
    if let Some(last) = picture.entries.last() {
        let chain = log.chain_at_blocking(last.id.position).map_err(|error| error.to_string())?;
        check(chain == picture.chain_at(last.id.position), || {
            format!("the chain at {} is not that of its entries: {picture:?}", last.id)
        })?;
    }
    Ok(picture)
}

/// Bytes of an entry that tell which one it is.
pub fn body(len: usize, stamp: u64) -> Bytes {
    let mut bytes = vec![stamp as u8; len];
    let stamp = stamp.to_le_bytes();
    let head = len.min(stamp.len());
    bytes[..head].copy_from_slice(&stamp[..head]);
    bytes.into()
}
