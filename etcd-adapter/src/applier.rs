//! Apply: the one task that follows the tail.
//!
//! It decodes entries, lets `mvcc` decide, writes what changed in one batch, and then, in this order and
//! never in another: publishes what can be read, tells the watchers, answers those who wait. A store
//! that fails ends the process; an entry above this program's level stops apply and keeps its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use journal_client::{Journal, Run, TailEntry, TailError};
use parking_lot::{Mutex, RwLock};
use proto::{JournalId, Position};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::agreement::{Agreement, Verdict};
use crate::command::{self, Beat, Command, DecodeError, EntryBody};
use crate::env::Drive;
use crate::lease_clock::LeaseClock;
use crate::meters::Meters;
use crate::mvcc::{Answer, Applied, MetaKey, Outcome, Refusal, Row, Skipped, State, ValueLost};
use crate::proposal::{Proposer, Seen};
use crate::reads::Reads;
use crate::store::{Batch, Origin, Staged, Store, StoreError};
use crate::view::{Published, ReadError, View};
use crate::watch::Hub;

/// Runs that are at hand are applied together, up to so many.
const RUNS_MAX: usize = 64;
/// Between attempts to read the tail.
const RETRY: Duration = Duration::from_millis(100);
/// A tail that brings nothing for so long, while there is something to bring, is left.
const STARVED: Duration = Duration::from_secs(2);
/// Everything is flushed when so much was written, or so long ago.
const FLUSH_BYTES: u64 = 64 << 20;
const FLUSH_EVERY: Duration = Duration::from_secs(60);
/// How long what a compaction made unreadable stays for those who are reading it.
const FORGET_AFTER: Duration = Duration::from_secs(10);
const FORGET_STEPS: usize = 256;
const FORGET_EVERY: Duration = Duration::from_millis(20);
/// Between two pieces of a sweep, at most.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_secs(1);

/// Why apply ended. All of these end the process.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lost(#[from] ValueLost),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Somebody else met it: who answers a client, flushes or sweeps.
    #[error("the store failed: {0}")]
    Broken(String),
    #[error("the journal begins at {start} now, and this adapter has applied up to {applied} only")]
    Gap { start: Position, applied: Position },
    #[error("this member was removed from the cluster")]
    Removed,
    /// The store is to be dropped, and filled anew from the journal.
    #[error("other adapters have another state at {position}: this one is replayed")]
    Diverged { position: Position },
}

/// What apply shows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub applied: Position,
    pub hash: u128,
    pub flushed: Position,
    pub since: Instant,
    /// An entry of this level stopped apply.
    pub stopped_by_level: Option<u32>,
    /// The last position at which another live adapter's state hash was not ours.
    pub disagrees: Option<Position>,
    /// No majority of those that were heard has our state.
    pub doubtful: bool,
    /// Beats of others that were compared, and those that said something else.
    pub compared: u64,
    pub disagreed: u64,
    pub terms: u64,
    pub last_term: u64,
}

/// Shared between the applier and those who ask how it is.
pub type Standings = Arc<Mutex<Standing>>;

/// Those whom apply tells, once the adapter speaks and listens. While it catches up there are none.
pub struct Audience {
    pub name: String,
    pub proposer: Proposer,
    pub reads: Reads,
    pub hub: Hub,
    pub leases: Arc<Mutex<LeaseClock>>,
    /// Told once which member this process is.
    pub member: Box<dyn Fn(u64) + Send>,
}

/// The task's state.
pub struct Applier {
    state: Arc<RwLock<State>>,
    store: Store,
    pub view: View,
    journal: JournalId,
    drive: Drive,
    pub standing: Standings,
    pub meters: Arc<Meters>,
    audience: Option<Audience>,
    /// The last own producer that was born.
    own: Option<Position>,
    agreement: Agreement,
    last_flush: Instant,
    flushing: Arc<AtomicBool>,
    /// Compactions whose past is not forgotten yet.
    compactions: VecDeque<(Instant, i64)>,
    /// Since when the first of them is being forgotten.
    forgetting: Option<Instant>,
}

