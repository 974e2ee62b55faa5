//! Which groups run on this node: what the catalogue says, made so.
//!
//! A node opens and closes groups from its own copy of the catalogue's state, without waiting for a
//! leader. Owns the open groups; everybody else asks here by id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use proto::JournalId;
use tokio::sync::mpsc;

use crate::group::{Group, Lead, Shared};
use crate::raft::CommandError;
use crate::refusal::{self, Reason, Refusal};
use crate::state::{Catalogue, Command, GroupState, Journal, JournalRecord, Member, Outcome, TrimPolicy};

pub struct Groups {
    shared: Arc<Shared>,
    system: Arc<Group>,
    journals: RwLock<BTreeMap<u64, Arc<Group>>>,
    /// Why a listed journal does not run here.
    troubles: RwLock<BTreeMap<u64, String>>,
    lost: mpsc::Sender<u64>,
}

impl Groups {
    /// Opens `system`, and every journal that its state knows of; follows it from then on. `voters`
    /// are the members that the cluster was formed with, empty on a node that joins.
    pub async fn start(shared: Arc<Shared>, voters: BTreeMap<u64, Member>) -> anyhow::Result<Arc<Groups>> {
        let (lost, lost_nodes) = mpsc::channel(16);
        let id = JournalId::SYSTEM.0;
        let genesis = GroupState::Catalogue(Catalogue::default());
        let system = Group::open(shared.clone(), id, genesis, voters, lost.clone()).await?;
        let groups = Arc::new(Groups {
            shared: shared.clone(),
            system,
            journals: RwLock::default(),
            troubles: RwLock::default(),
            lost,
        });
        groups.follow_once().await;
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

    pub fn get(&self, id: u64) -> Result<Arc<Group>, Refusal> {
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
        let (tail, _) = self.system.check_tail().await?;
        self.applied(tail).await;
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

    /// Opens what should be open and closes what should not.
    async fn follow_once(&self) {
        let wanted = self.with_catalogue(|catalogue| catalogue.journals.clone());
        let open: BTreeSet<u64> = self.journals.read().keys().copied().collect();
        for (id, record) in &wanted {
            if !open.contains(id) {
                self.open(*id, record).await;
            }
            if let Ok(group) = self.get(*id) {
                group.set_quota(record.quota_bytes);
            }
        }
        for id in open.iter().filter(|id| !wanted.contains_key(id)) {
            self.discard(*id).await;
        }
    }

    async fn open(&self, id: u64, record: &JournalRecord) {
        let open = async {
            let genesis = GroupState::Journal(Journal::default());
            Group::open(self.shared.clone(), id, genesis, record.voters.clone(), self.lost.clone()).await
        };
        match open.await {
            Ok(group) => {
                tracing::info!(journal = record.name, id, "journal opened");
                self.troubles.write().remove(&id);
                self.journals.write().insert(id, group);
            }
            Err(error) => {
                tracing::error!(journal = record.name, id, "the journal cannot be opened: {error:#}");
                self.troubles.write().insert(id, format!("{error:#}"));
                // Damage waits for its repair, and a full disk for room. Any other failure of the disk
                // is final, here as everywhere: the next process finds out what is really there.
                if disk_failed(&error) {
                    let why = format!("journal {id} cannot be opened: {error:#}");
                    drop(self.shared.failed.try_send(why));
                }
            }
        }
    }

    /// Closes a deleted journal and removes its files.
    async fn discard(&self, id: u64) {
        let Some(group) = self.journals.write().remove(&id) else { return };
        group.close().await;
        let identity = &self.shared.identity;
        if let Err(error) = identity.note_closed(JournalId(id)).await {
            return tracing::warn!(id, "a deleted journal could not be forgotten: {error}");
        }
        let (fs, dir) = (self.shared.env.fs.clone(), identity.group_dir(JournalId(id)));
        let remove = move || {
            for path in fs.list(&dir)? {
                fs.unlink(&path)?;
            }
            fs.remove_dir(&dir)
        };
        match self.shared.offload().run(remove).await {
            Ok(()) => tracing::info!(id, "journal deleted"),
            Err(error) => tracing::warn!(id, "a deleted journal's files could not be removed: {error}"),
        }
    }

    /// Hands all leaderships over, for a stop that nobody should notice.
    /// Only to nodes that `may` lead.
    pub async fn hand_over(&self, may: impl Fn(u64) -> bool) {
        for group in self.all() {
            if matches!(group.lead(), Lead::Leading { .. })
                && let Err(refusal) = group.transfer(None, &may).await
            {
                tracing::warn!(id = group.id(), "the leadership could not be handed over: {refusal}");
            }
        }
    }

    pub async fn close(&self) {
        for group in self.all() {
            group.close().await;
        }
    }
}

/// Whether opening a group failed because the disk did, and not for lack of room.
fn disk_failed(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind;
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::InvalidData];
    io.is_some_and(|error| !full.contains(&error.kind()))
}

/// A journal that could not be opened is tried again after so long.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

/// Follows the catalogue until the node stops.
async fn follow(groups: Arc<Groups>) {
    let mut state = groups.system.replica().watch_state();
    let stop = groups.shared.stop.clone();
    loop {
        groups.follow_once().await;
        let again = if groups.troubles.read().is_empty() { Duration::MAX } else { OPEN_AGAIN };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(again) => {}
        }
    }
}
