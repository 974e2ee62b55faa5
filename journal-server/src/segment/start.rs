//! Puts an opened log together: the tape that goes on where the stream ends, and what the log, its
//! writer and its keeper share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::format::{NOT_TRUNCATED, SUB_RUN, SealIndex};
use super::fs::{File, Fs};
use super::index::Index;
use super::keeper::Keeper;
use super::log::{KeeperBell, Log, Shared, State};
use super::metrics::Metrics;
use super::reader::chain_at;
use super::recovery::Opened;
use super::replay::Replay;
use super::ring::Ring;
use super::sheet::Sheet;
use super::shelf::{Shelf, Spare};
use super::tape::{Active, ChainLookup, PreviousSegment, Tape};
use super::types::{Error, Ids, Options};
use super::writer::{Writer, apply_effect};

/// Whose log it is, and where.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub fs: Arc<dyn Fs>,
    pub dir: PathBuf,
    pub ids: Ids,
    pub options: Options,
    /// Holes that were filled before this opening.
    pub repaired: u64,
}

impl Place {
    pub(crate) fn writing(&self) -> impl FnOnce(std::io::Error) -> Error {
        Error::io(format!("writing to {}", self.dir.display()))
    }
}

/// How the stream goes on.
pub(crate) struct Going {
    pub tape: Tape,
    pub shelf: Arc<Shelf>,
    pub index: Index,
    /// A new segment has to be begun, after this one.
    begins: Option<(u64, PreviousSegment)>,
}

impl Going {
    /// `replay`'s registers, index and tail move in here. Unless it `seals`, no segment is ended: the footer
    /// of one with a hole would be believed at the next start, and its frames not be read.
    pub(crate) fn on(
        place: &Place,
        replay: &mut Replay,
        unused: Option<(u64, Spare)>,
        lookup: ChainLookup,
        seals: bool,
    ) -> Going {
        let index = std::mem::take(&mut replay.index);
        let last_number = index.segments().next_back().map_or(0, |segment| segment.number);
        let shelf = Arc::new(Shelf::new(place.fs.clone(), &place.dir, place.options.segment_bytes, last_number));
        if let Some((number, spare)) = unused {
            shelf.put(number, spare);
        }
        let mut active = nowhere();
        let mut begins = Some((last_number + 1, PreviousSegment::NONE));
        if let Some(tail) = replay.tail.take() {
            let previous = PreviousSegment {
                end: tail.offset,
                truncations: tail.truncations,
                truncated_low: tail.truncated_low,
                versions: tail.versions,
            };
            begins = tail.sealed.then_some((last_number + 1, previous));
            active = Active {
                number: tail.number,
                file: tail.file,
                file_bytes: tail.file_bytes,
                offset: tail.offset,
                synced: tail.offset,
                truncations: tail.truncations,
                truncated_low: tail.truncated_low,
                versions: tail.versions,
                index: tail.places,
                place_due: true,
                opened_upto: tail.opened_upto,
            };
        }
        let registers = std::mem::take(&mut replay.registers);
        let run = replay.run + 1;
        let mut options = place.options.clone();
        if !seals {
            options.segment_bytes = u64::MAX;
        }
        let tape = Tape::new(place.ids, run, &options, registers, active, shelf.clone(), lookup);
        Going { tape, shelf, index, begins }
    }

    /// Writes and syncs, beginning a segment first if one has to be begun.
    pub(crate) fn write(
        &mut self,
        what: impl FnOnce(&mut Tape, &mut Sheet, bool) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut sheet = Sheet::default();
        let begins = self.begins.take();
        if let Some((number, previous)) = begins {
            self.tape.open_segment(&mut sheet, number, previous)?;
        }
        what(&mut self.tape, &mut sheet, begins.is_some())?;
        self.tape.finish(&mut sheet)?;
        sheet.perform(|file| file.sync())?;
        for effect in sheet.effects.drain(..) {
            apply_effect(&mut self.index, effect);
        }
        Ok(())
    }
}