impl Applier {
    pub fn new(state: State, store: Store, journal: JournalId, drive: Drive) -> Applier {
        let (applied, hash, compacted) = (state.applied(), state.hash(), state.compact_revision());
        let state = Arc::new(RwLock::new(state));
        store.attach(state.clone());
        let standing = Standing {
            applied,
            hash,
            flushed: Position::NONE.next(),
            since: Instant::now(),
            stopped_by_level: None,
            disagrees: None,
            doubtful: false,
            compared: 0,
            disagreed: 0,
            terms: 0,
            last_term: 0,
        };
        Applier {
            view: View::new(state.clone(), store.clone()),
            state,
            store,
            journal,
            drive,
            standing: Arc::new(Mutex::new(standing)),
            meters: Arc::default(),
            audience: None,
            own: None,
            agreement: Agreement::new(applied, hash),
            last_flush: Instant::now(),
            flushing: Arc::default(),
            compactions: VecDeque::from_iter((compacted > 0).then(|| (Instant::now(), compacted))),
            forgetting: None,
        }
    }

    /// From now on there is somebody to tell.
    pub fn tell(&mut self, audience: Audience) {
        let now = Instant::now();
        self.state.read().leases().iter().for_each(|(id, lease)| {
            audience.leases.lock().renewed(*id, lease.ttl, lease.renewed_at, now);
        });
        self.state.read().producers().iter().for_each(|(id, producer)| {
            audience.leases.lock().expected(*id, producer.last_entry);
        });
        self.audience = Some(audience);
    }

    /// Applies up to `target`, and no further.
    pub async fn catch_up(&mut self, journal: &dyn Journal, target: Position) -> Result<(), Fatal> {
        while self.view.applied() < target && self.standing.lock().stopped_by_level.is_none() {
            self.follow(journal, Some(target)).await?;
        }
        Ok(())
    }

    /// Applies what comes until told to stop.
    pub async fn run(mut self, journal: Arc<dyn Journal>, stop: CancellationToken) -> Result<(), Fatal> {
        let follow = async {
            loop {
                self.follow(&*journal, None).await?;
                if self.standing.lock().stopped_by_level.is_some() {
                    return self.stay().await;
                }
            }
        };
        let followed = stop.run_until_cancelled(follow).await;
        self.store.flush()?;
        followed.unwrap_or(Ok(()))
    }

