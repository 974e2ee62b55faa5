//! The handle to one journal's log. Calls only enqueue: what they ask for is readable at once and
//! durable later, in exactly the order of the calls. One writer empties the queue.
//!
//! Two pictures of the log exist: the one here, as asked for, and the writer's, as laid out in
//! segments. Readers see the first: entries not yet synced are in the ring, all others in the index.
//!
//! The queue has no bound of its own: what is in it was admitted by bytes before Raft heard of it,
//! and [`Log::queued_bytes`] tells the admission how much there is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::drive::{self, Pen};
use super::index::Index;
use super::metrics::Metrics;
use super::outline::{Outline, Versions};
use super::reader;
use super::ring::Ring;
use super::shelf::Shelf;
use super::types::{Done, Error, Hole, Ids, LogEntry, LogId, Options, Version, Vote, next_position};
use super::wound::Wound;

/// One thing asked of the writer.
pub(crate) enum Item {
    Entries {
        entries: Vec<LogEntry>,
        done: Done,
        asked: Instant,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    Truncate(Option<LogId>),
    Purge(LogId),
    Version(Version),
    Snapshot {
        version: Version,
        chain: u64,
        kept: bool,
        done: Done,
    },
    /// The applied hint as of here: it must not overtake the versions before it.
    Applied(LogId),
    /// Nothing to write; answered when everything before it is durable.
    Barrier(Done),
}

pub(crate) struct State {
    pub outline: Outline,
    pub vote: Option<Vote>,
    pub versions: Versions,
    pub committed: Option<LogId>,
    pub applied: Option<LogId>,
    pub queue: VecDeque<Item>,
    /// Versions and snapshots in the queue.
    pub versions_queued: usize,
    /// Truncations, purges and snapshots in the queue.
    pub rewinds_queued: usize,
    pub ring: Ring,
    pub durable: Option<LogId>,
    /// The last id as of the newest sync, whatever has been asked since.
    pub written: Option<LogId>,
    pub purged_durable: Option<LogId>,
    /// The purge mark and the chain there, where known.
    pub purged_chain: Option<(LogId, u64)>,
    pub recovered_commit: Option<LogId>,
    pub recovered_applied: Option<LogId>,
    pub failed: Option<Arc<str>>,
    pub closing: bool,
    /// The writer's driver waits for something to do.
    pub parked: bool,
    /// And would wait for ever.
    pub parked_for_good: bool,
    /// What is queued lies on the desk of the thread that asked for it (see `drive.rs`).
    pub on_desk: bool,
}

impl State {
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.closing || self.failed.is_some()
    }

    /// The last id that is durable, given what the writer has just made so and what is still asked.
    pub(crate) fn settle_durable(&mut self, written: Option<LogId>) {
        self.written = written;
        let mut durable = written;
        if self.rewinds_queued > 0 {
            for item in &self.queue {
                match item {
                    Item::Truncate(last) if next_position(*last) < next_position(durable) => {
                        durable = *last;
                    }
                    Item::Snapshot { kept: false, .. } => durable = None,
                    _ => {}
                }
            }
        }
        self.durable = durable;
        self.ring.evict(durable.map(|id| id.position));
    }
}

/// What the log, its writer and its keeper share.
pub(crate) struct Shared {
    pub ids: Ids,
    pub options: Options,
    pub state: Mutex<State>,
    pub wake: Condvar,
    pub notify: Notify,
    pub index: RwLock<Index>,
    pub shelf: Arc<Shelf>,
    pub queued_bytes: AtomicUsize,
    pub keeper: KeeperBell,
    pub holes: Mutex<Vec<Wound>>,
    /// The writer, where other threads than its own may drive it.
    pub pen: OnceLock<Pen>,
    /// Plans in a row, up to a limit, that were small and done at once.
    pub calm: AtomicU32,
    /// Set with `state.failed`.
    pub failed_told: watch::Sender<bool>,
    /// Held by whoever writes into a hole.
    pub patching: Mutex<()>,
    pub holes_count: watch::Sender<usize>,
    /// Places (segment, offset) that cannot be read and held nothing, and where each ends.
    pub scars: Mutex<BTreeMap<(u64, u64), u64>>,
    /// Holes that were filled since the start, before the log ran or later.
    pub repaired: AtomicU64,
    pub metrics: Metrics,
}

