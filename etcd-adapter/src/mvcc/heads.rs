//! How a node of the tree is searched without touching its keys, each of which is a cache miss away.
//!
//! The keys of a node mostly begin alike. What is looked at is the first eight bytes *after* the common
//! beginning, kept side by side as numbers; only keys that agree in those are compared themselves, which
//! is hardly ever more than the one that is found.
//!
//! `skip` bytes are common to all keys of the node (not always all that are); the head of a key is the
//! big-endian number of the eight bytes behind them, filled up with zeros: a smaller key never has a
//! greater head.

use std::cmp::Ordering;

#[derive(Clone, Debug, Default)]
pub(super) struct Heads {
    skip: usize,
    heads: Vec<u64>,
}

impl Heads {
    /// Of keys in their order.
    pub fn of<'a>(keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Heads {
        let first = keys.clone().next().unwrap_or_default();
        let last = keys.clone().last().unwrap_or_default();
        let skip = common(first, last);
        Heads { skip, heads: keys.map(|key| head(key, skip)).collect() }
    }

    /// Where `key` is, or would have to be inserted. `at` shows the node's keys.
    pub fn search<'a>(&self, key: &[u8], at: impl Fn(usize) -> &'a [u8]) -> Result<usize, usize> {
        let len = self.heads.len();
        if len == 0 {
            return Err(0);
        }
        if self.skip > 0 {
            let beginning = &key[..self.skip.min(key.len())];
            match beginning.cmp(&at(0)[..self.skip]) {
                Ordering::Less => return Err(0),
                Ordering::Greater => return Err(len),
                Ordering::Equal => {}
            }
        }
        let wanted = head(key, self.skip);
        let (mut low, mut high) = (self.heads.partition_point(|head| *head < wanted), len);
        if low == len || self.heads[low] != wanted {
            return Err(low);
        }
        if low + 1 == len || self.heads[low + 1] != wanted {
            high = low + 1;
        } else {
            high = low + self.heads[low..high].partition_point(|head| *head == wanted);
        }
        while low < high {
            let middle = (low + high) / 2;
            match at(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// A key was inserted at `i`; `at` shows the `len` keys there are now.
    pub fn inserted<'a>(&mut self, i: usize, len: usize, at: impl Fn(usize) -> &'a [u8]) {
        let key = at(i);
        let neighbour = at(if i == 0 { len - 1 } else { 0 });
        if len > 1 && common(key, neighbour) >= self.skip {
            self.heads.insert(i, head(key, self.skip));
            return;
        }
        self.skip = common(at(0), at(len - 1));
        self.heads = (0..len).map(|i| head(at(i), self.skip)).collect();
    }

    /// The key at `i` was, or is about to be, removed.
    pub fn removed(&mut self, i: usize) {
        self.heads.remove(i);
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let tail = vec(prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(255)], 0..12);
        (0..4usize, tail).prop_map(|(common, tail)| [&b"/registry/pods/"[..common * 5], &tail].concat())
    }

    proptest! {
        #[test]
        fn a_search_finds_what_a_plain_search_finds(keys in btree_set(key(), 0..40), other in key(), at: usize) {
            let mut keys: Vec<Vec<u8>> = keys.into_iter().collect();
            let mut heads = Heads::of(keys.iter().map(|key| &key[..]));
            let check = |heads: &Heads, keys: &[Vec<u8>]| {
                for key in keys.iter().chain([&other]) {
                    assert_eq!(heads.search(key, |i| &keys[i]), keys.binary_search(key));
                }
            };
            check(&heads, &keys);
            if let Err(i) = keys.binary_search(&other) {
                keys.insert(i, other.clone());
                heads.inserted(i, keys.len(), |i| &keys[i]);
                check(&heads, &keys);
            }
            let at = at % keys.len();
            keys.remove(at);
            heads.removed(at);
            check(&heads, &keys);
        }
    }
}
