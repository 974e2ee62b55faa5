//! What can be read: the index and the store up to the revision that was published.
//!
//! Apply may be ahead in the index; nothing above the published revision is shown. Long reads let go of
//! the index between steps, and check afterwards that no compaction took from under them what they
//! read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proto::{Position, mvccpb};

use crate::answers::Claim;
use crate::command::{AlarmKind, Compare, Op, Range, SortOrder, SortTarget, Txn};
use crate::mvcc::{At, Comparison, Found, RangeScan, Refusal, Revision, Row, RowRef, Selection, State, ValueLost};
use crate::store::{Store, StoreError};
use crate::watch::key_value;

/// Keys that one step of a read looks at while it holds the index.
const STEP_KEYS: usize = 1000;
/// Values fetched at once.
const FETCH_ROWS: usize = 1000;
/// One piece of the past, for watchers.
const HISTORY_ROWS: usize = 4096;
const HISTORY_BYTES: usize = 4 << 20;
/// What a key of an answer takes while it is made, beside its bytes: what was found, the message, its envelope.
const KEY_BYTES: usize = 224;
/// Counts remembered for pages that will be asked for.
const PAGES_MAX: usize = 4096;

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What an answer is to show is forgotten by now: whoever asked did not take it in time.
    #[error("it is forgotten")]
    Late,
    /// The store is broken: the process must end.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lost(#[from] ValueLost),
}

/// The answer to a range request.
#[derive(Debug, Default)]
pub struct Page {
    /// The current revision, whichever was read.
    pub revision: Revision,
    pub kvs: Vec<mvccpb::KeyValue>,
    pub more: bool,
    pub count: i64,
}

/// The answer to a Txn that has reads only.
#[derive(Debug)]
pub struct TxnRead {
    /// As of which it was answered.
    pub revision: Revision,
    pub succeeded: bool,
    /// One for each range of the branch that ran.
    pub pages: Vec<Page>,
}

/// A piece of the past.
#[derive(Debug)]
pub struct History {
    pub rows: Vec<Row>,
    /// Everything before this revision, from the one asked for on, is in `rows`.
    pub next: Revision,
}

/// What may be shown, as apply has left it.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    pub revision: Revision,
    pub applied: Position,
    pub compact_revision: Revision,
    pub logical_bytes: u64,
    pub learners: bool,
}

impl Published {
    pub fn of(state: &State) -> Published {
        Published {
            revision: state.revision(),
            applied: state.applied(),
            compact_revision: state.compact_revision(),
            logical_bytes: state.logical_bytes(),
            learners: state.has_learners(),
        }
    }
}

/// The readable part of the store. Cheap to clone.
#[derive(Clone)]
pub struct View(Arc<Inner>);

struct Inner {
    state: Arc<RwLock<State>>,
    store: Store,
    revision: AtomicI64,
    applied: AtomicU64,
    /// Beside the revision, so that most calls need no lock.
    compact_revision: AtomicI64,
    logical_bytes: AtomicU64,
    learners: AtomicBool,
    /// What no read at or above this revision sees may be gone.
    forgotten: AtomicI64,
    /// How many keys remain from a key on, at a revision: what the next page will need to know.
    pages: Mutex<Pages>,
    /// How the store failed, once it did.
    broken: Mutex<Option<String>>,
}

type PageKey = (Revision, Bytes, Bytes);

#[derive(Default)]
struct Pages {
    counts: BTreeMap<PageKey, u64>,
    order: VecDeque<PageKey>,
}

impl View {
    pub fn new(state: Arc<RwLock<State>>, store: Store) -> View {
        let published = Published::of(&state.read());
        View(Arc::new(Inner {
            state,
            store,
            revision: AtomicI64::new(published.revision),
            applied: AtomicU64::new(published.applied.0),
            compact_revision: AtomicI64::new(published.compact_revision),
            logical_bytes: AtomicU64::new(published.logical_bytes),
            learners: AtomicBool::new(published.learners),
            forgotten: AtomicI64::new(0),
            pages: Mutex::new(Pages::default()),
            broken: Mutex::default(),
        }))
    }

    /// Everything up to that revision is written and may be shown. Only the applier says so.
    ///
    /// What a compaction makes unreadable is forgotten much later than this, so a read that just misses
    /// it still finds everything.
    pub fn publish(&self, published: Published) {
        self.0.logical_bytes.store(published.logical_bytes, Ordering::Relaxed);
        self.0.compact_revision.store(published.compact_revision, Ordering::Release);
        self.0.learners.store(published.learners, Ordering::Release);
        self.0.revision.store(published.revision, Ordering::Release);
        self.0.applied.store(published.applied.0, Ordering::Release);
    }