impl Shared {
    /// Wakes the writer's driver if it waits.
    pub(crate) fn ring_bell(&self, state: &mut State) {
        state.on_desk = false;
        if state.parked {
            state.parked = false;
            self.wake.notify_one();
            self.notify.notify_one();
        }
    }

    /// Latches a failure: everything asked and unanswered is answered with it, and nothing is ever
    /// written again. What failed must not be tried once more: after a failed sync the kernel may
    /// call pages clean that never reached the disk.
    pub(crate) fn fail(&self, why: &str) {
        let mut waiters: Vec<Done> = Vec::new();
        {
            let mut state = self.state.lock();
            if state.failed.is_none() {
                state.failed = Some(why.into());
                self.failed_told.send_replace(true);
            }
            for item in state.queue.drain(..) {
                match item {
                    Item::Entries { done, .. }
                    | Item::Vote { done, .. }
                    | Item::Snapshot { done, .. }
                    | Item::Barrier(done) => waiters.push(done),
                    Item::Truncate(_) | Item::Purge(_) | Item::Version(_) | Item::Applied(_) => {}
                }
            }
            state.versions_queued = 0;
            state.rewinds_queued = 0;
            self.queued_bytes.store(0, Ordering::Relaxed);
            self.ring_bell(&mut state);
        }
        for done in waiters {
            done(Err(failed_error(why)));
        }
    }
}

pub(crate) fn failed_error(why: &str) -> io::Error {
    io::Error::other(Error::Failed(why.to_string()))
}

/// Wakes the keeper.
#[derive(Default)]
pub(crate) struct KeeperBell {
    pub rung: Mutex<Bell>,
    pub wake: Condvar,
    pub notify: Notify,
}

#[derive(Default)]
pub(crate) struct Bell {
    pub rung: bool,
    pub stop: bool,
}

impl KeeperBell {
    pub(crate) fn ring(&self) {
        let mut bell = self.rung.lock();
        if !bell.rung {
            bell.rung = true;
            self.wake.notify_one();
            self.notify.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.rung.lock().stop = true;
        self.ring();
    }
}

/// A handle to the log of one journal on this node. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("ids", &self.shared.ids).field("last", &self.last()).finish()
    }
}

