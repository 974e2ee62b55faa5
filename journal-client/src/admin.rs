//! What an operator asks of a cluster: which journals exist, how the nodes are, who belongs to it.
//!
//! Calls go to the leader of whatever they change, by the hints of those who are not. A call is
//! repeated only if it certainly did nothing the first time, or may be done twice.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::future::join_all;
use proto::journal as wire;
use proto::journal::catalogue_client::CatalogueClient;
use proto::journal::change_members_request as change;
use proto::journal::cluster_client::ClusterClient;
use proto::{JournalId, JournalName, NodeId};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::error::Error;
use crate::refusal::{error_of_status, never_sent};
use crate::remote::{Nodes, Pause, Settings};

/// The state of a node as it reports it. It is what travels: nobody computes with it.
pub use proto::journal::StatusReply as NodeStatus;

/// Who may give up entries of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimPolicy {
    /// Whoever may append: queues, audit logs.
    Free,
    /// Trimmed only below a registered checkpoint.
    Checkpointed,
}

/// A journal as the catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalInfo {
    pub id: JournalId,
    pub name: String,
    pub policy: TrimPolicy,
    /// Bytes on each node's disk; 0 means no limit but the disk.
    pub quota_bytes: u64,
}

/// A change of the cluster's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Lets the node that waits at this address join, without a vote.
    AddLearner {
        address: String,
    },
    /// Gives a learner a vote, once it holds everything.
    Promote {
        node: NodeId,
    },
    Remove {
        node: NodeId,
    },
    /// Lets the node at the new address in, and the old one go once the new one holds everything.
    Replace {
        old: NodeId,
        new_address: String,
    },
    SetAddress {
        node: NodeId,
        address: String,
    },
}

/// A change of members that the catalogue has recorded; the cluster carries it out by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The node that the change is about.
    pub node: NodeId,
    position: u64,
    /// What will happen, in words.
    pub message: String,
}

/// An operator's calls. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    nodes: Arc<Nodes>,
    settings: Settings,
}

impl Admin {
    pub(crate) fn new(nodes: Arc<Nodes>, settings: Settings) -> Self {
        Admin { nodes, settings }
    }

    // ---- the catalogue ---------------------------------------------------------------------

    /// Creates a journal. The second value says whether it is new: one of that name and policy may
    /// have been there.
    pub async fn create(
        &self,
        name: &JournalName,
        policy: TrimPolicy,
        quota_bytes: u64,
    ) -> Result<(JournalInfo, bool), Error> {
        let request = wire::CreateRequest {
            name: name.as_str().to_owned(),
            policy: wire::TrimPolicy::from(policy).into(),
            quota_bytes,
        };
        let reply = self
            .ask_catalogue(Repeat::Always, |mut catalogue| {
                let request = request.clone();
                async move { catalogue.create(request).await }
            })
            .await?;
        Ok((journal_info(reply.journal)?, reply.created))
    }

    /// Deletes a journal and everything in it, for good.
    pub async fn delete(&self, name: &JournalName) -> Result<(), Error> {
        let name = name.as_str();
        self.ask_catalogue(Repeat::IfNothingHappened, |mut catalogue| async move {
            catalogue.delete(wire::DeleteRequest { name: name.to_owned() }).await
        })
        .await?;
        Ok(())
    }

    /// All journals, by name.
    pub async fn list(&self) -> Result<Vec<JournalInfo>, Error> {
        let reply = self
            .ask_catalogue(Repeat::Always, |mut catalogue| async move { catalogue.list(wire::ListRequest {}).await })
            .await?;
        let mut journals =
            reply.journals.into_iter().map(|journal| journal_info(Some(journal))).collect::<Result<Vec<_>, _>>()?;
        journals.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(journals)
    }

    /// Sets how many bytes a journal may take on each node's disk; 0 takes the limit away.
    pub async fn set_quota(&self, name: &JournalName, quota_bytes: u64) -> Result<JournalInfo, Error> {
        let name = name.as_str();
        let reply = self
            .ask_catalogue(Repeat::Always, |mut catalogue| async move {
                let name = name.to_owned();
                catalogue.set_quota(wire::SetQuotaRequest { name, quota_bytes }).await
            })
            .await?;
        journal_info(reply.journal)
    }

    // ---- the cluster -----------------------------------------------------------------------

    /// What the node at this address says of itself.
    pub async fn status(&self, address: &str) -> Result<NodeStatus, Error> {
        let mut cluster = self.nodes.cluster(address)?;
        let timeout = self.settings.attempt_timeout;
        match tokio::time::timeout(timeout, cluster.status(wire::StatusRequest {})).await {
            Ok(Ok(status)) => Ok(status.into_inner()),
            Ok(Err(status)) => Err(error_of_status(&status)),
            Err(_) => Err(Error::Unavailable(format!("no answer in {timeout:?}"))),
        }
    }

