//! The interleavings that would be fatal, each told on purpose. The seed moves what is open in them:
//! how long things take, and at which step of the disk the machine stops.

use std::time::Duration;

use anyhow::{Context, ensure};
use journal_client::Journal;
use journal_server::group::Group;
use journal_server::latch::Exit;
use journal_server::raft::Role;
use journal_server::segment::fault_disk::{Fault, Op};
use proto::Position;
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout};

use super::etcd::Tale;
use super::node::{DiskSpeed, End};
use super::profile::Profile;
use super::stage::{RECOVERY, Stage};
use super::wire::{Host, Latency};
use crate::history::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// A deposed leader's own suffix is being replaced; the power goes within the sync that brings
    /// the right entries together with the word that they are committed.
    CommitHint,
    /// A voter loses its disk and comes back with the flags that it always had, while the only
    /// other node that holds an acknowledged entry is away.
    WipedVoter,
    /// An entry is written but not synced when its process is killed; the next process finds it in
    /// the page cache, and then the power goes.
    PageCache,
    /// All nodes lose power under load, again and again, and nobody helps them up.
    PowerCutOfAll,
    /// The leader's sync fails when its followers have the entry, and it has not heard of that.
    LeaderSyncFails,
    /// A follower comes back with less than it acknowledged: an old backup was restored.
    OldBackup,
    /// A follower is away while the journal is trimmed beyond its end; what comes back gets a
    /// snapshot, on a slow disk and over connections that break.
    BehindATrim,
    /// A process is killed right after it acknowledged an entry, and its disk forgets a bit of the end.
    LastFlip,
    Adapters(Tale),
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Story {
    pub const ALL: [(&'static str, Story); 13] = [
        ("commit-hint", Story::CommitHint),
        ("wiped-voter", Story::WipedVoter),
        ("page-cache", Story::PageCache),
        ("power-cut-of-all", Story::PowerCutOfAll),
        ("leader-sync-fails", Story::LeaderSyncFails),
        ("old-backup", Story::OldBackup),
        ("behind-a-trim", Story::BehindATrim),
        ("last-flip", Story::LastFlip),
        ("ride-on-resent", Story::Adapters(Tale::RideOnResent)),
        ("late-stream", Story::Adapters(Tale::LateStream)),
        ("compaction-under-page", Story::Adapters(Tale::CompactionUnderPage)),
        ("renewal-in-outage", Story::Adapters(Tale::RenewalInOutage)),
        ("replaced", Story::Adapters(Tale::Replaced)),
    ];

    /// How many adapters it is about.
    pub fn adapters(self) -> Option<usize> {
        self.tale().map(|_| 2)
    }

    /// What adapters do in it.
    pub fn tale(self) -> Option<Tale> {
        match self {
            Story::Adapters(tale) => Some(tale),
            _ => None,
        }
    }

    /// A calm world: what happens is what the story does.
    pub fn set(self, profile: &mut Profile) {
        profile.nodes = 3;
        if let Some(adapters) = &mut profile.adapters {
            adapters.calm();
        }
        profile.latency = Latency { least: ms(0), spread: ms(2), spike_in: 0, spike: ms(0) };
        profile.disk = DiskSpeed { least: ms(0), spread: ms(3), spike_in: 0, spike: ms(0) };
    }

    pub async fn tell(self, stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
        for _ in 0..3 {
            ensure!(matches!(stage.append().await, Outcome::Committed(_)), "a healthy cluster does not take an entry");
        }
        match self {
            Story::CommitHint => commit_hint(stage, rng).await,
            Story::WipedVoter => wiped_voter(stage).await,
            Story::PageCache => page_cache(stage, rng).await,
            Story::PowerCutOfAll => power_cut_of_all(stage, rng).await,
            Story::LeaderSyncFails => leader_sync_fails(stage, rng).await,
            Story::OldBackup => old_backup(stage, rng).await,
            Story::BehindATrim => behind_a_trim(stage, rng).await,
            Story::LastFlip => last_flip(stage, rng).await,
            Story::Adapters(tale) => anyhow::bail!("{tale:?} needs adapters"),
        }
    }
}

async fn commit_hint(stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
    let [leader, a, b] = cast(stage)?;
    // The old leader takes entries that nobody else will ever hear of.
    cut_off(stage, leader, true);
    for _ in 0..3 {
        let outcome = stage.append().await;
        if let Outcome::Committed(_) = outcome {
            break;
        }
    }
    eventually("the others have a leader", || [a, b].iter().any(|host| leads(stage, *host))).await?;
    let mut wanted = 0;
    while wanted < 5 {
        if let Outcome::Committed(_) = stage.append().await {
            wanted += 1;
        }
    }
    // It comes back, and its machine stops while its suffix is being replaced.
    stage.world.node(leader).stop_within(rng.random_range(0..10), End::Power);
    cut_off(stage, leader, false);
    sleep(ms(500)).await;
    // Alone again, it must not believe in what it has left.
    stage.append().await;
    stage.world.node(leader).disk().heal();
    stage.recovers().await
}

async fn wiped_voter(stage: &mut Stage) -> anyhow::Result<()> {
    let [leader, a, b] = cast(stage)?;
    cut_off(stage, b, true);
    let told = stage.append().await;
    ensure!(matches!(told, Outcome::Committed(_)), "two of three do not take an entry: {told:?}");
    let before = server_id(stage, a).context("a is gone")?;
    // Only the leader is left of those who hold it. It goes away; the one who never had it comes back.
    ensure!(stage.operator.wipe(a), "the disk cannot be wiped now");
    cut_off(stage, leader, true);
    cut(stage, a, b, false);
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        sleep(ms(20)).await;
        for host in [a, b] {
            ensure!(!leads(stage, host), "{host} leads, with the vote of one that has forgotten what it held");
        }
    }
    let now = server_id(stage, a).context("the wiped node does not run")?;
    ensure!(now != before, "a wiped disk kept its identity");
    stage.world.wire.mend_all();
    stage.recovers().await
}

