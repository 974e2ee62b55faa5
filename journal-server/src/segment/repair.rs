//! Holes found while the log runs: in segments that were sealed long ago, or in what was written since
//! the start. Found by readers and by the scrubber; filled, when a peer has the same entries, beneath
//! the reader.
//!
//! What is broken is found out by reading its whole segment once more (`replay.rs`), and then compared
//! with the log as it is now: what was truncated or purged since is no hole.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::format::SegmentHeader;
use super::index::Segment;
use super::log::Shared;
use super::recovery::read_header;
use super::replay::{Begun, Finding, Replay};
use super::types::{Error, Hole, LogEntry};
use super::wound::{Cause, Wound};

/// What is at a position that could not be read.
pub(crate) enum Inspected {
    /// A hole; it is remembered.
    Hole(Hole),
    /// It can be read: by walking from this offset of the segment.
    At(u64),
}

impl Shared {
    /// Forgets holes in what is no longer part of the log.
    pub(crate) fn forget_holes(&self, gone: impl Fn(&Hole) -> bool) {
        let mut holes = self.holes.lock();
        let before = holes.len();
        holes.retain(|wound| !gone(&wound.hole));
        if holes.len() != before {
            self.tell_holes(&holes);
        }
    }

    /// Where what cannot be read at an offset ends, if it is known to have held nothing.
    pub(crate) fn scar_end(&self, segment: u64, offset: u64) -> Option<u64> {
        self.scars.lock().get(&(segment, offset)).copied()
    }

    fn remember(&self, wound: Wound) {
        let mut holes = self.holes.lock();
        let same = |known: &Wound| (known.hole.segment, known.hole.offset) == (wound.hole.segment, wound.hole.offset);
        if holes.iter().any(same) {
            return;
        }
        tracing::error!(journal = self.ids.group, "damaged: {}", wound.hole);
        self.metrics.damaged_frames.increment(1);
        holes.push(wound);
        self.tell_holes(&holes);
    }

    fn tell_holes(&self, holes: &[Wound]) {
        let segments: BTreeSet<u64> = holes.iter().map(|wound| wound.hole.segment).collect();
        self.metrics.damaged_segments.set(segments.len() as f64);
        self.holes_count.send_replace(holes.len());
    }

    /// The open hole that a position is in.
    pub(crate) fn known_hole(&self, segment: u64, position: u64) -> Option<Hole> {
        let holes = self.holes.lock();
        let known = holes.iter().find(|wound| wound.hole.segment == segment && wound.lacks(position));
        known.map(|wound| wound.hole.clone())
    }
}

/// Finds out what exactly cannot be read in a segment, and what of that is at `position`.
pub(crate) fn inspect(shared: &Shared, segment: &Segment, position: u64) -> Result<Inspected, Error> {
    if let Some(hole) = shared.known_hole(segment.number, position) {
        return Ok(Inspected::Hole(hole));
    }
    let replay = inspect_all(shared, segment)?;
    match (shared.known_hole(segment.number, position), replay.index.find(position)) {
        (Some(hole), _) => Ok(Inspected::Hole(hole)),
        (None, Some(stretch)) => Ok(Inspected::At(stretch.offset)),
        (None, None) => {
            let why = format!("position {position} is in no frame of {}", segment.path.display());
            Err(Error::Refused { why })
        }
    }
}

/// Reads a segment in full and remembers all holes in what the log needs of it.
pub(crate) fn inspect_all(shared: &Shared, segment: &Segment) -> Result<Replay, Error> {
    let (replay, wounds) = examine(shared, segment)?;
    wounds.into_iter().for_each(|wound| shared.remember(wound));
    Ok(replay)
}

/// Looks at the segments of all open holes again. What can be read now is no hole any more: not every
/// error of a disk is for ever.
pub(crate) fn recheck(shared: &Shared) -> Result<(), Error> {
    let _alone = shared.patching.lock();
    let hurt: BTreeSet<u64> = shared.holes.lock().iter().map(|wound| wound.hole.segment).collect();
    for number in hurt {
        let segment = shared.index.read().segment(number).cloned();
        let wounds = match segment {
            Some(segment) => {
                // From the device, not from what was read of it before.
                segment.file.drop_cache().map_err(Error::io(format!("reading {}", segment.path.display())))?;
                examine(shared, &segment)?.1
            }
            None => Vec::new(),
        };
        let open: BTreeSet<u64> = wounds.iter().map(|wound| wound.hole.offset).collect();
        shared.forget_holes(|hole| hole.segment == number && !open.contains(&hole.offset));
        wounds.into_iter().for_each(|wound| shared.remember(wound));
    }
    Ok(())
}