/// Writes down that a new run begins, and puts the log together.
pub(crate) fn start(place: Place, mut replay: Replay, unused: Option<(u64, Spare)>) -> Result<Opened, Error> {
    let recovered: Arc<OnceLock<Weak<Shared>>> = Arc::default();
    let lookup = {
        let recovered = recovered.clone();
        Box::new(move |position| match recovered.get().and_then(Weak::upgrade) {
            Some(shared) => chain_at(&shared, position),
            None => Err(Error::Refused { why: "the journal is still being opened".into() }),
        })
    };
    let mut going = Going::on(&place, &mut replay, unused, lookup, true);
    // The State frame of a run drops for good what recovery dropped, and proves all before it.
    let run_begins = |tape: &mut Tape, sheet: &mut Sheet, opened: bool| {
        if opened { Ok(()) } else { tape.state(sheet, SUB_RUN) }
    };
    going.write(run_begins).map_err(place.writing())?;
    let Going { mut tape, shelf, mut index, .. } = going;
    index.set_written(tape.registers.outline.purged(), tape.registers.outline.last());
    // Even so a mark is due: nothing proves yet that the State frame itself was synced.
    tape.proven = false;

    let registers = &tape.registers;
    let last = registers.outline.last();
    let state = State {
        outline: registers.outline.clone(),
        vote: registers.vote,
        versions: registers.versions.clone(),
        committed: registers.committed,
        applied: registers.applied,
        queue: Default::default(),
        versions_queued: 0,
        rewinds_queued: 0,
        ring: Ring::new(place.options.ring_bytes),
        durable: last,
        written: last,
        purged_durable: registers.outline.purged(),
        purged_chain: registers.outline.purged().zip(registers.chain_at_purge),
        recovered_commit: registers.committed,
        recovered_applied: registers.applied,
        failed: None,
        closing: false,
        parked: false,
        parked_for_good: false,
        on_desk: false,
    };
    let report = replay.report;
    let shared = Arc::new(Shared {
        ids: place.ids,
        metrics: Metrics::new(place.ids.group),
        options: place.options,
        state: Mutex::new(state),
        wake: Condvar::new(),
        notify: Notify::new(),
        index: RwLock::new(index),
        shelf,
        queued_bytes: Default::default(),
        keeper: KeeperBell::default(),
        holes: Mutex::default(),
        pen: OnceLock::new(),
        calm: AtomicU32::new(0),
        failed_told: watch::Sender::new(false),
        patching: Mutex::default(),
        holes_count: watch::Sender::new(0),
        scars: Mutex::default(),
        repaired: AtomicU64::new(place.repaired),
    });
    shared.metrics.torn_frames.increment(report.torn_frames);
    shared.metrics.damaged_frames.increment(report.damaged_frames);
    shared.metrics.disk_bytes.set(shared.index.read().disk_bytes() as f64);
    // Nobody else has the cell: it is set once, here.
    let _ = recovered.set(Arc::downgrade(&shared));
    let log = Log { shared: shared.clone() };
    let keeper = Keeper::new(shared.clone());
    Ok(Opened::Ready { log, writer: Writer::new(shared, tape), keeper, report })
}

/// Stands in for the last segment where there is none: replaced by `open_segment` before anything is
/// written.
fn nowhere() -> Active {
    Active {
        number: 0,
        file: Arc::new(Nowhere),
        file_bytes: 0,
        offset: 0,
        synced: 0,
        truncations: 0,
        truncated_low: NOT_TRUNCATED,
        versions: 0,
        index: SealIndex::default(),
        place_due: true,
        opened_upto: 0,
    }
}

/// A file that is never written.
#[derive(Debug)]
struct Nowhere;

impl File for Nowhere {
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn write_all_at(&self, _: &[std::io::IoSlice<'_>], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn sync(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn len(&self) -> std::io::Result<u64> {
        Ok(0)
    }
    fn drop_cache(&self) -> std::io::Result<()> {
        Ok(())
    }
}
