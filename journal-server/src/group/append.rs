//! One append stream: admission, feeding Raft in order, and the end of it all at the first rejection.
//!
//! - Nothing is given to Raft after something was refused, so entries that get in keep their order.
//! - When the stream ends, what was given and is undecided becomes `Unknown`; what was never given is
//!   refused for the reason in the stream's last word. Nobody hangs on a deposed leader.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use metrics::Histogram;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::{Group, Lead};
use crate::ledger::{Ledger, Outcomes, Settled};
use crate::refusal::{self, Reason, Refusal};
use crate::segment::Kind;

/// An entry as the client sent it.
#[derive(Debug, Clone)]
pub struct Offered {
    pub payload: Bytes,
    pub crc: u32,
    pub urgent: bool,
}

/// How long an append's stages take. What lies between the first two, the leader's own log, is measured
/// there.
pub(super) struct Stages {
    admission: Histogram,
    commit: Histogram,
    answer: Histogram,
}

impl Stages {
    pub fn of(id: u64) -> Stages {
        let histogram = |name: &'static str| metrics::histogram!(name, "journal" => id.to_string());
        Stages {
            admission: histogram("journal_append_admission_seconds"),
            commit: histogram("journal_append_commit_seconds"),
            answer: histogram("journal_append_answer_seconds"),
        }
    }
}

pub struct AppendStream {
    group: Arc<Group>,
    term: u64,
    lead: watch::Receiver<Lead>,
    ledger: Arc<Ledger>,
    /// The node's byte budget, held until the slots below the number are answered.
    held: VecDeque<(u64, OwnedSemaphorePermit)>,
    /// The slot behind each message's last entry, and when Raft had all of it.
    fed: VecDeque<(u64, Instant)>,
    issued: u64,
    answered: u64,
    ended: Option<Refusal>,
}

impl Group {
    /// Opens an append stream, if this node leads.
    pub fn append(self: &Arc<Self>) -> Result<AppendStream, Refusal> {
        let lead = self.lead.watch();
        let term = match &*lead.borrow() {
            Lead::Leading { term } => *term,
            Lead::Moving(refusal) | Lead::Not(refusal) => return Err(refusal.clone()),
        };
        Ok(AppendStream {
            group: self.clone(),
            term,
            lead,
            ledger: Arc::new(Ledger::default()),
            held: VecDeque::new(),
            fed: VecDeque::new(),
            issued: 0,
            answered: 0,
            ended: None,
        })
    }
}

impl AppendStream {
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether more entries may be offered now.
    pub fn is_open(&self) -> bool {
        self.ended.is_none() && self.ledger.open_bytes() < self.group.shared.limits.stream_bytes
    }

    /// Whether every entry has its answer.
    pub fn is_idle(&self) -> bool {
        self.ledger.is_empty()
    }

    /// Why nothing more is taken, once nothing is; and whether every entry has its answer.
    pub fn ended(&self) -> Option<(&Refusal, bool)> {
        self.ended.as_ref().map(|why| (why, self.ledger.is_empty()))
    }

    /// Admits entries and gives them to Raft, in order; ends the stream at the first that is refused.
    pub async fn offer(&mut self, entries: Vec<Offered>) {
        if self.ended.is_some() {
            return;
        }
        if let Some(why) = self.not_leading() {
            return self.refuse(entries.len(), why);
        }
        let offered = Instant::now();
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        let permits = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
        match self.group.shared.inflight.clone().acquire_many_owned(permits).await {
            Ok(permit) => self.held.push_back((self.issued + entries.len() as u64, permit)),
            Err(_) => return self.refuse(entries.len(), refusal::shutting_down()),
        }
        let total = entries.len();
        let mut feed = Vec::with_capacity(total);
        let mut refused = None;
        for entry in entries {
            if let Err(why) = self.admit(&entry) {
                refused = Some(why);
                break;
            }
            let slot = self.ledger.issue(entry.payload.len());
            let kind = if entry.urgent { Kind::Urgent } else { Kind::Entry };
            feed.push((slot, kind, entry.crc, entry.payload));
        }
        self.issued += feed.len() as u64;
        let fed = feed.len();
        self.group.fed.fetch_add(fed as u64, Ordering::AcqRel);
        self.group.replica.propose(self.term, feed, &self.ledger).await;
        if fed > 0 {
            let now = Instant::now();
            self.group.stages.admission.record(now - offered);
            self.fed.push_back((self.issued, now));
        }
        if let Some(why) = refused {
            self.refuse(total - fed, why);
        }
    }

