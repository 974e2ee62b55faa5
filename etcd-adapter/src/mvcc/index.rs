//! The index: every key with its versions since the compact revision, in the order of keys.
//!
//! Decisions come from it alone. A read at any revision walks it and takes, for each key, the newest
//! version at or below the revision; the values are fetched by the places of those versions. Versions
//! only come at the end, so what a read of the past sees does not change while it reads in pieces.
//!
//! What no read at or above a floor can see is forgotten in small steps. A queue holds the keys whose
//! older versions were superseded, in the order of revisions: the cost is that of the garbage, not of
//! the index. A tombstone *at* the floor stays until the floor has passed it: a watch that begins there
//! must tell of it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::tree::{Live, Tree};
use super::types::{At, Key, Revision, Version};

/// A range of keys, as etcd writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    from: Bytes,
    to: To,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    /// The one key.
    Itself,
    /// Up to this key, without it.
    Before(Bytes),
    Unbounded,
}

impl KeyRange {
    /// An empty `range_end` means the one key; a single zero byte means everything from `key` on; an
    /// end at or below the key means nothing.
    pub fn new(key: Bytes, range_end: Bytes) -> KeyRange {
        let to = match &range_end[..] {
            b"" => To::Itself,
            b"\0" => To::Unbounded,
            _ => To::Before(range_end),
        };
        KeyRange { from: key, to }
    }

    pub fn from(&self) -> &Bytes {
        &self.from
    }

    /// Whether it names one key rather than a range.
    pub fn is_single(&self) -> bool {
        self.to == To::Itself
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.reaches(key)
    }

    /// Whether a key at or after the beginning is still in the range.
    fn reaches(&self, key: &[u8]) -> bool {
        match &self.to {
            To::Itself => key == &self.from[..],
            To::Before(end) => key < &end[..],
            To::Unbounded => true,
        }
    }
}

/// A key's versions, oldest first: `older`, then `latest`.
#[derive(Clone, Debug)]
struct Versions {
    latest: Version,
    older: Vec<Version>,
}

impl Live for Versions {
    fn is_live(&self) -> bool {
        !self.latest.is_tombstone()
    }
}

impl Versions {
    /// The newest at or below `bound`.
    fn at(&self, bound: At) -> Option<&Version> {
        if self.latest.at <= bound {
            return Some(&self.latest);
        }
        self.older[..self.older.partition_point(|version| version.at <= bound)].last()
    }
}

/// A change of the number of live keys.
#[derive(Clone, Debug)]
struct Turn {
    at: At,
    key: Key,
    born: bool,
}

/// How many turns are remembered: they correct the present count to that of a moment ago.
const TURNS_MAX: usize = 1 << 16;

/// What a version costs in the quota's eyes beside its key and value.
const VERSION_BYTES: u64 = 64;

#[derive(Clone, Debug, Default)]
pub struct Index {
    tree: Tree<Versions>,
    versions: u64,
    bytes: u64,
    turns: VecDeque<Turn>,
    /// Every turn after this place is in `turns`.
    turns_after: At,
    /// Keys with something older than the version at that revision, or with a tombstone at it.
    superseded: VecDeque<(Revision, Key)>,
    /// Keys that ended exactly at the last floor, with it.
    held: Vec<(Revision, Key)>,
}

impl Index {
    /// How many keys are live now.
    pub fn live(&self) -> u64 {
        self.tree.live()
    }

    /// How many versions are known, of live keys and others.
    pub fn versions(&self) -> u64 {
        self.versions
    }

    /// The logical size of everything known.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many superseded places still wait to be forgotten, whatever the floor.
    pub fn garbage(&self) -> usize {
        self.superseded.len() + self.held.len()
    }

    /// A key's last version, which may be a tombstone.
    pub fn latest(&self, key: &[u8]) -> Option<&Version> {
        self.tree.get(key).map(|(_, versions)| &versions.latest)
    }

