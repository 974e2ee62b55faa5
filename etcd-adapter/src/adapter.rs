//! The whole adapter: boots, speaks, listens; owns its sockets and its long-lived tasks; ends in order.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use journal_client::Journal;
use journal_client::tls::{FrontTls, Reloading};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answers::Budget;
use crate::applier::{Applier, Audience, Fatal, Standing, Standings};
use crate::auto_compaction::Schedule;
use crate::boot::{self, Boot};
use crate::command::{AlarmAction, AlarmKind, Beat, Command, LEVEL};
use crate::config::{AutoCompaction, Config, ServerTls, Url};
use crate::env::{Doors, Env};
use crate::grpc::{Calls, Services, Shared};
use crate::http::connection::{Certificates, Front};
use crate::http::listen::{Door, Threads};
use crate::http::pages::{Check, Pages, Vitals};
use crate::lease_clock::{self, LeaseClock};
use crate::meters::Meters;
use crate::proposal::{Myself, Proposals};
use crate::reads::Reads;
use crate::watch::Hub;

/// How long connections have to finish what they do when the adapter stops.
const GRACE: Duration = Duration::from_secs(5);
/// Apply that is known to be behind and does not move for so long is ill.
const STALLED: Duration = Duration::from_secs(10);
/// How often automatic compaction looks.
const COMPACTION_TICK: Duration = Duration::from_secs(1);
/// How often it is seen whether there is room again.
const DISARM_TICK: Duration = Duration::from_secs(1);
/// How often it is seen how much room the store has left.
const ROOM_TICK: Duration = Duration::from_secs(1);

/// An adapter that runs.
pub struct Adapter {
    /// Where clients find it.
    pub addresses: Vec<String>,
    /// No new connections, and long streams end.
    closing: CancellationToken,
    /// Everything else ends too.
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    threads: Arc<Threads>,
    standing: Standings,
}

impl Adapter {
    /// Starts, and returns once clients are served.
    pub async fn start(config: Config) -> anyhow::Result<Adapter> {
        Adapter::start_in(config, Env::default(), None, None).await
    }

    /// The same, on a journal that is there already.
    pub async fn start_on(config: Config, journal: Option<Arc<dyn Journal>>) -> anyhow::Result<Adapter> {
        Adapter::start_in(config, Env::default(), journal, None).await
    }

    /// The same, in a world that is not this machine's.
    pub async fn start_in(
        config: Config,
        env: Env,
        journal: Option<Arc<dyn Journal>>,
        doors: Option<Doors>,
    ) -> anyhow::Result<Adapter> {
        if !config.ignored.is_empty() {
            tracing::warn!("these change nothing here: {}", config.ignored.join(", "));
        }
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let threads = Arc::new(Threads::start(config.serving_threads, GRACE)?);
        let tls = certificates(config.tls.as_ref())?;
        // Bound before anything takes long: whoever comes early waits instead of being refused.
        let client_doors = match doors {
            Some(doors) => doors,
            None => open_all(&config.listen_client).await?,
        };
        let metrics_doors = open_all(&config.listen_metrics).await?;
        let addresses = client_doors.iter().map(Door::address).collect();

        let vitals = Arc::new(Health::default());
        let pages = Pages::new(vitals.clone());
        let front = |services: Option<Services>, door: &Door| Front {
            services,
            pages: pages.clone(),
            meters: vitals.meters.clone(),
            tls: tls.clone().filter(|_| door.url.tls),
            transport: config.transport,
        };
        for door in metrics_doors {
            let front = front(None, &door);
            let serving = door.serve(front, threads.clone(), closing.clone());
            tasks.spawn(async move {
                serving.await;
                Ok(())
            });
        }

        let (journal, description) = match journal {
            Some(journal) => {
                let description = journal.describe().await?;
                (journal, description)
            }
            None => boot::open_journal(&config, env.connector.clone(), vitals.meters.clone()).await?,
        };
        let journal = match &env.around {
            Some(around) => around(journal),
            None => journal,
        };
        let boot = boot::boot(&config, env.shelf.clone(), journal, description).await?;
        let shared = begin(&config, &env, boot, &closing, &stop, &mut tasks, &vitals).await?;
        let standing = shared.standing.clone();
        let services = Services::new(shared.clone());
        for door in client_doors {
            let front = front(Some(services.clone()), &door);
            let serving = door.serve(front, threads.clone(), closing.clone());
            tasks.spawn(async move {
                serving.await;
                Ok(())
            });
        }
        Ok(Adapter { addresses, closing, stop, tasks, threads, standing })
    }