    fn admit(&self, entry: &Offered) -> Result<(), Refusal> {
        let limit = self.group.shared.limits.entry_bytes;
        if entry.payload.len() > limit {
            let message = format!("an entry of {} bytes is over the limit of {limit}", entry.payload.len());
            return Err(Refusal::new(Reason::TooLarge, message));
        }
        if crc32fast::hash(&entry.payload) != entry.crc {
            return Err(Refusal::new(Reason::BadChecksum, "the payload does not match its checksum"));
        }
        let admission = &self.group.shared.admission;
        match (self.group.over_quota(), entry.urgent) {
            (false, urgent) => admission.admit(urgent, entry.payload.len()),
            (true, true) => admission.admit_urgent(entry.payload.len()),
            (true, false) => {
                admission.admit(false, entry.payload.len())?;
                Err(Refusal::new(Reason::Quota, "the journal's quota of disk space is used up: trim it"))
            }
        }
    }

    /// Entries read and never given to Raft.
    fn refuse(&mut self, count: usize, why: Refusal) {
        for _ in 0..count {
            let slot = self.ledger.issue(0);
            self.issued += 1;
            self.group.fed.fetch_add(1, Ordering::AcqRel);
            self.ledger.settle(slot, Settled::Rejected(why.clone()));
        }
        self.end(why);
    }

    fn end(&mut self, why: Refusal) {
        self.ended.get_or_insert(why);
    }

    fn not_leading(&self) -> Option<Refusal> {
        match &*self.lead.borrow() {
            Lead::Leading { term } if *term == self.term => None,
            Lead::Leading { .. } => Some(refusal::not_leader(None)),
            Lead::Moving(why) | Lead::Not(why) => Some(why.clone()),
        }
    }

    /// Waits until there may be something to answer, or the leadership changed.
    pub async fn changed(&mut self) {
        if self.ended.is_some() {
            return self.ledger.changed().await;
        }
        tokio::select! {
            biased;
            () = self.ledger.changed() => {}
            changed = self.lead.changed() => {
                let moving = matches!(&*self.lead.borrow(), Lead::Moving(_));
                if let Some(why) = self.not_leading() {
                    self.end(why);
                    // A leader that moves away waits for what it was given; any other end decides now.
                    if !moving {
                        self.settle_open();
                    }
                }
                if changed.is_err() {
                    self.end(refusal::shutting_down());
                    self.settle_open();
                }
            }
        }
    }

    /// Forgets the messages that are answered; of what was committed it tells how long that took.
    fn measure(&mut self, committed: bool) {
        let settled = self.ledger.settled();
        while let Some((_, fed)) = self.fed.front().filter(|(upto, _)| *upto <= self.answered) {
            if let Some(settled) = settled.filter(|_| committed) {
                self.group.stages.commit.record(settled.saturating_duration_since(*fed));
            }
            self.fed.pop_front();
        }
        if let Some(settled) = settled.filter(|_| committed) {
            self.group.stages.answer.record(settled.elapsed());
        }
    }

    fn settle_open(&self) {
        let why = "the leadership ended before the entry was decided".to_owned();
        self.ledger.settle_open(&Settled::Unknown(why));
    }

    /// Takes what can be answered now, in order.
    pub fn take(&mut self) -> Vec<Outcomes> {
        let mut runs = self.ledger.take();
        let rejection = runs.iter().find_map(|run| match run {
            Outcomes::Rejected { why, .. } => Some(why.clone()),
            _ => None,
        });
        if let (Some(why), None) = (rejection, &self.ended) {
            // Raft refused one at its door; what was given behind it may still get in.
            self.end(why);
            self.settle_open();
            runs.extend(self.ledger.take());
        }
        let answered: u64 = runs.iter().map(count).sum();
        self.answered += answered;
        if let Some(last) = runs.last() {
            self.measure(matches!(last, Outcomes::Committed { .. }));
        }
        self.group.fed.fetch_sub(answered, Ordering::AcqRel);
        while self.held.front().is_some_and(|(upto, _)| *upto <= self.answered) {
            self.held.pop_front();
        }
        runs
    }
}

impl Drop for AppendStream {
    fn drop(&mut self) {
        // The client is gone: nobody hears what becomes of its entries.
        self.settle_open();
        self.group.fed.fetch_sub(self.issued - self.answered, Ordering::AcqRel);
    }
}

fn count(run: &Outcomes) -> u64 {
    match run {
        Outcomes::Committed { first, last } => last - first + 1,
        Outcomes::Rejected { count, .. } | Outcomes::Unknown { count, .. } => *count,
    }
}
