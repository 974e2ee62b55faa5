//! One group on this node: a journal, or the catalogue. Its log, its Raft, and what clients do with
//! it: append, tail, check the tail, trim.
//!
//! Owns the group's tasks; holds no state of its own beyond handles. Nothing here knows the wire.

mod append;
mod check;
mod engine;
mod heir;
mod lead;
mod tail;

pub use append::{AppendStream, Offered};
pub use lead::Lead;
pub use tail::{Run, TailCursor, TailEnd};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::{JournalId, NodeId};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::env::Env;
use crate::group::engine::Engine;
use crate::group::heir::Estate;
use crate::health::Health;
use crate::identity::{self, Identity};
use crate::marks::{Mark, Marks};
use crate::offload::Offload;
use crate::raft::{CommandError, Parts, Peers, Replica, Role, Standing, Timing};
use crate::refusal::{self, Reason, Refusal};
use crate::repair::{self, Mender, Repairs};
use crate::segment::{self, Ids, Opened, Options};
use crate::state::{Command, GroupState, Member, Outcome};

/// What every group of a node shares.
pub struct Shared {
    pub env: Env,
    pub identity: Identity,
    pub options: Options,
    pub timing: Timing,
    pub peers: Arc<Peers>,
    pub admission: Arc<dyn Admission>,
    pub limits: Limits,
    /// Bytes of entries that the node has taken and not answered yet.
    pub inflight: Arc<Semaphore>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// Told once when a group's disk failed: the node must close its sockets and exit.
    pub failed: mpsc::Sender<String>,
    pub health: Health,
    pub repairs: Arc<Repairs>,
    pub scrub: repair::Pace,
    /// Rung when the groups that run here should be looked at.
    pub look: Notify,
}

impl Shared {
    pub fn node(&self) -> u64 {
        self.identity.node_id().0
    }

    pub fn cluster(&self) -> u128 {
        self.identity.cluster_id().map_or(0, |id| id.0)
    }

    pub fn offload(&self) -> Offload {
        Offload::of(self.env.drive)
    }
}

/// Whether entries are admitted: the node's view of disk room.
pub trait Admission: Send + Sync + 'static {
    /// May one entry of this size be taken?
    fn admit(&self, urgent: bool, bytes: usize) -> Result<(), Refusal>;

    /// May an urgent entry be taken that an ordinary one of this size may not, though there is room?
    fn admit_urgent(&self, bytes: usize) -> Result<(), Refusal>;
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub entry_bytes: usize,
    /// Unanswered bytes of one append stream; more are not read.
    pub stream_bytes: usize,
    pub tail_run_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entry_bytes: 4 << 20, stream_bytes: 8 << 20, tail_run_bytes: 1 << 20 }
    }
}

pub struct Group {
    id: u64,
    replica: Arc<Replica>,
    marks: Arc<Marks>,
    shared: Arc<Shared>,
    lead: lead::Handle,
    checks: check::Handle,
    /// Bytes that the journal may take on this disk; 0: no limit.
    quota: AtomicU64,
    /// Entries that append streams have taken and not answered.
    fed: Arc<AtomicU64>,
    stages: append::Stages,
    /// Cancelled when this group alone is closed.
    stop: CancellationToken,
    engine: Engine,
    mender: Arc<Mender>,
}

/// What of a group can fail to start.
struct Running {
    replica: Arc<Replica>,
    marks: Arc<Marks>,
    mender: Arc<Mender>,
}

/// What an opening is told and tells.
pub struct Opening<'a> {
    /// Ends an opening that waits.
    pub give_up: &'a CancellationToken,
    /// Told what the opening waits for.
    pub tell: &'a repair::Tell,
}

impl Group {
    /// Opens the group from its directory, which is made if it is not there. `voters` initialise it if
    /// it is new; everybody of the set may do so, and later members never do. A damaged log is repaired
    /// first, which may take as long as it likes. After an error nothing of the group runs.
    pub async fn open(
        shared: Arc<Shared>,
        id: u64,
        genesis: GroupState,
        voters: BTreeMap<u64, Member>,
        lost: mpsc::Sender<u64>,
        opening: Opening<'_>,
    ) -> anyhow::Result<Arc<Group>> {
        let dir = shared.identity.group_dir(JournalId(id));
        let ids = Ids { cluster: shared.cluster(), node: shared.node(), group: id };
        let (fs, options) = (shared.env.fs.clone(), shared.options.clone());
        let open = move || segment::open(fs, &dir, ids, options).map_err(std::io::Error::from);
        let mut opened = shared.offload().run(open).await?;
        let (log, writer, keeper) = loop {
            match opened {
                Opened::Ready { log, writer, keeper, .. } => break (log, writer, keeper),
                Opened::Damaged(damaged) => {
                    opened = repair::before_start(&shared, id, damaged, opening.give_up, opening.tell).await?;
                }
            }
        };
        // From here on a missing directory is a lost disk.
        shared.identity.note_opened(JournalId(id)).await?;
        let engine = Engine::start(&shared, id, log, writer, keeper).await?;
        let stop = shared.stop.child_token();
        match Group::run(&shared, id, genesis, voters, lost, &engine, stop.clone()).await {
            Ok(running) => Ok(Group::assemble(shared, id, running, engine, stop)),
            Err(error) => {
                stop.cancel();
                engine.close().await;
                Err(error)
            }
        }
    }

