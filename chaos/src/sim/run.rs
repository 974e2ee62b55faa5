//! One seed, from an empty cluster to a verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use journal_client::{Entry, Journal, RemoteJournal, TailFrom};
use journal_server::segment::Kind;
use proto::Position;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::faults::Faults;
use super::operator::Operator;
use super::profile::Profile;
use super::reader::Reader;
use super::trace::{Detail, Trace};
use super::world::{CLIENTS, World, fork};
use crate::check::{self, Verdict};
use crate::history::History;
use crate::traffic::{Load, Traffic};

/// What a seed came to.
#[derive(Debug)]
pub struct Outcome {
    pub hash: u64,
    pub events: u64,
    pub simulated: Duration,
    pub verdict: Result<Verdict, Vec<String>>,
    /// The newest events, for whoever has to understand a failure.
    pub recent: Vec<String>,
}

/// How a seed is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub nodes: Option<usize>,
    pub detail: Detail,
}

/// A whole cluster comes back, and answers, within this much simulated time after everything was
/// mended.
const RECOVERY: Duration = Duration::from_secs(30);
/// Changes of members are carried through within this.
const CHANGES: Duration = Duration::from_secs(120);

/// Runs the world of a seed. In a program that answers for time and chance (see [`super::clock`]),
/// this process belongs to the simulation from now on.
pub fn run(seed: u64, options: Options) -> Outcome {
    clock::begin(seed);
    // Some chance is drawn once a thread; this one has not drawn yet.
    let world = std::thread::Builder::new().name(format!("seed {seed}")).stack_size(64 << 20);
    let world = world.spawn(move || run_here(seed, options)).expect("there are threads");
    world.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_here(seed: u64, options: Options) -> Outcome {
    journal_server::raft::seed_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing but memory");
    runtime.block_on(async {
        let trace = Trace::new(options.detail);
        let mut rng = StdRng::seed_from_u64(seed);
        let profile = Profile::draw(&mut rng, options.nodes);
        trace.event(format_args!("seed {seed}: {profile:?}"));
        let world = World::new(&mut rng, profile, trace.clone());
        let verdict = match live(&world, &mut rng).await {
            Ok(verdict) => match world.witness.all_broken() {
                broken if broken.is_empty() => Ok(verdict),
                broken => Err(broken),
            },
            Err(error) => {
                let mut why = world.witness.all_broken();
                why.push(format!("{error:#}"));
                Err(why)
            }
        };
        Outcome {
            hash: trace.hash(),
            events: trace.count(),
            simulated: Duration::from_millis(trace.now_ms()),
            verdict,
            recent: trace.recent(),
        }
    })
}

async fn live(world: &Arc<World>, rng: &mut StdRng) -> anyhow::Result<Verdict> {
    let profile = &world.profile;
    let operator = Operator::new(world.clone());
    for host in operator.used() {
        world.node(host).want(true);
    }
    let clients: Vec<_> = CLIENTS.iter().map(|host| world.client(*host)).collect();
    let mut journals = Vec::new();
    for client in &clients {
        journals.push(world.journal(client, RECOVERY).await.context("the cluster does not come up")?);
    }

    let load = Load {
        appenders: profile.appenders,
        rest: profile.rest,
        streamers: profile.streamers,
        under_way: 4,
        entry_bytes: profile.entry_bytes,
        tail_checks: true,
    };
    let traffic: Vec<Traffic> = journals
        .iter()
        .zip(0..)
        .map(|(journal, number)| Traffic::start(journal.clone(), load.clone(), 1000 * number))
        .collect();
    let stop_readers = CancellationToken::new();
    let readers = readers(world, &journals, &stop_readers);

    let mut faults = Faults::new(world.clone(), fork(rng), journals[0].clone(), operator.clone());
    faults.run().await;
    faults.heal().await;

    // Progress, with the load still on.
    let mended = Instant::now();
    answers(&journals[0], mended + RECOVERY).await?;
    world.trace.event(format_args!("it answers again {:?} after it was mended", mended.elapsed()));
    settled(world, &operator, mended + CHANGES).await?;
    world.trace.event(format_args!("its members are settled {:?} after it was mended", mended.elapsed()));

    let mut history = History::default();
    for traffic in traffic {
        let one = timeout(Duration::from_secs(60), traffic.stop()).await.context("appends stay without an answer")?;
        history.appends.extend(one.appends);
        history.tail_checks.extend(one.tail_checks);
    }
    let verdict = compare(world, &operator, &journals[1], &history).await?;
    stop_readers.cancel();
    for reader in readers {
        reader.await.context("a reader fell over")?;
    }
    Ok(verdict)
}

/// One reader from the leader, one from each of two nodes, on both clients' hosts.
fn readers(
    world: &World,
    journals: &[Arc<RemoteJournal>],
    stop: &CancellationToken,
) -> Vec<tokio::task::JoinHandle<Position>> {
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
    let mark = |number| crate::history::Mark { appender: u32::MAX, number };
    let mut number = 0;
    loop {
        // These are nobody's: the check must not miss them, so they carry no mark that it knows.
        let entry = Entry::new(mark(number).payload(16));
        number += 1;
        match timeout(Duration::from_secs(5), journal.append(entry)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if Instant::now() > deadline => bail!("nothing gets in after all was mended: {error}"),
            Err(_) if Instant::now() > deadline => bail!("an append is not even answered after all was mended"),
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// No change of members is under way any more.
async fn settled(world: &World, operator: &Operator, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let members = world.members();
        if !operator.is_busy() && !members.changing {
            ensure!(members.shut_out.is_empty(), "nodes are shut out: {:?}", members.shut_out);
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a change of members is not carried out: {members:?}");
        sleep(Duration::from_millis(100)).await;
    }
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
        start = start.max(group.mark().start);
        let log = group.replica().log();
        let mut at = log.first_position();
        while at < tail {
            let entries = log.read_blocking(at, tail, 1 << 20).with_context(|| format!("{} at {at}", node.name))?;
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
    let own = |payload: &Bytes| crate::history::Mark::of(payload).is_some_and(|mark| mark.appender == u32::MAX);
    let entries: Vec<(Position, Bytes)> = entries.into_iter().filter(|(_, payload)| !own(payload)).collect();
    let judged = check::check_from(history, Position(start), &entries);
    judged.map_err(|violations| anyhow::anyhow!("{violations:#?}"))
}