impl Log {
    /// Appends entries, whose positions follow the last one. They are readable when this returns;
    /// `done` is answered when a sync covers them and everything asked before them.
    ///
    /// Of several appends that one sync makes durable only the newest is answered; the `done` of
    /// the others is dropped. A failure answers all of them.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        let Some(first) = entries.first().map(|entry| entry.id) else {
            return self.barrier(done);
        };
        let weight: usize = entries.iter().map(LogEntry::weight).sum();
        let refused = {
            let mut state = self.shared.state.lock();
            if let Some(why) = &state.failed {
                Some(failed_error(why))
            } else if state.closing {
                Some(io::Error::other("the log is closed"))
            } else if let Err(error) = state.outline.take(first, &entries) {
                Some(error)
            } else {
                for entry in &entries {
                    state.ring.push(entry.clone());
                }
                self.shared.queued_bytes.fetch_add(weight, Ordering::Relaxed);
                let asked = Instant::now();
                state.queue.push_back(Item::Entries { entries, done, asked });
                drive::call_writer(&self.shared, &mut state);
                return;
            }
        };
        done(Err(refused.expect("the other way out returned")));
    }

    /// Stores the vote. `done` is answered when it and everything asked before it is durable.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.enqueue_answered(done, |state, done| {
            state.vote = Some(vote);
            Item::Vote { vote, done }
        });
    }

    /// Answers `done` when everything asked before is durable.
    pub fn barrier(&self, done: Done) {
        self.enqueue_answered(done, |_, done| Item::Barrier(done));
    }

    /// Removes everything after `last`; what is appended next follows it.
    pub fn truncate_after(&self, last: Option<LogId>) {
        self.enqueue(|shared, state| {
            let first_removed = next_position(last);
            if first_removed >= next_position(state.outline.last()) {
                return Ok(None);
            }
            if last.is_some_and(|last| !state.outline.contains(last))
                || first_removed < next_position(state.outline.purged())
            {
                return Err(format!("asked to truncate after {last:?}, which is not in the log"));
            }
            state.outline.cut(first_removed);
            state.versions.cut(first_removed);
            state.ring.cut(first_removed);
            if next_position(state.durable) > first_removed {
                state.durable = last;
            }
            shared.forget_holes(|hole| hole.first >= first_removed);
            Ok(Some(Item::Truncate(last)))
        });
    }

    /// Makes `upto` the purge mark: nothing up to it can be read any more, and the keeper removes
    /// segments that hold nothing else. A mark beyond the end of the log empties it.
    pub fn purge(&self, upto: LogId) {
        self.enqueue(|shared, state| {
            // Nothing lies there that could go.
            if upto.position < next_position(state.outline.purged()) || upto.position < state.outline.first_position() {
                return Ok(None);
            }
            if state.outline.contains(upto) {
                state.outline.purge(upto);
            } else if upto.position >= next_position(state.outline.last()) {
                state.outline.reset(Some(upto));
                state.ring.clear();
                state.durable = None;
            } else {
                return Err(format!("asked to purge up to {upto}, which is not in the log"));
            }
            state.versions.purge(upto);
            shared.forget_holes(|hole| hole.last <= upto.position);
            Ok(Some(Item::Purge(upto)))
        });
    }

    /// What Raft knows to be committed. Rides in the header of whatever is written next.
    pub fn commit_hint(&self, committed: LogId) {
        let mut state = self.shared.state.lock();
        state.committed = Some(committed);
    }

    /// What has been applied to the replicated state. Rides likewise, but never ahead of a version
    /// that was saved before.
    pub fn applied_hint(&self, applied: LogId) {
        let mut state = self.shared.state.lock();
        if state.versions_queued == 0 {
            state.applied = Some(applied);
            return;
        }
        if let Some(Item::Applied(last)) = state.queue.back_mut() {
            *last = applied;
        } else {
            state.queue.push_back(Item::Applied(applied));
        }
    }

    /// Stores a version of the state. Nobody waits for it: lost, it is made again by applying.
    pub fn save_version(&self, version: Version) {
        self.enqueue(|shared, state| {
            let weight = version.bytes.len();
            shared.queued_bytes.fetch_add(weight, Ordering::Relaxed);
            state.versions.save(version.clone());
            Ok(Some(Item::Version(version)))
        });
    }

    /// Makes the log begin after `version.at`, whose chain checksum is `chain`. What follows that
    /// very id in the log is kept; if the id is not in the log, nothing is.
    pub fn install_snapshot(&self, version: Version, chain: u64, done: Done) {
        let shared = self.shared.clone();
        self.enqueue_answered(done, move |state, done| {
            let at = version.at;
            if at.position < next_position(state.outline.purged()) {
                return Item::Barrier(done);
            }
            let kept = state.outline.contains(at);
            if kept {
                state.outline.purge(at);
                state.versions.install(version.clone());
                shared.forget_holes(|hole| hole.last <= at.position);
            } else {
                state.outline.reset(Some(at));
                state.versions = Versions::new(vec![version.clone()]);
                state.ring.clear();
                state.durable = None;
                shared.forget_holes(|_| true);
            }
            shared.queued_bytes.fetch_add(version.bytes.len(), Ordering::Relaxed);
            Item::Snapshot { version, chain, kept, done }
        });
    }

    pub fn vote(&self) -> Option<Vote> {
        self.shared.state.lock().vote
    }

    pub fn purged(&self) -> Option<LogId> {
        self.shared.state.lock().outline.purged()
    }

    /// The lowest position that is present, or would be if there were one.
    pub fn first_position(&self) -> u64 {
        self.shared.state.lock().outline.first_position()
    }

    /// The last entry present, or the purge mark.
    pub fn last(&self) -> Option<LogId> {
        self.shared.state.lock().outline.last()
    }

    /// The last entry that is synced here (or the purge mark, once that is).
    pub fn durable(&self) -> Option<LogId> {
        self.shared.state.lock().durable
    }

    /// The last id of what a crash at this moment would leave. Other than [`Log::durable`] it does
    /// not know of truncations and snapshots that are still to be written.
    pub fn written(&self) -> Option<LogId> {
        self.shared.state.lock().written
    }

    /// The commit hint found at the start, if exactly that id was in the log or is its purge mark.
    pub fn recovered_commit(&self) -> Option<LogId> {
        self.shared.state.lock().recovered_commit
    }

    /// The applied hint found at the start, likewise.
    pub fn recovered_applied(&self) -> Option<LogId> {
        self.shared.state.lock().recovered_applied
    }

    /// Oldest first; the first one at or below the purge mark is the snapshot.
    pub fn versions(&self) -> Vec<Version> {
        self.shared.state.lock().versions.as_slice().to_vec()
    }

    /// The id at a position that is present or is the purge mark's.
    pub fn log_id_at(&self, position: u64) -> Option<LogId> {
        self.shared.state.lock().outline.id_at(position)
    }

    /// The first id of each term among the entries present, then the last id.
    pub fn term_runs(&self) -> Vec<LogId> {
        let state = self.shared.state.lock();
        let mut runs = state.outline.runs().to_vec();
        if let (Some(first), Some(last)) = (runs.last().copied(), state.outline.last())
            && first != last
        {
            runs.push(last);
        }
        runs
    }

    /// The chain checksum at a position that is present or is the purge mark's. Answers for what is
    /// written: what is asked of it before that waits in vain for its entry.
    pub fn chain_at_blocking(&self, position: u64) -> Result<u64, Error> {
        reader::chain_at_blocking(&self.shared, position)
    }

    /// Entries of `[from, to)` from memory, at least one whatever its size, then up to `max_bytes`.
    /// `None`: `from` is not in memory.
    pub fn read_cached(&self, from: u64, to: u64, max_bytes: usize) -> Option<Vec<LogEntry>> {
        let state = self.shared.state.lock();
        if from < next_position(state.outline.purged()) {
            return None;
        }
        let mut out = Vec::new();
        let mut bytes = 0;
        let held = state.ring.read(from, to, max_bytes, &mut bytes, &mut out);
        (held && !out.is_empty()).then_some(out)
    }

    /// Entries of `[from, to)`, checked, at least one if there is one, then up to `max_bytes`. Ends
    /// early at the last entry, and before a hole that does not begin at `from`.
    pub fn read_blocking(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<LogEntry>, Error> {
        reader::read_blocking(&self.shared, from, to, max_bytes)
    }

    /// Offers entries for holes in synced segments, found while reading. A hole is filled when all
    /// of it has been offered and it proves to be the same: identities match and the chain closes.
    pub fn patch_blocking(&self, entries: &[LogEntry]) -> Result<(), Error> {
        super::repair::patch_blocking(&self.shared, entries)
    }

    /// Looks at all open holes again: one that can be read now is none.
    pub fn recheck_blocking(&self) -> Result<(), Error> {
        super::repair::recheck(&self.shared)
    }

    /// Holes found while reading that are still open.
    pub fn holes(&self) -> Vec<Hole> {
        self.shared.holes.lock().iter().map(|wound| wound.hole.clone()).collect()
    }

    /// Segments with holes that are still open.
    pub fn damaged_segments(&self) -> u64 {
        let holes = self.shared.holes.lock();
        holes.iter().map(|wound| wound.hole.segment).collect::<BTreeSet<u64>>().len() as u64
    }

    /// Holes filled by this process, those found at its start among them.
    pub fn repaired(&self) -> u64 {
        self.shared.repaired.load(Ordering::Relaxed)
    }

    /// Changes whenever a hole is found or filled; the value is their number.
    pub fn watch_holes(&self) -> watch::Receiver<usize> {
        self.shared.holes_count.subscribe()
    }

    pub fn disk_bytes(&self) -> u64 {
        self.shared.index.read().disk_bytes() + self.shared.shelf.spare_bytes()
    }

    /// Bytes asked for and not yet synced.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queued_bytes.load(Ordering::Relaxed)
    }

    /// Why nothing is written any more.
    pub fn failed(&self) -> Option<String> {
        self.shared.state.lock().failed.as_ref().map(|why| why.to_string())
    }

    /// Waits until nothing is written any more, and says why.
    pub async fn failure(&self) -> String {
        let mut told = self.shared.failed_told.subscribe();
        // The sender is ours: it outlives this call.
        let _ = told.wait_for(|failed| *failed).await;
        self.failed().unwrap_or_default()
    }

    /// Lets the writer write what is queued and a clean-stop mark, sync, and end.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closing = true;
        self.shared.ring_bell(&mut state);
        drop(state);
        self.shared.keeper.stop();
    }

    /// Waits, after [`Log::close`], until nobody writes into a hole any more.
    pub fn wait_for_patches_blocking(&self) {
        drop(self.shared.patching.lock());
    }

    fn enqueue_answered(&self, done: Done, make: impl FnOnce(&mut State, Done) -> Item) {
        let refused = {
            let mut state = self.shared.state.lock();
            if let Some(why) = &state.failed {
                failed_error(why)
            } else if state.closing {
                io::Error::other("the log is closed")
            } else {
                let item = make(&mut state, done);
                if matches!(item, Item::Snapshot { .. }) {
                    state.versions_queued += 1;
                    state.rewinds_queued += 1;
                }
                state.queue.push_back(item);
                self.shared.ring_bell(&mut state);
                return;
            }
        };
        done(Err(refused));
    }

    /// Enqueues what nobody waits for. A request that contradicts the log is a bug above: it latches
    /// rather than guess.
    fn enqueue(&self, make: impl FnOnce(&Shared, &mut State) -> Result<Option<Item>, String>) {
        let result = {
            let mut state = self.shared.state.lock();
            if state.failed.is_some() || state.closing {
                return;
            }
            make(&self.shared, &mut state).map(|item| {
                let Some(item) = item else { return };
                match item {
                    Item::Version(_) => state.versions_queued += 1,
                    Item::Truncate(_) | Item::Purge(_) => state.rewinds_queued += 1,
                    _ => {}
                }
                state.queue.push_back(item);
                self.shared.ring_bell(&mut state);
            })
        };
        if let Err(why) = result {
            self.shared.fail(&why);
        }
    }
}

impl Outline {
    /// Takes up entries that were appended, or says why they do not fit.
    fn take(&mut self, first: LogId, entries: &[LogEntry]) -> io::Result<()> {
        let mut trial_last = self.last();
        for entry in entries {
            let fits = match trial_last {
                None => true,
                Some(last) => entry.id.position == last.position + 1 && entry.id.term >= last.term,
            };
            if !fits {
                return Err(io::Error::other(Error::Refused {
                    why: format!("entry {} cannot follow {trial_last:?}", entry.id),
                }));
            }
            trial_last = Some(entry.id);
        }
        let mut run_first = first;
        let mut count = 0;
        for entry in entries {
            if entry.id.term != run_first.term {
                self.push(run_first, count);
                run_first = entry.id;
                count = 0;
            }
            count += 1;
        }
        self.push(run_first, count);
        Ok(())
    }
}