async fn page_cache(stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
    let [leader, a, b] = cast(stage)?;
    cut_off(stage, b, true);
    sleep(ms(300)).await;
    // Its next steps are the write of the entry and the sync.
    let node = stage.world.node(a).clone();
    let life = node.life();
    node.stop_within(rng.random_range(0..3), End::Kill);
    // From the next life on its disk is slow: what that life says is not what it has synced itself.
    let slowed = tokio::spawn({
        let node = node.clone();
        async move {
            while node.life() == life {
                sleep(ms(1)).await;
            }
            node.set_speed(DiskSpeed { least: ms(600), spread: ms(0), spike_in: 0, spike: ms(0) });
        }
    });
    let told = stage.append().await;
    slowed.abort();
    node.set_speed(stage.world.profile.disk);
    let position = match told {
        Outcome::Committed(position) => position.0,
        // The leader was deposed meanwhile; the end is judged all the same.
        _ => return mend(stage).await,
    };
    stage.world.trace.event(format_args!("the entry is acknowledged, {} lives later", node.life() - life));
    // Whatever a said of it, it must hold it now.
    node.end(End::PowerAll, "the power goes");
    stage.world.node(leader).want(false);
    stage.world.node(leader).end(End::PowerAll, "the power goes");
    cut(stage, a, b, false);
    eventually("the entry is served without the old leader", || {
        [a, b].iter().any(|host| leads(stage, *host) && group(stage, *host).is_some_and(|g| g.mark().tail > position))
    })
    .await?;
    mend(stage).await
}

async fn power_cut_of_all(stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
    stage.load();
    for _ in 0..rng.random_range(2..6) {
        sleep(ms(rng.random_range(100..1500))).await;
        for node in &stage.world.nodes[..stage.world.profile.nodes] {
            let end = if rng.random_bool(0.3) { End::PowerAll } else { End::Power };
            match rng.random_bool(0.7) {
                true => node.stop_within(rng.random_range(0..10), end),
                false => node.end(end, "the power goes"),
            }
        }
        let stopped = Instant::now();
        // Nothing is mended: the machines start again by themselves.
        stage.recovers().await?;
        stage.world.trace.event(format_args!("back after {:?}", stopped.elapsed()));
    }
    Ok(())
}

async fn leader_sync_fails(stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
    let [leader, a, b] = cast(stage)?;
    let node = stage.world.node(leader).clone();
    let slow = ms(rng.random_range(20..120));
    node.set_speed(DiskSpeed { least: slow, spread: ms(0), spike_in: 0, spike: ms(0) });
    sleep(ms(200)).await;
    node.disk().fail(Fault::eio(Op::Sync, 0));
    // The followers get the entry; that they have it is not heard.
    stage.world.wire.cut(a, leader);
    stage.world.wire.cut(b, leader);
    let told = stage.append().await;
    ensure!(matches!(told, Outcome::Unknown(_)), "the leader could not know, and said {told:?}");
    eventually("the leader exits, for its disk failed", || node.last_exit() == Some(Exit::FailedDisk)).await?;
    let entry = stage.last_own();
    ensure!([a, b].iter().any(|host| holds(stage, *host, &entry)), "no follower has the entry: this is another story");
    node.set_speed(stage.world.profile.disk);
    stage.world.wire.mend_all();
    stage.recovers().await?;
    // Whoever led since had it, and so it was committed.
    eventually("all have the entry", || [leader, a, b].iter().all(|host| holds(stage, *host, &entry))).await
}

async fn old_backup(stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
    let [_, a, _] = cast(stage)?;
    let node = stage.world.node(a).clone();
    let backup = node.disk().durable();
    for _ in 0..rng.random_range(1..20) {
        ensure!(matches!(stage.append().await, Outcome::Committed(_)), "a healthy cluster does not take an entry");
    }
    sleep(ms(300)).await;
    node.put_disk(backup);
    eventually("the leader shuts it out, and says so", || !stage.world.members().shut_out.is_empty()).await?;
    // Feeding it would hide the loss; the others do without it.
    let held = group(stage, a).and_then(|group| group.replica().log().last());
    for _ in 0..10 {
        ensure!(matches!(stage.append().await, Outcome::Committed(_)), "the others do not work without it");
    }
    ensure!(group(stage, a).and_then(|group| group.replica().log().last()) == held, "it was fed all the same");
    ensure!(stage.operator.wipe(a), "it cannot be replaced now");
    stage.recovers().await
}