    /// What all nodes say of themselves, by address: those configured, and those they know of.
    pub async fn status_of_all(&self) -> BTreeMap<String, Result<NodeStatus, Error>> {
        let mut all = BTreeMap::new();
        let mut to_ask = self.nodes.addresses();
        while !to_ask.is_empty() {
            let asked = join_all(to_ask.iter().map(|address| self.status(address))).await;
            all.extend(to_ask.drain(..).zip(asked));
            let members = all.values().flatten().flat_map(|status| &status.members);
            to_ask = members
                .map(|member| &member.address)
                .filter(|address| !address.is_empty() && !all.contains_key(*address))
                .cloned()
                .collect();
            to_ask.sort();
            to_ask.dedup();
        }
        all
    }

    /// Asks for a change of members. [`Admin::left_of`] tells how it goes on.
    pub async fn change_members(&self, change: Change) -> Result<Recorded, Error> {
        let request = wire::ChangeMembersRequest { change: Some(change.into()) };
        let reply = self
            .ask_cluster(None, Repeat::IfNothingHappened, |mut cluster| {
                let request = request.clone();
                async move { cluster.change_members(request).await }
            })
            .await?;
        if reply.position == 0 {
            return Err(Error::Protocol("the node does not tell where it recorded the change".into()));
        }
        Ok(Recorded { node: NodeId(reply.node_id), position: reply.position, message: reply.message })
    }

    /// What is left to do of a change, in words; nothing once it has been carried out. Only nodes are
    /// believed that have heard of the change, and hear of its end.
    pub async fn left_of(&self, change: &Recorded) -> Result<Option<String>, Error> {
        let answers = self.status_of_all().await;
        let answers: Vec<_> = answers.values().flatten().collect();
        left(change.position, &answers)
            .ok_or_else(|| Error::Unavailable("no node answers that has heard of the change".into()))
    }

    /// Moves the leadership of one journal, or of the catalogue, to a node or to the healthiest. Answers
    /// what was done, in words.
    pub async fn transfer_leader(&self, journal: JournalId, to: Option<NodeId>) -> Result<Vec<String>, Error> {
        let request = wire::TransferLeaderRequest {
            journal_id: journal.0,
            to_node: to_node(to),
            only_system: journal == JournalId::SYSTEM,
        };
        let transferred = self.ask_cluster(None, Repeat::IfNothingHappened, |mut cluster| async move {
            cluster.transfer_leader(request).await
        });
        Ok(transferred.await?.moved)
    }

    /// Moves every leadership that the node at this address holds.
    pub async fn transfer_all_leaders(&self, address: &str, to: Option<NodeId>) -> Result<Vec<String>, Error> {
        let request = wire::TransferLeaderRequest { journal_id: 0, to_node: to_node(to), only_system: false };
        let transferred = self.ask_cluster(Some(address), Repeat::IfNothingHappened, |mut cluster| async move {
            cluster.transfer_leader(request).await
        });
        Ok(transferred.await?.moved)
    }

    // ---- finding who answers ---------------------------------------------------------------

