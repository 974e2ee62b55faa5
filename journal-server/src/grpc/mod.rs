//! The services on the wire: translate, check who asks, delegate.

mod append;
mod catalogue;
mod cluster;
mod journal;
mod peer;

pub use catalogue::CatalogueService;
pub use cluster::ClusterService;
pub use journal::JournalService;
pub use peer::PeerService;

use std::sync::Arc;

use proto::JournalName;
use proto::journal as wire;
use tokio::sync::watch;
use tonic::{Extensions, Status};

use crate::caller::Caller;
use crate::catalogue::Groups;
use crate::group::Group;
use crate::raft::CommandError;
use crate::refusal::{self, Reason, Refusal};
use crate::rules::{Action, Rules};
use crate::state::{JournalRecord, TrimPolicy};

/// The door, once there is something behind it: a node that still forms or waits has none.
#[derive(Clone)]
pub struct Doorway {
    door: watch::Receiver<Option<Door>>,
    removed: watch::Receiver<bool>,
}

impl Doorway {
    /// `removed` says whether the node was removed from its cluster: clients are turned away then, and
    /// other nodes are not, since they may take it in again.
    pub fn new(door: watch::Receiver<Option<Door>>, removed: watch::Receiver<bool>) -> Self {
        Doorway { door, removed }
    }

    fn open(&self) -> Result<Door, Refusal> {
        match *self.removed.borrow() {
            true => Err(refusal::removed()),
            false => self.open_to_nodes(),
        }
    }

    fn open_to_nodes(&self) -> Result<Door, Refusal> {
        let not_yet =
            || Refusal::new(Reason::NotReady, "this node is still starting, or waits to be added to a cluster");
        self.door.borrow().clone().ok_or_else(not_yet)
    }

    /// Waits until the node is removed from its cluster.
    async fn closed(&mut self) {
        if self.removed.wait_for(|removed| *removed).await.is_err() {
            // The node that would say so is gone.
            std::future::pending().await
        }
    }
}

/// What every service needs: the groups, and who may do what with them.
#[derive(Clone)]
pub struct Door {
    pub groups: Arc<Groups>,
    pub rules: Rules,
}

/// What whoever was denied is told; counted.
fn denied(denied: crate::rules::Denied) -> Refusal {
    metrics::counter!("journal_denied_total").increment(1);
    Refusal::new(Reason::Forbidden, denied.to_string())
}

impl Door {
    /// Refuses what the rules do not permit to whoever sent the request.
    fn allow(&self, extensions: &Extensions, action: Action, journal: &str) -> Result<(), Refusal> {
        let caller = extensions.get::<Caller>().unwrap_or(&Caller::Anonymous);
        self.rules.decide(caller, action, journal).map_err(denied)
    }

    /// Refuses whoever may do nothing at all with the journal.
    fn allow_any(&self, extensions: &Extensions, journal: &str) -> Result<(), Refusal> {
        let caller = extensions.get::<Caller>().unwrap_or(&Caller::Anonymous);
        self.rules.decide_any(caller, journal).map_err(denied)
    }

    /// The group of that id, if the caller may.
    fn group(&self, extensions: &Extensions, action: Action, id: u64) -> Result<Arc<Group>, Refusal> {
        self.allow(extensions, action, &self.name_of(id)?)?;
        self.groups.get(id)
    }

    /// The group of that id, if the caller may do anything with it.
    fn any_group(&self, extensions: &Extensions, id: u64) -> Result<Arc<Group>, Refusal> {
        self.allow_any(extensions, &self.name_of(id)?)?;
        self.groups.get(id)
    }

    fn name_of(&self, id: u64) -> Result<String, Refusal> {
        self.groups.name_of(id).ok_or_else(|| refusal::no_such_journal(id))
    }
}

fn status_of(error: CommandError) -> Status {
    match error {
        CommandError::Refused(refusal) => refusal.into(),
        CommandError::Unknown(why) => Status::unknown(why),
    }
}

fn journal_info(id: u64, record: Option<&JournalRecord>) -> wire::JournalInfo {
    let policy = |record: &JournalRecord| match record.policy {
        TrimPolicy::Free => wire::TrimPolicy::Free,
        TrimPolicy::Checkpointed => wire::TrimPolicy::Checkpointed,
    };
    wire::JournalInfo {
        id,
        name: record.map_or_else(|| JournalName::SYSTEM.to_owned(), |record| record.name.clone()),
        policy: record.map_or(wire::TrimPolicy::Unspecified, policy).into(),
        quota_bytes: record.map_or(0, |record| record.quota_bytes),
    }
}
