//! The writer: takes what is queued, plans, performs, reports. A plain state machine; what drives it
//! is in `drive.rs`.
//!
//! Group commit comes of itself: while one plan is being synced the next one gathers. There is never
//! more than one plan under way, so a crash loses a part of one plan at most.
//!
//! A failed write or sync is final. The failure is latched, everybody is told, nothing is retried.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::format::{SUB_IDLE, SUB_STOP};
use super::index::Index;
use super::log::{Item, Shared, failed_error};
use super::sheet::{Effect, Sheet};
use super::tape::Tape;
use super::types::{Done, LogEntry, LogId};

/// Staging memory kept between plans.
const KEEP_STAGED_BYTES: usize = 1 << 20;

/// Memory of a journal that nobody writes to is given back after so long.
const IDLE_MEMORY: Duration = Duration::from_secs(2);

/// What the writer would do next.
#[expect(clippy::large_enum_variant, reason = "plans are what it is for")]
pub enum Step {
    /// Perform this plan, then report with [`Writer::done`].
    Write(Plan),
    /// Nothing is queued. With `mark_due`, write [`Writer::mark`] if that stays so for a while.
    Idle { mark_due: bool },
    /// The log was closed or has failed. Nothing will ever be written again.
    Closed,
}

/// One batch: writes and one sync (two where a segment ends).
pub struct Plan {
    sheet: Sheet,
    /// Why it could not even be planned.
    error: Option<io::Error>,
    answers: Vec<Answer>,
    weight: usize,
    /// The log's last id and purge mark once this is synced.
    last: Option<LogId>,
    purged: Option<LogId>,
    closes: bool,
    /// When the oldest of its entries was asked for.
    oldest: Option<Instant>,
}

enum Answer {
    Append(Done),
    Other(Done),
}

impl Plan {
    /// Bytes to be written.
    pub fn bytes(&self) -> u64 {
        self.sheet.bytes
    }

    pub fn entries(&self) -> usize {
        self.sheet.entries
    }
}

