//! A cluster that works: nodes up, a journal, clients that append, read and ask for its tail; and, at
//! the end, the judgement of what they saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use journal_client::{Entry, Journal, RemoteJournal, TailFrom};
use journal_server::segment::{Error as LogError, Kind};
use proto::Position;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::operator::Operator;
use super::reader::Reader;
use super::wire::Host;
use super::world::{CLIENTS, World};
use crate::check::{self, Verdict};
use crate::history::{Append, History, Mark, Outcome};
use crate::traffic::{Load, Traffic, outcome_of};

pub struct Stage {
    pub world: Arc<World>,
    pub operator: Operator,
    /// The journal, as each client has it.
    pub journals: Vec<Arc<RemoteJournal>>,
    traffic: Vec<Traffic>,
    readers: Vec<JoinHandle<Position>>,
    stop_readers: CancellationToken,
    /// What a story appended by itself.
    own: History,
    own_number: u64,
}

/// A whole cluster comes back, and answers, within this much simulated time after everything was
/// mended.
pub const RECOVERY: Duration = Duration::from_secs(30);
/// Changes of members are carried through within this.
const CHANGES: Duration = Duration::from_secs(120);
/// Every append has an answer within this.
const ANSWERS: Duration = Duration::from_secs(60);
/// The appender that is the story itself.
const OWN: u32 = 900_000;
/// Appends that only ask whether it works again. Nobody remembers what they were told.
const NOBODY: u32 = u32::MAX;

impl Stage {
    /// Everybody up, the journal there, readers reading. Nobody appends yet.
    pub async fn begin(world: Arc<World>) -> anyhow::Result<Stage> {
        let operator = Operator::new(world.clone());
        for host in operator.used() {
            world.node(host).want(true);
        }
        let mut journals = Vec::new();
        for host in CLIENTS {
            let client = world.client(host);
            journals.push(world.journal(&client, RECOVERY).await.context("the cluster does not come up")?);
        }
        let stop_readers = CancellationToken::new();
        let readers = readers(&world, &journals, &stop_readers);
        Ok(Stage {
            world,
            operator,
            journals,
            traffic: Vec::new(),
            readers,
            stop_readers,
            own: History::default(),
            own_number: 0,
        })
    }

    /// Lets clients append, as the profile says.
    pub fn load(&mut self) {
        let profile = &self.world.profile;
        let load = Load {
            appenders: profile.appenders,
            rest: profile.rest,
            streamers: profile.streamers,
            under_way: 4,
            entry_bytes: profile.entry_bytes,
            tail_checks: true,
        };
        for (journal, number) in self.journals.iter().zip(0..) {
            self.traffic.push(Traffic::start(journal.clone(), load.clone(), 1000 * number));
        }
    }

    /// One append of the story's own, and what it was told.
    pub async fn append(&mut self) -> Outcome {
        let mark = Mark { appender: OWN, number: self.own_number };
        self.own_number += 1;
        let called = Instant::now();
        let outcome = outcome_of(self.journals[0].append(Entry::new(own_payload(mark))).await);
        self.world.trace.event(format_args!("append {}: {outcome:?}", mark.number));
        self.own.appends.push(Append { mark, called, answered: Instant::now(), outcome: outcome.clone() });
        outcome
    }

    /// The payload of the story's last append.
    pub fn last_own(&self) -> Bytes {
        own_payload(Mark { appender: OWN, number: self.own_number.saturating_sub(1) })
    }

    /// Everything was mended: the cluster answers again, and finishes what it began.
    pub async fn recovers(&self) -> anyhow::Result<()> {
        let mended = Instant::now();
        answers(&self.journals[0], mended + RECOVERY).await?;
        self.world.trace.event(format_args!("it answers again {:?} after it was mended", mended.elapsed()));
        self.settled(mended + CHANGES).await?;
        self.world.trace.event(format_args!("its members are settled {:?} after it was mended", mended.elapsed()));
        Ok(())
    }

    /// Lets everybody finish, and judges.
    pub async fn end(self) -> anyhow::Result<Verdict> {
        let mut history = self.own;
        for traffic in self.traffic {
            let one = timeout(ANSWERS, traffic.stop()).await.context("appends stay without an answer")?;
            history.appends.extend(one.appends);
            history.tail_checks.extend(one.tail_checks);
        }
        let verdict = compare(&self.world, &self.operator, &self.journals[1], &history).await?;
        self.stop_readers.cancel();
        for reader in self.readers {
            reader.await.context("a reader fell over")?;
        }
        Ok(verdict)
    }

    /// What an operator learns of a node whose disk is bad, from what the node says of itself.
    fn look_at(&self, host: Host) -> Patient {
        let Some(groups) = self.world.node(host).server().and_then(|server| server.groups()) else {
            return Patient::Unsure;
        };
        // Nobody holds any more what it would have to be given.
        if groups.troubles().values().any(|why| why.contains("must be replaced")) {
            return Patient::Incurable;
        }
        match self.journals[1].id().0 {
            id if groups.get(id).is_ok() => Patient::Well,
            _ => Patient::Unsure,
        }
    }

