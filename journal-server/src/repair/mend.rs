//! Repair beneath readers: holes of a log that runs are filled from the other members. What cannot be
//! filled in time stops the group here: a replica that cannot read its log must not stay in office.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::JournalId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ask::{self, Source};
use super::{Entered, Holder};
use crate::group::Shared;
use crate::raft::Replica;
use crate::reading::PATIENCE;
use crate::segment::{Error, Hole, Log, LogEntry};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// So often it is looked whether the damage is still there.
const RECHECK: Duration = Duration::from_secs(3);

/// Looks after the holes of one running log.
pub struct Mender {
    shared: Arc<Shared>,
    group: u64,
    log: Log,
    /// Not there while Raft starts.
    replica: OnceLock<Arc<Replica>>,
    /// The group was stopped for a hole, and now has none.
    recovered: AtomicBool,
}

impl Mender {
    pub fn new(shared: &Arc<Shared>, group: u64, log: Log) -> Arc<Mender> {
        let (replica, recovered) = (OnceLock::new(), AtomicBool::new(false));
        Arc::new(Mender { shared: shared.clone(), group, log, replica, recovered })
    }

    /// From now on this is what stops when a hole stays.
    pub fn guard(&self, replica: Arc<Replica>) {
        // Called once, by whoever made it.
        let _ = self.replica.set(replica);
    }

    /// The group was stopped for damage that is repaired now: it may be opened again.
    pub fn recovered(&self) -> bool {
        self.recovered.load(Ordering::Acquire)
    }

    pub fn run(self: Arc<Self>, stop: CancellationToken) -> impl Future<Output = ()> + Send {
        // From here on peers can ask, before the first turn of the task.
        let entered = self.shared.repairs.enter(self.group, Holder::Running(self.log.clone()));
        async move {
            let _: &Entered = &entered;
            stop.run_until_cancelled(self.mend()).await;
        }
    }

    async fn mend(&self) {
        let mut holes = self.log.watch_holes();
        loop {
            if holes.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            if self.fill_all().await {
                break;
            }
        }
        self.recovered.store(true, Ordering::Release);
        if self.group == JournalId::SYSTEM.0 {
            let check = self.shared.health.check(self.line());
            check.not_live("`system` was stopped for damage, which is repaired now: restart this node");
            std::future::pending::<()>().await;
        }
        self.shared.look.notify_one();
    }

    /// Fills holes until there are none. True: that took so long that the group had to be stopped.
    async fn fill_all(&self) -> bool {
        let check = self.shared.health.check(self.line());
        let deadline = Instant::now() + PATIENCE;
        let (mut stopped, mut pause, mut checked) = (false, PAUSE_MIN, Instant::now());
        let mut why = String::new();
        loop {
            match stopped {
                true => why = self.round().await,
                false => match tokio::time::timeout_at(deadline, self.round()).await {
                    Ok(waits) => why = waits,
                    // Whoever is asked takes longer than the readers may wait.
                    Err(_) if why.is_empty() => why = self.names(),
                    Err(_) => {}
                },
            }
            if self.log.holes().is_empty() {
                return stopped;
            }
            if Instant::now() >= deadline && !stopped {
                stopped = true;
                tracing::error!(group = self.group, "stopped: damage that nobody fills: {why}");
                if let Some(replica) = self.replica.get() {
                    replica.shutdown().await;
                }
            }
            match stopped {
                true => check.not_ready(format!("stopped: damaged, and waiting for peers: {why}")),
                false => check.degraded(format!("damaged, and being repaired: {why}")),
            }
            let wake = Instant::now() + pause;
            tokio::time::sleep_until(if stopped { wake } else { wake.min(deadline) }).await;
            pause = (pause * 2).min(PAUSE_MAX);
            if checked.elapsed() >= RECHECK {
                self.recheck().await;
                checked = Instant::now();
            }
        }
    }

    /// Asks everybody once for everything. What is still missing, and why.
    async fn round(&self) -> String {
        let mut waits = Vec::new();
        for hole in self.log.holes() {
            if let Some(why) = self.fill(&hole).await {
                waits.push(why);
            }
        }
        waits.join("; ")
    }

    fn names(&self) -> String {
        let holes: Vec<String> = self.log.holes().iter().map(|hole| format!("{hole} (nobody has answered)")).collect();
        holes.join("; ")
    }

    async fn recheck(&self) {
        let log = self.log.clone();
        let recheck = move || log.recheck_blocking().map_err(io::Error::other);
        if let Err(error) = self.shared.offload().run(recheck).await {
            tracing::warn!(group = self.group, "looking at damage again: {error}");
        }
    }

    /// Why the hole is still there, if it is.
    async fn fill(&self, hole: &Hole) -> Option<String> {
        let sources = self.sources();
        let mut heard = Vec::new();
        for source in &sources {
            let offer = |entries: Vec<LogEntry>| {
                let log = self.log.clone();
                async move {
                    let patch = move || match log.patch_blocking(&entries) {
                        Err(Error::Refused { why }) => Ok(Err(format!("offers something else: {why}"))),
                        done => done.map(Ok).map_err(io::Error::other),
                    };
                    self.shared.offload().run(patch).await.map_err(|error| error.to_string())?
                }
            };
            let said = ask::ask(&self.shared, self.group, source, hole, offer).await;
            let open = |known: &Hole| (known.segment, known.offset) == (hole.segment, hole.offset);
            if !self.log.holes().iter().any(open) {
                return None;
            }
            heard.push(said);
        }
        Some(ask::describe_all(&heard, hole))
    }

    /// The members in force; before Raft knows them, those of the node file.
    fn sources(&self) -> Vec<Source> {
        let nodes = self.replica.get().map(|replica| replica.standing().nodes).unwrap_or_default();
        let own = self.shared.node();
        let source =
            |(node, member): (u64, crate::state::Member)| Source { node, name: member.name, address: member.address };
        let sources: Vec<Source> = nodes.into_iter().filter(|(node, _)| *node != own).map(source).collect();
        match sources.is_empty() {
            true => ask::sources(&self.shared, self.group),
            false => sources,
        }
    }

    fn line(&self) -> String {
        match self.group {
            0 => "repair of `system`".to_owned(),
            id => format!("repair of journal {id}"),
        }
    }
}