async fn behind_a_trim(stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
    let [leader, a, _] = cast(stage)?;
    stage.load();
    sleep(ms(300)).await;
    let node = stage.world.node(a).clone();
    cut_off(stage, a, true);
    let away = rng.random_bool(0.5);
    if away {
        node.want(false);
        node.end(End::Power, "it is away");
    }
    sleep(ms(rng.random_range(500..3000))).await;
    let tail = timeout(RECOVERY, stage.journals[0].check_tail()).await??.tail;
    timeout(RECOVERY, stage.journals[0].trim(Position(tail.0 - 2))).await??;
    let slow = ms(rng.random_range(1..150));
    node.set_speed(DiskSpeed { least: slow, spread: ms(5), spike_in: 0, spike: ms(0) });
    cut_off(stage, a, false);
    node.want(true);
    for _ in 0..10 {
        sleep(ms(rng.random_range(1..120))).await;
        stage.world.wire.reset(leader, a);
    }
    node.set_speed(stage.world.profile.disk);
    stage.recovers().await
}

async fn last_flip(stage: &mut Stage, rng: &mut StdRng) -> anyhow::Result<()> {
    let [_, a, _] = cast(stage)?;
    for _ in 0..rng.random_range(1..5) {
        ensure!(matches!(stage.append().await, Outcome::Committed(_)), "a healthy cluster does not take an entry");
    }
    let entry = stage.last_own();
    eventually("the follower has the entry", || holds(stage, a, &entry)).await?;
    sleep(ms(rng.random_range(0..30))).await;
    let node = stage.world.node(a).clone();
    node.want(false);
    node.end(End::Kill, "a fault");
    eventually("it is gone", || node.server().is_none()).await?;
    let proven = node.flip_last(stage.journals[0].id().0)?;
    node.want(true);
    for _ in 0..rng.random_range(0..5) {
        ensure!(matches!(stage.append().await, Outcome::Committed(_)), "the others do not work without it");
    }
    // What was cut comes back from the others, unless a leader knows that it was acknowledged: that one
    // does not pretend. What was proven is filled.
    let shut_out = || !stage.world.members().shut_out.is_empty();
    eventually("it is given what it forgot, or shut out", || holds(stage, a, &entry) || shut_out()).await?;
    if shut_out() {
        ensure!(!proven, "a node is shut out that could be healed");
        ensure!(stage.operator.wipe(a), "it cannot be replaced now");
    }
    stage.recovers().await
}

/// Whether the node's log has the entry.
fn holds(stage: &Stage, host: Host, payload: &[u8]) -> bool {
    let Some(group) = group(stage, host) else { return false };
    let log = group.replica().log();
    let from = log.first_position();
    let entries = log.read_blocking(from, log.last().map_or(0, |last| last.position + 1), 1 << 20).unwrap_or_default();
    entries.iter().any(|entry| entry.body == payload)
}

/// The leader of the journal and the two others.
fn cast(stage: &Stage) -> anyhow::Result<[Host; 3]> {
    let leader = stage.world.leader(stage.journals[0].id().0).context("nobody leads")?;
    let others: Vec<Host> = stage.operator.used().into_iter().filter(|host| *host != leader).collect();
    Ok([leader, others[0], others[1]])
}

fn cut(stage: &Stage, a: Host, b: Host, cut: bool) {
    for (from, to) in [(a, b), (b, a)] {
        match cut {
            true => stage.world.wire.cut(from, to),
            false => stage.world.wire.mend(from, to),
        }
    }
}

/// Cuts a node off from the other nodes, and from nobody else; or brings it back.
fn cut_off(stage: &Stage, host: Host, off: bool) {
    for other in stage.operator.used().into_iter().filter(|other| *other != host) {
        cut(stage, host, other, off);
    }
}

async fn mend(stage: &Stage) -> anyhow::Result<()> {
    stage.world.wire.mend_all();
    for host in stage.operator.used() {
        stage.world.node(host).disk().heal();
        stage.world.node(host).want(true);
    }
    stage.recovers().await
}

fn group(stage: &Stage, host: Host) -> Option<Arc<Group>> {
    stage.world.node(host).server()?.groups()?.get(stage.journals[0].id().0).ok()
}

fn leads(stage: &Stage, host: Host) -> bool {
    group(stage, host).is_some_and(|group| group.standing().role == Role::Leader)
}

fn server_id(stage: &Stage, host: Host) -> Option<proto::NodeId> {
    Some(stage.world.node(host).server()?.node_id)
}

async fn eventually(what: &str, so: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + RECOVERY;
    while !so() {
        ensure!(Instant::now() < deadline, "it never came to this: {what}");
        sleep(ms(10)).await;
    }
    Ok(())
}
