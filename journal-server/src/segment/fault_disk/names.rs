//! The names in one directory on a disk that fails: those that processes see, those that a power cut
//! leaves, and the changes that no sync has made durable.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use rand::RngCore;

use super::Loss;

/// Number of a file on its disk; names come and go, numbers do not return.
pub(super) type FileNumber = u64;

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    live: BTreeMap<OsString, FileNumber>,
    durable: BTreeMap<OsString, FileNumber>,
    pending: Vec<Change>,
    /// A sync of the directory failed. What processes see of it ends with them: a file system that
    /// could not write its own names is mounted anew.
    failed: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Link(OsString, FileNumber),
    Unlink(OsString),
    Rename(OsString, OsString),
}

impl Names {
    pub(super) fn get(&self, name: &OsString) -> Option<FileNumber> {
        self.live.get(name).copied()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (&OsString, FileNumber)> {
        self.live.iter().map(|(name, file)| (name, *file))
    }

    pub(super) fn link(&mut self, name: OsString, file: FileNumber) {
        self.change(Change::Link(name, file));
    }

    pub(super) fn unlink(&mut self, name: OsString) {
        self.change(Change::Unlink(name));
    }

    pub(super) fn rename(&mut self, from: OsString, to: OsString) {
        self.change(Change::Rename(from, to));
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync that fails: what it should have made durable never will be.
    pub(super) fn fail_sync(&mut self) {
        self.pending.clear();
        self.failed = true;
    }

    /// The process dies and the machine goes on.
    pub(super) fn kill(&mut self) {
        if std::mem::take(&mut self.failed) {
            self.live = self.durable.clone();
            self.pending.clear();
        }
    }

    /// The power goes. Of the changes not synced any set is kept that makes sense: one whose name was
    /// changed by a lost one before it is lost as well.
    pub(super) fn crash(&mut self, loss: &mut Loss, rng: &mut dyn RngCore) {
        let mut unsettled = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            let kept = loss.keeps(rng) && change.names().all(|name| !unsettled.contains(name));
            if kept {
                change.apply(&mut self.durable);
            } else {
                unsettled.extend(change.names().cloned());
            }
        }
        self.live = self.durable.clone();
        self.failed = false;
    }

    /// Every file that a name may yet lead to.
    pub(super) fn files(&self) -> impl Iterator<Item = FileNumber> {
        let linked = self.pending.iter().filter_map(|change| match change {
            Change::Link(_, file) => Some(*file),
            _ => None,
        });
        self.live.values().chain(self.durable.values()).copied().chain(linked)
    }

    pub(super) fn has_unsynced(&self) -> bool {
        !self.pending.is_empty()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<OsString, FileNumber>) {
        match self {
            Change::Link(name, file) => {
                names.insert(name.clone(), *file);
            }
            Change::Unlink(name) => {
                names.remove(name);
            }
            Change::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }

    fn names(&self) -> impl Iterator<Item = &OsString> {
        let (one, other) = match self {
            Change::Link(name, _) | Change::Unlink(name) => (name, None),
            Change::Rename(from, to) => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn seen(names: &Names) -> Vec<(String, FileNumber)> {
        names.live().map(|(name, file)| (name.to_string_lossy().into_owned(), file)).collect()
    }

    fn outcomes(names: &Names) -> BTreeSet<Vec<(String, FileNumber)>> {
        (0..200)
            .map(|seed| {
                let mut rng = SmallRng::seed_from_u64(seed);
                let mut crashed = names.clone();
                crashed.crash(&mut Loss::draw(&mut rng), &mut rng);
                seen(&crashed)
            })
            .collect()
    }

    #[test]
    fn a_rename_is_whole_or_not_at_all() {
        let mut names = Names::default();
        names.link("tmp".into(), 1);
        names.sync();
        names.rename("tmp".into(), "name".into());
        let expected = [vec![("tmp".into(), 1)], vec![("name".into(), 1)]];
        assert_eq!(outcomes(&names), BTreeSet::from(expected));
    }

    #[test]
    fn unsynced_names_of_different_files_are_lost_independently() {
        let mut names = Names::default();
        names.link("a".into(), 1);
        names.link("b".into(), 2);
        let expected = [vec![], vec![("a".into(), 1)], vec![("b".into(), 2)], vec![("a".into(), 1), ("b".into(), 2)]];
        assert_eq!(outcomes(&names), BTreeSet::from(expected));
    }

    #[test]
    fn a_change_does_not_outlive_the_one_it_builds_on() {
        let mut names = Names::default();
        names.link("tmp".into(), 1);
        names.rename("tmp".into(), "name".into());
        names.unlink("name".into());
        let expected = [vec![], vec![("tmp".into(), 1)], vec![("name".into(), 1)]];
        assert_eq!(outcomes(&names), BTreeSet::from(expected));
    }

    #[test]
    fn after_a_failed_sync_no_later_one_helps_what_it_gave_up() {
        let mut names = Names::default();
        names.link("a".into(), 1);
        names.fail_sync();
        names.link("b".into(), 2);
        names.sync();
        assert_eq!(seen(&names).len(), 2);
        assert_eq!(outcomes(&names), BTreeSet::from([vec![("b".into(), 2)]]));
        names.kill();
        assert_eq!(seen(&names), [("b".into(), 2)]);
    }
}
