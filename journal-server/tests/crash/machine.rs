//! A log on a failing disk, driven step by step by one thread: random acts, the writer's turns, the
//! keeper's steps, and the ways in which it all ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use journal_server::segment::fault_disk::FaultDisk;
use journal_server::segment::fs::Fs;
use journal_server::segment::{
    self, Done, Ids, Keeper, Kind, Log, LogEntry, LogId, Opened, Options, Plan, Report, Step, Version, Vote, Writer,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::model::{Act, Oracle, body, check, read_picture};

pub const DIR: &str = "/disk/journal";
pub const IDS: Ids = Ids { cluster: 7, node: 3, group: 11 };

/// How the process sees the disk: as it is, or through something that lies.
pub type View = fn(Arc<dyn Fs>) -> Arc<dyn Fs>;

/// One node's log, over as many lives as it takes.
pub struct Machine {
    pub disk: FaultDisk,
    pub oracle: Oracle,
    pub options: Options,
    pub view: View,
    /// Makes the entries of this machine unlike those of others.
    salt: u64,
    running: Option<Running>,
    /// So many acts were answered before the last plan that wrote anything: whatever single frame is
    /// damaged, another one proves that they were synced.
    pub proven: usize,
    /// The disk before that plan, if it is to be kept.
    pub before_last: Option<FaultDisk>,
    pub keep_before: bool,
}

pub struct Running {
    pub log: Log,
    pub writer: Writer,
    pub keeper: Keeper,
    answers: Arc<Mutex<Answers>>,
    term: u64,
    committed: Option<LogId>,
    applied: Option<LogId>,
}

#[derive(Default)]
struct Answers {
    /// The newest act that was answered as durable.
    durable: usize,
    unanswered: BTreeSet<usize>,
    /// Somebody was told of a failure.
    failed: bool,
    /// An act that was called durable after that.
    late: Option<usize>,
}

/// Why an opening gave no log.
#[derive(Debug)]
pub enum Shut {
    /// The machine stopped while it was opening.
    Stopped,
    /// It does not open, and says why.
    Refused(String),
    /// Something is wrong.
    Wrong(String),
}

pub fn options(rng: &mut SmallRng) -> Options {
    Options {
        segment_bytes: 4096 * rng.random_range(4..=10),
        ring_bytes: rng.random_range(0..4000),
        batch_bytes: rng.random_range(500..20_000),
        batch_entries: rng.random_range(4..100),
        frame_bytes: rng.random_range(200..8000),
        index_step_bytes: rng.random_range(200..4000),
        ..Options::default()
    }
}

impl Machine {
    pub fn new(rng: &mut SmallRng, view: View) -> Machine {
        Machine {
            disk: FaultDisk::new(rng.next_u64()),
            oracle: Oracle::default(),
            options: options(rng),
            view,
            salt: rng.next_u64(),
            running: None,
            proven: 0,
            before_last: None,
            keep_before: false,
        }
    }

    /// Starts a process on the disk, and judges what its log holds.
    pub fn open(&mut self) -> Result<Report, Shut> {
        let fs = (self.view)(self.disk.mount());
        match segment::open(fs, Path::new(DIR), IDS, self.options.clone()) {
            Ok(Opened::Ready { log, writer, keeper, report }) => {
                // What it reads from a dying machine is no evidence.
                let judged = self.oracle.judge(&log);
                if self.disk.is_stopped() {
                    return Err(Shut::Stopped);
                }
                judged.map_err(Shut::Wrong)?;
                let picture = &self.oracle.asked;
                let term = picture.last().map_or(1, |id| id.term);
                let (committed, applied) = (log.recovered_commit(), log.recovered_applied());
                let floor = picture.purged;
                self.running = Some(Running {
                    term: term.max(picture.vote.map_or(0, |vote| vote.term)),
                    committed: committed.max(floor),
                    applied: applied.max(floor),
                    log,
                    writer,
                    keeper,
                    answers: Arc::default(),
                });
                Ok(report)
            }
            Ok(Opened::Damaged(damaged)) => {
                Err(Shut::Wrong(format!("damage is reported where there is none: {:?}", damaged.holes())))
            }
            Err(_) if self.disk.is_stopped() => Err(Shut::Stopped),
            Err(error) => Err(Shut::Refused(error.to_string())),
        }
    }

    /// The same disk and the same expectations once more, with no process.
    pub fn fork(&self) -> Machine {
        Machine {
            disk: self.disk.fork(),
            oracle: self.oracle.clone(),
            options: self.options.clone(),
            view: self.view,
            salt: self.salt,
            running: None,
            proven: 0,
            before_last: None,
            keep_before: false,
        }
    }

    pub fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("a process runs")
    }

    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    pub fn is_failed(&mut self) -> bool {
        self.running().log.failed().is_some()
    }

    /// Does one thing at random.
    pub fn step(&mut self, rng: &mut SmallRng) -> Result<(), String> {
        match rng.random_range(0..100) {
            0..60 => self.act(rng),
            60..90 => self.turn(rng)?,
            90..95 => self.keep(),
            _ => self.read_somewhere(rng)?,
        }
        self.note_answers()
    }

    /// Asks for something.
    fn act(&mut self, rng: &mut SmallRng) {
        let asked = &self.oracle.asked;
        let (last, purged) = (asked.last(), asked.purged);
        let Running { committed, applied, term, .. } = *self.running();
        let act = match rng.random_range(0..100) {
            0..50 => self.some_entries(rng),
            50..60 => {
                let running = self.running();
                running.term += rng.random_range(0..2);
                let vote = running.log.vote();
                let next = Vote { term: running.term, node: rng.random_range(1..4), committed: rng.random_bool(0.5) };
                match vote {
                    Some(old) if old.term >= next.term && old.committed => return,
                    Some(old) if old.term >= next.term => Act::Vote(Vote { committed: true, ..old }),
                    _ => Act::Vote(next),
                }
            }
            60..66 => {
                // Never what is known to be committed.
                let low = committed.map_or(0, |id| id.position + 1);
                let Some(last) = last.filter(|last| last.position >= low) else { return };
                let keep = rng.random_range(low..=last.position);
                let kept = keep.checked_sub(1).and_then(|position| self.id_at(position));
                if purged.is_some() && kept.is_none() {
                    return;
                }
                Act::Truncate(kept)
            }
            66..72 => {
                if let Some(upto) = self.between(rng, purged, applied) {
                    Act::Purge(upto)
                } else if rng.random_bool(0.05) {
                    Act::Purge(LogId::new(term, self.oracle.asked.next() + rng.random_range(0..5)))
                } else {
                    return;
                }
            }
            72..78 => {
                let below = self.oracle.asked.versions.last().map(|version| version.at);
                let Some(at) = self.between(rng, below.max(purged), committed) else { return };
                Act::SaveVersion(self.some_version(rng, at))
            }
            78..82 => {
                let kept = self.between(rng, purged, last);
                let at = match kept {
                    Some(at) if rng.random_bool(0.5) => at,
                    Some(at) if committed.is_none_or(|id| at.position > id.position) => {
                        LogId::new(term + 1, at.position)
                    }
                    _ => LogId::new(term, self.oracle.asked.next() + rng.random_range(0..9)),
                };
                Act::Install(self.some_version(rng, at), rng.next_u64())
            }
            82..91 => {
                if let Some(id) = self.between(rng, committed, last) {
                    self.oracle.hint_commit(id);
                    let running = self.running();
                    running.committed = Some(id);
                    running.log.commit_hint(id);
                }
                return;
            }
            91..98 => {
                if let Some(id) = self.between(rng, applied, committed) {
                    self.oracle.hint_applied(id);
                    let running = self.running();
                    running.applied = Some(id);
                    running.log.applied_hint(id);
                }
                return;
            }
            _ => Act::Barrier,
        };
        self.ask(act);
    }

    /// Asks for a given thing.
    pub fn ask(&mut self, act: Act) {
        let number = self.oracle.ask(act.clone());
        let running = self.running();
        let done = running.done(number, &act);
        match act {
            Act::Append(entries) => {
                running.term = running.term.max(entries.last().map_or(0, |entry| entry.id.term));
                running.log.append(entries, done);
            }
            Act::Vote(vote) => running.log.save_vote(vote, done),
            Act::Truncate(last) => running.log.truncate_after(last),
            Act::Purge(upto) => {
                running.reaches(upto);
                running.log.purge(upto);
            }
            Act::SaveVersion(version) => running.log.save_version(version),
            Act::Install(version, chain) => {
                running.reaches(version.at);
                running.log.install_snapshot(version, chain, done);
            }
            Act::Barrier => running.log.barrier(done),
        }
    }

    /// The writer takes a turn; things may happen between its parts.
    pub fn turn(&mut self, rng: &mut SmallRng) -> Result<(), String> {
        let plan = match self.running().writer.take() {
            Step::Write(plan) => Some(plan),
            Step::Idle { mark_due } if mark_due && rng.random_bool(0.7) => self.running().writer.mark(),
            Step::Idle { .. } | Step::Closed => None,
        };
        let Some(plan) = plan else { return Ok(()) };
        if rng.random_bool(0.1) {
            self.keep();
        }
        self.note_plan(&plan);
        let result = self.running().writer.perform(&plan);
        while rng.random_bool(0.2) {
            self.act(rng);
        }
        if rng.random_bool(0.1) {
            self.read_somewhere(rng)?;
        }
        let failed = result.is_err();
        let running = self.running();
        running.writer.done(plan, result);
        self.note_answers()?;
        if failed {
            self.check_latched()?;
        }
        Ok(())
    }

    /// The writer takes turns until nothing is left to do.
    pub fn settle(&mut self) -> Result<(), String> {
        while let Step::Write(plan) = self.running().writer.take() {
            self.perform(plan)?;
        }
        if self.is_failed() { self.check_latched() } else { Ok(()) }
    }

    /// Writes the mark that proves all before it, if one is due.
    pub fn mark(&mut self) -> Result<(), String> {
        self.settle()?;
        let running = self.running();
        if let Step::Idle { mark_due: true } = running.writer.take()
            && let Some(plan) = running.writer.mark()
        {
            self.perform(plan)?;
        }
        Ok(())
    }

    fn perform(&mut self, plan: Plan) -> Result<(), String> {
        self.note_plan(&plan);
        let running = self.running();
        let result = running.writer.perform(&plan);
        running.writer.done(plan, result);
        self.note_answers()
    }

    fn note_plan(&mut self, plan: &Plan) {
        if plan.bytes() > 0 {
            self.proven = self.oracle.answered();
            if self.keep_before {
                self.before_last = Some(self.disk.fork());
            }
        }
    }

    /// Closes the log as a process does that is asked to stop. Without an error everything asked is
    /// durable.
    pub fn close(&mut self) -> Result<(), String> {
        self.running().log.close();
        self.settle()?;
        if !self.is_failed() {
            let all = self.oracle.asked_count();
            self.oracle.answer(all);
        }
        Ok(())
    }

    pub fn keep(&mut self) {
        // What the keeper cannot do on a full disk it does later; of any other error all are told.
        let _ = self.running().keeper.step();
    }

    /// The process is no more.
    pub fn kill(&mut self) {
        self.running = None;
        self.disk.kill();
    }

    /// The power is no more.
    pub fn crash(&mut self, rng: &mut SmallRng) {
        self.running = None;
        self.disk.crash(rng);
    }

    pub fn some_entries(&mut self, rng: &mut SmallRng) -> Act {
        let count = [1, 1, 2, 3, 8][rng.random_range(0..5)];
        let next = self.oracle.asked.next();
        let least = self.oracle.asked.last().map_or(1, |id| id.term);
        let running = self.running();
        // Whoever leads may have entries of terms long gone.
        let mut term = if rng.random_bool(0.2) { least } else { running.term.max(least) };
        let mut entries = Vec::new();
        for position in next..next + count {
            term += u64::from(rng.random_bool(0.05));
            entries.push(self.entry(LogId::new(term, position)));
        }
        Act::Append(entries)
    }

    /// The entry of an id. There is only one, and it comes back if it was truncated.
    fn entry(&self, id: LogId) -> LogEntry {
        let mut rng = SmallRng::seed_from_u64(self.salt ^ id.term << 32 ^ id.position);
        let kinds = [Kind::Blank, Kind::Entry, Kind::Urgent, Kind::Control, Kind::Membership];
        let kind = kinds[rng.random_range(0..kinds.len())];
        let long = [40, 300, 300, 300, 6000][rng.random_range(0..5)];
        LogEntry::new(id, kind, body(rng.random_range(0..long), rng.next_u64()))
    }

    fn some_version(&self, rng: &mut SmallRng, at: LogId) -> Version {
        Version { at, bytes: body(rng.random_range(0..600), rng.next_u64()) }
    }

    fn id_at(&self, position: u64) -> Option<LogId> {
        let asked = &self.oracle.asked;
        let mark = asked.purged.filter(|mark| mark.position == position);
        mark.or(asked.entry_at(position).map(|entry| entry.id))
    }

    /// An id of the log above one and not above another.
    fn between(&self, rng: &mut SmallRng, low: Option<LogId>, high: Option<LogId>) -> Option<LogId> {
        let low = low.map_or(0, |id| id.position + 1).max(self.oracle.asked.first());
        let high = high?.position.min(self.oracle.asked.last()?.position);
        (low <= high).then(|| self.id_at(rng.random_range(low..=high)))?
    }

    /// A reader of the running log sees what was asked for, durable or not.
    pub fn read_somewhere(&mut self, rng: &mut SmallRng) -> Result<(), String> {
        let asked = &self.oracle.asked;
        let log = &self.running.as_ref().expect("a process runs").log;
        if log.failed().is_some() || self.disk.is_stopped() || asked.entries.is_empty() {
            return Ok(());
        }
        let from = rng.random_range(asked.first()..asked.next());
        let to = rng.random_range(from..=asked.next() + 2);
        let max_bytes = rng.random_range(0..4000);
        let read = log
            .read_blocking(from, to, max_bytes)
            .map_err(|error| format!("reading {from}..{to} of {asked:?}: {error}"))?;
        let wanted: Vec<&LogEntry> = (from..to).map_while(|at| asked.entry_at(at)).collect();
        check(read.len() <= wanted.len() && read.iter().zip(&wanted).all(|(a, b)| a == *b), || {
            format!("read {from}..{to} as {read:?} instead of {wanted:?}")
        })?;
        check(!read.is_empty() || wanted.is_empty(), || format!("read nothing at {from}..{to}"))?;
        let bytes: usize = read.iter().skip(1).map(|entry| entry.body.len()).sum();
        check(read.len() < 2 || read[0].body.len() + bytes <= max_bytes, || "read too much".into())
    }

    /// The whole running log is what was asked for.
    pub fn read_all(&mut self) -> Result<(), String> {
        let found = read_picture(&self.running().log)?;
        let asked = &self.oracle.asked;
        check(found == *asked, || format!("the log is {found:?}, asked for was {asked:?}"))
    }

    fn note_answers(&mut self) -> Result<(), String> {
        let running = self.running.as_ref().expect("a process runs");
        let answers = running.answers.lock();
        self.oracle.answer(answers.durable);
        check(answers.late.is_none(), || format!("act {:?} is called durable after a failure", answers.late))
    }

    /// After a failure everybody was told.
    fn check_latched(&mut self) -> Result<(), String> {
        let running = self.running.as_ref().expect("a process runs");
        check(running.log.failed().is_some(), || "a failed write was not latched".into())?;
        let answers = running.answers.lock();
        let waiting: Vec<usize> =
            answers.unanswered.iter().copied().filter(|number| *number > answers.durable).collect();
        check(waiting.is_empty(), || format!("acts {waiting:?} wait for ever after a failure"))
    }
}

impl Running {
    fn done(&self, number: usize, act: &Act) -> Done {
        let answers = self.answers.clone();
        if !matches!(act, Act::Truncate(_) | Act::Purge(_) | Act::SaveVersion(_)) {
            answers.lock().unanswered.insert(number);
        }
        Box::new(move |result| {
            let mut answers = answers.lock();
            answers.unanswered.remove(&number);
            match result {
                Ok(()) if answers.failed => answers.late = Some(number),
                Ok(()) => answers.durable = answers.durable.max(number),
                Err(_) => answers.failed = true,
            }
        })
    }

    /// What is purged or installed is committed and applied.
    fn reaches(&mut self, id: LogId) {
        self.term = self.term.max(id.term);
        if self.committed.is_none_or(|old| old.position < id.position) {
            self.committed = Some(id);
        }
        if self.applied.is_none_or(|old| old.position < id.position) {
            self.applied = Some(id);
        }
    }
}
