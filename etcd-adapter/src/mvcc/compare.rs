//! What a Txn compares: with numbers of the index, or with values, which are elsewhere.

use std::cmp::Ordering;

use super::index::{Index, KeyRange};
use super::types::{At, Key, Version};
use crate::command::{Compare, CompareResult, CompareTarget};

/// A comparison under way, for a Txn that writes nothing. It goes over the index in steps and wants the
/// values between them, so that nobody holds the index while values are read.
#[derive(Debug)]
pub struct Comparison<'a> {
    compare: &'a Compare,
    range: KeyRange,
    bound: At,
    /// Where the next step begins; `None` before the first.
    next: Option<Key>,
    places: Vec<At>,
    keys: u64,
    all: bool,
}

impl<'a> Comparison<'a> {
    /// Compares what was there at `bound`.
    pub fn new(compare: &'a Compare, bound: At) -> Comparison<'a> {
        let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
        Comparison { compare, range, bound, next: None, places: Vec::new(), keys: 0, all: true }
    }

    /// Looks at up to `steps` keys. Says whether no more of them matter.
    pub fn step(&mut self, index: &Index, steps: usize) -> bool {
        let Comparison { compare, range, bound, next, places, keys, all } = self;
        let mut see = |_: &Key, version: &Version| {
            *keys += 1;
            match &compare.target {
                CompareTarget::Value(_) => places.push(version.at),
                target => *all = verdict(compare.result, compare_numbers(version, target)),
            }
            *all
        };
        *next = index.walk(range, *bound, next.as_ref(), steps, &mut see);
        next.is_none()
    }

    /// The values to look at before the next step.
    pub fn wanted(&mut self) -> Vec<At> {
        std::mem::take(&mut self.places)
    }

    pub fn see(&mut self, value: &[u8]) {
        if let CompareTarget::Value(target) = &self.compare.target {
            self.all &= verdict(self.compare.result, value.cmp(target));
        }
    }

    /// Whether a key was seen of which it does not hold: the rest does not matter then.
    pub fn has_failed(&self) -> bool {
        !self.all
    }

    /// Whether it holds, once everything that matters was looked at.
    pub fn holds(&self) -> bool {
        if self.keys > 0 { self.all } else { holds_of_nothing(self.compare) }
    }
}

/// A missing key is compared as a zero, but for its value: nothing holds of a value that is not there.
pub(super) fn holds_of_nothing(compare: &Compare) -> bool {
    const NOTHING: Version =
        Version { at: At { main: 0, sub: 0 }, create: 0, version: 0, lease: 0, size: 0, digest: 0 };
    match &compare.target {
        CompareTarget::Value(_) => false,
        target => verdict(compare.result, compare_numbers(&NOTHING, target)),
    }
}

pub(super) fn compare_numbers(version: &Version, target: &CompareTarget) -> Ordering {
    match target {
        CompareTarget::Version(n) => version.version.cmp(n),
        CompareTarget::Create(n) => version.create.cmp(n),
        CompareTarget::Mod(n) => version.at.main.cmp(n),
        CompareTarget::Lease(n) => version.lease.cmp(n),
        CompareTarget::Value(_) | CompareTarget::Unknown => Ordering::Equal,
    }
}

pub(super) fn verdict(result: CompareResult, order: Ordering) -> bool {
    match result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::Unknown => true,
    }
}