    /// A key that is there now, as the index owns it, with its version.
    pub fn live_version(&self, key: &[u8]) -> Option<(&Key, &Version)> {
        let (key, versions) = self.tree.get(key)?;
        versions.is_live().then_some((key, &versions.latest))
    }

    /// A key's newest version at or below `bound`, which may be a tombstone.
    pub fn at(&self, key: &[u8], bound: At) -> Option<&Version> {
        self.tree.get(key)?.1.at(bound)
    }

    /// Whether a row of `log` is still known. What is not may be dropped, tombstones last: see
    /// [`crate::store`].
    pub fn knows(&self, key: &[u8], at: At) -> bool {
        self.at(key, at).is_some_and(|version| version.at == at)
    }

    /// How many keys are live now in a range, in the time of two look-ups.
    pub fn count(&self, range: &KeyRange) -> u64 {
        let below = |key: &[u8]| self.tree.rank(key);
        let (from, end) = match &range.to {
            To::Itself => return self.live_version(&range.from).is_some().into(),
            To::Before(end) => (below(&range.from), below(end)),
            To::Unbounded => (below(&range.from), self.tree.live()),
        };
        end.saturating_sub(from)
    }

    /// How many keys were live in a range at `bound`, if that is recent enough to be told without a
    /// walk.
    pub fn count_at(&self, range: &KeyRange, bound: At) -> Option<u64> {
        if bound < self.turns_after {
            return None;
        }
        let since = self.turns.iter().rev().take_while(|turn| turn.at > bound);
        let turned = since.filter(|turn| range.contains(&turn.key)).map(|turn| if turn.born { 1i64 } else { -1 });
        Some(self.count(range).wrapping_add_signed(-turned.sum::<i64>()))
    }

    /// Shows the keys that were live at `bound`, in order, from `after` on if it is given, until
    /// `see` says `false` or `steps` keys were looked at. Returns where to go on, or `None` at the end
    /// of the range or when `see` said so.
    pub fn walk(
        &self,
        range: &KeyRange,
        bound: At,
        from: Option<&Key>,
        steps: usize,
        see: &mut dyn FnMut(&Key, &Version) -> bool,
    ) -> Option<Key> {
        let mut left = steps;
        let mut next = None;
        self.tree.walk(from.map_or(&range.from[..], |key| key), &mut |key, versions| {
            if !range.reaches(key) {
                return false;
            }
            if left == 0 {
                next = Some(key.clone());
                return false;
            }
            left -= 1;
            match versions.at(bound) {
                Some(version) if !version.is_tombstone() => see(key, version),
                _ => true,
            }
        });
        next
    }

    /// Whether any key was live at `bound`.
    pub(super) fn any_live_at(&self, bound: At) -> bool {
        let everything = KeyRange { from: Bytes::new(), to: To::Unbounded };
        let mut any = false;
        self.walk(&everything, bound, None, usize::MAX, &mut |_, _| {
            any = true;
            false
        });
        any
    }

    /// Shows every live key.
    pub(super) fn each_live(&self, mut see: impl FnMut(&Key, &Version)) {
        self.tree.walk(b"", &mut |key, versions| {
            if versions.is_live() {
                see(key, &versions.latest);
            }
            true
        });
    }

    /// Adds a version after all others of its key. Returns the key as the index owns it.
    pub(super) fn insert(&mut self, key: &Key, version: Version) {
        let mut was_live = false;
        let known = self.tree.update(key, |versions| {
            debug_assert!(versions.latest.at < version.at, "versions come in order");
            was_live = versions.is_live();
            let before = std::mem::replace(&mut versions.latest, version);
            versions.older.push(before);
        });
        if !known {
            self.tree.insert(key.clone(), Versions { latest: version, older: Vec::new() });
        }
        if known || version.is_tombstone() {
            self.superseded.push_back((version.at.main, key.clone()));
        }
        let is_live = !version.is_tombstone();
        if was_live != is_live {
            self.turns.push_back(Turn { at: version.at, key: key.clone(), born: is_live });
            if self.turns.len() > TURNS_MAX {
                let oldest = self.turns.pop_front().expect("there are many");
                self.turns_after = oldest.at;
            }
        }
        self.versions += 1;
        self.bytes += cost(key, &version);
    }

