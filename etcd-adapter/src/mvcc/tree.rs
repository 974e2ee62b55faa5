//! An ordered map that can count: a B+ tree whose inner nodes know how many *live* values are below
//! each child. So the number of live keys in a range costs two descents, however long the range is.
//!
//! A search looks at the keys themselves as little as it can: see [`super::heads`].
//!
//! A child's `live` is always the number of live values in its subtree; a child's `first` is at or
//! below every key in it and above every key before it; no node but the root is empty.

use super::heads::Heads;
use super::types::Key;

/// What a value must tell the tree.
pub(super) trait Live {
    fn is_live(&self) -> bool;
}

const NODE_MAX: usize = 64;
/// Neighbours that fit into this much together become one. Well below [`NODE_MAX`], so that a node on
/// the edge is not split and merged in turn.
const MERGED_MAX: usize = NODE_MAX * 3 / 4;

#[derive(Clone, Debug)]
pub(super) struct Tree<V> {
    root: Node<V>,
    live: u64,
}

#[derive(Clone, Debug)]
enum Node<V> {
    Leaf(Heads, Vec<(Key, V)>),
    Inner(Heads, Vec<Child<V>>),
}

#[derive(Clone, Debug)]
struct Child<V> {
    first: Key,
    live: u64,
    node: Node<V>,
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Tree { root: Node::default(), live: 0 }
    }
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Node::Leaf(Heads::default(), Vec::new())
    }
}

impl<V: Live> Tree<V> {
    /// All live values.
    pub fn live(&self) -> u64 {
        self.live
    }

    pub fn get(&self, key: &[u8]) -> Option<(&Key, &V)> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(heads, children) => node = &children[child_of(heads, children, key)].node,
                Node::Leaf(heads, entries) => {
                    let i = find(heads, entries, key).ok()?;
                    return Some((&entries[i].0, &entries[i].1));
                }
            }
        }
    }

    /// How many live keys are below `key`.
    pub fn rank(&self, key: &[u8]) -> u64 {
        let mut node = &self.root;
        let mut before = 0;
        loop {
            match node {
                Node::Inner(heads, children) => {
                    let i = child_of(heads, children, key);
                    before += children[..i].iter().map(|child| child.live).sum::<u64>();
                    node = &children[i].node;
                }
                Node::Leaf(heads, entries) => {
                    let i = find(heads, entries, key).unwrap_or_else(|i| i);
                    return before + entries[..i].iter().filter(|(_, value)| value.is_live()).count() as u64;
                }
            }
        }
    }

    /// Shows the entries from `from` on, in order, until `see` says `false`.
    pub fn walk<'a>(&'a self, from: &[u8], see: &mut dyn FnMut(&'a Key, &'a V) -> bool) {
        walk(&self.root, Some(from), see);
    }

    /// Changes the value of a key that is there; says whether it is.
    pub fn update(&mut self, key: &[u8], change: impl FnOnce(&mut V)) -> bool {
        let Some(delta) = update(&mut self.root, key, change) else { return false };
        self.live = self.live.wrapping_add_signed(delta);
        true
    }

    /// Adds a key that is not there.
    pub fn insert(&mut self, key: Key, value: V) {
        self.live += u64::from(value.is_live());
        if let Some(right) = insert(&mut self.root, key, value) {
            let left = std::mem::take(&mut self.root);
            let left = Child { first: first_key(&left).clone(), live: left.count_live(), node: left };
            self.root = inner(vec![left, right]);
        }
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        let value = remove(&mut self.root, key)?;
        self.live -= u64::from(value.is_live());
        while let Node::Inner(_, children) = &mut self.root {
            match children.len() {
                0 => self.root = Node::default(),
                1 => self.root = children.pop().expect("it has one child").node,
                _ => break,
            }
        }
        Some(value)
    }
}

impl<V: Live> Node<V> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(_, entries) => entries.len(),
            Node::Inner(_, children) => children.len(),
        }
    }

    fn count_live(&self) -> u64 {
        match self {
            Node::Leaf(_, entries) => entries.iter().filter(|(_, value)| value.is_live()).count() as u64,
            Node::Inner(_, children) => children.iter().map(|child| child.live).sum(),
        }
    }
}

fn leaf<V>(entries: Vec<(Key, V)>) -> Node<V> {
    Node::Leaf(Heads::of(entries.iter().map(|(key, _)| &key[..])), entries)
}

fn inner<V>(children: Vec<Child<V>>) -> Node<V> {
    Node::Inner(Heads::of(children.iter().map(|child| &child.first[..])), children)
}

