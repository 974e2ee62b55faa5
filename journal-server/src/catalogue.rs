//! Which groups run on this node: what the catalogue says, made so.
//!
//! A node opens and closes groups from its own copy of the catalogue's state, without waiting for a
//! leader. Owns the open groups; everybody else asks here by id.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};
use proto::{JournalId, JournalName};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::group::{Group, Lead, Opening, Shared};
use crate::raft::CommandError;
use crate::refusal::{self, Reason, Refusal};
use crate::state::{Catalogue, Command, GroupState, Journal, JournalRecord, Member, Outcome, TrimPolicy};

/// What could not be done is tried again so much later, twice as much each time.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Leaderships that are handed over, and groups that are closed, at the same time. One may wait seconds
/// for a node that does not answer, and hundreds one after the other would outlast any patience.
const HAND_OVERS: usize = 32;

pub struct Groups {
    shared: Arc<Shared>,
    system: Arc<Group>,
    journals: RwLock<BTreeMap<u64, Arc<Group>>>,
    /// Why a listed journal does not run here.
    troubles: Arc<RwLock<BTreeMap<u64, String>>>,
    /// Journals that are being opened, each by a task of its own.
    openings: Mutex<BTreeMap<u64, Attempt>>,
    /// Journals that have, or may have, something on this disk and do not run here: if the catalogue
    /// has let go of them, it is removed.
    remains: Mutex<BTreeSet<u64>>,
    /// The node stops: its groups are being closed, or are.
    closing: AtomicBool,
    lost: mpsc::Sender<u64>,
}

struct Attempt {
    give_up: CancellationToken,
    /// It is open, or it has said what it waits for.
    told: watch::Receiver<bool>,
}

