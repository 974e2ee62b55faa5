//! Which ids a log holds, without the entries: the purge mark, the first id of each term, the last
//! id. Pure and small, so that "is exactly this id in the log" needs no disk.
//!
//! Invariants: `runs` rise in position and term; `runs` is empty iff no entry is present, and then
//! `last == purged`; present positions are `[runs[0].position, last.position]`.

use super::types::{LogId, Version, next_position};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    purged: Option<LogId>,
    runs: Vec<LogId>,
    last: Option<LogId>,
}

impl Outline {
    /// An outline of a log whose entries up to `mark` are unknown.
    pub(crate) fn starting_after(mark: Option<LogId>) -> Self {
        Outline { purged: mark, runs: Vec::new(), last: mark }
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last id present, or the purge mark.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.last
    }

    pub(crate) fn runs(&self) -> &[LogId] {
        &self.runs
    }

    /// The lowest position that is present, or would be if there were one.
    pub(crate) fn first_position(&self) -> u64 {
        self.runs.first().map_or_else(|| next_position(self.purged), |id| id.position)
    }

    /// Whether an entry with this id may come next. A log without anything begins anywhere.
    pub(crate) fn accepts(&self, id: LogId) -> bool {
        match self.last {
            None => true,
            Some(last) => id.position == last.position + 1 && id.term >= last.term,
        }
    }

    pub(crate) fn push(&mut self, first: LogId, count: u64) {
        debug_assert!(count > 0);
        let continues = !self.runs.is_empty() && self.last.is_some_and(|last| last.term == first.term);
        if !continues {
            self.runs.push(first);
        }
        self.last = Some(LogId::new(first.term, first.position + count - 1));
    }

    /// The id at a position that is present or is the purge mark's.
    pub(crate) fn id_at(&self, position: u64) -> Option<LogId> {
        if let Some(mark) = self.purged.filter(|mark| mark.position == position) {
            return Some(mark);
        }
        if self.last.is_none_or(|last| position > last.position) {
            return None;
        }
        let after = self.runs.partition_point(|run| run.position <= position);
        let run = self.runs.get(after.checked_sub(1)?)?;
        Some(LogId::new(run.term, position))
    }

    /// Whether exactly this id is in the log, or is the purge mark.
    pub(crate) fn contains(&self, id: LogId) -> bool {
        self.id_at(id.position) == Some(id)
    }

    /// Removes every position from `first_removed` on.
    pub(crate) fn cut(&mut self, first_removed: u64) {
        if next_position(self.last) <= first_removed {
            return;
        }
        let keep = self.runs.partition_point(|run| run.position < first_removed);
        self.runs.truncate(keep);
        self.last = match self.runs.last() {
            Some(run) => Some(LogId::new(run.term, first_removed - 1)),
            None => self.purged,
        };
    }

    /// Forgets everything up to an id that the log holds.
    pub(crate) fn purge(&mut self, upto: LogId) {
        debug_assert!(self.contains(upto));
        let next = LogId::new(0, upto.position + 1);
        let following = self.id_at(next.position);
        let keep_from = self.runs.partition_point(|run| run.position <= upto.position);
        self.runs.drain(..keep_from);
        if let Some(following) = following
            && self.runs.first().is_none_or(|run| run.position != following.position)
        {
            self.runs.insert(0, following);
        }
        self.purged = Some(upto);
        if self.runs.is_empty() {
            self.last = Some(upto);
        }
    }

    /// Whether something at or above `position` is known already.
    pub(crate) fn holds_past(&self, position: u64) -> bool {
        !self.runs.is_empty() && self.last.is_some_and(|last| last.position >= position)
    }

    /// While recovering: the log below the oldest segment, of which nothing but its last id and the
    /// purge mark is known. Until [`Outline::is_complete`] says so, `last` may lie above `purged` with
    /// no run between them.
    pub(crate) fn unknown_upto(last: Option<LogId>, purged: Option<LogId>) -> Self {
        Outline { purged, runs: Vec::new(), last }
    }

    /// While recovering: removes every position from `first_removed` on, known or not; the log then
    /// goes on after `before`.
    pub(crate) fn cut_after(&mut self, first_removed: u64, before: Option<LogId>) {
        if next_position(self.last) <= first_removed {
            return;
        }
        let keep = self.runs.partition_point(|run| run.position < first_removed);
        self.runs.truncate(keep);
        self.last = match self.runs.last() {
            Some(run) => Some(LogId::new(run.term, first_removed - 1)),
            None => before,
        };
    }

    /// While recovering: the purge mark, wherever it lies.
    pub(crate) fn mark_purged(&mut self, mark: LogId) {
        let last = self.last.filter(|last| last.position > mark.position);
        if !self.runs.is_empty() && self.contains(mark) {
            self.purge(mark);
        }
        // Above the mark nothing may be known but the last id.
        self.purged = Some(mark);
        self.last = last.or(Some(mark));
        if last.is_none() {
            self.runs.clear();
        }
    }

    /// While recovering: what a footer says of the end of its segment.
    pub(crate) fn settle(&mut self, last: Option<LogId>, purged: Option<LogId>) {
        if self.runs.is_empty() {
            self.last = last;
        }
        if let Some(mark) = purged {
            self.mark_purged(mark);
        }
    }

    /// Whether every position above the purge mark is known.
    pub(crate) fn is_complete(&self) -> bool {
        match self.runs.first() {
            Some(first) => first.position <= next_position(self.purged),
            None => self.last == self.purged,
        }
    }

    /// Forgets everything: the log begins after `mark`.
    pub(crate) fn reset(&mut self, mark: Option<LogId>) {
        *self = Outline::starting_after(mark);
    }
}

/// The versions of the state from the purge mark on, oldest first. The first one at or below the
/// purge mark is the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Versions(Vec<Version>);

impl Versions {
    pub(crate) fn new(versions: Vec<Version>) -> Self {
        Versions(versions)
    }

    pub(crate) fn as_slice(&self) -> &[Version] {
        &self.0
    }

    /// A later save wins over what was saved for the same id or a higher one: those are of an
    /// earlier execution of the same entries.
    pub(crate) fn save(&mut self, version: Version) {
        self.0.retain(|old| old.at < version.at);
        self.0.push(version);
    }

    /// A version from elsewhere becomes the first one. How many went for it.
    pub(crate) fn install(&mut self, version: Version) -> usize {
        let before = self.0.len();
        self.0.retain(|old| old.at > version.at);
        self.0.insert(0, version);
        before + 1 - self.0.len()
    }

    /// Which one is in force at a purge mark.
    pub(crate) fn base(&self, mark: LogId) -> Option<usize> {
        self.0.partition_point(|version| version.at <= mark).checked_sub(1)
    }

    pub(crate) fn keep_first(&mut self, count: usize) {
        self.0.truncate(count);
    }

    /// Forgets what no cut can ask for any more.
    pub(crate) fn purge(&mut self, upto: LogId) {
        let keep_from = self.0.partition_point(|version| version.at <= upto).saturating_sub(1);
        self.0.drain(..keep_from);
    }

    pub(crate) fn cut(&mut self, first_removed: u64) {
        self.0.retain(|version| version.at.position < first_removed);
    }

    /// Drops every version whose id is neither in the log nor at or below its purge mark.
    pub(crate) fn drop_unknown(&mut self, outline: &Outline) -> usize {
        let before = self.0.len();
        self.0
            .retain(|version| outline.purged().is_some_and(|mark| version.at <= mark) || outline.contains(version.at));
        before - self.0.len()
    }
}