fn find<V>(heads: &Heads, entries: &[(Key, V)], key: &[u8]) -> Result<usize, usize> {
    heads.search(key, |i| &entries[i].0)
}

/// The child that `key` belongs to. The first takes what lies before it, too.
fn child_of<V>(heads: &Heads, children: &[Child<V>], key: &[u8]) -> usize {
    heads.search(key, |i| &children[i].first).unwrap_or_else(|i| i.saturating_sub(1))
}

fn first_key<V>(node: &Node<V>) -> &Key {
    match node {
        Node::Leaf(_, entries) => &entries[0].0,
        Node::Inner(_, children) => &children[0].first,
    }
}

fn walk<'a, V>(node: &'a Node<V>, from: Option<&[u8]>, see: &mut dyn FnMut(&'a Key, &'a V) -> bool) -> bool {
    match node {
        Node::Leaf(heads, entries) => {
            let start = from.map_or(0, |from| find(heads, entries, from).unwrap_or_else(|i| i));
            entries[start..].iter().all(|(key, value)| see(key, value))
        }
        Node::Inner(heads, children) => {
            let start = from.map_or(0, |from| child_of(heads, children, from));
            (start..children.len()).all(|i| walk(&children[i].node, from.filter(|_| i == start), see))
        }
    }
}

fn update<V: Live>(node: &mut Node<V>, key: &[u8], change: impl FnOnce(&mut V)) -> Option<i64> {
    match node {
        Node::Leaf(heads, entries) => {
            let i = find(heads, entries, key).ok()?;
            let value = &mut entries[i].1;
            let before = value.is_live();
            change(value);
            Some(i64::from(value.is_live()) - i64::from(before))
        }
        Node::Inner(heads, children) => {
            let i = child_of(heads, children, key);
            let child = &mut children[i];
            let delta = update(&mut child.node, key, change)?;
            child.live = child.live.wrapping_add_signed(delta);
            Some(delta)
        }
    }
}

/// Returns the new right neighbour if the node had to be split.
fn insert<V: Live>(node: &mut Node<V>, key: Key, value: V) -> Option<Child<V>> {
    match node {
        Node::Leaf(heads, entries) => {
            let i = find(heads, entries, &key).unwrap_or_else(|i| i);
            entries.insert(i, (key, value));
            if entries.len() <= NODE_MAX {
                heads.inserted(i, entries.len(), |i| &entries[i].0);
                return None;
            }
            let right = leaf(split(entries, i));
            *heads = Heads::of(entries.iter().map(|(key, _)| &key[..]));
            Some(Child { first: first_key(&right).clone(), live: right.count_live(), node: right })
        }
        Node::Inner(heads, children) => {
            let i = child_of(heads, children, &key);
            let child = &mut children[i];
            child.live += u64::from(value.is_live());
            let before_all = key < child.first;
            if before_all {
                child.first = key.clone();
            }
            let split_off = insert(&mut child.node, key, value);
            if let Some(split_off) = split_off {
                child.live -= split_off.live;
                children.insert(i + 1, split_off);
                if children.len() > NODE_MAX {
                    let right = inner(split(children, i + 1));
                    *heads = Heads::of(children.iter().map(|child| &child.first[..]));
                    return Some(Child { first: first_key(&right).clone(), live: right.count_live(), node: right });
                }
                heads.inserted(i + 1, children.len(), |i| &children[i].first);
            }
            if before_all {
                *heads = Heads::of(children.iter().map(|child| &child.first[..]));
            }
            None
        }
    }
}

/// Splits off the right part after an insertion at `i`, with room to grow. Keys that come in order
/// leave full nodes behind.
fn split<T>(items: &mut Vec<T>, i: usize) -> Vec<T> {
    let cut = if i + 1 == items.len() { items.len() - 1 } else { items.len() / 2 };
    let mut right = Vec::with_capacity(NODE_MAX + 1);
    right.extend(items.drain(cut..));
    right
}

fn remove<V: Live>(node: &mut Node<V>, key: &[u8]) -> Option<V> {
    match node {
        Node::Leaf(heads, entries) => {
            let i = find(heads, entries, key).ok()?;
            heads.removed(i);
            Some(entries.remove(i).1)
        }
        Node::Inner(heads, children) => {
            let i = child_of(heads, children, key);
            let child = &mut children[i];
            let value = remove(&mut child.node, key)?;
            child.live -= u64::from(value.is_live());
            let len = child.node.len();
            if len == 0 {
                heads.removed(i);
                children.remove(i);
            } else if i + 1 < children.len() && len + children[i + 1].node.len() <= MERGED_MAX {
                heads.removed(i + 1);
                merge(children, i);
            } else if i > 0 && len + children[i - 1].node.len() <= MERGED_MAX {
                heads.removed(i);
                merge(children, i - 1);
            }
            Some(value)
        }
    }
}