    /// Says that what was inserted so far is not the past of this process: after a restore, which
    /// leaves out what was forgotten.
    pub(super) fn settle(&mut self, revision: Revision) {
        self.turns.clear();
        self.turns_after = At::end_of(revision);
    }

    /// Forgets what no read at or above `floor` can see, looking at `steps` keys at most. Returns how
    /// many were looked at.
    pub(super) fn forget(&mut self, floor: Revision, steps: usize) -> usize {
        if self.held.first().is_some_and(|(revision, _)| *revision < floor) {
            for held in self.held.drain(..).rev() {
                self.superseded.push_front(held);
            }
        }
        let mut taken = 0;
        while taken < steps && self.superseded.front().is_some_and(|(revision, _)| *revision <= floor) {
            let (_, key) = self.superseded.pop_front().expect("there is one in front");
            if self.prune(&key, floor) {
                self.held.push((floor, key));
            }
            taken += 1;
        }
        taken
    }

    /// Drops a key's versions that are superseded at `floor`. Says whether it ended exactly there.
    fn prune(&mut self, key: &Key, floor: Revision) -> bool {
        let bound = At::end_of(floor);
        let mut dropped: Vec<Version> = Vec::new();
        let mut held = false;
        let mut empty = false;
        self.tree.update(key, |versions| {
            let Some(seen) = versions.at(bound).copied() else { return };
            held = seen.is_tombstone() && seen.at.main == floor;
            // All before `seen` go, and `seen` itself if it is a tombstone that the floor has passed.
            let keep_from = if seen.is_tombstone() && !held { At { sub: seen.at.sub + 1, ..seen.at } } else { seen.at };
            let gone = versions.older.partition_point(|version| version.at < keep_from);
            dropped.extend(versions.older.drain(..gone));
            versions.older.shrink_to_fit();
            empty = versions.older.is_empty() && versions.latest.at < keep_from;
        });
        if empty {
            dropped.extend(self.tree.remove(key).map(|versions| versions.latest));
        }
        self.versions -= dropped.len() as u64;
        self.bytes -= dropped.iter().map(|version| cost(key, version)).sum::<u64>();
        held
    }
}

