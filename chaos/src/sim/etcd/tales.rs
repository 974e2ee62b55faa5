//! Stories of adapters, each told on purpose. The seed moves what is open in them: how long things
//! take, and what overtakes what. The judgement is the one of every world.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};

use super::client::{all, key};
use super::keeper;
use super::ledger::Told;
use super::machine::End;
use super::troupe::Troupe;
use crate::sim::stage::{RECOVERY, Stage};
use crate::sim::wire::Host;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tale {
    /// An adapter's stream breaks under an entry; while that is sent again, another adapter takes a
    /// write, and a read arrives that must show it.
    RideOnResent,
    /// An adapter dies with entries under way; another machine takes its name; then the entries arrive.
    LateStream,
    /// A client reads page after page at one revision, a watcher follows history; somebody compacts.
    CompactionUnderPage,
    /// The journal is away for longer than a lease lives, and its owner does all that can be done.
    RenewalInOutage,
    /// An adapter works, and a second process of its name begins.
    Replaced,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Tale {
    pub async fn tell(self, stage: &mut Stage, troupe: &mut Troupe, rng: &mut StdRng) -> anyhow::Result<()> {
        match self {
            Tale::RideOnResent => ride_on_resent(stage, troupe, rng).await,
            Tale::LateStream => late_stream(stage, troupe, rng).await,
            Tale::CompactionUnderPage => compaction_under_page(troupe, rng).await,
            Tale::RenewalInOutage => renewal_in_outage(stage, troupe, rng).await,
            Tale::Replaced => replaced(troupe, rng).await,
        }
    }
}

/// Who leads the adapters' journal.
fn leader(stage: &Stage, troupe: &Troupe) -> anyhow::Result<Host> {
    stage.world.leader(troupe.journal.id().0).context("nobody leads")
}

async fn ride_on_resent(stage: &Stage, troupe: &mut Troupe, rng: &mut StdRng) -> anyhow::Result<()> {
    let wire = &stage.world.wire;
    let first = troupe.machines[0].host;
    for round in 0..15 {
        let leader = leader(stage, troupe)?;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..2 {
            let mut client = troupe.client(100 + 10 * round + writer);
            client.take(0);
            let late = ms(rng.random_range(0..8) * u64::from(writer));
            writers.spawn(async move {
                sleep(late).await;
                client.put(key(1), 0).await;
            });
        }
        // Its entries get in, or do not; it hears nothing of it.
        sleep(ms(rng.random_range(0..5))).await;
        let silent = if rng.random_bool(0.7) { (leader, first) } else { (first, leader) };
        wire.cut(silent.0, silent.1);
        sleep(ms(rng.random_range(0..10))).await;
        let mut other = troupe.client(100 + 10 * round + 5);
        other.take(1);
        other.put(key(2), 0).await;
        let mut reader = troupe.client(100 + 10 * round + 6);
        reader.take(0);
        let reading = tokio::spawn(async move {
            for _ in 0..3 {
                reader.get(key(2)).await;
            }
        });
        let mut last = troupe.client(100 + 10 * round + 7);
        last.take(0);
        writers.spawn(async move {
            last.put(key(1), 0).await;
        });
        sleep(ms(rng.random_range(0..4))).await;
        wire.mend(silent.0, silent.1);
        wire.reset(first, leader);
        while writers.join_next().await.is_some() {}
        reading.await?;
    }
    Ok(())
}

async fn late_stream(stage: &Stage, troupe: &mut Troupe, rng: &mut StdRng) -> anyhow::Result<()> {
    let wire = stage.world.wire.clone();
    let old = troupe.machines[0].clone();
    let leader = leader(stage, troupe)?;
    // What it says from now on is held back.
    wire.cut(old.host, leader);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let mut client = troupe.client(100 + writer);
        client.take(0);
        writers.spawn(async move {
            client.put(key(u64::from(writer)), 0).await;
        });
    }
    sleep(ms(rng.random_range(20..400))).await;
    old.want(false);
    old.end(End::Power);
    let heir = troupe.add("a1");
    heir.want(true);
    let way = troupe.way(&heir);
    let deadline = Instant::now() + RECOVERY;
    let mut client = troupe.client(150);
    client.ways = vec![way.clone()];
    client.take(0);
    while !matches!(client.put(key(1), 0).await, Told::Done { .. }) {
        ensure!(Instant::now() < deadline, "the heir does not take a write");
        sleep(ms(50)).await;
    }
    for _ in 0..rng.random_range(1..5) {
        client.put(key(2), 0).await;
    }
    // What was said by the dead arrives now.
    wire.mend(old.host, leader);
    for _ in 0..5 {
        client.put(key(0), 0).await;
        sleep(ms(rng.random_range(1..100))).await;
    }
    while writers.join_next().await.is_some() {}
    troupe.ways[0] = way;
    Ok(())
}

