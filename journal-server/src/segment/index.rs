//! Where on disk the synced part of the log lies: places in position order, and the segments. Only
//! what is synced gets in; whoever reads a position that the ring does not hold finds it through here.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use super::format::Place;
use super::fs::File;
use super::types::LogId;

#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    /// The end of the synced frames.
    pub end: u64,
    /// Length of the file.
    pub file_bytes: u64,
    pub sealed: bool,
}

/// A place and the segment it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub segment: u64,
    pub place: Place,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By position; segments never fall along it.
    spots: VecDeque<Spot>,
    segments: BTreeMap<u64, Segment>,
    /// Purge mark and last position of the log *as written*: what was asked for and not synced yet
    /// may be undone by a crash, and then needs the segments that it did not need.
    purged: Option<u64>,
    last: Option<u64>,
}

/// A stretch of a segment to walk for positions in `[from, limit)`.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub segment: Segment,
    pub offset: u64,
    /// First position of the place that follows: frames beyond it in this stretch are stale.
    pub limit: u64,
}

impl Index {
    pub(crate) fn add_segment(&mut self, segment: Segment) {
        self.segments.insert(segment.number, segment);
    }

    pub(crate) fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        self.segments.get_mut(&number)
    }

    pub(crate) fn segment(&self, number: u64) -> Option<&Segment> {
        self.segments.get(&number)
    }

    pub(crate) fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.values()
    }

    pub(crate) fn add_place(&mut self, segment: u64, place: Place) {
        debug_assert!(self.spots.back().is_none_or(|last| last.place.position < place.position));
        self.spots.push_back(Spot { segment, place });
    }

    pub(crate) fn cut(&mut self, first_removed: u64) {
        while self.spots.back().is_some_and(|spot| spot.place.position >= first_removed) {
            self.spots.pop_back();
        }
    }

    /// Where to begin to walk for a position. `None`: nothing on disk is known to hold it.
    pub(crate) fn find(&self, position: u64) -> Option<Stretch> {
        let after = self.spots.partition_point(|spot| spot.place.position <= position);
        let spot = self.spots.get(after.checked_sub(1)?)?;
        let segment = self.segments.get(&spot.segment)?.clone();
        let limit = self.spots.get(after).map_or(u64::MAX, |next| next.place.position);
        Some(Stretch { segment, offset: spot.place.offset, limit })
    }

    /// The places at or above a position, in order.
    pub(crate) fn spots_from(&self, position: u64) -> impl Iterator<Item = &Spot> {
        self.spots.range(self.spots.partition_point(|spot| spot.place.position < position)..)
    }

    /// What of the log is synced, with the places added and cut before.
    pub(crate) fn set_written(&mut self, purged: Option<LogId>, last: Option<LogId>) {
        self.purged = purged.map(|id| id.position);
        self.last = last.map(|id| id.position);
    }

    /// Takes out the oldest segment if nothing in it is needed once the purge mark is where it is
    /// written to be. The segment being written is always needed: it holds the state.
    pub(crate) fn take_purged(&mut self) -> Option<Segment> {
        let purged = self.purged?;
        if self.segments.len() < 2 {
            return None;
        }
        let oldest = *self.segments.keys().next()?;
        let following = self.spots.iter().find(|spot| spot.segment > oldest);
        let needed = match following {
            Some(spot) => spot.place.position > purged + 1,
            None => self.last.is_some_and(|last| last > purged),
        };
        if needed {
            return None;
        }
        while self.spots.front().is_some_and(|spot| spot.segment == oldest) {
            self.spots.pop_front();
        }
        self.segments.remove(&oldest)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.file_bytes).sum()
    }
}