    /// What no read at or above `floor` sees will be forgotten. Whoever forgets says so before.
    pub fn will_forget(&self, floor: Revision) {
        self.0.forgotten.fetch_max(floor, Ordering::AcqRel);
    }

    pub fn revision(&self) -> Revision {
        self.0.revision.load(Ordering::Acquire)
    }

    /// The next position to apply.
    pub fn applied(&self) -> Position {
        Position(self.0.applied.load(Ordering::Acquire))
    }

    pub fn compact_revision(&self) -> Revision {
        self.0.compact_revision.load(Ordering::Acquire)
    }

    pub fn logical_bytes(&self) -> u64 {
        self.0.logical_bytes.load(Ordering::Relaxed)
    }

    /// Whether this member is a learner. Where nobody is, that costs no lock.
    pub fn is_learner(&self, id: u64) -> bool {
        let learner = |state: &State| state.member(id).is_some_and(|member| member.learner);
        self.0.learners.load(Ordering::Acquire) && self.with_state(learner)
    }

    pub fn has_alarm(&self, kind: AlarmKind) -> bool {
        self.0.state.read().alarms().any(|alarm| alarm.kind == kind)
    }

    /// Looks at the state for a moment: leases, members, alarms. It may be ahead of the published
    /// revision, and must not be held.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state.read())
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// How the store failed, if it ever did. Whoever applies looks here, and ends the process: an error of the
    /// store is nobody's answer.
    pub fn broken(&self) -> Option<String> {
        self.0.broken.lock().clone()
    }

    /// Remembers that the store failed.
    pub fn noted<T>(&self, read: Result<T, ReadError>) -> Result<T, ReadError> {
        if let Err(error @ (ReadError::Store(_) | ReadError::Lost(_))) = &read {
            self.0.broken.lock().get_or_insert_with(|| error.to_string());
        }
        read
    }

    /// Answers a range request. If the claim is refused, the page has no keys and is no answer.
    pub fn range(&self, request: &Range, claim: &mut Claim) -> Result<Page, ReadError> {
        loop {
            claim.restart();
            let published = self.revision();
            let revision = if request.revision <= 0 { published } else { request.revision };
            match self.range_at(request, revision, published, claim) {
                // What was current is history by now, and even compacted: what is current now will do.
                Err(ReadError::Refused(Refusal::Compacted)) if request.revision <= 0 && published < self.revision() => {
                }
                answer => return self.noted(answer),
            }
        }
    }

    fn range_at(
        &self,
        request: &Range,
        revision: Revision,
        published: Revision,
        claim: &mut Claim,
    ) -> Result<Page, ReadError> {
        self.check(revision, published)?;
        let selection = self.select(request.clone(), At::end_of(revision));
        let page = selection.and_then(|selection| {
            let kvs = self.fetch(&selection.found, request.keys_only, claim)?;
            self.expect_next_page(request, revision, &selection);
            Ok(Page { revision: published, kvs, more: selection.more, count: selection.count })
        });
        // A compaction that passed explains whatever is missing.
        self.check(revision, published)?;
        page
    }

    /// What a range read inside a Txn found, at the place where it stood.
    pub fn range_in_txn(&self, request: Range, bound: At, claim: &mut Claim) -> Result<Page, ReadError> {
        let keys_only = request.keys_only;
        let page = self.select(request, bound).and_then(|selection| {
            let kvs = self.fetch(&selection.found, keys_only, claim)?;
            Ok(Page { revision: bound.main, kvs, more: selection.more, count: selection.count })
        });
        self.in_time(bound, page)
    }

    /// What was there at `bound` may be forgotten by now: then nothing that was read of it counts, not even that
    /// something is missing.
    fn in_time<T>(&self, bound: At, read: Result<T, ReadError>) -> Result<T, ReadError> {
        match At::end_of(self.0.forgotten.load(Ordering::Acquire)) > bound {
            true => Err(ReadError::Late),
            false => self.noted(read),
        }
    }

    /// Answers a Txn that has reads only, all of it as of one revision. If the claim is refused, its pages have
    /// no keys.
    pub fn txn(&self, txn: &Txn, claim: &mut Claim) -> Result<TxnRead, ReadError> {
        loop {
            claim.restart();
            let revision = self.revision();
            let read = self.txn_at(txn, revision, claim);
            // What was current is compacted: what is current now will do.
            if self.compact_revision() <= revision {
                return self.noted(read);
            }
        }
    }