fn cost(key: &[u8], version: &Version) -> u64 {
    VERSION_BYTES + key.len() as u64 + u64::from(version.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> Key {
        key.as_bytes().into()
    }

    fn put(index: &mut Index, name: &str, main: Revision) {
        let before = index.latest(name.as_bytes()).filter(|v| !v.is_tombstone());
        let (create, version) = before.map_or((main, 1), |v| (v.create, v.version + 1));
        let at = At { main, sub: 0 };
        index.insert(&key(name), Version { at, create, version, lease: 0, size: 1, digest: 0 });
    }

    fn delete(index: &mut Index, name: &str, main: Revision) {
        let at = At { main, sub: 0 };
        index.insert(&key(name), Version { at, create: 0, version: 0, lease: 0, size: 0, digest: 0 });
    }

    fn all() -> KeyRange {
        KeyRange::new(Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
    }

    fn keys_at(index: &Index, revision: Revision) -> Vec<String> {
        let mut keys = Vec::new();
        let mut from = None;
        loop {
            from = index.walk(&all(), At::end_of(revision), from.as_ref(), 2, &mut |key, version| {
                keys.push(format!("{}@{}", key.escape_ascii(), version.at.main));
                true
            });
            if from.is_none() {
                return keys;
            }
        }
    }

    /// One key's life, and what is left of it after each compaction.
    #[test]
    fn a_compaction_keeps_what_reads_at_its_revision_see() {
        let life = || {
            let mut index = Index::default();
            put(&mut index, "foo", 2);
            put(&mut index, "foo", 3);
            delete(&mut index, "foo", 4);
            put(&mut index, "foo", 5);
            delete(&mut index, "foo", 6);
            put(&mut index, "other", 7);
            index
        };
        let left = |floor| {
            let mut index = life();
            index.forget(floor, usize::MAX);
            (2..=7).filter(|main| index.knows(b"foo", At { main: *main, sub: 0 })).collect::<Vec<_>>()
        };
        assert_eq!(left(1), [2, 3, 4, 5, 6]);
        assert_eq!(left(2), [2, 3, 4, 5, 6]);
        assert_eq!(left(3), [3, 4, 5, 6]);
        assert_eq!(left(4), [4, 5, 6], "a tombstone at the floor is still told to watchers");
        assert_eq!(left(5), [5, 6]);
        assert_eq!(left(6), [6]);
        assert_eq!(left(7), [0; 0]);
    }

    #[test]
    fn a_tombstone_at_the_floor_goes_when_the_floor_passes_it() {
        let mut index = Index::default();
        put(&mut index, "a", 2);
        delete(&mut index, "a", 3);
        put(&mut index, "b", 4);
        index.forget(3, usize::MAX);
        assert!(index.knows(b"a", At { main: 3, sub: 0 }));
        assert!(!index.knows(b"a", At { main: 2, sub: 0 }));
        assert_eq!(index.forget(3, usize::MAX), 0, "nothing more to do at this floor");
        index.forget(4, usize::MAX);
        assert_eq!((index.latest(b"a"), index.versions(), index.garbage()), (None, 1, 0));
    }

    #[test]
    fn forgetting_in_small_steps_ends_where_one_great_step_ends() {
        let build = || {
            let mut index = Index::default();
            for main in 2..200 {
                let name = format!("k{}", main * 7 % 13);
                if main % 5 == 0 { delete(&mut index, &name, main) } else { put(&mut index, &name, main) }
            }
            index
        };
        let (mut great, mut small) = (build(), build());
        great.forget(150, usize::MAX);
        let mut rounds = 0;
        while small.forget(150, 3) == 3 {
            rounds += 1;
        }
        assert!(rounds > 10);
        assert_eq!((great.versions(), great.bytes()), (small.versions(), small.bytes()));
        for revision in 150..200 {
            assert_eq!(keys_at(&great, revision), keys_at(&small, revision));
            assert_eq!(keys_at(&great, revision), keys_at(&build(), revision));
        }
    }

    #[test]
    fn counts_agree_with_walks_now_and_a_moment_ago() {
        let mut index = Index::default();
        for main in 2..300 {
            let name = format!("k{:02}", main * 11 % 37);
            if main % 3 == 0 { delete(&mut index, &name, main) } else { put(&mut index, &name, main) }
        }
        for (from, end) in [("\0", "\0"), ("k05", "k20"), ("k05", ""), ("k20", "k05"), ("k30", "\0")] {
            let range = KeyRange::new(Bytes::from_static(from.as_bytes()), Bytes::from_static(end.as_bytes()));
            for revision in [299, 298, 250, 100, 3] {
                let mut walked = 0;
                index.walk(&range, At::end_of(revision), None, usize::MAX, &mut |_, _| {
                    walked += 1;
                    true
                });
                assert_eq!(index.count_at(&range, At::end_of(revision)), Some(walked), "{from}..{end} at {revision}");
            }
        }
        index.settle(299);
        assert_eq!(index.count_at(&all(), At::end_of(298)), None, "a restored index knows no moment ago");
        assert_eq!(index.count_at(&all(), At::end_of(299)), Some(index.live()));
    }

    #[test]
    fn ranges_are_read_as_etcd_reads_them() {
        let range = |from: &'static str, end: &'static str| {
            KeyRange::new(Bytes::from_static(from.as_bytes()), Bytes::from_static(end.as_bytes()))
        };
        assert!(range("a", "").contains(b"a") && !range("a", "").contains(b"aa"));
        assert!(range("a", "c").contains(b"b") && !range("a", "c").contains(b"c"));
        assert!(range("b", "\0").contains(b"\xff") && !range("b", "\0").contains(b"a"));
        assert!(!range("b", "a").contains(b"b") && !range("b", "b").contains(b"b"));
    }
}