async fn compaction_under_page(troupe: &mut Troupe, rng: &mut StdRng) -> anyhow::Result<()> {
    troupe.load();
    let mut writer = troupe.client(100);
    for number in 0..30 {
        writer.put(key(number), 0).await;
    }
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..4 {
        let mut client = troupe.client(110 + reader);
        let rounds = rng.random_range(4..9);
        readers.spawn(async move {
            for _ in 0..rounds {
                let revision = client.ledger.newest() - i64::from(reader % 2) * 10;
                let (mut from, end) = all();
                loop {
                    let told = client.page(from.clone(), end.clone(), revision.max(1), 4).await;
                    let Told::Found { kvs, .. } = told else { break };
                    let Some(last) = kvs.last().filter(|_| kvs.len() == 4) else { break };
                    from = [&last.key[..], &[0]].concat().into();
                }
            }
        });
    }
    let mut compactor = troupe.client(120);
    for _ in 0..rng.random_range(3..10) {
        sleep(ms(rng.random_range(5..400))).await;
        compactor.take(rng.random_range(0..2));
        let behind = *[0, 0, 1, 5].get(rng.random_range(0..4)).expect("there are four");
        let to = compactor.ledger.newest() - behind;
        compactor.compact_at(to).await;
    }
    timeout(RECOVERY, async { while readers.join_next().await.is_some() {} }).await.context("a reader never ends")?;
    // Long enough that what was compacted is forgotten, and dropped.
    sleep(Duration::from_secs(15)).await;
    writer.put(key(0), 0).await;
    writer.list(0, false).await;
    Ok(())
}

async fn renewal_in_outage(stage: &Stage, troupe: &mut Troupe, rng: &mut StdRng) -> anyhow::Result<()> {
    let ttl = rng.random_range(3..6);
    for number in 0..3 {
        let client = troupe.client(700 + number);
        troupe.keep(keeper::keep_eagerly(client, u64::from(number), ttl, troupe.keepers_stop()));
    }
    let nodes: Vec<Host> = stage.world.nodes[..3].iter().map(|node| node.host).collect();
    let adapters: Vec<Host> = troupe.machines.iter().map(|machine| machine.host).collect();
    for _ in 0..3 {
        sleep(ms(rng.random_range(1000..6000))).await;
        let outage = Duration::from_secs(ttl as u64).mul_f64(rng.random_range(0.3..3.0));
        match rng.random_range(0..3) {
            0 => {
                stage.world.trace.event(format_args!("no node has power for {outage:?}"));
                for node in &stage.world.nodes[..3] {
                    node.want(false);
                    node.end(crate::sim::node::End::Power, "an outage");
                }
                sleep(outage).await;
                stage.world.nodes[..3].iter().for_each(|node| node.want(true));
            }
            1 => {
                stage.world.trace.event(format_args!("no adapter reaches a node for {outage:?}"));
                let links = || nodes.iter().flat_map(|node| adapters.iter().map(move |adapter| (*adapter, *node)));
                links().for_each(|(adapter, node)| stage.world.wire.cut(adapter, node));
                sleep(outage).await;
                links().for_each(|(adapter, node)| stage.world.wire.mend(adapter, node));
            }
            _ => {
                stage.world.trace.event(format_args!("nodes do not hear each other for {outage:?}"));
                let pairs = || nodes.iter().flat_map(|a| nodes.iter().map(move |b| (*a, *b)));
                pairs().filter(|(a, b)| a != b).for_each(|(a, b)| stage.world.wire.cut(a, b));
                sleep(outage).await;
                pairs().filter(|(a, b)| a != b).for_each(|(a, b)| stage.world.wire.mend(a, b));
            }
        }
    }
    stage.recovers().await?;
    sleep(Duration::from_secs(2 * ttl as u64)).await;
    Ok(())
}

async fn replaced(troupe: &mut Troupe, rng: &mut StdRng) -> anyhow::Result<()> {
    troupe.load();
    sleep(ms(rng.random_range(100..1500))).await;
    let old = troupe.machines[0].clone();
    troupe.ledger.expects("another process has this adapter's name");
    let heir = troupe.add("a1");
    heir.want(true);
    let deadline = Instant::now() + RECOVERY;
    while old.exits().is_empty() {
        ensure!(Instant::now() < deadline, "two processes of one name go on");
        sleep(ms(5)).await;
    }
    old.want(false);
    ensure!(heir.exits().is_empty(), "the younger one left: {:?}", heir.exits());
    let way = troupe.way(&heir);
    troupe.ways[0] = way;
    troupe.all_answer().await?;
    sleep(ms(rng.random_range(100..1500))).await;
    ensure!(old.exits().len() == 1, "the older one came back");
    Ok(())
}