    /// Only a newer program goes on from here. What is there is read, and kept in order, until then.
    async fn stay(&mut self) -> Result<(), Fatal> {
        let mut chores = tokio::time::interval(FORGET_EVERY);
        chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            chores.tick().await;
            self.chores()?;
        }
    }

    /// Reads one tail stream to its end.
    async fn follow(&mut self, journal: &dyn Journal, target: Option<Position>) -> Result<(), Fatal> {
        let applied = self.view.applied();
        let mut tail = match journal.tail(applied).await {
            Ok(tail) => tail,
            Err(error) => {
                tracing::warn!("the tail cannot be read: {error}");
                sleep(RETRY).await;
                return Ok(());
            }
        };
        let opened = Instant::now();
        let mut chores = tokio::time::interval(FORGET_EVERY);
        chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let run = tokio::select! {
                biased;
                run = tail.next() => run,
                _ = chores.tick() => {
                    self.chores()?;
                    if self.is_starved(opened) {
                        tracing::warn!("there are entries that this tail does not bring: opening another");
                        return Ok(());
                    }
                    continue;
                }
            };
            let mut ended = false;
            let mut runs = Vec::new();
            match run {
                Some(Ok(run)) => runs.push(run),
                Some(Err(TailError::Gap { start })) => {
                    return Err(Fatal::Gap { start, applied: self.view.applied() });
                }
                Some(Err(error)) => {
                    tracing::warn!("the tail ended: {error}");
                    ended = true;
                }
                None => ended = true,
            }
            // What is at hand is written together.
            while !ended && runs.len() < RUNS_MAX {
                match tail.next().now_or_never() {
                    Some(Some(Ok(run))) => runs.push(run),
                    Some(Some(Err(error))) => {
                        tracing::warn!("the tail ended: {error}");
                        ended = true;
                    }
                    Some(None) => ended = true,
                    None => break,
                }
            }
            self.apply(runs)?;
            self.chores()?;
            if ended {
                sleep(RETRY).await;
                return Ok(());
            }
            let stopped = self.standing.lock().stopped_by_level.is_some();
            if stopped || target.is_some_and(|target| self.view.applied() >= target) {
                return Ok(());
            }
        }
    }

    /// Whether the journal is known to have more, and this tail has brought nothing for a while.
    fn is_starved(&self, opened: Instant) -> bool {
        let Some(audience) = &self.audience else { return false };
        let quiet = self.standing.lock().since.elapsed().min(opened.elapsed());
        audience.reads.behind_for().is_some_and(|behind| behind > STARVED) && quiet > STARVED
    }

    /// Applies what was read, and makes it visible.
    fn apply(&mut self, runs: Vec<Run>) -> Result<(), Fatal> {
        let began = Instant::now();
        let mut batch = Batch::default();
        let mut all: Vec<(EntryBody, Applied)> = Vec::new();
        let mut origin = None;
        let mut applied = self.view.applied();
        let mut term = 0;
        'runs: for run in runs {
            term = term.max(run.term);
            for entry in run.entries {
                match self.apply_entry(&entry, &mut batch) {
                    Ok(Some(one)) => all.push(one),
                    Ok(None) => {}
                    Err(Stop::Level(level)) => {
                        tracing::error!(position = %entry.position, level, "an entry is above this program's level: upgrade it");
                        self.standing.lock().stopped_by_level = Some(level);
                        break 'runs;
                    }
                    Err(Stop::Fatal(fatal)) => return Err(fatal),
                }
                origin = Some((entry.position, entry.crc));
                applied = entry.position.next();
            }
            applied = run.to;
        }
        let (published, hash) = {
            let mut state = self.state.write();
            state.advance(applied);
            let (published, hash) = (Published::of(&state), state.hash());
            if let Some((entry, checksum)) = origin {
                let origin = Origin { cluster: state.cluster(), journal: self.journal, entry, checksum };
                let sealed = batch.seal(&state, origin);
                drop(state);
                let began = Instant::now();
                self.store.write(sealed)?;
                self.meters.commit.observe(began.elapsed());
            }
            (published, hash)
        };
        let revision = published.revision;
        self.view.publish(published);
        if !all.is_empty() {
            self.meters.applied(began.elapsed());
        }
        all.iter().for_each(|(_, applied)| self.meters.entry(applied));
        {
            let mut standing = self.standing.lock();
            (standing.applied, standing.hash, standing.since) = (applied, hash, Instant::now());
            if term > standing.last_term {
                standing.terms += u64::from(standing.last_term > 0);
                standing.last_term = term;
            }
        }
        self.note(&all, applied, hash)?;
        let Some(audience) = &self.audience else { return Ok(()) };
        let rows: Vec<Row> =
            all.iter_mut().flat_map(|(_, applied)| applied.changes.drain(..)).map(|change| change.row).collect();
        if !rows.is_empty() {
            audience.hub.publish(rows, revision, |row| self.view.previous(row))?;
        }
        let mut news = Vec::new();
        for (body, applied) in all {
            self.tell_leases(&applied);
            self.own_news(body, applied, &mut news)?;
        }
        let Some(audience) = &self.audience else { return Ok(()) };
        audience.reads.on_applied(applied);
        if !news.is_empty() {
            audience.proposer.see(news);
        }
        Ok(())
    }

    fn apply_entry(&self, entry: &TailEntry, batch: &mut Batch) -> Result<Option<(EntryBody, Applied)>, Stop> {
        let body = match command::decode(entry.payload.clone()) {
            Ok(body) => body,
            Err(DecodeError::AboveLevel { level }) => return Err(Stop::Level(level)),
            Err(DecodeError::Malformed(why)) => {
                tracing::warn!(position = %entry.position, "an entry that no adapter wrote is passed over: {why}");
                return Ok(None);
            }
        };
        let mut state = self.state.write();
        let staged = Staged { store: &self.store, batch };
        let applied = crate::mvcc::apply(&mut state, entry.position, &body, &staged);
        drop(state);
        let applied = applied.map_err(|lost| Stop::Fatal(lost.into()))?;
        batch.add(&applied);
        Ok(Some((body, applied)))
    }

    /// Remembers what other adapters' beats are compared with, and what compactions leave to forget.
    fn note(&mut self, all: &[(EntryBody, Applied)], end: Position, hash: u128) -> Result<(), Fatal> {
        for (_, applied) in all {
            self.agreement.note(applied.position.next(), applied.hash);
        }
        self.agreement.note(end, hash);
        for (body, applied) in all {
            // What others said before this process spoke is history: who was wrong then may have begun
            // anew since, and who replays the journal must not be judged by it.
            if let (Some(beat), Outcome::Taken) = (applied.beat, applied.outcome)
                && self.own.is_some_and(|own| own != body.producer)
            {
                self.compare(body.producer, beat)?;
            }
            let compacted = body.commands.iter().any(|command| matches!(command, Command::Compact { .. }));
            if compacted {
                self.compactions.push_back((Instant::now(), self.view.compact_revision()));
            }
        }
        Ok(())
    }

    /// Compares what another adapter said of itself with what this one was at that position.
    fn compare(&mut self, whose: Position, beat: Beat) -> Result<(), Fatal> {
        {
            let state = self.state.read();
            self.agreement.retain(|producer| state.producer(producer).is_some());
        }
        let position = beat.applied;
        let verdict = self.agreement.compare(self.own, whose, beat, Instant::now());
        let mut standing = self.standing.lock();
        standing.compared += u64::from(verdict != Verdict::Unknown);
        standing.doubtful = self.agreement.is_doubtful();
        match verdict {
            Verdict::Unknown => Ok(()),
            Verdict::Agrees { all } => {
                if all && let Some(position) = standing.disagrees.take() {
                    tracing::info!(%position, "all adapters agree about the state again");
                }
                Ok(())
            }
            Verdict::Disagrees { give_way } => {
                standing.disagreed += 1;
                standing.disagrees = Some(position);
                drop(standing);
                tracing::error!(producer = %whose, %position, give_way, "two adapters disagree about the state");
                if give_way { Err(Fatal::Diverged { position }) } else { Ok(()) }
            }
        }
    }

    fn tell_leases(&self, applied: &Applied) {
        let Some(audience) = &self.audience else { return };
        if applied.dirty.is_empty() {
            return;
        }
        let now = Instant::now();
        let state = self.state.read();
        let mut clock = audience.leases.lock();
        for key in &applied.dirty {
            match key {
                MetaKey::Lease(id) => match state.lease(*id) {
                    Some(lease) => clock.renewed(*id, lease.ttl, lease.renewed_at, now),
                    None => clock.ended(*id),
                },
                MetaKey::Producer(id) => match state.producer(*id) {
                    Some(producer) => clock.heard(*id, producer.last_entry),
                    None => clock.silenced(*id),
                },
                MetaKey::Scalars | MetaKey::Member(_) | MetaKey::Past => {}
            }
        }
    }

    /// What an entry means for this adapter's own speaking.
    fn own_news(&mut self, body: EntryBody, applied: Applied, news: &mut Vec<Seen>) -> Result<(), Fatal> {
        let Some(audience) = &self.audience else { return Ok(()) };
        let ends_own = |id: &Position| self.state.read().producer(*id).is_none();
        let ended: Vec<_> = applied
            .dirty
            .iter()
            .filter_map(|key| match key {
                MetaKey::Producer(id) if Some(*id) == self.own && ends_own(id) => Some(*id),
                _ => None,
            })
            .collect();
        if let [Command::Hello(hello)] = &body.commands[..]
            && body.producer == Position::NONE
            && hello.name == audience.name
        {
            match applied.replies.first().map(|reply| &reply.result) {
                Some(Ok(Answer::Hello { member })) => {
                    if audience.proposer.said(hello.nonce) {
                        self.own = Some(applied.position);
                        (audience.member)(*member);
                    }
                    news.push(Seen::Born { nonce: hello.nonce, position: applied.position });
                }
                Some(Err(Refusal::HelloRemoved)) if audience.proposer.said(hello.nonce) => return Err(Fatal::Removed),
                _ => {
                    let state = self.state.read();
                    let current = state.member_named(&hello.name).and_then(|member| member.producer);
                    news.push(Seen::Refused { nonce: hello.nonce, current: current.unwrap_or(Position::NONE) });
                }
            }
        } else if Some(body.producer) == self.own {
            let (producer, seq, position) = (body.producer, applied.seq, applied.position);
            match applied.outcome {
                Outcome::Taken => news.push(Seen::Applied { producer, seq, replies: applied.replies }),
                Outcome::Skipped(Skipped::NotLive) => {}
                Outcome::Skipped(_) => news.push(Seen::Skipped { producer, seq, position }),
            }
        }
        news.extend(ended.into_iter().map(|producer| Seen::Gone { producer }));
        Ok(())
    }

    /// Flushes, forgets and sweeps, a little at a time.
    fn chores(&mut self) -> Result<(), Fatal> {
        if let Some(why) = self.view.broken() {
            return Err(Fatal::Broken(why));
        }
        let due = self.store.unflushed_bytes() > FLUSH_BYTES || self.last_flush.elapsed() > FLUSH_EVERY;
        if due && !self.flushing.swap(true, Ordering::AcqRel) {
            self.last_flush = Instant::now();
            let (store, standing) = (self.store.clone(), self.standing.clone());
            let (flushing, view) = (self.flushing.clone(), self.view.clone());
            let meters = self.meters.clone();
            // A flush takes its time, and apply does not wait for it.
            self.drive.begin(move || {
                let began = Instant::now();
                let flushed = store.flush().and_then(|()| store.flushed());
                meters.flush.observe(began.elapsed());
                if let Ok(flushed) = view.noted(flushed.map_err(ReadError::from)) {
                    standing.lock().flushed = flushed.map_or(Position::NONE.next(), |flushed| flushed.applied);
                }
                flushing.store(false, Ordering::Release);
            });
        }
        let Some((when, floor)) = self.compactions.front().copied() else { return Ok(()) };
        if when.elapsed() < FORGET_AFTER {
            return Ok(());
        }
        // A crash takes back what is not flushed, the compaction too.
        let Some(flushed) = self.store.flushed()?.filter(|flushed| flushed.compact_revision >= floor) else {
            self.last_flush = self.last_flush.checked_sub(FLUSH_EVERY).unwrap_or(self.last_flush);
            return Ok(());
        };
        let began = Instant::now();
        self.view.will_forget(floor);
        let forgotten = self.state.write().forget(floor.min(flushed.compact_revision), FORGET_STEPS);
        self.meters.compaction_pause.observe_millis(began.elapsed());
        let since = *self.forgetting.get_or_insert(began);
        self.meters.forgotten.add(forgotten as u64);
        if forgotten < FORGET_STEPS {
            self.compactions.pop_front();
            self.forgetting = None;
            let sweep = sweep(self.view.clone(), floor, since, self.flushing.clone(), self.meters.clone(), self.drive);
            tokio::spawn(sweep);
        }
        Ok(())
    }
}

/// Drops what was forgotten, piece by piece. It rests as long as it works, and lets a flush go first:
/// writes may have to wait for that.
async fn sweep(view: View, floor: i64, since: Instant, flushing: Arc<AtomicBool>, meters: Arc<Meters>, drive: Drive) {
    loop {
        while flushing.load(Ordering::Acquire) {
            sleep(FORGET_EVERY).await;
        }
        let began = Instant::now();
        let piece = view.store().clone();
        let swept = drive.run(move || piece.sweep(floor)).await;
        meters.compaction_pause.observe_millis(began.elapsed());
        match swept {
            // A rest of no time would be none.
            Some(Ok(true)) => sleep(began.elapsed().clamp(REST_MIN, REST_MAX)).await,
            Some(Ok(false)) => return meters.compacted(since.elapsed()),
            Some(Err(error)) => {
                let _ = view.noted::<()>(Err(error.into()));
                return;
            }
            // The next compaction begins a sweep again.
            None => return,
        }
    }
}

/// Why an entry was not applied.
enum Stop {
    Level(u32),
    Fatal(Fatal),
}
