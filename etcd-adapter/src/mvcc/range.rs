//! A read of a range: which keys, in which order, how many.
//!
//! It goes over the index in steps, so that whoever holds the index can let go of it in between: what a
//! bound shows does not change. The reader checks that its revision was readable before the first step
//! and after the last value was fetched ([`super::State::readable`]).
//!
//! etcd cuts at the limit before it sorts when no order was asked for, and after it when one was, or
//! when a filter was given; `count` knows neither limit nor filters.

use bytes::Bytes;

use super::index::{Index, KeyRange};
use super::types::{At, Key, ValueLost, Values, Version};
use crate::command::{Range, SortOrder, SortTarget};

/// One key of a result. Its value is in the store, at `version.at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub key: Key,
    /// etcd answers `keys_only` from its index, which knows no lease: there it is 0.
    pub version: Version,
}

/// What a range read comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub found: Vec<Found>,
    pub more: bool,
    /// All live keys of the range, whatever the limit and the filters.
    pub count: i64,
}

/// A range read under way.
#[derive(Debug)]
pub struct RangeScan {
    request: Range,
    range: KeyRange,
    bound: At,
    count: Option<u64>,
    /// Where the next step begins; `None` before the first.
    next: Option<Key>,
    started: bool,
    walked: u64,
    found: Vec<Found>,
}

impl RangeScan {
    /// Begins a read of what was there at `bound`: [`At::end_of`] the revision that the request turned
    /// out to mean. The request's own revision is not looked at.
    pub fn new(request: Range, bound: At) -> RangeScan {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        RangeScan { request, range, bound, count: None, next: None, started: false, walked: 0, found: Vec::new() }
    }

    /// Tells the exact number of keys, if the caller knows it: then the walk ends with the page.
    pub fn with_count(mut self, count: u64) -> RangeScan {
        self.count = Some(count);
        self
    }

    /// Looks at up to `steps` keys. Says whether the read is complete.
    pub fn step(&mut self, index: &Index, steps: usize) -> bool {
        if !self.started {
            self.started = true;
            self.count = self.count.or_else(|| index.count_at(&self.range, self.bound));
        }
        if self.request.count_only && self.count.is_some() {
            return true;
        }
        let enough = self.enough();
        let RangeScan { request, count, walked, found, .. } = self;
        let counted = count.is_some();
        let mut see = |key: &Key, version: &Version| {
            *walked += 1;
            if !request.count_only && found.len() < enough && passes(request, version) {
                found.push(Found { key: key.clone(), version: *version });
            }
            // Without the count, the walk goes on for its sake.
            !(counted && found.len() >= enough)
        };
        self.next = index.walk(&self.range, self.bound, self.next.as_ref(), steps, &mut see);
        self.next.is_none()
    }

    /// Sorts and cuts. `values` is asked only if the order is that of values.
    pub fn finish(self, values: &dyn Values) -> Result<Selection, ValueLost> {
        let RangeScan { request, count, walked, mut found, .. } = self;
        let count = count.unwrap_or(walked) as i64;
        if request.count_only {
            return Ok(Selection { count, ..Selection::default() });
        }
        let descends = request.sort_order == SortOrder::Descend;
        match request.sort_target {
            SortTarget::Version => sort_by(&mut found, descends, |found| found.version.version),
            SortTarget::Create => sort_by(&mut found, descends, |found| found.version.create),
            SortTarget::Mod => sort_by(&mut found, descends, |found| found.version.at.main),
            SortTarget::Value => sort_by_value(&mut found, descends, values)?,
            SortTarget::Key | SortTarget::Unknown if descends => found.reverse(),
            SortTarget::Key | SortTarget::Unknown => {}
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && found.len() > limit;
        if more {
            found.truncate(limit);
        }
        if request.keys_only && request.sort_target != SortTarget::Value {
            for found in &mut found {
                found.version.lease = 0;
            }
        }
        Ok(Selection { found, more, count })
    }

    /// Takes all steps at once.
    pub fn run(mut self, index: &Index, values: &dyn Values) -> Result<Selection, ValueLost> {
        while !self.step(index, usize::MAX) {}
        self.finish(values)
    }

    /// How many keys need to be found: one beyond the limit, if the cut comes before the sorting.
    fn enough(&self) -> usize {
        let request = &self.request;
        let by_key = matches!(request.sort_target, SortTarget::Key | SortTarget::Unknown);
        let in_key_order = match request.sort_order {
            SortOrder::None | SortOrder::Unknown => true,
            SortOrder::Ascend => request.sort_target == SortTarget::Key,
            SortOrder::Descend => false,
        };
        let filters = [
            request.mod_revision_min,
            request.mod_revision_max,
            request.create_revision_min,
            request.create_revision_max,
        ];
        match usize::try_from(request.limit) {
            // Filters are applied on the way: they only matter where the cut comes before a sorting.
            Ok(limit @ 1..) if in_key_order && (by_key || filters == [0; 4]) => limit.saturating_add(1),
            _ => usize::MAX,
        }
    }
}

fn passes(request: &Range, version: &Version) -> bool {
    let within = |n: i64, min: i64, max: i64| (min == 0 || n >= min) && (max == 0 || n <= max);
    within(version.at.main, request.mod_revision_min, request.mod_revision_max)
        && within(version.create, request.create_revision_min, request.create_revision_max)
}

/// Equals stay in the order of their keys, whichever way the others go: so etcd answers as long as there
/// are few.
fn sort_by<T, K: Ord>(found: &mut [T], descends: bool, by: impl Fn(&T) -> K) {
    match descends {
        true => found.sort_by_key(|one| std::cmp::Reverse(by(one))),
        false => found.sort_by_key(by),
    }
}

fn sort_by_value(found: &mut Vec<Found>, descends: bool, values: &dyn Values) -> Result<(), ValueLost> {
    let places: Vec<At> = found.iter().map(|found| found.version.at).collect();
    let values = values.values(&places)?;
    let mut pairs: Vec<(Bytes, Found)> = values.into_iter().zip(found.drain(..)).collect();
    sort_by(&mut pairs, descends, |pair| pair.0.clone());
    found.extend(pairs.into_iter().map(|(_, found)| found));
    Ok(())
}