impl Groups {
    /// Opens `system`, and every journal that its state knows of; follows it from then on. `voters`
    /// are the members that the cluster was formed with, empty on a node that joins.
    pub async fn start(shared: Arc<Shared>, voters: BTreeMap<u64, Member>) -> anyhow::Result<Arc<Groups>> {
        let (lost, lost_nodes) = mpsc::channel(16);
        let id = JournalId::SYSTEM.0;
        let genesis = GroupState::Catalogue(Catalogue::default());
        let waiting = shared.health.check("system");
        let tell: crate::repair::Tell = Arc::new(move |why| waiting.not_ready(why));
        let opening = Opening { give_up: &shared.stop, tell: &tell };
        let system = Group::open(shared.clone(), id, genesis, voters, lost.clone(), opening).await?;
        drop(tell);
        let groups = Arc::new(Groups {
            shared: shared.clone(),
            system,
            journals: RwLock::default(),
            troubles: Arc::default(),
            openings: Mutex::default(),
            remains: Mutex::default(),
            closing: AtomicBool::new(false),
            lost,
        });
        *groups.remains.lock() = groups.on_disk().await?;
        groups.follow_once().await;
        // Whoever is told that the node has started finds its journals, as far as they are well.
        let first: Vec<_> = groups.openings.lock().values().map(|attempt| attempt.told.clone()).collect();
        for mut told in first {
            // An attempt that is over has told everything.
            let _ = told.wait_for(|told| *told).await;
        }
        shared.tasks.spawn(follow(groups.clone()));
        shared.tasks.spawn(crate::carry::carry(groups.clone(), lost_nodes));
        Ok(groups)
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn system(&self) -> &Arc<Group> {
        &self.system
    }

    /// This node's copy of the catalogue: not linearizable.
    pub fn catalogue(&self) -> Arc<GroupState> {
        self.system.replica().state()
    }

    pub fn with_catalogue<T>(&self, read: impl FnOnce(&Catalogue) -> T) -> T {
        match self.catalogue().as_ref() {
            GroupState::Catalogue(catalogue) => read(catalogue),
            GroupState::Journal(_) => unreachable!("`system` was opened as a catalogue"),
        }
    }

    /// What people call a group, as far as this node knows.
    pub fn name_of(&self, id: u64) -> Option<String> {
        match id {
            0 => Some(JournalName::SYSTEM.to_owned()),
            _ => self.with_catalogue(|catalogue| catalogue.journals.get(&id).map(|record| record.name.clone())),
        }
    }

    pub fn get(&self, id: u64) -> Result<Arc<Group>, Refusal> {
        if self.closing.load(Ordering::Acquire) {
            return Err(refusal::shutting_down());
        }
        if id == JournalId::SYSTEM.0 {
            return Ok(self.system.clone());
        }
        let open = self.journals.read().get(&id).cloned();
        open.ok_or_else(|| match self.troubles.read().get(&id) {
            Some(trouble) => Refusal::new(Reason::NotReady, trouble.clone()),
            None if self.with_catalogue(|catalogue| catalogue.journals.contains_key(&id)) => {
                Refusal::new(Reason::NotReady, format!("journal {id} is being opened on this node"))
            }
            None => refusal::no_such_journal(id),
        })
    }

    /// All groups that run here, `system` first.
    pub fn all(&self) -> Vec<Arc<Group>> {
        let journals = self.journals.read();
        std::iter::once(self.system.clone()).chain(journals.values().cloned()).collect()
    }

    pub fn troubles(&self) -> BTreeMap<u64, String> {
        self.troubles.read().clone()
    }

    /// Creates a journal, or finds the one that has the name; answers once it has a leader.
    pub async fn create(
        &self,
        name: &str,
        policy: TrimPolicy,
        quota_bytes: u64,
    ) -> Result<(u64, JournalRecord, bool), CommandError> {
        self.caught_up().await?;
        let voters = self.with_catalogue(Catalogue::voters);
        let create = Command::CreateJournal { name: name.to_owned(), policy, quota_bytes, voters };
        let (id, created) = match self.system.command(&create).await? {
            Outcome::Journal { id, created } => (id, created),
            other => return Err(CommandError::Unknown(format!("a creation answered {other:?}"))),
        };
        let record = self.with_catalogue(|catalogue| catalogue.journals.get(&id).cloned());
        let record = record.ok_or_else(|| refusal::no_such_journal(name))?;
        self.await_leader(id).await?;
        Ok((id, record, created))
    }

    pub async fn delete(&self, id: u64) -> Result<(), CommandError> {
        self.system.command(&Command::DeleteJournal { id }).await.map(drop)
    }

    pub async fn set_quota(&self, id: u64, quota_bytes: u64) -> Result<JournalRecord, CommandError> {
        self.system.command(&Command::SetQuota { id, quota_bytes }).await?;
        let record = self.with_catalogue(|catalogue| catalogue.journals.get(&id).cloned());
        record.ok_or_else(|| refusal::no_such_journal(id).into())
    }

    /// Waits until this node's catalogue has everything that was decided before the call. Only its leader
    /// can tell: any other node may merely not have heard of it.
    pub async fn caught_up(&self) -> Result<(), Refusal> {
        let (tail, _) = self.system.check_tail().await?;
        self.applied(tail).await;
        Ok(())
    }

    /// Waits until this node has applied the catalogue below `tail`.
    pub async fn applied(&self, tail: u64) {
        while self.system.mark().applied < tail {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the group's first leader entry has committed, as this node knows.
    async fn await_leader(&self, id: u64) -> Result<(), CommandError> {
        let led = async {
            loop {
                if let Ok(group) = self.get(id)
                    && (group.mark().tail_term > 0 || matches!(group.lead(), Lead::Leading { .. }))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let late = |_| Refusal::new(Reason::NotReady, "the journal is created, but has no leader yet").into();
        tokio::time::timeout(Duration::from_secs(10), led).await.map_err(late)
    }

    /// Opens what should be open, closes what should not, removes what the catalogue has let go of.
    /// False: something could not be done, and should be tried again.
    async fn follow_once(self: &Arc<Self>) -> bool {
        if self.closing.load(Ordering::Acquire) {
            return true;
        }
        // In this order: what was created below `applied` is in a state that is read afterwards.
        let applied = self.system.mark().applied;
        let wanted = self.with_catalogue(|catalogue| catalogue.journals.clone());
        for (id, record) in &wanted {
            let open = self.journals.read().get(id).cloned();
            match open {
                Some(group) if group.is_to_be_reopened() => {
                    tracing::info!(journal = record.name, id, "opening the repaired journal again");
                    self.journals.write().remove(id);
                    group.close().await;
                    self.begin_opening(*id, record);
                }
                Some(group) => group.set_quota(record.quota_bytes),
                None if self.openings.lock().contains_key(id) => {}
                None => self.begin_opening(*id, record),
            }
        }
        for (_, attempt) in self.openings.lock().iter().filter(|(id, _)| !wanted.contains_key(id)) {
            attempt.give_up.cancel();
        }
        let unwanted = |id: &&u64| !wanted.contains_key(id);
        let closed: Vec<u64> = self.journals.read().keys().filter(unwanted).copied().collect();
        for id in closed {
            let Some(group) = self.journals.write().remove(&id) else { continue };
            group.close().await;
            self.remains.lock().insert(id);
        }
        // A journal's id is the position of its creation. Above what was applied here, the catalogue may
        // not have heard of it yet.
        let unwanted = |id: &&u64| !wanted.contains_key(id) && !self.openings.lock().contains_key(id);
        let remains: Vec<u64> = self.remains.lock().iter().filter(unwanted).copied().collect();
        let mut all_done = true;
        for id in remains {
            if id >= applied {
                all_done = false;
                continue;
            }
            match self.remove(id).await {
                Ok(()) => {
                    self.remains.lock().remove(&id);
                    tracing::info!(id, "a deleted journal's files are removed");
                }
                Err(error) => {
                    all_done = false;
                    tracing::warn!(id, "a deleted journal's files could not be removed yet: {error}");
                }
            }
        }
        all_done
    }

    fn begin_opening(self: &Arc<Self>, id: u64, record: &JournalRecord) {
        let give_up = self.shared.stop.child_token();
        let (tell, told) = watch::channel(false);
        self.openings.lock().insert(id, Attempt { give_up: give_up.clone(), told });
        self.troubles.write().insert(id, "it is being opened".to_owned());
        let (groups, record) = (self.clone(), record.clone());
        self.shared.tasks.spawn(async move {
            let group = groups.open(id, &record, &give_up, tell).await;
            // Whoever looks finds it here or there, and never in neither place.
            if let Some(group) = group {
                match give_up.is_cancelled() {
                    true => group.close().await,
                    false => drop(groups.journals.write().insert(id, group)),
                }
            }
            groups.troubles.write().remove(&id);
            groups.remains.lock().insert(id);
            groups.openings.lock().remove(&id);
            groups.shared.look.notify_one();
        });
    }

    /// Opens a journal, however often it takes. None: it is not wanted any more.
    async fn open(
        &self,
        id: u64,
        record: &JournalRecord,
        give_up: &CancellationToken,
        told: watch::Sender<bool>,
    ) -> Option<Arc<Group>> {
        let told = Arc::new(told);
        let tell: crate::repair::Tell = {
            let (troubles, told) = (self.troubles.clone(), told.clone());
            Arc::new(move |why| {
                troubles.write().insert(id, why);
                told.send_replace(true);
            })
        };
        let mut pause = RETRY_MIN;
        loop {
            let genesis = GroupState::Journal(Journal::default());
            let opening = Opening { give_up, tell: &tell };
            let (voters, lost) = (record.voters.clone(), self.lost.clone());
            match Group::open(self.shared.clone(), id, genesis, voters, lost, opening).await {
                Ok(group) => {
                    tracing::info!(journal = record.name, id, "journal opened");
                    group.set_quota(record.quota_bytes);
                    return Some(group);
                }
                Err(_) if give_up.is_cancelled() => return None,
                Err(error) => {
                    tracing::error!(journal = record.name, id, "the journal cannot be opened, trying again: {error:#}");
                    tell(format!("{error:#}"));
                    // Damage waits for its repair, and a full disk for room. Any other failure of the
                    // disk is final, here as everywhere: the next process finds out what is there.
                    if disk_failed(&error) {
                        let why = format!("journal {id} cannot be opened: {error:#}");
                        drop(self.shared.failed.try_send(why));
                    }
                }
            }
            give_up.run_until_cancelled(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Journals that have something on this disk, or should have.
    async fn on_disk(&self) -> anyhow::Result<BTreeSet<u64>> {
        let identity = &self.shared.identity;
        let mut ids: BTreeSet<u64> = identity.file().groups.keys().map(|id| id.0).collect();
        let (fs, dir) = (self.shared.env.fs.clone(), identity.groups_dir());
        for path in self.shared.offload().run(move || fs.list(&dir)).await? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            ids.extend(name.parse::<u64>());
        }
        ids.remove(&JournalId::SYSTEM.0);
        Ok(ids)
    }

    /// Removes the files of a journal that the catalogue has let go of. May be tried again, also after a
    /// crash at any moment: what is not in the node file is not missed, and its directory is found at
    /// the next start.
    async fn remove(&self, id: u64) -> io::Result<()> {
        let identity = &self.shared.identity;
        identity.note_closed(JournalId(id)).await?;
        let (fs, dir) = (self.shared.env.fs.clone(), identity.group_dir(JournalId(id)));
        let remove = move || {
            let paths = match fs.list(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                paths => paths?,
            };
            for path in paths {
                fs.unlink(&path)?;
            }
            fs.remove_dir(&dir)
        };
        self.shared.offload().run(remove).await
    }

    /// Hands all leaderships over, some at a time, for a stop that nobody should notice.
    /// Only to nodes that `may` lead.
    pub async fn hand_over(&self, may: impl Fn(u64) -> bool + Sync) {
        let may = &may;
        let hand_over = async |group: Arc<Group>| {
            if matches!(group.lead(), Lead::Leading { .. })
                && let Err(refusal) = group.transfer(None, may).await
            {
                tracing::warn!(id = group.id(), "the leadership could not be handed over: {refusal}");
            }
        };
        stream::iter(self.all()).for_each_concurrent(HAND_OVERS, hand_over).await;
    }

    /// Stops all groups. From now on nobody is given one: who asks is sent elsewhere.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let attempts: Vec<_> = self.openings.lock().values().map(|it| (it.give_up.clone(), it.told.clone())).collect();
        for (give_up, mut told) in attempts {
            give_up.cancel();
            // The sender goes when the attempt is over.
            while told.changed().await.is_ok() {}
        }
        stream::iter(self.all()).for_each_concurrent(HAND_OVERS, async |group| group.close().await).await;
    }
}

/// Whether opening a group failed because the disk did, and not for lack of room or because of what is
/// there or is not.
fn disk_failed(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind;
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    let works = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::InvalidData, ErrorKind::NotFound];
    io.is_some_and(|error| !works.contains(&error.kind()))
}

/// Follows the catalogue until the node stops.
async fn follow(groups: Arc<Groups>) {
    let mut state = groups.system.replica().watch_state();
    let stop = groups.shared.stop.clone();
    let mut pause = RETRY_MIN;
    loop {
        let done = groups.follow_once().await;
        let again = if done { Duration::MAX } else { pause };
        pause = if done { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
            () = groups.shared.look.notified() => {}
            () = tokio::time::sleep(again) => {}
        }
    }
}