    /// Where apply is, and what it has come to.
    pub fn standing(&self) -> Standings {
        self.standing.clone()
    }

    /// Waits until the adapter cannot go on. The error says why.
    pub async fn failed(&mut self) -> anyhow::Error {
        first_failure(&mut self.tasks).await
    }

    /// What a failure asks for: if only the store is wrong, it is dropped, and another start replays the
    /// journal. Everything else is returned, and ends the process.
    pub async fn give_way(self, config: &Config, error: anyhow::Error) -> anyhow::Result<()> {
        match error.downcast_ref() {
            Some(Fatal::Diverged { position }) => {
                tracing::error!(%position, "the store is dropped, and filled anew from the journal: {error}");
                self.abandon().await;
                Ok(boot::drop_store(config)?)
            }
            // What cannot be believed any more is not served for a moment longer.
            _ => Err(error),
        }
    }

    /// Stops at once: what it would still answer cannot be believed.
    pub async fn abandon(mut self) {
        self.closing.cancel();
        self.stop.cancel();
        self.threads.finish(Duration::ZERO).await;
        self.tasks.shutdown().await;
    }

    /// Stops: no new connections, calls under way finish, the store is flushed.
    pub async fn shutdown(mut self) {
        self.closing.cancel();
        self.threads.finish(GRACE).await;
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("some tasks did not end within {GRACE:?}");
        }
    }
}

/// Waits until a task ends because it cannot go on. Those that have nothing to do just end.
async fn first_failure(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    loop {
        match tasks.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return error,
            Some(Err(error)) => return anyhow::Error::new(error).context("a task ended unexpectedly"),
            None => std::future::pending::<()>().await,
        }
    }
}

async fn open_all(urls: &[Url]) -> anyhow::Result<Vec<Door>> {
    let mut doors = Vec::new();
    for url in urls {
        doors.extend(Door::open(url).await.with_context(|| format!("cannot listen on {}", url.text))?);
    }
    Ok(doors)
}

fn certificates(tls: Option<&ServerTls>) -> anyhow::Result<Option<Arc<Certificates>>> {
    let Some(tls) = tls else { return Ok(None) };
    // etcd's rule: whoever names an authority demands certificates of it.
    let front = FrontTls { identity: tls.identity.clone(), clients: tls.ca.clone(), spoken: tls.spoken.clone() };
    let certificates = Reloading::new(front, |front| front.server_config(&[b"h2", b"http/1.1"]))?;
    Ok(Some(Arc::new(certificates)))
}