/// Reads a segment in full: what it amounts to, and the holes in what the log needs of it.
fn examine(shared: &Shared, segment: &Segment) -> Result<(Replay, Vec<Wound>), Error> {
    let header = match read_header(&segment.file, segment.file_bytes) {
        Ok(header) => header,
        // The index led here: whose it is, is known. Only what lay before it is not.
        Err(_) => stand_in(shared, segment),
    };
    let next = shared.index.read().segment(segment.number + 1).cloned();
    let next = next.and_then(|next| read_header(&next.file, next.file_bytes).ok());
    let begun = Begun {
        number: segment.number,
        path: segment.path.clone(),
        file: segment.file.clone(),
        file_bytes: segment.end,
        header,
    };
    let mut replay = Replay::for_inspection(shared.ids, shared.options.index_step_bytes);
    replay.inspect(&begun, next.as_ref())?;
    for finding in &replay.findings {
        if let Finding::Scar { segment, offset, end } = finding {
            shared.scars.lock().insert((*segment, *offset), *end);
        }
    }
    let wounds = std::mem::take(&mut replay.wounds);
    let wounds = wounds.into_iter().filter_map(|wound| needed(shared, segment, wound)).collect();
    Ok((replay, wounds))
}

fn stand_in(shared: &Shared, segment: &Segment) -> SegmentHeader {
    SegmentHeader {
        ids: shared.ids,
        number: segment.number,
        run: 0,
        previous_end: 0,
        previous_last: None,
        previous_chain: 0,
        previous_truncations: 0,
        previous_truncated_low: super::format::NOT_TRUNCATED,
        previous_versions: 0,
    }
}

/// What of a wound is in the log as it is now, with all that the log knows of it.
fn needed(shared: &Shared, segment: &Segment, mut wound: Wound) -> Option<Wound> {
    let (outline, purged_chain) = {
        let state = shared.state.lock();
        (state.outline.clone(), state.purged_chain)
    };
    if let Some(mark) = outline.purged() {
        let chain = purged_chain.filter(|(at, _)| *at == mark).map(|(_, chain)| chain);
        wound.forget_upto(mark, chain);
    }
    if wound.is_void() {
        return None;
    }
    // Positions that the index finds elsewhere were truncated here.
    let index = shared.index.read();
    let (first, offset, end) = (wound.hole.first, wound.hole.offset, wound.hole.end);
    let inside = |place: &super::format::Place| place.offset >= offset && place.offset < end;
    let here =
        index.find(first).is_some_and(|stretch| stretch.segment.number == segment.number && stretch.offset < end);
    if !here {
        return None;
    }
    let elsewhere = index
        .spots_from(first + 1)
        .find(|spot| spot.segment != segment.number || !inside(&spot.place))
        .map(|spot| spot.place.position);
    let next = elsewhere.unwrap_or(u64::MAX).min(super::types::next_position(outline.last()));
    if let Some(last) = next.checked_sub(1).and_then(|last| outline.id_at(last)) {
        wound.end_at(last, None);
    }
    if wound.is_void() {
        return None;
    }
    let hole = &mut wound.hole;
    hole.identities = (hole.first..=hole.last).map(|position| outline.id_at(position)).collect();
    hole.before = hole.before.or_else(|| outline.id_at(hole.first.checked_sub(1)?));
    if hole.identities.as_ref().and_then(|ids| ids.last()).is_some_and(|last| *last != hole.after) {
        // Another entry has taken the place since: this one is removed.
        return None;
    }
    if let Cause::Frames { .. } = wound.cause {
        wound.anchors = index
            .spots_from(first)
            .take_while(|spot| spot.segment == segment.number && spot.place.position <= wound.hole.last)
            .filter(|spot| inside(&spot.place) && spot.place.offset > offset)
            .map(|spot| spot.place)
            .collect();
    }
    Some(wound)
}

/// Offers entries for holes; what is complete and right is written and synced.
pub(crate) fn patch_blocking(shared: &Shared, entries: &[LogEntry]) -> Result<(), Error> {
    // One at a time; nobody else writes below what is synced.
    let _alone = shared.patching.lock();
    if shared.state.lock().closing {
        return Err(Error::Refused { why: "the log is closed".into() });
    }
    let mut wounds = shared.holes.lock().clone();
    let mut refused = None;
    for wound in &mut wounds {
        let Some(segment) = shared.index.read().segment(wound.hole.segment).cloned() else { continue };
        let complete = wound.offer(entries);
        let key = (wound.hole.segment, wound.hole.offset);
        let outcome = match complete {
            Ok(true) => wound.fill(segment.file.as_ref(), &shared.ids),
            Ok(false) => {
                shared.keep_offered(wound);
                continue;
            }
            Err(why) => Ok(Err(why)),
        };
        match outcome {
            Ok(Ok(())) => {
                shared.forget_holes(|hole| (hole.segment, hole.offset) == key);
                shared.metrics.repaired.increment(1);
                shared.repaired.fetch_add(1, Ordering::Relaxed);
                tracing::info!(journal = shared.ids.group, "repaired: {}", wound.hole);
            }
            Ok(Err(why)) => {
                shared.keep_offered(wound);
                refused = Some(format!("{why} ({})", wound.hole));
            }
            Err(error) => {
                shared.fail(&error.to_string());
                return Err(Error::Failed(error.to_string()));
            }
        }
    }
    match refused {
        Some(why) => Err(Error::Refused { why }),
        None => Ok(()),
    }
}

impl Shared {
    fn keep_offered(&self, wound: &Wound) {
        let mut holes = self.holes.lock();
        let key = (wound.hole.segment, wound.hole.offset);
        if let Some(known) = holes.iter_mut().find(|known| (known.hole.segment, known.hole.offset) == key) {
            *known = wound.clone();
        }
    }
}