pub struct Writer {
    pub(crate) shared: Arc<Shared>,
    tape: Tape,
    /// Memory of the last plan, for the next one.
    spare: Option<Sheet>,
    /// Plans reported so far.
    pub(crate) plans: u64,
    ended: bool,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, tape: Tape) -> Self {
        Writer { shared, tape, spare: None, plans: 0, ended: false }
    }

    /// Takes what is queued, up to a batch, and plans it.
    pub fn take(&mut self) -> Step {
        if self.ended {
            return Step::Closed;
        }
        let mut items = Vec::new();
        let mut weight = 0;
        {
            let mut state = self.shared.state.lock();
            if state.failed.is_some() {
                self.ended = true;
                return Step::Closed;
            }
            self.tape.registers.committed = state.committed.or(self.tape.registers.committed);
            if state.versions_queued == 0 {
                self.tape.registers.applied = state.applied.or(self.tape.registers.applied);
            }
            let mut entries = 0;
            while let Some(item) = state.queue.front() {
                let (item_entries, item_weight) = measure(item);
                let options = &self.shared.options;
                if !items.is_empty()
                    && (entries + item_entries > options.batch_entries || weight + item_weight > options.batch_bytes)
                {
                    break;
                }
                entries += item_entries;
                weight += item_weight;
                let item = state.queue.pop_front().expect("there is a front item");
                match &item {
                    Item::Version(_) => state.versions_queued -= 1,
                    Item::Snapshot { .. } => {
                        state.versions_queued -= 1;
                        state.rewinds_queued -= 1;
                    }
                    Item::Truncate(_) | Item::Purge(_) => state.rewinds_queued -= 1,
                    Item::Applied(applied) => state.applied = Some(*applied),
                    Item::Entries { .. } | Item::Vote { .. } | Item::Barrier(_) => {}
                }
                items.push(item);
            }
            if items.is_empty() && !state.closing {
                return Step::Idle { mark_due: !self.tape.proven };
            }
        }
        let closes = items.is_empty();
        let plan = self.plan(items, weight, closes);
        Step::Write(plan)
    }

    /// A plan for the idle mark, if nothing has been queued meanwhile.
    pub fn mark(&mut self) -> Option<Plan> {
        {
            let state = self.shared.state.lock();
            if !state.queue.is_empty() || state.failed.is_some() || state.closing {
                return None;
            }
            self.tape.registers.committed = state.committed.or(self.tape.registers.committed);
            self.tape.registers.applied = state.applied.or(self.tape.registers.applied);
        }
        let mut plan = self.empty_plan(0);
        let planned = self.tape.mark(&mut plan.sheet, SUB_IDLE);
        self.end_plan(&mut plan, planned);
        Some(plan)
    }

    /// Does what the plan says. May block for as long as the disk takes.
    pub fn perform(&self, plan: &Plan) -> io::Result<()> {
        if let Some(error) = &plan.error {
            return Err(io::Error::new(error.kind(), error.to_string()));
        }
        let started = Instant::now();
        let mut syncing = Duration::ZERO;
        plan.sheet.perform(|file| {
            let at = Instant::now();
            let result = match &self.shared.options.sync_watch {
                Some(watch) => watch.watch(&mut || file.sync()),
                None => file.sync(),
            };
            let took = at.elapsed();
            syncing += took;
            self.shared.metrics.sync_seconds.record(took.as_secs_f64());
            result
        })?;
        if !plan.sheet.is_empty() {
            let writing = started.elapsed().saturating_sub(syncing);
            self.shared.metrics.write_seconds.record(writing.as_secs_f64());
        }
        Ok(())
    }

    /// Reports what became of a plan: its entries are durable, or nothing ever will be again.
    pub fn done(&mut self, plan: Plan, result: io::Result<()>) {
        self.plans += 1;
        // Once something has failed nothing is called durable any more, whoever it failed for.
        let failed_before = self.shared.state.lock().failed.clone();
        let result = match failed_before {
            Some(why) => Err(io::Error::other(why.to_string())),
            None => result,
        };
        if let Err(error) = result {
            let why = error.to_string();
            tracing::error!(journal = self.shared.ids.group, error = why, "writing a segment failed");
            self.ended = true;
            self.shared.fail(&why);
            for answer in plan.answers {
                let (Answer::Append(done) | Answer::Other(done)) = answer;
                done(Err(failed_error(&why)));
            }
            return;
        }
        let Plan { mut sheet, answers, weight, last, purged, closes, oldest, .. } = plan;
        self.count(&sheet);
        if let Some(oldest) = oldest {
            self.shared.metrics.durable_seconds.record(oldest.elapsed().as_secs_f64());
        }
        let rotated = sheet.rotations > 0;
        if !sheet.effects.is_empty() {
            let mut index = self.shared.index.write();
            for effect in sheet.effects.drain(..) {
                apply_effect(&mut index, effect);
            }
            if rotated {
                self.shared.metrics.disk_bytes.set(index.disk_bytes() as f64);
            }
            index.set_written(purged, last);
        }
        let purge_moved = {
            let mut state = self.shared.state.lock();
            state.settle_durable(last);
            let moved = state.purged_durable != purged;
            state.purged_durable = purged;
            let registers = &self.tape.registers;
            state.purged_chain = registers.outline.purged().zip(registers.chain_at_purge);
            moved
        };
        self.shared.queued_bytes.fetch_sub(weight, Ordering::Relaxed);
        if purge_moved || rotated || self.spare_is_due() {
            self.shared.keeper.ring();
        }
        let newest_append = answers.iter().rposition(|answer| matches!(answer, Answer::Append(_)));
        for (i, answer) in answers.into_iter().enumerate() {
            match answer {
                Answer::Append(done) if Some(i) == newest_append => done(Ok(())),
                Answer::Append(_) => {}
                Answer::Other(done) => done(Ok(())),
            }
        }
        sheet.recycle(KEEP_STAGED_BYTES);
        self.spare = Some(sheet);
        if closes {
            self.ended = true;
        }
    }

    fn plan(&mut self, items: Vec<Item>, weight: usize, closes: bool) -> Plan {
        let mut plan = self.empty_plan(weight);
        plan.closes = closes;
        let mut oldest: Option<Instant> = None;
        let mut planned = Ok(());
        for item in items {
            // After a failure nothing more is laid out, but all must hear of it.
            let tape = planned.is_ok().then_some(&mut self.tape);
            let sheet = &mut plan.sheet;
            let step = match item {
                Item::Entries { entries, done, asked } => {
                    oldest.get_or_insert(asked);
                    plan.answers.push(Answer::Append(done));
                    tape.map(|tape| entries.into_iter().try_for_each(|entry| tape.push(sheet, entry)))
                }
                Item::Vote { vote, done } => {
                    plan.answers.push(Answer::Other(done));
                    tape.map(|tape| tape.vote(sheet, vote))
                }
                Item::Truncate(last) => tape.map(|tape| tape.truncate(sheet, last)),
                Item::Purge(upto) => tape.map(|tape| tape.purge(sheet, upto)),
                Item::Version(version) => tape.map(|tape| tape.version(sheet, version)),
                Item::Snapshot { version, chain, kept, done } => {
                    plan.answers.push(Answer::Other(done));
                    tape.map(|tape| tape.snapshot(sheet, version, chain, kept))
                }
                Item::Applied(applied) => tape.map(|tape| {
                    tape.registers.applied = Some(applied);
                    Ok(())
                }),
                Item::Barrier(done) => {
                    plan.answers.push(Answer::Other(done));
                    None
                }
            };
            if let Some(Err(error)) = step {
                planned = Err(error);
            }
        }
        if closes && planned.is_ok() {
            planned = self.tape.mark(&mut plan.sheet, SUB_STOP);
        }
        plan.oldest = oldest;
        if let Some(oldest) = oldest {
            self.shared.metrics.queue_age_seconds.record(oldest.elapsed().as_secs_f64());
        }
        self.end_plan(&mut plan, planned);
        plan
    }

    fn empty_plan(&mut self, weight: usize) -> Plan {
        Plan {
            sheet: self.spare.take().unwrap_or_default(),
            error: None,
            answers: Vec::new(),
            weight,
            last: None,
            purged: None,
            closes: false,
            oldest: None,
        }
    }

    fn end_plan(&mut self, plan: &mut Plan, planned: io::Result<()>) {
        let finished = planned.and_then(|()| self.tape.finish(&mut plan.sheet));
        plan.error = finished.err();
        plan.last = self.tape.registers.outline.last();
        plan.purged = self.tape.registers.outline.purged();
    }

    fn count(&self, sheet: &Sheet) {
        let metrics = &self.shared.metrics;
        if sheet.entries > 0 {
            metrics.batch_entries.record(sheet.entries as f64);
            metrics.batch_bytes.record(sheet.bytes as f64);
        }
        metrics.rotations.increment(u64::from(sheet.rotations));
    }

    /// A quarter of the segment is written: time to have the next one ready.
    fn spare_is_due(&self) -> bool {
        self.tape.active.offset * 4 > self.shared.options.segment_bytes && !self.shared.shelf.has_spare()
    }

    /// How long to wait for work before something is to be done without: the idle mark, or giving
    /// memory back.
    pub(crate) fn patience(&self, mark_due: bool) -> Option<Duration> {
        match mark_due {
            true => Some(self.shared.options.idle_mark),
            false => (!self.shared.state.lock().ring.is_empty()).then_some(IDLE_MEMORY),
        }
    }

    /// What is to be done when nothing came in that time.
    pub(crate) fn idle(&mut self, mark_due: bool) -> Option<Plan> {
        if mark_due {
            return self.mark();
        }
        self.give_back();
        None
    }

    /// Gives back the memory of the ring and of the last plans. Readers find what was in it on disk.
    fn give_back(&mut self) {
        let mut state = self.shared.state.lock();
        if !state.queue.is_empty() {
            return;
        }
        let durable = state.durable.map(|id| id.position);
        state.ring.shrink(durable);
        state.queue.shrink_to_fit();
        drop(state);
        self.tape.shrink();
        self.spare = None;
    }
}

fn measure(item: &Item) -> (usize, usize) {
    match item {
        Item::Entries { entries, .. } => (entries.len(), entries.iter().map(LogEntry::weight).sum()),
        Item::Version(version) | Item::Snapshot { version, .. } => (0, version.bytes.len()),
        _ => (0, 0),
    }
}

pub(crate) fn apply_effect(index: &mut Index, effect: Effect) {
    match effect {
        Effect::Opened(segment) => index.add_segment(segment),
        Effect::Place { segment, place } => index.add_place(segment, place),
        Effect::Cut { first_removed } => index.cut(first_removed),
        Effect::Sealed { segment, end, file_bytes } => {
            if let Some(segment) = index.segment_mut(segment) {
                segment.end = end;
                segment.file_bytes = segment.file_bytes.max(file_bytes);
                segment.sealed = true;
            }
        }
        Effect::End { segment, end, file_bytes } => {
            if let Some(segment) = index.segment_mut(segment) {
                segment.end = end;
                segment.file_bytes = segment.file_bytes.max(file_bytes);
            }
        }
    }
}