    /// No change of members is under way any more, and nobody waits for what nobody can give.
    async fn settled(&self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            let members = self.world.members();
            if !self.operator.is_busy() && !members.changing {
                // A disk that has forgotten what nothing on it proves makes its node look like one that
                // lost data, and so it did: it is replaced, as an operator would.
                let bad = *self.world.bad_disk.lock();
                let shut_out = |(id, host, _): &&(_, Host, _)| members.shut_out.contains(id) && bad == Some(*host);
                match members.list.iter().find(shut_out) {
                    Some((_, host, _)) => drop(self.operator.wipe(*host)),
                    None => {
                        ensure!(members.shut_out.is_empty(), "nodes are shut out: {:?}", members.shut_out);
                        match bad.filter(|host| self.operator.is_used(*host)).map_or(Patient::Well, |h| self.look_at(h))
                        {
                            Patient::Well => return Ok(()),
                            Patient::Incurable => drop(self.operator.wipe(bad.expect("it is the patient"))),
                            Patient::Unsure => {}
                        }
                    }
                }
            }
            ensure!(Instant::now() < deadline, "a change of members is not carried out: {members:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

enum Patient {
    Well,
    Incurable,
    Unsure,
}

fn own_payload(mark: Mark) -> Bytes {
    mark.payload(200)
}

/// One reader from the leader, one from each of two nodes, on both clients' hosts.
fn readers(world: &World, journals: &[Arc<RemoteJournal>], stop: &CancellationToken) -> Vec<JoinHandle<Position>> {
    let from = |host: usize| TailFrom::Node(world.nodes[host].host.address());
    let plans = [("r-leader", 0, TailFrom::Leader), ("r-n1", 0, from(0)), ("r-n3", 1, from(2))];
    let readers = plans.into_iter().map(|(name, journal, from)| Reader {
        name: name.to_owned(),
        journal: journals[journal].clone(),
        from,
        witness: world.witness.clone(),
        trace: world.trace.clone(),
    });
    readers.map(|reader| tokio::spawn(reader.follow(stop.clone()))).collect()
}

/// An entry gets in.
async fn answers(journal: &RemoteJournal, deadline: Instant) -> anyhow::Result<()> {
    for number in 0.. {
        let entry = Entry::new(Mark { appender: NOBODY, number }.payload(16));
        match timeout(Duration::from_secs(5), journal.append(entry)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if Instant::now() > deadline => bail!("nothing gets in after all was mended: {error}"),
            Err(_) if Instant::now() > deadline => bail!("an append is not even answered after all was mended"),
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}

/// Every member holds the same, and it is what the clients were told.
async fn compare(
    world: &World,
    operator: &Operator,
    journal: &RemoteJournal,
    history: &History,
) -> anyhow::Result<Verdict> {
    let now = timeout(RECOVERY, journal.check_tail()).await.context("no tail within the time for it")??;
    let (id, tail) = (journal.id().0, now.tail.0);
    let deadline = Instant::now() + RECOVERY;
    let mut all: BTreeMap<u64, (u64, Kind, Bytes)> = BTreeMap::new();
    let mut start = 0;
    for host in operator.used() {
        let node = world.node(host);
        let group = loop {
            let group = node.server().and_then(|server| server.groups()).and_then(|groups| groups.get(id).ok());
            match group {
                Some(group) if group.mark().applied >= tail => break group,
                _ => ensure!(Instant::now() < deadline, "{} does not reach the tail {tail}", node.name),
            }
            sleep(Duration::from_millis(50)).await;
        };
        let log = group.replica().log();
        let mut at = log.first_position();
        while at < tail {
            let entries = match log.read_blocking(at, tail, 1 << 20) {
                Ok(entries) => entries,
                // A trim that was asked for earlier is carried out on this node only now.
                Err(LogError::Purged { first }) if first > at => {
                    at = first;
                    continue;
                }
                Err(error) => {
                    ensure!(Instant::now() < deadline, "{} at {at}: {error}", node.name);
                    // Damage in the middle is found by who reads, and peers fill it beneath a reader.
                    let _ = timeout(RECOVERY / 4, group.tail(at).next()).await;
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            ensure!(!entries.is_empty(), "{} holds nothing at {at}, below the tail {tail}", node.name);
            for entry in entries {
                ensure!(entry.id.position == at, "{} answers {} when asked for {at}", node.name, entry.id.position);
                at += 1;
                let found = (entry.id.term, entry.kind, entry.body);
                world.witness.committed(&node.name, id, entry.id.position, found.0);
                match all.get(&entry.id.position) {
                    None => drop(all.insert(entry.id.position, found)),
                    Some(known) => ensure!(*known == found, "{} differs at {}", node.name, entry.id.position),
                }
            }
        }
        start = start.max(group.mark().start);
    }
    // What was trimmed is known from what readers were shown; what is there must be what they were.
    let mut entries: BTreeMap<Position, Bytes> = world.witness.entries().into_iter().collect();
    for (at, (_, kind, body)) in &all {
        let position = Position(*at);
        match (kind, entries.get(&position)) {
            (Kind::Entry, None) => drop(entries.insert(position, body.clone())),
            (Kind::Entry, Some(shown)) => ensure!(shown == body, "at {at} readers were shown something else"),
            (_, Some(_)) => bail!("at {at} readers were shown an entry, where there is {kind:?}"),
            (_, None) => {}
        }
    }
    let nobodys = |payload: &Bytes| Mark::of(payload).is_some_and(|mark| mark.appender == NOBODY);
    let entries: Vec<(Position, Bytes)> = entries.into_iter().filter(|(_, payload)| !nobodys(payload)).collect();
    let judged = check::check_from(history, Position(start), &entries);
    judged.map_err(|violations| anyhow::anyhow!("{violations:#?}"))
}
