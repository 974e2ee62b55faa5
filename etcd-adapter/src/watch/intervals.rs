//! Which watchers want a key: ranges in a sorted array that carries the furthest end of each of its
//! parts, so that a key finds its ranges in logarithmic time, however many there are.

use std::collections::BTreeMap;

use bytes::Bytes;

/// A range of keys, as watchers ask for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keys {
    pub start: Bytes,
    pub end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The one key.
    Single,
    /// Up to this key, without it.
    Before(Bytes),
    /// Every key from the start on.
    Never,
}

impl Keys {
    /// From the two fields of a request. Nothing, if no key can be in it.
    pub fn of_request(key: Bytes, range_end: Bytes) -> Option<Keys> {
        let zero: &[u8] = &[0];
        let start = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
        let end = match &range_end[..] {
            [] => End::Single,
            end if end == zero => End::Never,
            end if *end <= start[..] => return None,
            _ => End::Before(range_end),
        };
        Some(Keys { start, end })
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == &self.start[..],
            End::Before(end) => key >= &self.start[..] && key < &end[..],
            End::Never => key >= &self.start[..],
        }
    }
}

/// Values of type `T` by the keys they want.
#[derive(Debug)]
pub struct Intervals<T> {
    singles: BTreeMap<Bytes, Vec<T>>,
    ranges: BTreeMap<Keys, Vec<T>>,
    /// What `ranges` holds, as a balanced tree laid out in an array; made anew after changes.
    tree: Vec<Node>,
    stale: bool,
}

#[derive(Debug)]
struct Node {
    keys: Keys,
    /// The furthest end within this part of the array. `None`: there is one that never ends.
    furthest: Option<Bytes>,
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Intervals { singles: BTreeMap::new(), ranges: BTreeMap::new(), tree: Vec::new(), stale: false }
    }
}

impl<T: Copy + PartialEq> Intervals<T> {
    pub fn insert(&mut self, keys: &Keys, value: T) {
        match keys.end {
            End::Single => self.singles.entry(keys.start.clone()).or_default().push(value),
            End::Before(_) | End::Never => {
                let values = self.ranges.entry(keys.clone()).or_default();
                self.stale |= values.is_empty();
                values.push(value);
            }
        }
    }

    pub fn remove(&mut self, keys: &Keys, value: T) {
        let empty = |values: &mut Vec<T>| {
            values.retain(|other| *other != value);
            values.is_empty()
        };
        match keys.end {
            End::Single => {
                if self.singles.get_mut(&keys.start).is_some_and(empty) {
                    self.singles.remove(&keys.start);
                }
            }
            End::Before(_) | End::Never => {
                if self.ranges.get_mut(keys).is_some_and(empty) {
                    self.ranges.remove(keys);
                    self.stale = true;
                }
            }
        }
    }

    /// Calls `found` for every value that wants the key.
    pub fn find(&mut self, key: &[u8], mut found: impl FnMut(T)) {
        if let Some(values) = self.singles.get(key) {
            values.iter().copied().for_each(&mut found);
        }
        if self.stale {
            self.rebuild();
        }
        let mut parts = vec![(0, self.tree.len())];
        while let Some((from, to)) = parts.pop() {
            if from == to {
                continue;
            }
            let middle = from + (to - from) / 2;
            let node = &self.tree[middle];
            if node.furthest.as_ref().is_some_and(|end| key >= &end[..]) {
                continue;
            }
            parts.push((from, middle));
            if key >= &node.keys.start[..] {
                if node.keys.contains(key) {
                    self.ranges[&node.keys].iter().copied().for_each(&mut found);
                }
                parts.push((middle + 1, to));
            }
        }
    }

    fn rebuild(&mut self) {
        self.tree = self.ranges.keys().map(|keys| Node { keys: keys.clone(), furthest: None }).collect();
        set_furthest(&mut self.tree);
        self.stale = false;
    }
}

/// Sets the furthest end of every part, and answers that of the whole.
fn set_furthest(part: &mut [Node]) -> Option<Bytes> {
    let middle = part.len() / 2;
    let (left, rest) = part.split_at_mut(middle);
    let Some((node, right)) = rest.split_first_mut() else { return Some(Bytes::new()) };
    let own = match &node.keys.end {
        End::Before(end) => Some(end.clone()),
        End::Single | End::Never => None,
    };
    let ends = [set_furthest(left), own, set_furthest(right)];
    node.furthest = ends.into_iter().collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max());
    node.furthest.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(b'a'..b'e', 1..3).prop_map(Bytes::from)
    }

    fn keys() -> impl Strategy<Value = Keys> {
        let end = prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(&[0])), key()];
        (key(), end).prop_filter_map("no key can be in it", |(start, end)| Keys::of_request(start, end))
    }

    proptest! {
        #[test]
        fn a_key_finds_exactly_the_ranges_that_contain_it(
            all in proptest::collection::vec((keys(), any::<bool>()), 0..40),
            wanted in key(),
        ) {
            let mut intervals = Intervals::default();
            for (number, (keys, _)) in all.iter().enumerate() {
                intervals.insert(keys, number);
            }
            intervals.find(b"a", |_| {});
            for (number, (keys, stays)) in all.iter().enumerate() {
                if !stays {
                    intervals.remove(keys, number);
                }
            }
            let mut found = Vec::new();
            intervals.find(&wanted, |number| found.push(number));
            found.sort();
            let expected: Vec<_> = (0..all.len()).filter(|n| all[*n].1 && all[*n].0.contains(&wanted)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_empty_range_is_none_and_an_empty_key_is_the_first() {
        let of = |key: &'static str, end: &'static str| Keys::of_request(Bytes::from(key), Bytes::from(end));
        assert_eq!(of("b", "a"), None);
        assert_eq!(of("b", "b"), None);
        assert!(of("", "\0").unwrap().contains(b"anything"));
        assert!(of("b", "\0").unwrap().contains(b"b") && !of("b", "\0").unwrap().contains(b"a"));
    }
}