    fn txn_at(&self, txn: &Txn, revision: Revision, claim: &mut Claim) -> Result<TxnRead, ReadError> {
        let now = At::end_of(revision);
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = self.holds(compare, now)?;
            if !succeeded {
                break;
            }
        }
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let ranges = || branch.iter().filter_map(|op| if let Op::Range(range) = op { Some(range) } else { None });
        let check = || {
            let mut asked = ranges().map(|range| range.revision).filter(|revision| *revision != 0);
            asked.try_for_each(|asked| self.check(asked, revision))
        };
        check()?;
        let read = |range: &Range| {
            let bound = if range.revision > 0 { At::end_of(range.revision) } else { now };
            let selection = self.select(range.clone(), bound)?;
            let kvs = self.fetch(&selection.found, range.keys_only, claim)?;
            Ok(Page { revision, kvs, more: selection.more, count: selection.count })
        };
        let pages: Result<Vec<Page>, ReadError> = ranges().map(read).collect();
        // A compaction that passed explains whatever is missing.
        check()?;
        Ok(TxnRead { revision, succeeded, pages: pages? })
    }

    /// Whether a comparison held at that place. Values are read while nobody holds the index.
    fn holds(&self, compare: &Compare, bound: At) -> Result<bool, ReadError> {
        let mut comparison = Comparison::new(compare, bound);
        loop {
            let last = comparison.step(self.0.state.read().index(), STEP_KEYS);
            let wanted = comparison.wanted();
            self.0.store.visit(&wanted, &mut |_, row| comparison.see(row.value))?;
            // Keys that are gone are looked at too: a step that saw none alive says nothing.
            if last || comparison.has_failed() {
                return Ok(comparison.holds());
            }
        }
    }

    /// The versions that a write replaced, which an answer names: those before its revision.
    pub fn replaced(
        &self,
        places: &[At],
        revision: Revision,
        claim: &mut Claim,
    ) -> Result<Vec<mvccpb::KeyValue>, ReadError> {
        let mut kvs = Vec::with_capacity(places.len());
        // A write that replaced nothing has no revision of its own: what is forgotten says nothing about it.
        if places.is_empty() {
            return Ok(kvs);
        }
        // Twice: as a row, and as it is sent. How large it is, only the row tells.
        let mut see = |i: usize, row: RowRef<'_>| {
            if claim.grow(2 * (row.key.len() + row.value.len()) + KEY_BYTES) {
                kvs.push(key_value(&row.to_row(places[i])));
            }
        };
        let read = self.0.store.visit(places, &mut see).map_err(ReadError::from);
        self.in_time(At::end_of(revision - 1), read)?;
        Ok(kvs)
    }

    fn stored(&self, places: &[At]) -> Result<Vec<Row>, ReadError> {
        self.noted(self.0.store.rows(places).map_err(ReadError::from))
    }

    fn scanned(&self, from: At, to: At) -> Result<Vec<Row>, ReadError> {
        self.noted(self.0.store.scan(from, to, HISTORY_ROWS, HISTORY_BYTES).map_err(ReadError::from))
    }

    /// The rows of whole revisions from `from` on, up to `upto`: a piece of them.
    pub fn history(&self, from: Revision, upto: Revision) -> Result<History, ReadError> {
        let end = At::start_of(upto + 1);
        let mut rows = self.scanned(At::start_of(from), end)?;
        let Some(last) = rows.last().map(|row| row.at.main) else {
            return Ok(History { rows, next: upto + 1 });
        };
        if last == upto {
            // It may have been cut within the last revision.
            self.complete(&mut rows, last)?;
            return Ok(History { rows, next: upto + 1 });
        }
        let whole = rows.partition_point(|row| row.at.main < last);
        match whole {
            // One revision that is larger than a piece.
            0 => self.complete(&mut rows, last)?,
            whole => {
                rows.truncate(whole);
                return Ok(History { rows, next: last });
            }
        }
        Ok(History { rows, next: last + 1 })
    }

    /// The version that was there before the revision of this row, if it is still known. A key that its
    /// revision creates has none, also where the same revision deleted an older one.
    pub fn previous(&self, row: &Row) -> Result<Option<Row>, ReadError> {
        if row.create == row.at.main {
            return Ok(None);
        }
        let before = At::end_of(row.at.main - 1);
        let at = self.with_state(|state| {
            state.index().at(&row.key, before).filter(|version| !version.is_tombstone()).map(|version| version.at)
        });
        match at {
            None => Ok(None),
            Some(at) => Ok(self.stored(&[at])?.pop()),
        }
    }

    /// Reads the rest of a revision of which a part was read.
    fn complete(&self, rows: &mut Vec<Row>, revision: Revision) -> Result<(), ReadError> {
        while let Some(last) = rows.last().map(|row| row.at) {
            let from = At { main: last.main, sub: last.sub + 1 };
            let more = self.scanned(from, At::start_of(revision + 1))?;
            if more.is_empty() {
                break;
            }
            rows.extend(more);
        }
        Ok(())
    }

    fn check(&self, revision: Revision, published: Revision) -> Result<(), ReadError> {
        if revision > published {
            return Err(Refusal::FutureRevision.into());
        }
        match revision < self.compact_revision() {
            true => Err(Refusal::Compacted.into()),
            false => Ok(()),
        }
    }

    fn select(&self, request: Range, bound: At) -> Result<Selection, ReadError> {
        // Pages are asked for at the revision of the first one.
        let known = match request.revision {
            ..=0 => None,
            revision => self.0.pages.lock().counts.get(&page_key(&request, revision)).copied(),
        };
        let mut scan = RangeScan::new(request, bound);
        if let Some(count) = known {
            scan = scan.with_count(count);
        }
        while !scan.step(self.0.state.read().index(), STEP_KEYS) {}
        Ok(scan.finish(&self.0.store)?)
    }

    fn fetch(&self, found: &[Found], keys_only: bool, claim: &mut Claim) -> Result<Vec<mvccpb::KeyValue>, ReadError> {
        let value = |found: &Found| if keys_only { 0 } else { found.version.size as usize };
        // Twice: as it is read, and as it is sent.
        let cost = |found: &Found| 2 * (found.key.len() + value(found)) + KEY_BYTES;
        if !claim.grow(found.iter().map(cost).sum()) {
            return Ok(Vec::new());
        }
        if keys_only {
            return Ok(found.iter().map(key_only).collect());
        }
        let mut kvs = Vec::with_capacity(found.len());
        for part in found.chunks(FETCH_ROWS) {
            self.fetch_part(part, &mut kvs)?;
        }
        Ok(kvs)
    }

    /// Keys and values of a part lie in one buffer: a page has thousands, and each of its own would cost more
    /// than what is in it.
    fn fetch_part(&self, part: &[Found], kvs: &mut Vec<mvccpb::KeyValue>) -> Result<(), ReadError> {
        let places: Vec<At> = part.iter().map(|found| found.version.at).collect();
        let before = kvs.len();
        kvs.extend(places.iter().map(|at| mvccpb::KeyValue { mod_revision: at.main, ..Default::default() }));
        let bytes = part.iter().map(|found| found.key.len() + found.version.size as usize).sum();
        let mut buffer = Vec::with_capacity(bytes);
        let mut spans = vec![(0, 0, 0); places.len()];
        self.0.store.visit(&places, &mut |i, row| {
            let start = buffer.len();
            buffer.extend_from_slice(row.key);
            let key_end = buffer.len();
            buffer.extend_from_slice(row.value);
            let kv = &mut kvs[before + i];
            (kv.create_revision, kv.version, kv.lease) = (row.create, row.version, row.lease);
            spans[i] = (start, key_end, buffer.len());
        })?;
        let buffer = Bytes::from(buffer);
        for (kv, (start, key_end, end)) in kvs[before..].iter_mut().zip(spans) {
            kv.key = buffer.slice(start..key_end);
            kv.value = buffer.slice(key_end..end);
        }
        Ok(())
    }

    /// Whoever got a page with more behind it will ask for the next one at the same revision.
    fn expect_next_page(&self, request: &Range, revision: Revision, page: &Selection) {
        let in_key_order = request.sort_target == SortTarget::Key && request.sort_order != SortOrder::Descend;
        let filters = [
            request.mod_revision_min,
            request.mod_revision_max,
            request.create_revision_min,
            request.create_revision_max,
        ];
        let predictable = page.more && in_key_order && filters == [0; 4];
        let Some(last) = page.found.last().filter(|_| predictable) else { return };
        let next = Bytes::from([&last.key[..], &[0]].concat());
        let rest = (page.count as u64).saturating_sub(page.found.len() as u64);
        let key = (revision, next, request.range_end.clone());
        let mut pages = self.0.pages.lock();
        if pages.counts.insert(key.clone(), rest).is_none() {
            pages.order.push_back(key);
        }
        if pages.order.len() > PAGES_MAX {
            let oldest = pages.order.pop_front().expect("there are many");
            pages.counts.remove(&oldest);
        }
    }
}

fn page_key(request: &Range, revision: Revision) -> PageKey {
    (revision, request.key.clone(), request.range_end.clone())
}

fn key_only(found: &Found) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::copy_from_slice(&found.key),
        create_revision: found.version.create,
        mod_revision: found.version.at.main,
        version: found.version.version,
        value: Bytes::new(),
        lease: found.version.lease,
    }
}