/// Boots, catches up, and starts everything that goes on in the background.
async fn begin(
    config: &Config,
    env: &Env,
    boot: Boot,
    closing: &CancellationToken,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    vitals: &Health,
) -> anyhow::Result<Arc<Shared>> {
    let Boot { journal, description, cluster_id, store, state, room } = boot;
    let mut applier = Applier::new(state, store, description.id, env.drive);
    let standing = applier.standing.clone();
    let meters = vitals.meters.clone();
    applier.meters = meters.clone();
    let target = loop {
        match journal.check_tail().await {
            Ok(tail) => break tail,
            Err(error) => {
                tracing::warn!("waiting for the journal's tail: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    applier.catch_up(&*journal, target.tail).await?;
    if let Some(level) = standing.lock().stopped_by_level {
        anyhow::bail!(
            "the journal has an entry of level {level}, which this program does not know: upgrade this adapter"
        );
    }

    let view = applier.view.clone();
    let current = view.with_state(|state| state.member_named(&config.name).and_then(|member| member.producer));
    let myself = Myself {
        name: config.name.clone(),
        peer_urls: config.peer_urls.clone(),
        client_urls: config.client_urls.clone(),
    };
    let timeout = config.limits.request_timeout();
    let beat = beats(standing.clone(), vitals.ready.clone());
    let current = current.unwrap_or(proto::Position::NONE);
    let chance = env.chance.clone();
    let nonce = move || chance.next();
    let (proposer, mut proposals) = Proposals::new(journal.clone(), myself, current, timeout, beat, nonce);
    proposals.fit_into(description.entry_bytes_max);
    let proposals = proposals.measured_by(meters.clone());
    let reads = Reads::new(proposer.clone(), view.applied(), target, timeout);
    let hub = Hub::new(view.revision());
    let chance = env.chance.clone();
    let jitter = move |below| chance.below(below);
    let leases = Arc::new(Mutex::new(LeaseClock::new(Instant::now(), config.silence, jitter)));
    let shared = Arc::new(Shared {
        config: config.clone(),
        cluster_id,
        member_id: OnceLock::new(),
        standing,
        view,
        proposer: proposer.clone(),
        reads: reads.clone(),
        hub: hub.clone(),
        leases: leases.clone(),
        calls: Arc::new(Calls::new(config.extensive_metrics)),
        answers: Budget::new(config.answer_bytes),
        meters: meters.clone(),
        room,
        stopping: closing.clone(),
    });
    let (born, mut told) = tokio::sync::watch::channel(false);
    applier.tell(Audience {
        name: config.name.clone(),
        proposer: proposer.clone(),
        reads: reads.clone(),
        hub,
        leases,
        member: {
            let shared = shared.clone();
            Box::new(move |member| {
                shared.member_id.get_or_init(|| member);
                born.send_replace(true);
            })
        },
    });
    {
        let (journal, stop) = (journal.clone(), stop.clone());
        tasks.spawn(async move { Ok(applier.run(journal, stop).await?) });
    }
    {
        let (journal, stop) = (journal.clone(), stop.clone());
        tasks.spawn(async move { Ok(reads.run(journal, meters, stop).await?) });
    }
    {
        let stop = stop.clone();
        tasks.spawn(async move { Ok(proposals.run(stop).await?) });
    }
    until_stop(tasks, stop, run_lease_clock(shared.clone()));
    until_stop(tasks, stop, auto_compact(shared.clone()));
    until_stop(tasks, stop, auto_disarm(shared.clone()));
    until_stop(tasks, stop, watch_room(shared.clone()));
    // Whoever is answered must know which member answered him.
    tokio::select! {
        biased;
        error = first_failure(tasks) => return Err(error),
        _ = told.wait_for(|born| *born) => {}
    }
    let _ = vitals.shared.set(shared.clone());
    vitals.ready.store(true, std::sync::atomic::Ordering::Release);
    Ok(shared)
}

fn until_stop(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(task).await;
        Ok(())
    });
}

fn beats(standing: Standings, ready: Arc<std::sync::atomic::AtomicBool>) -> impl Fn() -> Beat + Send + Sync + 'static {
    move || {
        let Standing { applied, hash, flushed, .. } = *standing.lock();
        let ready = ready.load(std::sync::atomic::Ordering::Acquire);
        Beat { applied, hash, flushed, level: LEVEL, ready }
    }
}

/// Proposes what the lease clock says.
async fn run_lease_clock(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(lease_clock::TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let proposals = shared.leases.lock().tick(Instant::now(), shared.proposer.last_applied());
        for command in proposals {
            shared.proposer.say(command);
        }
    }
}

/// Compacts by itself, where this adapter leads.
async fn auto_compact(shared: Arc<Shared>) {
    if shared.config.compaction == AutoCompaction::Off {
        return;
    }
    let mut schedule = Schedule::new(shared.config.compaction, Instant::now());
    loop {
        tokio::time::sleep(COMPACTION_TICK).await;
        let Some(revision) = schedule.due(Instant::now(), shared.view.revision()) else { continue };
        let leads = shared.view.with_state(|state| Some(&state.leader()) == shared.member_id.get());
        if leads && revision > shared.view.compact_revision().max(0) {
            tracing::info!(revision, "compacting by itself");
            let _ = shared.proposer.propose(Command::Compact { revision }).await;
        }
    }
}

/// Ends the NOSPACE alarms once there is room again, where the operator wants that.
async fn auto_disarm(shared: Arc<Shared>) {
    if !shared.config.auto_disarm {
        return;
    }
    let quota = shared.config.limits.quota_bytes.unwrap_or(u64::MAX);
    loop {
        tokio::time::sleep(DISARM_TICK).await;
        // Well below, so that the next write does not raise it again.
        if shared.view.logical_bytes() > quota / 10 * 9 || shared.is_tight() {
            continue;
        }
        let raised: Vec<_> = shared.view.with_state(|state| state.alarms().collect());
        for alarm in raised.into_iter().filter(|alarm| alarm.kind == AlarmKind::NoSpace) {
            tracing::info!("there is room again: the NOSPACE alarm ends");
            let (action, member, kind) = (AlarmAction::Deactivate, alarm.member, alarm.kind);
            shared.proposer.say(Command::Alarm { action, member, kind });
        }
    }
}

/// Raises the alarm while the store can still do what makes room.
async fn watch_room(shared: Arc<Shared>) {
    let Some(room) = &shared.room else { return };
    let mut ballast = false;
    loop {
        if !ballast {
            ballast = room.keep_ballast().unwrap_or_else(|error| {
                tracing::warn!("no ballast can be kept: {error}");
                true
            });
        }
        let was = room.is_tight();
        match room.look() {
            Ok(true) => {
                if !was {
                    tracing::error!("the store has less room left than its reserve: writes end");
                }
                shared.raise_no_space();
            }
            Ok(false) if was => tracing::info!("the store has room again; the NOSPACE alarm is to be disarmed"),
            Ok(false) => {}
            Err(error) => tracing::warn!("the room left cannot be measured: {error}"),
        }
        tokio::time::sleep(ROOM_TICK).await;
    }
}

/// What probes are told.
#[derive(Default)]
struct Health {
    meters: Arc<Meters>,
    /// Set once clients are served.
    shared: OnceLock<Arc<Shared>>,
    ready: Arc<std::sync::atomic::AtomicBool>,
}

#[async_trait]
impl Vitals for Health {
    async fn check(&self, check: Check) -> Result<(), String> {
        let Some(shared) = self.shared.get() else {
            // It is alive and on its way.
            return match check {
                Check::Applying | Check::NoSpaceAlarm | Check::CorruptAlarm | Check::NonLearner => Ok(()),
                Check::SerializableRead | Check::Level => Ok(()),
                _ => Err("the adapter is catching up with the journal".into()),
            };
        };
        let standing = *shared.standing.lock();
        match check {
            Check::Applying => {
                let behind = shared.reads.behind_for().is_some_and(|behind| behind > STALLED);
                // A new start would stop at the same entry.
                match behind && standing.stopped_by_level.is_none() && standing.since.elapsed() > STALLED {
                    true => Err(format!("nothing was applied for {} s", standing.since.elapsed().as_secs())),
                    false => Ok(()),
                }
            }
            // The majority serves on, or one corrupt replica would stop all.
            Check::DataCorruption => match standing.disagrees.filter(|_| standing.doubtful) {
                Some(position) => Err(format!("another adapter has another state at {position}")),
                None => match shared.view.has_alarm(AlarmKind::Corrupt) {
                    true => Err("alarm activated: CORRUPT".into()),
                    false => Ok(()),
                },
            },
            Check::SerializableRead => shared.view.broken().map_or(Ok(()), Err),
            Check::Level => match standing.stopped_by_level {
                Some(level) => Err(format!("an entry needs level {level}: upgrade this adapter")),
                None => Ok(()),
            },
            Check::LinearizableRead => {
                let confirmed = tokio::time::timeout(Duration::from_secs(2), shared.reads.confirm()).await;
                match confirmed {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(why)) => Err(format!("{why:?}")),
                    Err(_) => Err("the journal does not answer".into()),
                }
            }
            // etcd's words.
            Check::NonLearner => match shared.is_learner() {
                true => Err("not supported for learner".into()),
                false => Ok(()),
            },
            Check::Leader => match shared.has_leader() {
                true => Ok(()),
                false => Err("no leader".into()),
            },
            Check::NoSpaceAlarm => match shared.view.has_alarm(AlarmKind::NoSpace) {
                true => Err("NOSPACE".into()),
                false => Ok(()),
            },
            Check::CorruptAlarm => match shared.view.has_alarm(AlarmKind::Corrupt) {
                true => Err("CORRUPT".into()),
                false => Ok(()),
            },
        }
    }

    fn hash(&self) -> String {
        let Some(shared) = self.shared.get() else { return "null".into() };
        let Standing { applied, hash, flushed, disagrees, .. } = *shared.standing.lock();
        let page = serde_json::json!({
            "name": shared.config.name,
            "member": format!("{:x}", shared.member_id.get().copied().unwrap_or_default()),
            "applied": applied.0,
            "flushed": flushed.0,
            "revision": shared.view.revision(),
            "hash": format!("{hash:032x}"),
            "disagrees_at": disagrees.map(|position| position.0),
        });
        page.to_string()
    }

    fn metrics(&self) -> String {
        self.shared.get().map(|shared| crate::http::metrics::page(shared)).unwrap_or_default()
    }
}