    async fn ask_catalogue<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(CatalogueClient<Channel>) -> F + Send + Sync,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.ask(None, repeat, |address| Ok(call(self.nodes.catalogue(address)?))).await
    }

    async fn ask_cluster<T, F>(
        &self,
        only: Option<&str>,
        repeat: Repeat,
        call: impl Fn(ClusterClient<Channel>) -> F + Send + Sync,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.ask(only, repeat, |address| Ok(call(self.nodes.cluster(address)?))).await
    }

    /// Asks one node, or node after node by the hints that they give.
    async fn ask<T, F>(
        &self,
        only: Option<&str>,
        repeat: Repeat,
        call: impl Fn(&str) -> Result<F, Error> + Send,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let deadline = Instant::now() + self.settings.patience;
        let mut pause = Pause::new();
        let mut hint = only.map(str::to_owned);
        let mut turns = self.nodes.addresses().into_iter().cycle();
        loop {
            let hinted = hint.take();
            let address = match only {
                Some(only) => only.to_owned(),
                None => hinted.clone().or_else(|| turns.next()).expect("some node is configured"),
            };
            let timeout = self.settings.admin_timeout;
            let (error, nothing_happened) = match tokio::time::timeout(timeout, call(&address)?).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => (error_of_status(&status), never_sent(&status)),
                Err(_) => (Error::Unavailable(format!("{address}: no answer in {timeout:?}")), false),
            };
            let again = match &error {
                Error::Refused(refusal) => {
                    hint = refusal.leader.clone().filter(|leader| *leader != address);
                    refusal.reason.is_of_the_node()
                }
                Error::Unavailable(_) => nothing_happened || repeat == Repeat::Always,
                Error::Unconfirmed(_) | Error::Protocol(_) => false,
            };
            // A hint that leads from one hint to the next is not followed in a tight loop.
            let at_once = hint.is_some() && hinted.is_none();
            let wait = if at_once { Default::default() } else { pause.take() };
            if !again || Instant::now() + wait >= deadline {
                return Err(match error {
                    Error::Unavailable(why) if !nothing_happened && repeat == Repeat::IfNothingHappened => {
                        Error::Unconfirmed(why)
                    }
                    error => error,
                });
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// When a call may be sent again that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Doing it twice is doing it once.
    Always,
    IfNothingHappened,
}

fn to_node(to: Option<NodeId>) -> u64 {
    to.map_or(0, |node| node.0)
}

/// What these nodes say is left of the change that was recorded there: nothing if none of them can know.
fn left(position: u64, answers: &[&NodeStatus]) -> Option<Option<String>> {
    let heard = |status: &NodeStatus| {
        let system = status.group(JournalId::SYSTEM);
        status.hears_of_changes() && system.is_some_and(|system| system.applied > position)
    };
    // One that was asked for before is the same; one that was asked for later begins when this one has ended.
    let is_over = |status: &NodeStatus| status.change_position == 0 || status.change_position > position;
    let knowing: Vec<_> = answers.iter().filter(|status| heard(status)).collect();
    let first = knowing.first()?;
    let over = knowing.iter().any(|status| is_over(status));
    Some((!over).then(|| first.change.clone()))
}

fn journal_info(journal: Option<wire::JournalInfo>) -> Result<JournalInfo, Error> {
    let journal = journal.ok_or_else(|| Error::Protocol("a reply without its journal".into()))?;
    let policy = match journal.policy() {
        wire::TrimPolicy::Free => TrimPolicy::Free,
        wire::TrimPolicy::Checkpointed => TrimPolicy::Checkpointed,
        wire::TrimPolicy::Unspecified => {
            return Err(Error::Protocol(format!("{} has no known trim policy", journal.name)));
        }
    };
    Ok(JournalInfo { id: JournalId(journal.id), name: journal.name, policy, quota_bytes: journal.quota_bytes })
}

impl From<TrimPolicy> for wire::TrimPolicy {
    fn from(policy: TrimPolicy) -> wire::TrimPolicy {
        match policy {
            TrimPolicy::Free => wire::TrimPolicy::Free,
            TrimPolicy::Checkpointed => wire::TrimPolicy::Checkpointed,
        }
    }
}

impl From<Change> for change::Change {
    fn from(change: Change) -> change::Change {
        match change {
            Change::AddLearner { address } => change::Change::AddLearner(address),
            Change::Promote { node } => change::Change::Promote(node.0),
            Change::Remove { node } => change::Change::Remove(node.0),
            Change::Replace { old, new_address } => {
                change::Change::Replace(wire::ReplaceMember { old_node: old.0, new_address })
            }
            Change::SetAddress { node, address } => {
                change::Change::SetAddress(wire::SetAddress { node_id: node.0, address })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose catalogue is applied below `applied`; `change` is the one it knows of.
    fn node(member: bool, role: &str, applied: u64, change: u64) -> NodeStatus {
        let member = wire::MemberStatus { node_id: if member { 1 } else { 2 }, ..Default::default() };
        let system = wire::GroupStatus { role: role.into(), applied, ..Default::default() };
        NodeStatus {
            node_id: 1,
            members: vec![member],
            groups: vec![system],
            change: if change == 0 { String::new() } else { format!("change {change}") },
            change_position: change,
            ..Default::default()
        }
    }

    #[test]
    fn only_nodes_that_have_heard_of_a_change_are_believed_about_its_end() {
        let to_do = Some(Some("change 22".to_owned()));
        let at_it = node(true, "leader", 30, 22);
        assert_eq!(left(22, &[&at_it]), to_do);
        for knows_nothing in [node(true, "leader", 22, 0), node(false, "follower", 40, 0)] {
            assert_eq!(left(22, &[&knows_nothing]), None);
            assert_eq!(left(22, &[&knows_nothing, &at_it]), to_do);
        }
        for has_seen_the_end in
            [node(true, "follower", 31, 0), node(false, "leader", 31, 0), node(true, "leader", 40, 35)]
        {
            assert_eq!(left(22, &[&at_it, &has_seen_the_end]), Some(None));
        }
        // Asked for once more, it is the one that was under way.
        assert_eq!(left(25, &[&at_it]), to_do);
    }
}
