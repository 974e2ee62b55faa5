//! What stands between an adapter and its journal: somebody who listens, and holds what the adapter
//! says against what it was shown; and, on purpose, some who lie.
//!
//! What it knows that nobody else does is time: when this very process was shown a renewal, and when it
//! proposed an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_adapter::command::{self, Command};
use futures::StreamExt;
use journal_client::{AppendError, Appender, Description, Entry, Error, Journal, Run, Tail, TailStream, Ticket};
use parking_lot::Mutex;
use proto::Position;
use tokio::time::Instant;

use super::ledger::Ledger;
use crate::sim::plant::Plant;

/// One life of an adapter listens through one of these.
pub struct Around {
    journal: Arc<dyn Journal>,
    ears: Arc<Ears>,
    plant: Option<Plant>,
}

struct Ears {
    name: String,
    ledger: Ledger,
    plant: Option<Plant>,
    state: Mutex<State>,
}

struct State {
    began: Instant,
    /// When the process was shown each entry.
    shown: BTreeMap<Position, Instant>,
    /// The producers that this process spoke as, and when it was shown an entry of theirs.
    own: BTreeSet<Position>,
    own_shown: Vec<Instant>,
    ttls: BTreeMap<i64, Duration>,
    /// Ends that were proposed, by the numbers of their entries: they may be sent again.
    proposed: BTreeSet<(Position, u64)>,
    /// How far numbers were given anew, by a plant.
    renumbered: BTreeMap<Position, u64>,
    /// The end of what this process was shown, once it speaks.
    shown_to: Option<Tail>,
    until_lost: u32,
}

/// The lease clock stands still when no own entry was applied for two seconds; it looks twice a second.
const STANDS_STILL: Duration = Duration::from_millis(2600);
/// What an adapter proposes by itself is sent within this time.
const WAITS: Duration = Duration::from_secs(2);

impl Around {
    pub fn new(journal: Arc<dyn Journal>, name: String, ledger: Ledger, plant: Option<Plant>) -> Around {
        let state = State {
            began: Instant::now(),
            shown: BTreeMap::new(),
            own: BTreeSet::new(),
            own_shown: Vec::new(),
            ttls: BTreeMap::new(),
            proposed: BTreeSet::new(),
            renumbered: BTreeMap::new(),
            shown_to: None,
            until_lost: 60,
        };
        let ears = Arc::new(Ears { name, ledger, plant, state: Mutex::new(state) });
        Around { journal, ears, plant }
    }
}

#[async_trait]
impl Journal for Around {
    async fn append(&self, entry: Entry) -> Result<Position, AppendError> {
        self.journal.append(entry).await
    }

    async fn appender(&self) -> Result<Box<dyn Appender>, Error> {
        let appender = self.journal.appender().await?;
        Ok(Box::new(Mouth { appender, ears: self.ears.clone() }))
    }

    async fn tail(&self, from: Position) -> Result<TailStream, Error> {
        let ears = self.ears.clone();
        let tail = self.journal.tail(from).await?;
        Ok(tail.map(move |run| run.map(|run| ears.shown(run))).boxed())
    }

    async fn check_tail(&self) -> Result<Tail, Error> {
        if self.plant == Some(Plant::UnaskedTail) {
            // What this process was shown is all that it wants to know.
            let to = self.ears.state.lock().shown_to;
            if let Some(tail) = to {
                // An answer at once would be asked for again at once.
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Ok(tail);
            }
        }
        self.journal.check_tail().await
    }

    async fn trim(&self, before: Position) -> Result<Position, Error> {
        self.journal.trim(before).await
    }

    async fn describe(&self) -> Result<Description, Error> {
        self.journal.describe().await
    }
}

struct Mouth {
    appender: Box<dyn Appender>,
    ears: Arc<Ears>,
}

#[async_trait]
impl Appender for Mouth {
    async fn append(&self, entries: Vec<Entry>) -> Vec<Ticket> {
        let entries = entries.into_iter().map(|entry| self.ears.said(entry)).collect();
        self.appender.append(entries).await
    }

    fn term(&self) -> u64 {
        self.appender.term()
    }
}

impl Ears {
    /// The adapter sends an entry.
    fn said(&self, entry: Entry) -> Entry {
        let Ok(mut body) = command::decode(entry.payload.clone()) else {
            self.ledger.broken(format!("{} sends what cannot be read", self.name));
            return entry;
        };
        let mut state = self.state.lock();
        let mut wrong = Vec::new();
        if body.producer != Position::NONE {
            state.own.insert(body.producer);
        }
        let first = state.proposed.insert((body.producer, body.seq));
        for command in body.commands.iter().filter(|_| first) {
            let Command::Expire { lease, renewed_at } = command else { continue };
            let Some(ttl) = state.ttls.get(lease).copied() else { continue };
            let since = state.shown.get(renewed_at).copied().unwrap_or(state.began);
            let now = Instant::now();
            if now - since < ttl {
                wrong.push(format!(
                    "lease {lease} is proposed to end {:?} after its renewal; its TTL is {ttl:?}",
                    now - since
                ));
            }
            // Nothing else of it counts than time in which this process's own entries got in.
            let from = now - ttl.min(now - state.began);
            let mut last = from;
            for at in state.own_shown.iter().filter(|at| **at > from).chain([&now]) {
                // What is proposed may wait a while until it is sent.
                let longest = if *at + WAITS >= now { STANDS_STILL + WAITS } else { STANDS_STILL };
                if *at - last > longest {
                    wrong.push(format!("lease {lease} is proposed to end, and for {:?} nothing got in", *at - last));
                }
                last = *at;
            }
        }
        let mut sent = entry;
        if self.plant == Some(Plant::Renumbered) && body.producer != Position::NONE {
            let number = state.renumbered.entry(body.producer).or_default();
            *number += 1;
            body.seq = *number;
            sent = Entry { urgent: sent.urgent, ..Entry::new(command::encode(&body)) };
        }
        drop(state);
        wrong.into_iter().for_each(|why| self.ledger.broken(format!("{}: {why}", self.name)));
        sent
    }

    /// The adapter is shown a run.
    fn shown(&self, mut run: Run) -> Run {
        let now = Instant::now();
        let mut state = self.state.lock();
        for entry in &run.entries {
            let Ok(body) = command::decode(entry.payload.clone()) else { continue };
            state.shown.entry(entry.position).or_insert(now);
            if state.own.contains(&body.producer) {
                state.own_shown.push(now);
            }
            for command in &body.commands {
                if let Command::LeaseGrant { id, ttl } = command {
                    state.ttls.insert(*id, Duration::from_secs(u64::try_from(*ttl).unwrap_or(0)));
                }
            }
        }
        if !state.own_shown.is_empty() {
            state.shown_to = Some(Tail { start: Position(1), tail: run.to, term: run.term });
        }
        if self.plant == Some(Plant::LostEntry) && self.name.starts_with("a1/") {
            run.entries.retain(|_| {
                state.until_lost = state.until_lost.wrapping_sub(1);
                state.until_lost != 0
            });
        }
        run
    }
}