    async fn run(
        shared: &Arc<Shared>,
        id: u64,
        genesis: GroupState,
        voters: BTreeMap<u64, Member>,
        lost: mpsc::Sender<u64>,
        engine: &Engine,
        stop: CancellationToken,
    ) -> anyhow::Result<Running> {
        let log = engine.log.clone();
        let marks = Arc::new(Marks::new(genesis.start()));
        let fresh = log.last().is_none() && log.vote().is_none();
        let parts = Parts {
            group: id,
            node: shared.node(),
            log: log.clone(),
            marks: marks.clone(),
            offload: shared.offload(),
            peers: shared.peers.clone(),
            genesis,
            timing: shared.timing,
            lost,
        };
        // Reads that meet a hole wait for it to be filled, those of Raft's own start too.
        let mender = Mender::new(shared, id, log);
        shared.tasks.spawn(mender.clone().run(stop));
        let replica = Arc::new(Replica::start(parts).await?);
        mender.guard(replica.clone());
        if fresh
            && voters.contains_key(&shared.node())
            && let Err(error) = replica.initialize(voters).await
        {
            replica.shutdown().await;
            return Err(error);
        }
        Ok(Running { replica, marks, mender })
    }

    fn assemble(shared: Arc<Shared>, id: u64, running: Running, engine: Engine, stop: CancellationToken) -> Arc<Group> {
        let Running { replica, marks, mender } = running;
        let on_failure = {
            let failed = shared.failed.clone();
            move |why: String| drop(failed.try_send(why))
        };
        let (lead, lead_task) = lead::new(id, replica.clone(), marks.clone(), shared.timing, stop.clone());
        let (checks, check_task) = check::new(replica.clone(), stop.clone());
        shared.tasks.spawn(lead_task);
        shared.tasks.spawn(check_task);
        shared.tasks.spawn(follow_trims(replica.clone(), marks.clone(), stop.clone()));
        shared.tasks.spawn(note_members(shared.clone(), id, replica.clone(), marks.clone(), stop.clone()));
        shared.tasks.spawn(repair::scrub(shared.clone(), id, engine.log.clone(), stop.clone()));
        shared.tasks.spawn(report_failure(engine.log.clone(), on_failure, stop.clone()));
        Arc::new(Group {
            id,
            replica,
            marks,
            lead,
            checks,
            quota: AtomicU64::new(0),
            fed: Arc::new(AtomicU64::new(0)),
            stages: append::Stages::of(id),
            shared,
            stop,
            engine,
            mender,
        })
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    pub fn mark(&self) -> Mark {
        self.marks.get()
    }

    pub fn standing(&self) -> Standing {
        self.replica.standing()
    }

    /// Whether this node leads, and may serve appends and tail checks.
    pub fn lead(&self) -> Lead {
        self.lead.get()
    }

    pub fn watch_lead(&self) -> watch::Receiver<Lead> {
        self.lead.watch()
    }

    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// It was stopped for damage, which is repaired now.
    pub fn is_to_be_reopened(&self) -> bool {
        self.mender.recovered()
    }

    pub fn set_quota(&self, bytes: u64) {
        self.quota.store(bytes, Ordering::Relaxed);
    }

    fn over_quota(&self) -> bool {
        let quota = self.quota.load(Ordering::Relaxed);
        quota > 0 && self.replica.log().disk_bytes() >= quota
    }

    /// The linearizable tail. Concurrent callers share one quorum round.
    pub async fn check_tail(&self) -> Result<(u64, Mark), Refusal> {
        if let Lead::Not(refusal) | Lead::Moving(refusal) = self.lead() {
            return Err(refusal);
        }
        let tail = self.checks.check_tail().await?;
        Ok((tail, self.mark()))
    }

    /// Executes a control command as the leader.
    pub async fn command(&self, command: &Command) -> Result<Outcome, CommandError> {
        if let Lead::Not(refusal) = self.lead() {
            return Err(refusal.into());
        }
        let outcome = self.replica.command(command).await?;
        match outcome {
            Outcome::Refused(refused) => {
                let reason = match &refused {
                    crate::state::Refused::NoSuchJournal => Reason::NoSuchJournal,
                    crate::state::Refused::Exists => Reason::Exists,
                    crate::state::Refused::ChangeUnderWay(_) => Reason::ChangeUnderWay,
                    crate::state::Refused::Invalid(_) => Reason::Invalid,
                };
                Err(Refusal::new(reason, refused.to_string()).into())
            }
            outcome => Ok(outcome),
        }
    }

    /// Gives up the entries below `before`; answers the new start.
    pub async fn trim(&self, before: u64) -> Result<u64, CommandError> {
        let (tail, _) = self.check_tail().await?;
        if before > tail {
            let message = format!("cannot trim before {before}: the tail is {tail}");
            return Err(Refusal::new(Reason::Invalid, message).into());
        }
        match self.command(&Command::Trim { before }).await? {
            Outcome::Trimmed { start } => Ok(start),
            other => Err(CommandError::Unknown(format!("a trim answered {other:?}"))),
        }
    }

    /// Moves the leadership to `to`, or to the follower that is furthest; only to one that `may` lead and
    /// holds the log. Stops feeding Raft, waits until all it fed is committed, then asks the follower to
    /// take over. Callers see only entries that were never fed refused, with `Moved`.
    pub async fn transfer(&self, to: Option<u64>, may: impl Fn(u64) -> bool) -> Result<u64, Refusal> {
        let Lead::Leading { term } = self.lead() else {
            return Err(refusal::not_leader(self.standing().leader.map(|(_, member)| member.address)));
        };
        let standing = self.standing();
        let mut voters = standing.configs.last().cloned().unwrap_or_default();
        voters.retain(|id| *id != self.shared.node() && !self.replica.acknowledged().is_shut_out(*id));
        let last = self.replica.log().last().map_or(0, |last| last.position);
        let estate = Estate { voters, matched: standing.matched.clone(), last };
        let target = estate.heir(to, may)?;
        let address = standing.nodes.get(&target).map(|member| member.address.clone());

        let _moving = self.lead.begin_moving(refusal::moved(address));
        let drained = async {
            let mut mark = self.marks.watch();
            while self.fed.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let last = self.replica.log().last().map_or(0, |last| last.position);
            drop(mark.wait_for(|mark| mark.tail > last).await);
        };
        if tokio::time::timeout(Duration::from_secs(2), drained).await.is_err() {
            return Err(refusal::no_quorum());
        }
        let stopped = |error: anyhow::Error| Refusal::new(Reason::NotReady, error.to_string());
        self.replica.transfer_to(target).await.map_err(stopped)?;
        let mut changes = self.replica.watch_standing();
        let moved = async {
            loop {
                let now = self.standing();
                if now.term > term && now.role != Role::Leader && now.leader.is_some() {
                    return now.leader.map(|(id, _)| id);
                }
                if !changes.changed().await {
                    return None;
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(3), moved).await {
            Ok(Some(leader)) => Ok(leader),
            _ => Err(Refusal::new(Reason::NotReady, "the other node did not take over in time")),
        }
    }

    /// Stops the group on this node. Its files stay, and nobody touches them any more on return: the
    /// writer has written its clean-stop mark, unless the disk failed.
    pub async fn close(&self) {
        self.stop.cancel();
        self.replica.shutdown().await;
        self.engine.close().await;
    }
}

/// Follows the replicated start: makes the snapshot at the cut and purges below it.
async fn follow_trims(replica: Arc<Replica>, marks: Arc<Marks>, stop: CancellationToken) {
    let mut mark = marks.watch();
    let mut done = 0;
    loop {
        let start = mark.borrow_and_update().start;
        if start > done {
            match replica.purge_below(start).await {
                Ok(()) => done = start,
                Err(error) => tracing::warn!("cannot let go of trimmed entries yet: {error}"),
            }
        }
        let trimmed = async {
            match start > done {
                true => tokio::time::sleep(Duration::from_secs(1)).await,
                false => drop(mark.wait_for(|mark| mark.start > done).await),
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = trimmed => {}
        }
    }
}

/// Writes the committed members into the node file, whenever they change: a node whose log needs repair
/// asks them before the group runs.
async fn note_members(shared: Arc<Shared>, id: u64, replica: Arc<Replica>, marks: Arc<Marks>, stop: CancellationToken) {
    let (mut changes, mut mark) = (replica.watch_standing(), marks.watch());
    let mut pause = Duration::ZERO;
    loop {
        let standing = replica.standing();
        let committed = async {
            // A membership is in force before it is committed.
            if let Some(at) = standing.members_at {
                drop(mark.wait_for(|mark| mark.tail > at).await);
            }
            tokio::time::sleep(pause).await;
        };
        let changed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = changes.changed() => Some(changed),
            () = committed => None,
        };
        match changed {
            Some(true) => continue,
            Some(false) => return,
            None => {}
        }
        let voters = |node: &u64| standing.configs.iter().any(|config| config.contains(node));
        let member = |(node, member): (&u64, &Member)| identity::Member {
            node_id: NodeId(*node),
            name: member.name.clone(),
            address: member.address.clone(),
            voter: voters(node),
        };
        let members: Vec<identity::Member> = standing.nodes.iter().map(member).collect();
        if !members.is_empty()
            && let Err(error) = shared.identity.note_members(JournalId(id), members).await
        {
            tracing::warn!(id, "the members could not be noted in the node file: {error}");
            pause = (pause * 2).clamp(Duration::from_secs(1), Duration::from_secs(30));
            continue;
        }
        pause = Duration::ZERO;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = changes.changed() => if !changed { return },
        }
    }
}

/// A failed write or sync is final for the whole node.
async fn report_failure(log: segment::Log, report: impl Fn(String), stop: CancellationToken) {
    if let Some(why) = stop.run_until_cancelled(log.failure()).await {
        report(why);
    }
}