/// Makes one node of a child and its right neighbour.
fn merge<V>(children: &mut Vec<Child<V>>, left: usize) {
    let right = children.remove(left + 1);
    let left = &mut children[left];
    left.live += right.live;
    left.node = match (std::mem::take(&mut left.node), right.node) {
        (Node::Leaf(_, mut left), Node::Leaf(_, right)) => {
            left.extend(right);
            leaf(left)
        }
        (Node::Inner(_, mut left), Node::Inner(_, right)) => {
            left.extend(right);
            inner(left)
        }
        _ => unreachable!("all leaves are at one depth"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    impl Live for bool {
        fn is_live(&self) -> bool {
            *self
        }
    }

    /// Checks what the module promises of every node, and returns the depth.
    fn check(node: &Node<bool>, is_root: bool) -> usize {
        assert!(is_root || node.len() > 0, "an empty node");
        assert!(node.len() <= NODE_MAX);
        let Node::Inner(_, children) = node else { return 1 };
        let depths: Vec<usize> = children.iter().map(|child| check(&child.node, false)).collect();
        assert!(depths.windows(2).all(|pair| pair[0] == pair[1]), "leaves at different depths");
        for (i, child) in children.iter().enumerate() {
            assert_eq!(child.live, child.node.count_live());
            assert!(child.first <= *first_key(&child.node));
            assert!(i == 0 || children[i - 1].first < child.first);
        }
        depths[0] + 1
    }

    /// A generator small enough to read: the same numbers every time.
    fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
        move |below| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        }
    }

    /// Names with long common beginnings, and some that are the beginning of others.
    fn name(n: u64) -> Vec<u8> {
        match n % 4 {
            0 => format!("/registry/pods/{:05}", n * 7919 % 100_003),
            1 => format!("/registry/pods/{}", "0".repeat(n as usize / 4 % 30)),
            2 => format!("/registry/{}", n),
            _ => format!("{}", n % 9000),
        }
        .into_bytes()
    }

    #[test]
    fn it_agrees_with_a_plain_map_through_growth_and_shrinking() {
        for (seed, keys) in [(1, 40), (2, 400), (3, 6000)] {
            let mut next = numbers(seed);
            let mut tree = Tree::default();
            let mut model = BTreeMap::new();
            for step in 0..60_000u64 {
                // First it grows, then it shrinks, then it grows again.
                let growing = step % 40_000 < 20_000;
                let key: Key = name(next(keys)).into();
                let live = next(3) > 0;
                if next(10) < if growing { 8 } else { 2 } {
                    if !tree.update(&key, |value| *value = live) {
                        tree.insert(key.clone(), live);
                    }
                    model.insert(key, live);
                } else {
                    assert_eq!(tree.remove(&key), model.remove(&key));
                }
                if step % 1999 == 0 {
                    check(&tree.root, true);
                    assert_eq!(tree.live(), model.values().filter(|live| **live).count() as u64);
                    let probe = name(next(keys));
                    let below = model.range(..Key::from(&probe[..])).filter(|(_, live)| **live).count();
                    assert_eq!(tree.rank(&probe), below as u64);
                    let mut seen = Vec::new();
                    tree.walk(&probe, &mut |key, live| {
                        seen.push((key.clone(), *live));
                        seen.len() < 100
                    });
                    let expected: Vec<_> =
                        model.range(Key::from(&probe[..])..).take(100).map(|(k, v)| (k.clone(), *v)).collect();
                    assert_eq!(seen, expected);
                    assert_eq!(tree.get(&probe).map(|(_, v)| *v), model.get(&probe[..]).copied());
                }
            }
            for key in model.into_keys() {
                assert!(tree.remove(&key).is_some());
            }
            assert_eq!((tree.live(), tree.root.len()), (0, 0));
        }
    }

    #[test]
    fn keys_that_come_in_order_fill_their_leaves() {
        let mut tree = Tree::default();
        for n in 0..10_000 {
            tree.insert(format!("{n:05}").into_bytes().into(), true);
        }
        fn leaves(node: &Node<bool>) -> usize {
            match node {
                Node::Leaf(..) => 1,
                Node::Inner(_, children) => children.iter().map(|child| leaves(&child.node)).sum(),
            }
        }
        check(&tree.root, true);
        assert!(leaves(&tree.root) <= 10_000 / NODE_MAX + 1);
    }
}
